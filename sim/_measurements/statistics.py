"""Order statistics and rank correlations of large arrays."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri


def quantiles(values: np.ndarray, levels: Sequence[float]) -> list[float]:
    """Quantiles by linear interpolation between order statistics; nan where there are no values.

    Infinite values take part as the order has them: between a finite and an infinite neighbour
    the quantile is infinite. (torch.quantile stops at 2^24 entries, numpy's gives nan there.)

    >>> quantiles(np.array([3.0, 1.0, np.inf, 2.0]), (0.0, 0.5, 0.9))
    [1.0, 2.5, inf]
    """
    if values.size == 0:
        return [math.nan] * len(levels)
    positions = [q * (values.size - 1) for q in levels]
    lower = [math.floor(p) for p in positions]
    upper = [math.ceil(p) for p in positions]
    ordered = np.partition(values, sorted({*lower, *upper}))
    result = []
    for position, low, high in zip(positions, lower, upper, strict=True):
        a, b = float(ordered[low]), float(ordered[high])
        if a == b or position == low or a == -math.inf:
            result.append(a)
        else:
            result.append(a + (b - a) * (position - low))
    return result


def median(values: np.ndarray) -> float:
    """The middle value, or the mean of the two middle ones.

    >>> median(np.array([4.0, 1.0, 2.0]))
    2.0
    """
    return quantiles(values, (0.5,))[0]


class RankCorrelation(NamedTuple):
    """Spearman's coefficient and its confidence limits."""

    value: float
    low: float
    high: float


def spearman(x: np.ndarray, y: np.ndarray, level: float = 0.95) -> RankCorrelation:
    """Spearman's rank correlation, ties at their mean rank, with a confidence interval.

    The interval is symmetric in Fisher's z = artanh r, whose variance is taken as
    (1 + r²/2)/(n - 3) (Bonett & Wright 2000, Psychometrika 65:23-28). All three are nan
    where a variable is constant or there are fewer than two values; the limits are nan below
    four values.

    >>> spearman(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 8.0, 27.0, 64.0])).value
    1.0
    """
    n = len(x)
    if n < 2 or (x == x[0]).all() or (y == y[0]).all():
        return RankCorrelation(math.nan, math.nan, math.nan)
    # Equal orders give 1 but for the last digit, whose logarithm would be no interval.
    from scipy.stats import spearmanr  # which takes as long to load as half of torch

    r = round(float(spearmanr(x, y).statistic), 15)
    if n < 4:
        return RankCorrelation(r, math.nan, math.nan)
    if abs(r) == 1.0:
        return RankCorrelation(r, r, r)
    half = float(ndtri(0.5 + level / 2)) * math.sqrt((1 + r * r / 2) / (n - 3))
    z = math.atanh(r)
    return RankCorrelation(r, math.tanh(z - half), math.tanh(z + half))
