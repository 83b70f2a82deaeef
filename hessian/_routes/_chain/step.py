"""One operation of the tape as a step of the chain route.

Going back through an operation y = f(x), the chain route needs two things per sample: Jacobian
rows of something above, taken from y to x (`Step.pull`), and the operation's own curvature
Σ_i λ_i d²y_i with λ = dL/dy (`Step.sources`). Both are read off autograd's own node wherever no
cheaper form is known, so nothing here is a second definition of an operation's derivative; the
closed forms below are those of linear maps, pooling, tanh and the logistic function, layer norm,
softmax and products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from hessian._loss.columns import Columns, Meter, Quadratic
from hessian._loss.output_hessian import by_sample, from_samples
from hessian._runtime.matrix_products import product
from hessian._site.site import TRAFFIC
from hessian._tape.graph import Edge, Node, operation, shape
from hessian._tape.operations import Label, Layout

Pulled = list[tuple[Edge, Columns]]
Sources = list[tuple[Quadratic, list[tuple[Edge, Columns]]]]


class Step:
    """An operation between its outputs and the inputs that are laid out by samples.

    `curved` says whether `sources` may yield anything. On a dry run tensors are on the meta device
    and hold one sample; `prepare` is not called then.
    """

    curved = False
    dense = False  # a matrix product, the same for all samples
    lazy = False  # rows that all samples share stay so, up to a factor for each entry

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        self.node, self.edge, self.where = node, edge, where
        self.children: list[Edge] = [node.next_functions[i] for i in data]
        self.data = data
        self.d = where.width(edge)
        self.widths = [where.width(child) for child in self.children]

    def cost(self) -> float:
        """Multiplications per sample and row of a pull."""
        return TRAFFIC * self.d

    def loads(self) -> int:
        """Values of a weight that every pull reads."""
        return 0

    def rows(self) -> int:
        """Rows of the sources that the operation adds."""
        return self.d if self.curved else 0

    def prepare(self, adjoint: Tensor | None) -> None:
        """Read what is needed off the tape; `adjoint` is dL/dy where the operation is curved."""

    def pull(self, edge: Edge, rows: Columns, part: slice, like: Tensor, meter: Meter) -> Pulled:
        """Rows at an output edge, carried to the inputs."""
        raise NotImplementedError

    def sources(self, part: slice, like: Tensor) -> Sources:
        """The operation's own curvature in its inputs."""
        return []


class Where:
    """Where samples lie in every tensor of the tape."""

    def __init__(self, labels: dict[Edge, Label], n: int) -> None:
        self.labels, self.n = labels, n

    def layout(self, edge: Edge) -> Layout | None:
        label = self.labels.get(edge)
        return label if isinstance(label, Layout) else None

    def width(self, edge: Edge) -> int:
        """Entries per sample."""
        return math.prod(shape(edge) or (0,)) // self.n

    def first(self, edge: Edge) -> bool:
        """Whether samples lead, so that row-major order is sample by sample."""
        layout = self.layout(edge)
        return layout is not None and layout.axis == 0 and layout.outer == 1

    def flat(self, tensor: Tensor, edge: Edge) -> Tensor:
        """``[n, d]``."""
        layout = self.layout(edge)
        assert layout is not None
        return by_sample(tensor, layout, self.n).reshape(self.n, -1)

    def restored(self, values: Tensor, edge: Edge) -> Tensor:
        """The inverse of `flat`."""
        layout, dims = self.layout(edge), shape(edge)
        assert layout is not None
        assert dims is not None
        return from_samples(values, layout, self.n, dims)


def call(node: Node, index: int, adjoint: Tensor) -> list[Tensor | None]:
    """The node's own vector-Jacobian product, for one of its outputs."""
    outputs = len(node._input_metadata)
    given: list[Any] = [None] * outputs
    given[index] = adjoint
    got = node(*given)
    return list(got) if isinstance(got, tuple) else [got]


