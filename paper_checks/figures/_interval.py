"""Intervals of means of few values, and what they say about a bound."""

from collections.abc import Sequence
from math import sqrt

import numpy as np


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean, lower and upper end of Student's interval; the ends are infinite for one value.

    >>> [round(x, 3) for x in t_interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    from scipy.stats import t

    found = np.asarray(values, dtype=np.float64)
    mean = float(found.mean())
    if found.size < 2:
        return mean, -np.inf, np.inf
    half = float(t.ppf((1 + level) / 2, found.size - 1) * found.std(ddof=1) / sqrt(found.size))
    return mean, mean - half, mean + half


def paired(
    first: Sequence[float], second: Sequence[float], level: float = 0.95
) -> tuple[float, float, float]:
    """Student's interval of first - second, value by value.

    >>> paired([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])
    (1.0, 1.0, 1.0)
    """
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return t_interval(differences.tolist(), level)


def log_ratio(
    first: Sequence[float], second: Sequence[float], level: float = 0.95
) -> tuple[float, float, float]:
    """The geometric mean of first / second with Student's interval on the logarithm.

    >>> log_ratio([2.0, 4.0], [1.0, 2.0])
    (2.0, 2.0, 2.0)
    """
    logs = np.log(np.asarray(first, dtype=np.float64) / np.asarray(second, dtype=np.float64))
    mean, low, high = t_interval(logs.tolist(), level)
    return float(np.exp(mean)), float(np.exp(low)), float(np.exp(high))
