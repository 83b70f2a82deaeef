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


def welch(
    first: Sequence[float], second: Sequence[float], level: float = 0.95
) -> tuple[float, float, float]:
    """The difference of two means with Welch's interval; without any spread, the difference alone.

    The ends are infinite where one side has a single value.

    >>> welch([1.0, 1.0], [0.5, 0.5])
    (0.5, 0.5, 0.5)
    >>> [round(x, 3) for x in welch([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])]
    [2.0, -0.484, 4.484]
    """
    from scipy.stats import t

    groups = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    mean = float(groups[0].mean() - groups[1].mean())
    if min(values.size for values in groups) < 2:
        return mean, -np.inf, np.inf
    parts = [float(values.var(ddof=1)) / values.size for values in groups]
    error = sqrt(sum(parts))
    if error <= 1e-12 * max(abs(float(values.mean())) for values in groups):
        return mean, mean, mean
    freedom = sum(parts) ** 2 / sum(
        part**2 / (values.size - 1) for part, values in zip(parts, groups, strict=True)
    )
    half = float(t.ppf((1 + level) / 2, freedom)) * error
    return mean, mean - half, mean + half


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's correlation; 0 where one of the two does not vary.

    >>> rank_correlation([1, 2, 3], [10, 20, 30]), rank_correlation([1, 2, 3], [5, 5, 5])
    (1.0, 0.0)
    """
    from scipy.stats import spearmanr

    if len(set(first)) < 2 or len(set(second)) < 2:
        return 0.0
    return round(float(spearmanr(first, second).statistic), 12)