def summed_to(gradient: Tensor, child: Edge) -> Tensor:
    """A node's gradient for an input, summed to its shape as autograd's engine does."""
    dims = shape(child)
    if dims is None or tuple(gradient.shape) == dims:
        return gradient
    lead = gradient.dim() - len(dims)
    axes = [*range(lead), *(lead + a for a, s in enumerate(dims) if gradient.shape[lead + a] != s)]
    return gradient.sum(axes, keepdim=True).reshape(dims)


def _second(
    node: Node, edge: Edge, slot: int, adjoint: Tensor, along: Tensor | None
) -> Tensor | None:
    """d/dx of (λᵀ dy/dx) applied to `along` (ones), for the input in `slot`, by autograd."""
    with torch.enable_grad():
        first = call(node, edge[1], adjoint)[slot]
        if first is None or not first.requires_grad:
            return None
        first = summed_to(first, node.next_functions[slot])
        child = GradientEdge(*node.next_functions[slot])
        along = torch.ones_like(first) if along is None else along
        (got,) = torch.autograd.grad(first, [child], along, retain_graph=True, allow_unused=True)
    return got


class Same(Step):
    """Views, sums and differences: every input gets the rows, up to a factor."""

    lazy = True

    def __init__(
        self, node: Node, edge: Edge, data: list[int], where: Where, factors: list[float]
    ) -> None:
        super().__init__(node, edge, data, where)
        self.factors = factors

    def cost(self) -> float:
        return 0.0

    def pull(self, edge: Edge, rows: Columns, part: slice, like: Tensor, meter: Meter) -> Pulled:
        return [
            (child, rows.shared_by(len(self.children)).times(factor, like))
            for child, factor in zip(self.children, self.factors, strict=True)
        ]


class Elementwise(Step):
    """y_i = φ_i(x_i): a factor for every entry, and diagonal curvature."""

    lazy = True

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where, curved: bool) -> None:
        super().__init__(node, edge, data, where)
        self.curved = curved
        self.factor: list[Tensor | None] = []
        self.second: Tensor | None = None

    def prepare(self, adjoint: Tensor | None) -> None:
        node, (_, index) = self.node, self.edge
        meta = node._input_metadata[index]
        ones = torch.ones(tuple(meta.shape), dtype=meta.dtype, device=meta.device)
        with torch.no_grad():
            got = call(node, index, ones)
        # At the output's size, also where an input is smaller (`_broadcast`).
        self.factor = [
            None
            if (g := got[slot]) is None
            else self.where.flat(g.detach().expand_as(ones), self.edge)
            for slot in self.data
        ]
        if self.curved and adjoint is not None:
            slot = self.data[0]
            second = _second(node, self.edge, slot, adjoint, None)
            if second is not None:
                self.second = self.where.flat(second.detach(), self.children[0])

    def pull(self, edge: Edge, rows: Columns, part: slice, like: Tensor, meter: Meter) -> Pulled:
        if like.is_meta:
            factor = like.new_empty((1, self.d))
            meter.work += TRAFFIC * rows.size() * len(self.children)
            return [(child, rows.scaled(factor)) for child in self.children]
        return [
            (child, rows.shared_by(len(self.children)).scaled(factor[part]))
            for child, factor in zip(self.children, self.factor, strict=True)
            if factor is not None
        ]

    def sources(self, part: slice, like: Tensor) -> Sources:
        width = self.widths[0]
        if like.is_meta:
            values = like.new_empty((1, width)) if self.curved else None
        else:
            values = None if self.second is None else self.second[part]
        if values is None:
            return []
        return [(Quadratic("diagonal", values), [(self.children[0], Columns(width, width))])]


