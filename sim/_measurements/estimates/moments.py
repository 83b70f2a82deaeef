"""Estimates made of gradients alone: Adam's second moment, |g/w| and its statistics by layer."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sim._measurements.statistics import median


def adam_second_moment(
    gradients: Sequence[Mapping[str, Tensor]], decay: float
) -> dict[str, Tensor]:
    """Adam's v after the gradients of as many batches, bias corrected, at weights that rest.

    v ← decay v + (1 - decay) g², over 1 - decayᵏ: a mean of squared gradients of batches. It is
    μ² + σ²/n in every entry, not a curvature; n times that, at μ = 0, is an empirical Fisher
    diagonal.

    Source: Kingma & Ba (2015).
    """
    moment = {name: torch.zeros_like(g) for name, g in gradients[0].items()}
    for batch in gradients:
        for name, g in batch.items():
            moment[name] = decay * moment[name] + (1 - decay) * g.square()
    return {name: v / (1 - decay ** len(gradients)) for name, v in moment.items()}


def inverse_ratio(weight: Tensor, gradient: Tensor) -> Tensor:
    """|g/w|, what equation 17 of Gao & Zhong takes for the curvature; infinite at a zero weight."""
    return (gradient / weight).abs()


def _median(weight: Tensor, gradient: Tensor) -> float:
    sizes = (v.abs().reshape(-1).numpy() for v in (gradient, weight))
    slope, size = map(median, sizes)
    return slope / size if size else math.inf if slope else math.nan


# One number for a whole tensor: the inverse of what each rule takes for the radius.
RULES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "mclr": _median,
    "lars": lambda w, g: float(g.norm() / w.norm()),
    "percent-delta": lambda w, g: float((g / w).abs().mean()),
}
