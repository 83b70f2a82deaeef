"""Weights of convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hessian._loss.output_hessian import by_sample
from hessian._site.site import Positions, Site
from hessian._tape.graph import Node, shape
from hessian._tape.layouts import Layout


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


def convolution(node: Node, layout: Layout, weight: tuple[int, ...], n: int) -> Site:
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
        spread = _spread_by(stride, [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)])

        def columns(part: slice) -> Tensor:
            x = inputs[part]
            padded = spread(x.flatten(0, 1), padding, space).contiguous()
            view = windows(padded, kernel, [1] * dims, dilation, space)
            view = view.flip(tuple(range(2, 2 + dims)))
            return places(view.reshape(*x.shape[:2], groups, -1, math.prod(space)))

        positions = Positions(
            rows=lambda adjoint: places(fold(adjoint)),
            columns=columns,
            groups=groups,
            out=weight[1],
            count=layout.outer * layout.inner * math.prod(space),
            stored=(groups, weight[0] // groups, weight[1], math.prod(kernel)),
        )
        return Site((node, 0), layout, gradient, extra=extra, positions=positions)

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


def _spread_by(
    stride: list[int], reach: list[int]
) -> Callable[[Tensor, list[int], list[int]], Tensor]:
    """A transposed convolution's input as that of a convolution of stride 1.

    Zeros stand between its entries and around them; kernels reach so far, beyond their first entry.
    """

    def spread(x: Tensor, padding: list[int], out: list[int]) -> Tensor:
        sizes = [s * (size - 1) + 1 for s, size in zip(stride, x.shape[2:], strict=True)]
        wide = x.new_zeros((*x.shape[:2], *sizes))
        wide[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = x
        pads: list[int] = []
        for r, p, size, total in zip(reach, padding, sizes, out, strict=True):
            pads = [r - p, total + p - size, *pads]  # the last axis comes first
        return F.pad(wide, pads)

    return spread