class Saturating(Elementwise):
    """tanh or the logistic function, whose derivatives are polynomials of their own output y.

    dy = 1 - y² and d²y = -2y dy, or dy = y(1 - y) and d²y = (1 - 2y) dy.
    """

    def prepare(self, adjoint: Tensor | None) -> None:
        y = self.where.flat(self.node._saved_result.detach(), self.edge)
        tanh = operation(self.node) == "Tanh"
        first = 1 - y.square() if tanh else y * (1 - y)
        self.factor = [first]
        if adjoint is not None:
            up = self.where.flat(adjoint, self.edge)
            self.second = (-2 * y if tanh else 1 - 2 * y).mul_(first).mul_(up)


class Rectified(Elementwise):
    """y = max(0, x), read off its own saved output a part at a time: no factor is kept."""

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where, False)
        self.result: Tensor

    def prepare(self, adjoint: Tensor | None) -> None:
        self.result = self.where.flat(self.node._saved_result.detach(), self.edge)

    def pull(self, edge: Edge, rows: Columns, part: slice, like: Tensor, meter: Meter) -> Pulled:
        if like.is_meta:
            return super().pull(edge, rows, part, like, meter)
        return [(self.children[0], rows.scaled((self.result[part] > 0).to(like.dtype)))]


class Linear(Step):
    """y = x Wᵀ at every position, W ``[o, k]`` the same for all samples."""

    dense = True

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where)
        alpha = float(node._saved_alpha) if operation(node) == "Addmm" else 1.0
        weight = node._saved_mat2.detach().T
        self.weight = weight if alpha == 1.0 else alpha * weight
        self.o, self.k = self.weight.shape

    def cost(self) -> float:
        return float(self.d * self.k)

    def loads(self) -> int:
        return self.weight.numel()

    def pull(self, edge: Edge, rows: Columns, part: slice, like: Tensor, meter: Meter) -> Pulled:
        q, m = self.d // self.o, rows.m
        width = q * self.k
        shared = rows.shared
        if not rows.identity and not shared:
            meter.work += m * q * self.o * self.k
            meter.peak = max(meter.peak, m * (self.d + width))
        if like.is_meta:
            base = like.new_empty((m, width) if shared else (1, m, width))
        elif rows.identity:
            base = self.weight if q == 1 else torch.block_diag(*[self.weight] * q)
            if rows.scale is not None:
                base = base * rows.scale.unsqueeze(2)
        else:
            given = rows.matrix(like) if shared else rows.passing(like, part.stop - part.start)
            base = product(given.reshape(-1, self.o), self.weight).view(*given.shape[:-1], width)
        return [(self.children[0], Columns(m, width, base, None, not shared and not rows.identity))]


class Convolution(Step):
    """A convolution (or a transposed one) with weights that all samples share."""

    dense = True

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where)
        self.weight = node._saved_weight.detach()
        self.space = tuple(shape(self.children[0]) or ())[1:]
        self.out = tuple(shape(edge) or ())[1:]

    def cost(self) -> float:
        return float(self.d * math.prod(self.weight.shape[1:]))

    def loads(self) -> int:
        return self.weight.numel()

    def pull(self, edge: Edge, rows: Columns, part: slice, like: Tensor, meter: Meter) -> Pulled:
        node, count = self.node, part.stop - part.start
        shared = rows.shared
        width = self.widths[0]
        if not shared:
            meter.work += rows.m * self.cost()
            meter.peak = max(meter.peak, rows.m * (self.d + width))
        if like.is_meta:
            base = like.new_empty((rows.m, width) if shared else (1, rows.m, width))
            return [(self.children[0], Columns(rows.m, width, base))]
        dense = rows.matrix(like) if shared else rows.passing(like, count)
        given = dense.reshape(-1, *self.out)
        got, _, _ = torch.ops.aten.convolution_backward(
            given, given.new_empty(()).expand(given.shape[0], *self.space), self.weight, None,
            list(node._saved_stride), list(node._saved_padding), list(node._saved_dilation),
            bool(node._saved_transposed), list(node._saved_output_padding),
            int(node._saved_groups), [True, False, False],
        )  # fmt: skip
        base = got.reshape(*dense.shape[:-1], width)
        return [(self.children[0], Columns(rows.m, width, base, None, True))]


