"""Signature first; the body follows."""

from collections.abc import Callable
from typing import Any

import pandas as pd
from torch import nn


def compare_radii(
    model: nn.Module,
    loss: Callable[..., Any],
    data: Any,
    *,
    weight_decay: float = 0.0,
    curvature: Any = None,
    rank_sample: int = 100_000,
    seed: int = 0,
    memory: int | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """The exact radius beside its substitutes, one row per parameter tensor."""
    raise NotImplementedError
