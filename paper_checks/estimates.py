"""An estimate with its interval, and the p with which the interval decides."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, isfinite, log, sqrt

import numpy as np

LEVEL = 0.05


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and the degrees of freedom of Student's distribution.

    Infinite errors (a single seed) make infinite intervals, and an error of zero an interval that
    is a point. Iterating gives the value and the ends of its 95 % interval.

    >>> [round(x, 3) for x in Estimate(2.0, 3**-0.5, 2)]
    [2.0, -0.484, 4.484]
    """

    value: float
    error: float
    freedom: float = inf

    def interval(self, level: float = 1 - LEVEL) -> tuple[float, float]:
        """The two ends of the interval that holds the truth in a share `level` of cases."""
        from scipy.special import stdtrit

        if not isfinite(self.error):
            return -inf, inf
        half = float(stdtrit(self.freedom, (1 + level) / 2)) * self.error
        return self.value - half, self.value + half

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval."""
        return self.interval()[0]

    @property
    def high(self) -> float:
        """The upper end of the 95 % interval."""
        return self.interval()[1]

    def above(self, bound: float) -> float:
        """The p with which the interval lies above `bound`: at most 0.05 if its lower end does.

        >>> Estimate(1.0, 0.1).above(0.0) < 1e-9, Estimate(1.0, 0.1).above(2.0)
        (True, 1.0)
        """
        from scipy.special import stdtr

        if not isfinite(self.error):
            return 1.0
        distance = self.value - bound
        if self.error == 0:
            return 0.0 if distance > 0 else 1.0
        return min(1.0, 2 * float(stdtr(self.freedom, -distance / self.error)))

    def below(self, bound: float) -> float:
        """The p with which the interval lies below `bound`."""
        return Estimate(-self.value, self.error, self.freedom).above(-bound)

    def __iter__(self) -> Iterator[float]:
        yield from (self.value, self.low, self.high)


@dataclass(frozen=True)
class Ratio(Estimate):
    """An estimate of a positive quantity, symmetric in its logarithm; `value` is the quantity.

    `error` is that of the logarithm.

    >>> [round(x, 2) for x in Ratio(2.0, log(2) / 2)]
    [2.0, 1.01, 3.94]
    """

    def interval(self, level: float = 1 - LEVEL) -> tuple[float, float]:
        """The two ends of the interval that holds the truth in a share `level` of cases."""
        low, high = Estimate(log(self.value), self.error, self.freedom).interval(level)
        return float(np.exp(low)), float(np.exp(high))

    def above(self, bound: float) -> float:
        """The p with which the interval lies above the positive `bound`."""
        return Estimate(log(self.value), self.error, self.freedom).above(log(bound))

    def below(self, bound: float) -> float:
        """The p with which the interval lies below the positive `bound`."""
        return Estimate(log(self.value), self.error, self.freedom).below(log(bound))


@dataclass(frozen=True)
class Proportion(Estimate):
    """The share of successes among `trials`, with Wilson's interval; its p are the score test's."""

    trials: int = 0

    def interval(self, level: float = 1 - LEVEL) -> tuple[float, float]:
        """Wilson's interval, by `scipy.stats.binomtest`."""
        from scipy.stats import binomtest

        if not self.trials:
            return 0.0, 1.0
        test = binomtest(round(self.value * self.trials), self.trials)
        bounds = test.proportion_ci(level, method="wilson")
        return float(bounds.low), float(bounds.high)

    def above(self, bound: float) -> float:
        """The p of the score test, which Wilson's interval inverts."""
        if not self.trials:
            return 1.0
        error = sqrt(bound * (1 - bound) / self.trials)
        return Estimate(self.value, error).above(bound)

    def below(self, bound: float) -> float:
        """The p of the score test on the other side."""
        if not self.trials:
            return 1.0
        error = sqrt(bound * (1 - bound) / self.trials)
        return Estimate(self.value, error).below(bound)