class MaxPool(Step):
    """The largest entry of every window: rows go to the entries that were it."""

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where)
        kernel, stride = ([int(v) for v in values] for values in (
            node._saved_kernel_size, node._saved_stride or node._saved_kernel_size))  # fmt: skip
        # Windows that do not overlap send every row to a place of its own.
        self.apart = all(
            s >= k for k, s in zip(kernel, stride * (len(kernel) // len(stride)), strict=True)
        )
        # From the end: an image may come without its sample axis, samples then being channels.
        axes = 3 if operation(node).startswith("MaxPool3D") else 2
        self.space = math.prod((shape(self.children[0]) or ())[-axes:])
        self.spots = math.prod((shape(edge) or ())[-axes:])

    def cost(self) -> float:
        return TRAFFIC * (self.d + self.widths[0])

    def pull(self, edge: Edge, rows: Columns, part: slice, like: Tensor, meter: Meter) -> Pulled:
        width, count = self.widths[0], part.stop - part.start
        meter.work += TRAFFIC * rows.m * (self.d + width)
        meter.peak = max(meter.peak, rows.m * (self.d + width))
        if like.is_meta:
            return [(self.children[0], Columns(rows.m, width, like.new_empty((1, rows.m, width))))]
        given = rows.dense(like, count).reshape(count, rows.m, -1, self.spots)
        index = self.node._saved_result1[part].reshape(count, 1, -1, self.spots).expand_as(given)
        got = given.new_zeros((*given.shape[:3], self.space))
        if self.apart:
            got.scatter_(3, index, given)
        else:
            got.scatter_add_(3, index, given)
        got = got.view(count, rows.m, width)
        return [(self.children[0], Columns(rows.m, width, got, None, True))]


class LayerNorm(Step):
    """y = x̂ w + b, with x̂ = r (x - mean) over the last v entries.

    Its Jacobian is r P, P = 1 - 11ᵀ/v - x̂ x̂ᵀ/v, and Σ_i u_i d²x̂_i for a fixed u is
    -(r²/v) [(P u) x̂ᵀ + x̂ (P u)ᵀ + (u·x̂) P]; both hold with the variance's ε inside r.
    """

    curved = True

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where)
        self.v = math.prod(node._saved_normalized_shape)
        weight = node._saved_weight
        self.weight = None if weight is None else weight.detach().reshape(-1)
        self.hat: Tensor
        self.rate: Tensor
        self.up: Tensor

    def prepare(self, adjoint: Tensor | None) -> None:
        node, child = self.node, self.children[0]
        mean, rate = node._saved_result1.detach(), node._saved_result2.detach()
        x = node._saved_input.detach()
        self.hat = self.where.flat((x - mean) * rate, child).view(self.where.n, -1, self.v)
        self.rate = self.where.flat(rate.expand_as(x), child).view_as(self.hat)[..., :1]
        if adjoint is not None:
            up = self.where.flat(adjoint, self.edge).view_as(self.hat)
            self.up = up if self.weight is None else up * self.weight

    def cost(self) -> float:
        return 4.0 * TRAFFIC * self.d

    def pull(self, edge: Edge, rows: Columns, part: slice, like: Tensor, meter: Meter) -> Pulled:
        count = part.stop - part.start
        meter.work += 4 * TRAFFIC * rows.m * self.d
        meter.peak = max(meter.peak, 3 * rows.m * self.d)
        if like.is_meta:
            return [(self.children[0], Columns(rows.m, self.d, rows.dense(like, 1)))]
        base = rows.dense(like, count).reshape(count, rows.m, -1, self.v)
        if self.weight is not None:
            base = base * self.weight
        hat = self.hat[part].unsqueeze(1)
        share = (base * hat).mean(-1, keepdim=True)
        got = (base - base.mean(-1, keepdim=True)).sub_(hat * share)
        got.mul_(self.rate[part].unsqueeze(1))
        return [(self.children[0], Columns(rows.m, self.d, got.reshape(count, rows.m, self.d)))]

    def sources(self, part: slice, like: Tensor) -> Sources:
        d, v, child = self.d, self.v, self.children[0]
        if like.is_meta:
            return [(Quadratic("full", like.new_empty((1, d, d))), [(child, Columns(d, d))])]
        hat, rate, up = self.hat[part], self.rate[part].unsqueeze(-1), self.up[part]
        share = (up * hat).sum(-1, keepdim=True)
        pu = up - up.mean(-1, keepdim=True) - hat * (share / v)
        outer = pu.unsqueeze(-1) * hat.unsqueeze(-2)
        p = hat.unsqueeze(-1) * hat.unsqueeze(-2) / -v - 1 / v
        p.diagonal(dim1=-2, dim2=-1).add_(1.0)
        block = (outer + outer.transpose(-1, -2) + share.unsqueeze(-1) * p) * (rate**2 / -v)
        return [(Quadratic("full", _spread(block)), [(child, Columns(d, d))])]


class Softmax(Step):
    """y = softmax(x) along the last axis, k entries: J = diag(y) - y yᵀ."""

    curved = True

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where)
        self.k = (shape(edge) or (1,))[-1]
        self.y: Tensor
        self.up: Tensor

    def prepare(self, adjoint: Tensor | None) -> None:
        n = self.where.n
        y = self.where.flat(self.node._saved_result.detach(), self.edge)
        self.y = y.view(n, -1, self.k)
        if adjoint is not None:
            self.up = self.where.flat(adjoint, self.edge).view_as(self.y)

    def cost(self) -> float:
        return 3.0 * TRAFFIC * self.d

    def pull(self, edge: Edge, rows: Columns, part: slice, like: Tensor, meter: Meter) -> Pulled:
        count = part.stop - part.start
        meter.work += 3 * TRAFFIC * rows.m * self.d
        meter.peak = max(meter.peak, 3 * rows.m * self.d)
        if like.is_meta:
            return [(self.children[0], Columns(rows.m, self.d, rows.dense(like, 1)))]
        y = self.y[part].unsqueeze(1)
        weighted = rows.dense(like, count).reshape(count, rows.m, -1, self.k) * y
        base = weighted - y * weighted.sum(-1, keepdim=True)
        base = base.reshape(count, rows.m, self.d)
        return [(self.children[0], Columns(rows.m, self.d, base))]

    def sources(self, part: slice, like: Tensor) -> Sources:
        d, child = self.d, self.children[0]
        if like.is_meta:
            return [(Quadratic("full", like.new_empty((1, d, d))), [(child, Columns(d, d))])]
        y, up = self.y[part], self.up[part]
        # Σ_i u_i y_i: gradient y∘c with c = u - y·u, Hessian diag(y∘c) - y (y∘c)ᵀ - (y∘c) yᵀ.
        g = y * (up - (y * up).sum(-1, keepdim=True))
        outer = y.unsqueeze(-1) * g.unsqueeze(-2)
        block = torch.diag_embed(g) - outer - outer.transpose(-1, -2)
        return [(Quadratic("full", _spread(block)), [(child, Columns(d, d))])]


