"""Where a parameter meets the data, and the gradient it receives there from each sample.

A *site* is an operation of the tape that takes a shared tensor and yields one laid out by
samples. Given the adjoint of its output, the part of every single sample in the shared tensor's
gradient follows from what the tape saved: for z = U Wᵀ it is the outer product of adjoint and U.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from hessian._loss.output_hessian import by_sample
from hessian._runtime.matrix_products import product
from hessian._runtime.workspace import scratch
from hessian._tape.graph import Edge, Node, Tape, is_transpose, operation, shape
from hessian._tape.operations import BATCH_NORMS, Label, Layout

# (adjoint of the output with samples first [m, q, ...], slice of samples) → [m, *shared shape]
PerSample = Callable[[Tensor, slice], Tensor]


@dataclass
class Positions:
    """A use whose per-sample gradient is Σ_p rows[o, p]·columns[k, p], in `groups` blocks.

    `rows` maps an adjoint to ``[m, groups, o, p]``, `columns` a slice of samples to
    ``[m, groups, k, p]``; `count` is the number of positions p.

    Where the columns are windows of something smaller, k = (c, a) for an offset a in the window,
    `inputs` gives it as ``[m, groups, c, r]`` and `taps` ``[a, p]`` says which r the offset a of
    the window at p falls on, -1 for padding.
    """

    rows: Callable[[Tensor], Tensor]
    columns: Callable[[slice], Tensor]
    groups: int
    out: int
    count: int
    inputs: Callable[[slice], Tensor] | None = None
    taps: Tensor | None = None


@dataclass
class Site:
    """One use of one parameter.

    `edge` is the output of the operation; `gradient` gives the per-sample gradients of the
    parameter in its own shape. `outer` is set where each sample has one position: then they are
    outer products of the adjoint ``[n, o]`` and this input ``[n, k]``, and the sum of squares over
    samples is one matrix product; `transposed` says that the parameter is stored as ``[k, o]``.
    """

    edge: Edge
    layout: Layout
    gradient: PerSample
    scale: float = 1.0
    outer: Tensor | None = None
    transposed: bool = False
    extra: int = 1  # working set of `gradient`, in multiples of the parameter's size
    positions: Positions | None = None
    tokens: Tensor | None = None  # of an embedding: the rows read ``[n, p]``, -1 for padding

    def summed(self, adjoint: Tensor) -> Tensor:
        """The parameter's gradient over all samples, given the output's, where `outer` is set."""
        assert self.outer is not None
        u = self.outer.detach()
        total = product(u.T, adjoint) if self.transposed else product(adjoint.T, u)
        return total.contiguous() if self.scale == 1.0 else self.scale * total

    @cached_property
    def place(self) -> Tensor:
        """Which of a sample's entries at the site (row-major, samples first) belong together.

        ``[c, p]``: the parameters read curvature between entries of the same c only.
        """
        at, dims = self.positions, shape(self.edge)
        assert at is not None
        assert dims is not None
        axis, outer, inner = self.layout
        rest = [s for a, s in enumerate(dims) if a != axis]
        index = torch.arange(outer * inner * math.prod(rest), device="cpu").view(
            1, outer * inner, *rest
        )
        return at.rows(index)[0].flatten(0, 1)


def sites(tape: Tape, labels: dict[Edge, Label], leaf: Node, n: int) -> list[Site] | None:
    """All uses of a leaf, or ``None`` where one of them is of a kind not known here."""
    found = []
    for consumer, index in tape.consumers[leaf]:
        transposed = False
        pairs = [(consumer, index)]
        if is_transpose(consumer):
            transposed = True
            pairs = tape.consumers[consumer]
        for node, argument in pairs:
            # An operation that reads the parameter twice is not a site of single use per edge.
            layout = labels.get((node, 0))
            if not isinstance(layout, Layout):
                return None
            site = _site(node, argument, layout, leaf, n, transposed)
            if site is None:
                return None
            found.append(site)
    return found


def _site(
    node: Node, argument: int, layout: Layout, leaf: Node, n: int, transposed: bool
) -> Site | None:
    name = operation(node)
    weight = tuple(leaf.variable.shape)
    if name in ("Addmm", "Mm"):
        if (name, argument) in (("Addmm", 2), ("Mm", 1)) and layout.axis == 0:
            return _dense(node, layout, n, transposed)
        if (name, argument) == ("Addmm", 0) and not transposed:
            return _broadcast(node, layout, weight, float(node._saved_beta), None, n)
        return None
    if transposed:
        return None
    if name == "Linear":
        return _broadcast(node, layout, weight, 1.0, None, n) if argument == 2 else None
    if name == "Convolution" and layout.axis == 0:
        if argument == 1:
            return _convolution(node, layout, weight, n)
        if argument == 2:
            return _channel(node, layout, None, n)
    if (name in BATCH_NORMS or name == "NativeGroupNorm") and layout.axis == 0:
        if argument == 2:
            return _channel(node, layout, None, n)
        return _channel(node, layout, _normalised(node), n)
    if name == "NativeLayerNorm":
        factor = None
        if argument == 1:
            mean, rstd = node._saved_result1, node._saved_result2
            factor = (node._saved_input - mean) * rstd
        return _broadcast(node, layout, weight, 1.0, factor, n)
    if name == "Embedding":
        return _embedding(node, layout, weight, n)
    if name in ("Add", "Sub", "Rsub"):
        scale = float(getattr(node, "_saved_alpha", 1.0))
        # a + alpha·b, a - alpha·b, alpha-scaled a under rsub: b - alpha·a
        if name == "Add":
            scale = scale if argument == 1 else 1.0
        elif name == "Sub":
            scale = -scale if argument == 1 else 1.0
        else:
            return None
        return _broadcast(node, layout, weight, scale, None, n)
    if name == "Mul" and len(node.next_functions) == 2:
        factor = node._saved_other if argument == 0 else node._saved_self
        return _broadcast(node, layout, weight, 1.0, factor, n)
    return None


def _dense(node: Node, layout: Layout, n: int, transposed: bool) -> Site:
    """z = alpha·U Wᵀ (parameter ``[o, k]``, met through its transpose) or alpha·U W."""
    if operation(node) == "Addmm":
        rows, alpha = node._saved_mat1, float(node._saved_alpha)
    else:
        rows, alpha = node._saved_self, 1.0
    # What a sparse input multiplies takes its gradient as if that were dense.
    rows = rows if rows.layout is torch.strided else rows.to_dense()
    u = by_sample(rows, Layout(0, layout.outer, layout.inner), n)  # [n, q, k]

    def gradient(adjoint: Tensor, part: slice) -> Tensor:
        left, right = (adjoint, u[part]) if transposed else (u[part], adjoint)
        return alpha * (left.transpose(1, 2) @ right)

    def columns(part: slice) -> Tensor:
        picked = u[part].transpose(1, 2).unsqueeze(1)
        return picked if alpha == 1.0 else alpha * picked

    single = u[:, 0] if u.shape[1] == 1 else None
    positions = Positions(
        rows=lambda adjoint: adjoint.transpose(1, 2).unsqueeze(1),
        columns=columns,
        groups=1,
        out=(shape((node, 0)) or (0, 0))[1],
        count=u.shape[1],
        inputs=columns,
        taps=torch.arange(u.shape[1], device=u.device).unsqueeze(0),
    )
    return Site(
        (node, 0), layout, gradient, alpha, outer=single, transposed=not transposed,
        positions=positions,
    )  # fmt: skip


def _reduce_to(values: Tensor, weight: tuple[int, ...]) -> Tensor:
    """Sum ``[m, q, ...]`` over positions and whatever `weight` was broadcast along."""
    m = values.shape[0]
    values = values[:, 0] if values.shape[1] == 1 else values.sum(1)
    while values.dim() - 1 > len(weight):
        values = values.sum(1)
    axes = [i + 1 for i, s in enumerate(weight) if s == 1 and values.shape[i + 1] != 1]
    return (values.sum(axes, keepdim=True) if axes else values).reshape(m, *weight)


def _broadcast(
    node: Node,
    layout: Layout,
    weight: tuple[int, ...],
    scale: float,
    factor: Tensor | None,
    n: int,
) -> Site | None:
    """A scale or shift that broadcasts: the adjoint (times its factor) summed to its shape."""
    out = shape((node, 0))
    if out is None:
        return None
    # The sample axis is taken out; the parameter must not extend over it.
    axis = layout.axis - (len(out) - len(weight))
    if axis >= 0 and weight[axis] != 1:
        return None
    rest = tuple(s for i, s in enumerate(weight) if i != axis) if axis >= 0 else weight
    if factor is not None and factor.layout is not torch.strided:
        factor = factor.to_dense()
    spread = None if factor is None else by_sample(factor.expand(out), layout, n)

    def gradient(adjoint: Tensor, part: slice) -> Tensor:
        values = adjoint if spread is None else adjoint * spread[part]
        return scale * _reduce_to(values, rest).reshape(values.shape[0], *weight)

    count = layout.outer * layout.inner
    if operation(node) == "Addmm" and layout.axis == 0 and weight == out[1:]:
        ones = scale * _ones(node)
        positions = Positions(
            rows=lambda adjoint: adjoint.transpose(1, 2).unsqueeze(1),
            columns=lambda part: ones.expand(part.stop - part.start, 1, 1, count),
            groups=1,
            out=out[1],
            count=count,
        )
    else:
        positions = _spread(node, layout, out, rest, scale, spread)
    return Site((node, 0), layout, gradient, scale, positions=positions)


def _spread(
    node: Node,
    layout: Layout,
    out: tuple[int, ...],
    weight: tuple[int, ...],
    scale: float,
    factor: Tensor | None,
) -> Positions:
    """Positions of a broadcast scale or shift: for each entry, the places it is spread over."""
    full = [s for a, s in enumerate(out) if a != layout.axis]
    weight = (1,) * (len(full) - len(weight)) + weight
    kept = [i + 2 for i, s in enumerate(weight) if s != 1]
    summed = [i + 2 for i, s in enumerate(weight) if s == 1]
    groups = math.prod(weight)
    count = layout.outer * layout.inner * math.prod(full[i - 2] for i in summed)

    def places(values: Tensor) -> Tensor:  # [m, q, *] → [m, groups, 1, p]
        return values.permute(0, *kept, 1, *summed).reshape(values.shape[0], groups, 1, count)

    ones = scale * _ones(node)

    def columns(part: slice) -> Tensor:
        if factor is None:
            return ones.expand(part.stop - part.start, groups, 1, count)
        return scale * places(factor[part])

    return Positions(rows=places, columns=columns, groups=groups, out=1, count=count)


def _ones(node: Node) -> Tensor:
    like = node._input_metadata[0]
    return torch.ones((1,), dtype=like.dtype, device=like.device)


def _normalised(node: Node) -> Tensor:
    """The normalised input of a batch or group norm, before scale and shift."""
    x = node._saved_input
    if operation(node) == "NativeGroupNorm":
        groups = int(node._saved_group)
        batch = x.shape[0]
        mean = node._saved_result1.reshape(batch, groups, 1)
        rstd = node._saved_result2.reshape(batch, groups, 1)
        return ((x.reshape(batch, groups, -1) - mean) * rstd).reshape(x.shape)
    if bool(getattr(node, "_saved_training", True)):
        mean, rstd = node._saved_result1, node._saved_result2
    else:
        eps = getattr(node, "_saved_eps", None)
        eps = node._saved_epsilon if eps is None else eps
        mean, rstd = node._saved_running_mean, (node._saved_running_var + eps).rsqrt()
    per_channel = (1, -1, *[1] * (x.dim() - 2))
    return (x - mean.reshape(per_channel)) * rstd.reshape(per_channel)


def _channel(node: Node, layout: Layout, factor: Tensor | None, n: int) -> Site:
    """A parameter per channel (axis 1): bias of a convolution, scale and shift of a norm."""
    spread = None if factor is None else by_sample(factor, layout, n)

    def gradient(adjoint: Tensor, part: slice) -> Tensor:
        values = adjoint if spread is None else adjoint * spread[part]
        keep = 2  # [m, q, channels, ...]
        return values.sum([1, *range(keep + 1, values.dim())])

    def places(values: Tensor) -> Tensor:  # [m, q, c, *] → [m, c, 1, q·*]
        return values.movedim(2, 1).flatten(2).unsqueeze(2)

    out = shape((node, 0)) or (0, 0)
    count = layout.outer * layout.inner * math.prod(out[2:])
    ones = None if spread is not None else _ones(node)

    def columns(part: slice) -> Tensor:
        if spread is not None:
            return places(spread[part])
        assert ones is not None
        return ones.expand(part.stop - part.start, out[1], 1, count)

    positions = Positions(rows=places, columns=columns, groups=out[1], out=1, count=count)
    return Site((node, 0), layout, gradient, positions=positions)


def windows(
    x: Tensor, kernel: list[int], stride: list[int], dilation: list[int], out: list[int]
) -> Tensor:
    """A strided view ``[b, c, *kernel, *out]`` of the windows of a padded ``[b, c, *]``."""
    steps = x.stride()[2:]
    size = (*x.shape[:2], *kernel, *out)
    strides = (
        *x.stride()[:2],
        *(s * d for s, d in zip(steps, dilation, strict=True)),
        *(s * t for s, t in zip(steps, stride, strict=True)),
    )
    return x.as_strided(size, strides, x.storage_offset())


def _convolution(node: Node, layout: Layout, weight: tuple[int, ...], n: int) -> Site:
    """Correlation of input windows with the adjoint; the two swap roles when transposed."""
    x = node._saved_input
    stride, padding, dilation = (
        [int(v) for v in values]
        for values in (node._saved_stride, node._saved_padding, node._saved_dilation)
    )
    groups, swapped = int(node._saved_groups), bool(node._saved_transposed)
    kernel = list(weight[2:])
    dims = len(kernel)
    stride, padding, dilation = (
        v * dims if len(v) == 1 else v for v in (stride, padding, dilation)
    )
    pads = [p for p in reversed(padding) for _ in (0, 1)]
    inputs = by_sample(x, layout, n)  # [n, q, c, *space]

    def unfold(moving: Tensor, out: list[int]) -> Tensor:  # [m, q, c, *] → [m, q, g, c/g·kernel, p]
        m, q = moving.shape[:2]
        padded = F.pad(moving.flatten(0, 1), pads).contiguous()
        view = windows(padded, kernel, stride, dilation, out)
        return view.reshape(m, q, groups, -1, math.prod(out))

    def fold(still: Tensor) -> Tensor:  # [m, q, o, *out] → [m, q, g, o/g, p]
        return still.reshape(*still.shape[:2], groups, -1, math.prod(still.shape[3:]))

    def gradient(adjoint: Tensor, part: slice) -> Tensor:
        moving, still = (adjoint, inputs[part]) if swapped else (inputs[part], adjoint)
        product = fold(still) @ unfold(moving, list(still.shape[3:])).transpose(3, 4)
        summed = product[:, 0] if product.shape[1] == 1 else product.sum(1)
        return summed.reshape(summed.shape[0], *weight)

    def places(values: Tensor) -> Tensor:  # [m, q, g, *, p] → [m, g, *, q·p]
        if values.shape[1] == 1:
            return values[:, 0]
        return values.movedim(1, 3).flatten(3)

    space = list((shape((node, 0)) or tuple(x.shape))[2:])
    spots = math.prod(x.shape[2:] if swapped else space)
    # im2col holds c·kernel·positions values a sample, the parameter o·c·kernel
    count = layout.outer * layout.inner * spots
    extra = 2 + math.ceil(count * math.prod(weight[1:]) / max(1, math.prod(weight)))
    if swapped:
        return Site((node, 0), layout, gradient, extra=extra)

    def taps() -> Tensor:
        """Window by window what `unfold` reads, as numbers of input pixels."""
        pixels = torch.arange(math.prod(x.shape[2:]), device=x.device).view(1, 1, *x.shape[2:])
        padded = F.pad(pixels, pads, value=-1)
        one = windows(padded, kernel, stride, dilation, space).reshape(math.prod(kernel), -1)
        steps = torch.arange(inputs.shape[1], device=x.device).view(1, -1, 1) * pixels.numel()
        return torch.where(one.unsqueeze(1) < 0, -1, one.unsqueeze(1) + steps).flatten(1)

    positions = Positions(
        rows=lambda adjoint: places(fold(adjoint)),
        columns=lambda part: places(unfold(inputs[part], space)),
        groups=groups,
        out=weight[0] // groups,
        count=count,
        inputs=lambda part: places(fold(inputs[part])),
        taps=taps(),
    )
    return Site((node, 0), layout, gradient, extra=extra, positions=positions)


def _embedding(node: Node, layout: Layout, weight: tuple[int, ...], n: int) -> Site | None:
    if node._saved_scale_grad_by_freq or node._saved_sparse:
        return None
    indices = by_sample(node._saved_indices, layout, n).reshape(n, -1)  # [n, T]
    padding = int(node._saved_padding_idx)
    padding = padding - 2**64 if padding >= 2**63 else padding

    def gradient(adjoint: Tensor, part: slice) -> Tensor:
        values = adjoint.reshape(adjoint.shape[0], -1, weight[1])
        if padding >= 0:
            values = values * (indices[part] != padding).unsqueeze(2)
        full = values.new_zeros((values.shape[0], *weight))
        return full.scatter_add_(1, indices[part].unsqueeze(2).expand_as(values), values)

    count = indices.shape[1]
    tokens = torch.where(indices == padding, -1, indices) if padding >= 0 else indices

    def one_hot(part: slice) -> Tensor:  # [m, 1, k, p]
        hot = tokens[part].unsqueeze(1) == torch.arange(weight[0], device=tokens.device).view(-1, 1)
        return hot.to(node._input_metadata[0].dtype).unsqueeze(1)

    positions = Positions(
        rows=lambda values: values.reshape(values.shape[0], 1, count, weight[1]).transpose(2, 3),
        columns=one_hot,
        groups=1,
        out=weight[1],
        count=count,
    )
    return Site((node, 0), layout, gradient, transposed=True, positions=positions, tokens=tokens)


def second(
    site: Site, curved: Tensor, part: slice, into: Tensor, memory: int, start: int = 0
) -> None:
    """Add Σ_n Σ_{p,q} U[k,p] U[k,q] · `curved` ``[n, c, p, q]`` for the samples in `part`.

    `curved` is the curvature at the site between positions of channels start, start+1, …
    """
    at = site.positions
    assert at is not None
    if site.tokens is not None:
        return _second_of_rows(curved, site.tokens[part], into, start)
    width, count = curved.shape[1:3]
    inner = into.numel() // (at.groups * at.out)
    if count == 1 and inner == 1:
        factor = at.columns(part).flatten(1)
        if at.out > 1:
            factor = factor.repeat_interleave(at.out, 1)
        square = factor[:, start : start + width].square()
        into.view(-1)[start : start + width] += (curved[:, :, 0, 0] * square).sum(0)
        return None
    if inner == 1:  # a scale or shift: one channel for every entry
        factor = at.columns(part).flatten(1, 2)
        if at.out > 1:
            factor = factor.repeat_interleave(at.out, 1)
        factor = factor[:, start : start + width].unsqueeze(-1)
        into.view(-1)[start : start + width] += ((curved @ factor) * factor).sum((0, 2, 3))
        return None
    stored = site.transposed and into.dim() == 2  # as [k, o]
    rows = into.T if stored else into.view(at.groups * at.out, inner)
    item = 3 * at.groups * inner * count * into.element_size()
    chunk = max(1, min(part.stop - part.start, memory // max(1, item)))
    for a in range(part.start, part.stop, chunk):
        b = min(part.stop, a + chunk)
        columns = at.columns(slice(a, b))  # [m, g, k, p]
        first = start // at.out
        last = (start + width - 1) // at.out
        for g in range(first, last + 1):
            low, high = max(start, g * at.out), min(start + width, (g + 1) * at.out)
            u = columns[:, g]  # [m, k, p]
            block = curved[a - part.start : b - part.start, low - start : high - start]
            if count == 1:
                square = torch.mul(u[..., 0], u[..., 0], out=scratch("squares", u.shape[:2], u))
                rows[low:high] += product(block[:, :, 0, 0].T, square)
                continue
            for c in range(high - low):
                rows[low + c] += ((u @ block[:, c]) * u).sum((0, 2))


def _second_of_rows(curved: Tensor, tokens: Tensor, into: Tensor, start: int) -> None:
    """The same for an embedding, whose U is one-hot: only the rows that were read are touched."""
    same = (tokens.unsqueeze(2) == tokens.unsqueeze(1)) & (tokens >= 0).unsqueeze(2)
    sums = (curved * same.unsqueeze(1)).sum(3)  # [n, c, p]
    flat = tokens.clamp_min(0).reshape(-1)
    into[:, start : start + curved.shape[1]].index_add_(
        0, flat, sums.transpose(1, 2).reshape(-1, curved.shape[1])
    )


def sum_of_squares(
    found: list[Site],
    adjoints: list[Tensor],
    weights: Tensor,
    part: slice,
    memory: int,
    into: Tensor,
) -> None:
    """Add Σ_n λ_n (Σ_uses per-sample gradient)² to `into`, for the samples n in `part`.

    Adjoints and weights are those of the part, taken a few samples at a time. Several uses are
    summed before squaring: the parameter is one.
    """
    count = weights.shape[0]
    working = max(1, into.numel()) * into.element_size() * (1 + sum(site.extra for site in found))
    chunk = max(1, min(count, memory // working))
    for start in range(0, count, chunk):
        some = slice(start, min(count, start + chunk))
        place = slice(part.start + some.start, part.start + some.stop)
        total = found[0].gradient(adjoints[0][some], place)
        for site, adjoint in zip(found[1:], adjoints[1:], strict=True):
            total = total + site.gradient(adjoint[some], place)
        flat = total.reshape(total.shape[0], -1)
        into.view(-1).addmv_(flat.square_().T, weights[some])


def squares_of_rows(tokens: Tensor, adjoint: Tensor, weights: Tensor, into: Tensor) -> None:
    """The same for an embedding, touching only the rows that were read."""
    n, width = tokens.shape[0], into.shape[1]
    values = adjoint.reshape(n, -1, width)
    same = (tokens.unsqueeze(2) == tokens.unsqueeze(1)) & (tokens >= 0).unsqueeze(2)
    product = (same.to(values.dtype) @ values).mul_(values).mul_(weights.view(n, 1, 1))
    into.index_add_(0, tokens.clamp_min(0).reshape(-1), product.reshape(-1, width))


# Measured on two CPU cores: products of this shape run at some 20 billion multiplications a
# second, while writing, squaring and reading a value back runs at well under a billion.
TRAFFIC = 30
