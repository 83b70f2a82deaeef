"""What an experiment gives: a number with the half width of its interval."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Three standard errors: about one experiment in 400 would miss by chance, and seeds are fixed.
Z = 3.0


@dataclass(frozen=True)
class Evidence:
    """A measured quantity with half the width of its interval.

    `point` gives theory's symbols their values; `read` turns a sympy object, with those values,
    into the predicted number where the object is no expression; `limit` is the prediction itself
    where the equation is a statement without a value. `others` are further measurements worth
    telling.
    """

    quantity: str
    measured: float
    half: float
    point: Mapping[str, float] = field(default_factory=dict)
    read: Callable[[Any], Any] | None = None
    limit: float | None = None
    others: tuple[tuple[str, float], ...] = ()


def mean_evidence(quantity: str, values: Array, point: Mapping[str, float]) -> Evidence:
    """The mean with three standard errors."""
    half = Z * float(values.std()) / sqrt(values.size)
    return Evidence(quantity, float(values.mean()), half, point)


def median_evidence(
    quantity: str, values: Array, point: Mapping[str, float], **more: Any
) -> Evidence:
    """The median with the interval of order statistics, which needs no density."""
    ordered = np.sort(values)
    reach = int(np.ceil(Z * sqrt(values.size) / 2))
    middle = values.size // 2
    low, high = ordered[middle - reach], ordered[middle + reach]
    return Evidence(quantity, float(np.median(ordered)), float(high - low) / 2, point, **more)