def _spread(blocks: Tensor) -> Tensor:
    """``[n, p, v, v]`` as the block-diagonal ``[n, p·v, p·v]``."""
    n, p, v, _ = blocks.shape
    if p == 1:
        return blocks[:, 0]
    out = blocks.new_zeros((n, p, v, p, v))
    index = torch.arange(p, device=blocks.device)
    out[:, index, :, index, :] = blocks.transpose(0, 1)
    return out.view(n, p * v, p * v)


def _halves(d: int, other: int, first: bool, like: Tensor) -> Columns:
    """Rows of a source that reads two tensors: the identity on one of them, zero elsewhere."""
    base = like.new_zeros((d + other, d))
    start = 0 if first else other
    if not like.is_meta:
        base[start : start + d].fill_diagonal_(1.0)
    return Columns(d + other, d, base)


class Product(Step):
    """y = a ∘ b, both laid out by samples."""

    lazy = True

    curved = True

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where)
        self.factors: list[Tensor] = []
        self.up: Tensor

    def prepare(self, adjoint: Tensor | None) -> None:
        out = shape(self.edge) or ()
        self.factors = [
            self.where.flat(factor.detach().expand(out), self.edge)
            for factor in (self.node._saved_other, self.node._saved_self)
        ]
        if adjoint is not None:
            self.up = self.where.flat(adjoint, self.edge)

    def rows(self) -> int:
        return 2 * self.d

    def pull(self, edge: Edge, rows: Columns, part: slice, like: Tensor, meter: Meter) -> Pulled:
        meter.work += 2 * TRAFFIC * rows.size()
        if like.is_meta:
            factor = like.new_empty((1, self.d))
            return [(child, rows.scaled(factor)) for child in self.children]
        return [
            (child, rows.shared_by(len(self.children)).scaled(factor[part]))
            for child, factor in zip(self.children, self.factors, strict=True)
        ]

    def sources(self, part: slice, like: Tensor) -> Sources:
        values = like.new_empty((1, self.d)) if like.is_meta else self.up[part]
        a, b = self.children
        rows = [
            (a, _halves(self.d, self.d, True, like)),
            (b, _halves(self.d, self.d, False, like)),
        ]
        return [(Quadratic("pair", values), rows)]


