"""Functions whose second derivative torch loses far out, near zero, or where a slope is zero.

The first derivative is right there, and the backward pass that computes it divides infinities,
cancels all digits or takes logarithms of the slope when it is differentiated. Where a value lies so
far out, an equal expression takes the function's place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hessian._call.roots import Watch, is_live

Call = Callable[..., Any]

# Beyond this exp of twice the value overflows in float32.
FAR = 40.0
# Beyond this the first so many terms of the error function's asymptotic series leave 1e-17.
TAIL, TERMS = 15.0, 12
# Below this the first so many terms of a Bessel function's power series leave 1e-17.
NEAR, POWERS = 1.0, 10


def logcumsumexp(watch: Watch, func: Call, input: Tensor, dim: int, **kwargs: Any) -> Any:
    """By doubling: torch's takes the logarithm of the slope, which may be zero and move."""
    if kwargs or isinstance(dim, str) or not input.is_floating_point() or not input.dim():
        return func(input, dim, **kwargs)
    total, step = input, 1
    while step < input.shape[dim]:
        rest = input.shape[dim] - step
        pair = torch.stack([total.narrow(dim, step, rest), total.narrow(dim, 0, rest)])
        total = torch.cat([total.narrow(dim, 0, step), pair.logsumexp(0)], dim)
        step *= 2
    return total


def logaddexp(watch: Watch, func: Call, input: Tensor, other: Tensor, **kwargs: Any) -> Any:
    if kwargs or not _apart(input, other):
        return func(input, other, **kwargs)
    return torch.stack(torch.broadcast_tensors(input, other)).logsumexp(0)


def logaddexp2(watch: Watch, func: Call, input: Tensor, other: Tensor, **kwargs: Any) -> Any:
    if kwargs or not _apart(input, other):
        return func(input, other, **kwargs)
    pair = torch.stack(torch.broadcast_tensors(input, other))
    return (pair * math.log(2)).logsumexp(0) / math.log(2)


def _apart(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie far apart in some entry."""
    live = any(map(is_live, (one, other)))
    return live and bool(((one.detach() - other.detach()).abs() > FAR).any())


def mish(watch: Watch, func: Call, input: Tensor, inplace: bool = False) -> Any:
    """x tanh(log(1 + eˣ)), which is x far out."""
    if not is_live(input) or not bool((input.detach() > FAR).any()):
        return func(input, inplace) if inplace else func(input)
    is_far = input.detach() > FAR
    value = torch.where(is_far, input, F.mish(torch.where(is_far, 0.0, input)))
    return input.copy_(value) if inplace else value


def polar(watch: Watch, func: Call, abs: Tensor, angle: Tensor, **kwargs: Any) -> Any:
    """By its parts where a size is zero: torch's derivative in that is zero there."""
    if kwargs or not is_live(abs) or bool(abs.detach().all()):
        return func(abs, angle, **kwargs)
    return torch.complex(abs * angle.cos(), abs * angle.sin())


def _series(x: Tensor) -> Tensor:
    """Σ_k (-1)^k (2k - 1)!! / x^{2k}."""
    total = torch.ones_like(x)
    for k in range(TERMS, 0, -1):
        total = 1 - (2 * k - 1) * total / x.square()
    return total


def log_ndtr(watch: Watch, func: Call, input: Tensor, **kwargs: Any) -> Any:
    """-x²/2 - log(-x √(2π)) + log of the series, of x far below zero."""
    is_far = input.detach() < -TAIL
    if kwargs or not is_live(input) or not bool(is_far.any()):
        return func(input, **kwargs)
    x = torch.where(is_far, input, -TAIL)
    tail = -x.square() / 2 - (-x * math.sqrt(2 * math.pi)).log() + _series(x).log()
    return torch.where(is_far, tail, func(torch.where(is_far, 0.0, input)))


def erfcx(watch: Watch, func: Call, input: Tensor, **kwargs: Any) -> Any:
    """The series over x √π, of x far above zero."""
    is_far = input.detach() > TAIL
    if kwargs or not is_live(input) or not bool(is_far.any()):
        return func(input, **kwargs)
    x = torch.where(is_far, input, TAIL)
    tail = _series(x * math.sqrt(2)) / (x * math.sqrt(math.pi))
    return torch.where(is_far, tail, func(torch.where(is_far, 0.0, input)))


def i1(watch: Watch, func: Call, input: Tensor, **kwargs: Any) -> Any:
    """Σ_k (x/2)^{2k + 1} / (k! (k + 1)!), of x near zero."""
    is_near = input.detach().abs() < NEAR
    if kwargs or not is_live(input) or not bool(is_near.any()):
        return func(input, **kwargs)
    x = torch.where(is_near, input, 0.0)
    return torch.where(is_near, _first(x), func(torch.where(is_near, NEAR, input)))


def i1e(watch: Watch, func: Call, input: Tensor, **kwargs: Any) -> Any:
    is_near = input.detach().abs() < NEAR
    if kwargs or not is_live(input) or not bool(is_near.any()):
        return func(input, **kwargs)
    x = torch.where(is_near, input, 0.0)
    near = _first(x) * (-x.abs()).exp()
    return torch.where(is_near, near, func(torch.where(is_near, NEAR, input)))


def _first(x: Tensor) -> Tensor:
    quarter, total = x.square() / 4, torch.ones_like(x)
    for k in range(POWERS, 0, -1):
        total = 1 + quarter / (k * (k + 1)) * total
    return x / 2 * total


FUNCTIONS: dict[Call, Call] = {
    **dict.fromkeys((torch.logcumsumexp, Tensor.logcumsumexp), logcumsumexp),
    **dict.fromkeys((torch.logaddexp, Tensor.logaddexp), logaddexp),
    **dict.fromkeys((torch.logaddexp2, Tensor.logaddexp2), logaddexp2),
    F.mish: mish,
    torch.polar: polar,
    torch.special.log_ndtr: log_ndtr,
    torch.special.erfcx: erfcx,
    torch.special.i1: i1,
    torch.special.i1e: i1e,
}
# The same for torch's operators.
OPERATORS: dict[str, Call] = {
    "logaddexp": logaddexp,
    "logaddexp2": logaddexp2,
    "logcumsumexp": logcumsumexp,
    "mish": mish,
    "polar": polar,
    "special_erfcx": erfcx,
    "special_i1": i1,
    "special_i1e": i1e,
    "special_log_ndtr": log_ndtr,
}
