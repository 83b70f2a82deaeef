"""Losses of single samples: cross-entropy, and the sharper ones that enlarge the gradient."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sim import _arguments, _own
from sim._own import is_own

PerSample = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(*, smoothing: float = 0.0) -> PerSample:
    """ℓ = -log p_y, or with label smoothing ε the mixture (1-ε)(-log p_y) + ε mean_c(-log p_c)."""
    _arguments.number("smoothing", smoothing, 0.0, 1.0)
    return lambda output, target: F.cross_entropy(
        output, target, reduction="none", label_smoothing=smoothing
    )


def temperature(*, temperature: float = 0.5) -> PerSample:
    """ℓ = -log softmax(z/T)_y: for T < 1 the logits count for more, and the gradient by 1/T."""
    scale = 1 / _arguments.number("temperature", temperature, 0.0, open_=True)
    return lambda output, target: F.cross_entropy(output * scale, target, reduction="none")


def focal(*, gamma: float = 2.0) -> PerSample:
    """ℓ = (1 - p_y)^γ (-log p_y): samples that are already right count for less (Lin et al. 2017).

    Where p_y nears 1 the factor is kept away from 0, where its derivative for γ < 1 is infinite.
    """
    _arguments.number("gamma", gamma, 0.0)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        value = F.cross_entropy(output, target, reduction="none")
        # 1 - e^{-ℓ} without cancellation.
        wrong = (-torch.expm1(-value)).clamp_min(torch.finfo(value.dtype).eps)
        return wrong**gamma * value

    return loss


def power(*, power: float = 2.0) -> PerSample:
    """ℓ = (-log p_y)^p: for p > 1 the gradient of a sample grows with its loss, by p ℓ^{p-1}."""
    p = _arguments.number("power", power, 1.0)
    return lambda output, target: F.cross_entropy(output, target, reduction="none") ** p


LOSSES: dict[str, Callable[..., PerSample]] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "power": power,
    "temperature": temperature,
}


def per_sample(name: str, options: Mapping[str, Any]) -> PerSample:
    """`loss(output [n, C], target [n]) → [n]`.

    | name | ℓ | options |
    |---|---|---|
    | `cross_entropy` | -log p_y | `smoothing` (0) |
    | `temperature` | -log softmax(z/T)_y | `temperature` T (0.5) |
    | `focal` | (1 - p_y)^γ (-log p_y) | `gamma` (2) |
    | `power` | (-log p_y)^p | `power` p ≥ 1 (2) |

    Raises:
        ValueError: an unknown name or option, or a value out of range.

    Two equal logits have p = 1/2, and with the square the loss is (log 2)²:

    >>> z, y = torch.zeros(1, 2), torch.tensor([0])
    >>> round(per_sample("power", {"power": 2})(z, y).item(), 4)
    0.4805
    """
    if is_own(name):
        return own_loss(name, options)
    make = LOSSES[_arguments.choice("loss", name, LOSSES)]
    _arguments.options(f"the loss {name!r}", make, options)
    return make(**options)


def own_loss(name: str, options: Mapping[str, Any]) -> PerSample:
    """A loss of the reader's own, `package.module:object`, sample by sample.

    The object is a function of (output, target); or, where options are given or it is a class, it
    is called with them and returns one. It gives the loss of each sample, `[n]`, or a mean over
    them: then it is called sample by sample, or with `reduction="none"` where it has that argument.
    That the number for a batch is the mean of those of its samples is looked at in every batch.

    Raises:
        ValueError: it is none of these; from the loss itself, that the number for a batch is not
            the mean of its samples' own.
    """
    with _arguments.told_of("loss"):
        function = _own.named(name)
        if isinstance(function, type) or options:
            _own.check_options(f"the loss {name!r}", function, options)
            chosen = "reduction" in options or not isinstance(function, type)
            more = {} if chosen else _reduction(name, function)
            function = _own.made(name, function, **options, **more)
        if not callable(function):
            raise ValueError(
                f"got {name!r}; it is {type(function).__name__}; name a function of "
                "(output, target)"
            )
        reduction = {} if isinstance(function, torch.nn.Module) else _reduction(name, function)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        value = function(output, target, **reduction)
        if isinstance(value, Tensor) and value.shape == target.shape[:1]:
            return value
        singles = zip(output.split(1), target.split(1), strict=True)
        parts = [function(o, t, **reduction) for o, t in singles]
        if not all(isinstance(part, Tensor) and part.numel() == 1 for part in parts):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss: {name!r} gave {shape}; give one number for each sample")
        losses = torch.stack([part.reshape(()) for part in parts])
        _check_mean(name, value, losses.detach())
        return losses

    return loss


def _check_mean(name: str, value: Any, losses: Tensor) -> None:
    """Refuse a loss of a batch that is not the mean of its samples' own losses.

    Raises:
        ValueError: it is a sum, a weighted mean, or a number that its samples have together only.
    """
    if not isinstance(value, Tensor) or value.numel() != 1:
        return
    batch, mean = float(value.detach()), float(losses.mean())
    slack = float(torch.finfo(losses.dtype).eps) ** 0.5 * (abs(batch) + float(losses.abs().mean()))
    if math.isfinite(batch) and math.isfinite(mean) and abs(batch - mean) > slack:
        raise ValueError(
            f"loss: {name!r} gave {batch:.6g} for a batch of {len(losses)}, but the mean of its "
            f"samples' own losses is {mean:.6g}; return one number for each sample "
            '(reduction="none"), or their plain mean (no sum, no class weights, no other samples)'
        )


def _reduction(name: str, function: Callable[..., Any]) -> dict[str, str]:
    """`reduction="none"` for a function that has it by name.

    Raises:
        ValueError: by itself it would take another one than the mean.
    """
    try:
        parameter = inspect.signature(function).parameters.get("reduction")
    except (TypeError, ValueError):
        return {}
    if parameter is None:
        return {}
    if parameter.default not in ("mean", "none", parameter.empty):
        raise ValueError(
            f"got {name!r}; its reduction is {parameter.default!r} unless it is given another "
            "one, and training takes the mean over the samples; let its default be 'mean' or 'none'"
        )
    return {"reduction": "none"}