class Batched(Step):
    """y = a @ b, matrix by matrix, both laid out by samples."""

    curved = True

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where)
        (_, self.i, self.k), (_, _, self.j) = (
            shape(self.children[0]) or (0, 0, 0),
            shape(self.children[1]) or (0, 0, 0),
        )
        self.h = self.d // (self.i * self.j)
        self.a: Tensor
        self.b: Tensor
        self.up: Tensor

    def prepare(self, adjoint: Tensor | None) -> None:
        n, h = self.where.n, self.h
        self.a = self.where.flat(self.node._saved_self.detach(), self.children[0])
        self.a = self.a.view(n, h, self.i, self.k)
        self.b = self.where.flat(self.node._saved_mat2.detach(), self.children[1])
        self.b = self.b.view(n, h, self.k, self.j)
        if adjoint is not None:
            self.up = self.where.flat(adjoint, self.edge).view(n, h, self.i, self.j)

    def cost(self) -> float:
        return 2.0 * self.h * self.i * self.j * self.k

    def rows(self) -> int:
        return sum(self.widths)

    def pull(self, edge: Edge, rows: Columns, part: slice, like: Tensor, meter: Meter) -> Pulled:
        count, m = part.stop - part.start, rows.m
        wa, wb = self.widths
        meter.work += 2 * m * self.h * self.i * self.j * self.k
        meter.peak = max(meter.peak, m * (self.d + wa + wb))
        if like.is_meta:
            left, right = like.new_empty((1, m, wa)), like.new_empty((1, m, wb))
        else:
            base = rows.dense(like, count).reshape(count, m, self.h, self.i, self.j)
            left = base @ self.b[part].unsqueeze(1).transpose(-1, -2)
            left = left.reshape(count, m, wa)
            right = (self.a[part].unsqueeze(1).transpose(-1, -2) @ base).reshape(count, m, wb)
        return [
            (self.children[0], Columns(m, wa, left)),
            (self.children[1], Columns(m, wb, right)),
        ]

    def sources(self, part: slice, like: Tensor) -> Sources:
        wa, wb = self.widths
        count = part.stop - part.start
        full = like.new_zeros((count, wa + wb, wa + wb))
        if not like.is_meta:
            up, h = self.up[part], self.h
            cross = full.new_zeros((count, h, self.i, self.k, h, self.k, self.j))
            for head in range(h):
                for k in range(self.k):
                    cross[:, head, :, k, head, k, :] = up[:, head]
            cross = cross.view(count, wa, wb)
            full[:, :wa, wa:] = cross
            full[:, wa:, :wa] = cross.transpose(1, 2)
        rows = [
            (self.children[0], _halves(wa, wb, True, like)),
            (self.children[1], _halves(wb, wa, False, like)),
        ]
        return [(Quadratic("full", full), rows)]


