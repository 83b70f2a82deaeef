"""Signatures first; the bodies follow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class GradientMoments:
    """Mean and standard deviation (divisor N) over the samples, of every entry of a parameter."""

    parameter: str
    mean: Tensor
    std: Tensor
    samples: int


def gradient_moments(
    model: nn.Module,
    loss: Callable[..., Any],
    data: Any,
    parameter: str,
    *,
    dropout: bool | None = None,
    seed: int = 0,
    memory: int | None = None,
    progress: bool = False,
) -> GradientMoments:
    """Moments of the per-sample gradient."""
    raise NotImplementedError


def mean_abs_gradient(
    model: nn.Module,
    loss: Callable[..., Any],
    data: Any,
    parameter: str,
    batch_sizes: Sequence[int],
    *,
    replacement: bool = False,
    repeats: int = 8,
    dropout: bool | None = None,
    seed: int = 0,
    memory: int | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Columns batch_size, mean_abs_gradient, standard_error, repeats, replacement, dropout, …"""
    raise NotImplementedError
