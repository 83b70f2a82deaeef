"""Functions whose derivatives torch gives as 0/0, or with few right digits, written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hessian._call.roots import Watch

# Below this the power series of sinc is taken, so many terms of which leave 1e-20.
SERIES, TERMS = 0.05, 7
# Up to this size the series of the exponential is taken, so many terms of which leave 1e-18 in its
# second derivatives.
SMALL, EXPONENTIAL = 0.5, 18


def sinc(watch: Watch, func: Callable[..., Any], input: Tensor) -> Any:
    """With derivatives at zero, where those of the quotient are 0/0."""
    if not input.is_floating_point():
        return func(input)
    is_small = input.abs() < SERIES
    squares = torch.where(is_small, math.pi * input, 0.0).square()
    series = torch.ones_like(squares)
    for k in range(TERMS, 0, -1):  # Σ_k (-1)^k (πx)^{2k} / (2k + 1)!
        series = 1 - squares / (2 * k * (2 * k + 1)) * series
    return torch.where(is_small, series, func(torch.where(is_small, 1.0, input)))


def matrix_exp(watch: Watch, func: Callable[..., Any], input: Tensor) -> Any:
    """By scaling and squaring (Higham, SIAM J. Matrix Anal. Appl. 26, 2005), of the matrix's size.

    Torch's backward is an exponential of a matrix that holds the gradient too, and loses as many
    digits of the matrix as the gradient is large.
    """
    is_smooth = input.is_floating_point() or input.is_complex()
    if not (is_smooth and input.requires_grad and input.numel()):
        return func(input)
    try:
        size = float(torch.linalg.matrix_norm(input.detach(), 1).max())
    except RuntimeError:  # inside vmap no number is known
        return func(input)
    if not math.isfinite(size):
        return func(input)
    squarings = max(0, math.ceil(math.log2(size / SMALL))) if size else 0
    scaled = input / 2.0**squarings
    one = torch.eye(input.shape[-1], dtype=input.dtype, device=input.device)
    total = one + scaled / EXPONENTIAL
    for k in range(EXPONENTIAL - 1, 0, -1):
        total = one + scaled @ total / k
    for _ in range(squarings):
        total = total @ total
    return total


def extremes(
    writes: bool,
    watch: Watch,
    func: Callable[..., Any],
    input: Tensor,
    dim: int,
    index: Tensor,
    *sources: Any,
    **named: Any,
) -> Any:
    """Largest or smallest values that come to each place, without what was there before.

    Torch's gradient counts what was there as one of equals where it has the same value.
    """
    if writes:
        watch.written.before(input)
    reduce = named.get("reduce", sources[-1] if sources else "")
    plain = named.get("include_self", True) or "out" in named
    if plain or reduce not in ("amax", "amin") or not input.is_floating_point():
        return func(input, dim, index, *sources, **named)
    least = -math.inf if reduce == "amax" else math.inf
    of_places = "scatter" in func.__name__
    cleared = (input.scatter if of_places else input.index_fill)(dim, index, least)
    reduced = cleared.scatter_reduce if of_places else cleared.index_reduce
    result = reduced(dim, index, *sources, **named | {"include_self": True})
    return input.copy_(result) if writes else result
