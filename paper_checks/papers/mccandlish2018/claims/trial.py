"""What a claim's trial is made of, and what its judges share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.shared import Measure
from paper_checks.statistics import Decision, Ratio, ratio

PILOT = (
    "The criteria were fixed after a pilot at the seeds 100 to 102, before any run at those that "
    "are read."
)


@dataclass(frozen=True)
class Trial:
    """How a claim is tried, as `paper_checks.check.check_of` asks for it."""

    measure: Measure
    judge: Callable[..., Judgement]
    PROTOCOL: tuple[str, ...]
    draw: Callable[[Measurements], Drawing] | None = None
    RECORDED: bool = False


def typical(values: Iterable[float]) -> float:
    """The geometric mean.

    >>> round(typical([1.0, 4.0]), 9)
    2.0
    """
    return float(np.exp(np.mean(np.log(list(values)))))


def geometric(values: Sequence[float]) -> Ratio:
    """The geometric mean of one value a seed, with its interval."""
    return ratio(values, [1.0] * len(values))


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