class ByNode(Step):
    """Any operation with one input of data, by autograd's own node under `vmap`."""

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where, curved: bool) -> None:
        super().__init__(node, edge, data, where)
        self.curved = curved
        self.up: Tensor | None = None

    def prepare(self, adjoint: Tensor | None) -> None:
        self.up = adjoint

    def _adjoints(self, edge: Edge) -> Callable[[Tensor], tuple[Tensor, ...]]:
        where = self.where

        def one(row: Tensor) -> tuple[Tensor, ...]:
            got = call(self.node, edge[1], where.restored(row, edge))
            found = []
            for slot, child, width in zip(self.data, self.children, self.widths, strict=True):
                g = got[slot]
                found.append(
                    row.new_zeros((where.n, width)) if g is None
                    else where.flat(summed_to(g, child), child)
                )  # fmt: skip
            return tuple(found)

        return one

    def cost(self) -> float:
        return 4.0 * TRAFFIC * (self.d + sum(self.widths))

    def pull(self, edge: Edge, rows: Columns, part: slice, like: Tensor, meter: Meter) -> Pulled:
        count, n, m = part.stop - part.start, self.where.n, rows.m
        d = self.where.width(edge)
        # The node knows all samples only: those outside the part ride along as zeros.
        meter.work += 4 * TRAFFIC * m * (d + sum(self.widths))
        meter.peak = max(meter.peak, m * (d + sum(self.widths)) * 2)
        if like.is_meta:
            return [
                (child, Columns(m, w, like.new_empty((1, m, w))))
                for child, w in zip(self.children, self.widths, strict=True)
            ]
        given = rows.dense(like, count).transpose(0, 1)
        if count != n:
            full = given.new_zeros((m, n, d))
            full[:, part] = given
            given = full
        with torch.no_grad():
            got = self._every(edge, given)
        return [
            (child, Columns(m, w, g[:, part].transpose(0, 1).reshape(count, m, w)))
            for child, w, g in zip(self.children, self.widths, got, strict=True)
        ]

    def _every(self, edge: Edge, rows: Tensor) -> tuple[Tensor, ...]:
        """Adjoints of all rows, ``[m, n, d]``, at each input."""
        one = self._adjoints(edge)
        try:
            return tuple(torch.func.vmap(one)(rows))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError):  # an operation without a batching rule
            return tuple(map(torch.stack, zip(*(one(row) for row in rows), strict=True)))

    def sources(self, part: slice, like: Tensor) -> Sources:
        if not self.curved:
            return []
        d, child = self.widths[0], self.children[0]
        if like.is_meta:
            return [(Quadratic("full", like.new_empty((1, d, d))), [(child, Columns(d, d))])]
        assert self.up is not None
        columns = []
        for j in range(d):
            unit = like.new_zeros((self.where.n, d))
            unit[:, j] = 1.0
            along = self.where.restored(unit, child)
            got = _second(self.node, self.edge, self.data[0], self.up, along)
            columns.append(unit.zero_() if got is None else self.where.flat(got.detach(), child))
        full = torch.stack([c[part] for c in columns], 1)
        return [(Quadratic("full", full), [(child, Columns(d, d))])]
