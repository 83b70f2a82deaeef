"""Scales and shifts: parameters that broadcast over positions, or hold one value a channel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hessian._loss.output_hessian import by_sample
from hessian._site.site import Positions, Site
from hessian._tape.graph import Node, metadata, operation, shape
from hessian._tape.layouts import Layout


def _reduce_to(values: Tensor, weight: tuple[int, ...]) -> Tensor:
    """Sum ``[m, q, ...]`` over positions and whatever `weight` was broadcast along."""
    m = values.shape[0]
    values = values[:, 0] if values.shape[1] == 1 else values.sum(1)
    while values.dim() - 1 > len(weight):
        values = values.sum(1)
    axes = [i + 1 for i, s in enumerate(weight) if s == 1 and values.shape[i + 1] != 1]
    return (values.sum(axes, keepdim=True) if axes else values).reshape(m, *weight)


def broadcast(
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
            in_order=count == 1,
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
    own_axes = [i + 2 for i, s in enumerate(weight) if s != 1]
    summed = [i + 2 for i, s in enumerate(weight) if s == 1]
    groups = math.prod(weight)
    count = layout.outer * layout.inner * math.prod(full[i - 2] for i in summed)

    def places(values: Tensor) -> Tensor:  # [m, q, *] → [m, groups, 1, p]
        return values.permute(0, *own_axes, 1, *summed).reshape(values.shape[0], groups, 1, count)

    ones = scale * _ones(node)

    def columns(part: slice) -> Tensor:
        if factor is None:
            return ones.expand(part.stop - part.start, groups, 1, count)
        return scale * places(factor[part])

    return Positions(rows=places, columns=columns, groups=groups, out=1, count=count)


def _ones(node: Node) -> Tensor:
    like = metadata(node)[0]
    return torch.ones((1,), dtype=like.dtype, device=like.device)


def normalised(node: Node) -> Tensor:
    """The normalised input of a batch or group norm, before scale and shift."""
    x: Tensor = node._saved_input
    mean: Tensor
    rstd: Tensor
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


def channel(node: Node, layout: Layout, factor: Tensor | None, n: int) -> Site:
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
