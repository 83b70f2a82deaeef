"""What is compared by its quotient: geometric means, powers, and how many of several agree."""

from collections.abc import Iterable, Sequence

import numpy as np

from paper_checks.statistics import Decision, Ratio, ratio


def typical(values: Iterable[float]) -> float:
    """The geometric mean.

    >>> round(typical([1.0, 4.0]), 9)
    2.0
    """
    return float(np.exp(np.mean(np.log(list(values)))))


def geometric(values: Sequence[float]) -> Ratio:
    """The geometric mean of one value a seed, with its interval.

    >>> [round(x, 6) for x in geometric([2.0, 2.0])]
    [2.0, 2.0, 2.0]
    """
    return ratio(values, [1.0] * len(values))


def by_seed(values: Iterable[Sequence[float]]) -> list[float]:
    """The geometric mean of what each seed has, of the seeds that have something.

    >>> by_seed([[2.0], []])
    [2.0]
    """
    return [typical(each) for each in values if each]


def log_power(x: Sequence[float], y: Sequence[float]) -> float:
    """The power of x with which y goes.

    >>> round(log_power([1, 2, 4], [1, 4, 16]), 9)
    2.0
    """
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def most(decisions: Sequence[Decision], count: int) -> Decision:
    """The statement that at least `count` of several are true, each decided by itself.

    >>> most([Decision(0.01, 1.0)] * 8 + [Decision(1.0, 0.01)] * 2, 8).holds
    True
    >>> most([Decision(0.01, 1.0)] * 7 + [Decision(1.0, 0.01)] * 3, 8).fails
    True
    """
    shown = sorted(each.shown for each in decisions)
    excluded = sorted(each.excluded for each in decisions)
    return Decision(shown[count - 1], excluded[len(decisions) - count])
