"""What all judges share: estimates with intervals, and what an interval says about a statement.

| from what | to what |
|---|---|
| values of several seeds | `mean`; of two arms with the same seeds `difference`, `ratio` |
| two arms without common seeds | `unpaired` |
| values at several x for each seed | `slope` |
| successes among trials | `proportion` |
| the spread of two arms over the seeds | `deviation_ratio` |
| an estimate and a bound | `more`, `less`, `within` (equivalence by two one-sided tests) |
| several decisions | `all_of`, `any_of`; parts of one sentence: `in_parts`, `deciding` |
| a decision and its controls | `conclude`: the verdict |
| all verdicts of a report | `adjusted`: the correction for their number |

A statement *holds* where the interval lies inside what it says, is *contradicted* only where the
interval lies outside, and all else is *inconclusive*. Intervals have 95 %, as the paper's field
has them, and a p here is the least level at which the interval would still decide, so that p ≤ 0.05
and "the 95 % interval lies on one side" are one and the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot, inf, isfinite, log, sqrt
from typing import Any

import numpy as np

from paper_checks.check import Judgement
from paper_checks.estimates import LEVEL, Estimate, Proportion, Ratio
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE, OPEN, REFUTED

__all__ = [
    "LEVEL",
    "UNDECIDED",
    "Decision",
    "Estimate",
    "Proportion",
    "Ratio",
    "adjusted",
    "all_of",
    "any_of",
    "at_least",
    "conclude",
    "deciding",
    "deviation_ratio",
    "difference",
    "in_parts",
    "less",
    "log_slope",
    "mean",
    "more",
    "opposite",
    "paired",
    "proportion",
    "rank_correlation",
    "ratio",
    "slope",
    "too_few",
    "unpaired",
    "within",
]


def mean(values: Sequence[float], resolution: float = 0.0) -> Estimate:
    """The mean of one value a seed, by Student.

    Values that come in steps of `resolution` (shares of few tensors) may be equal by rounding
    alone; their error is not below that of a number rounded to such steps.

    >>> [round(x, 3) for x in mean([1.0, 2.0, 3.0])], mean([1.0]).low
    ([2.0, -0.484, 4.484], -inf)
    >>> round(mean([0.5, 0.5, 0.5, 0.5], resolution=0.1).error, 4)
    0.0144
    """
    from scipy.stats import sem

    sample = np.asarray(values, dtype=np.float64)
    if sample.size < 2:
        return Estimate(float(sample.mean()) if sample.size else 0.0, inf, sample.size - 1)
    error = float(sem(sample))
    # Equal values differ by rounding, which is no spread.
    if error <= 1e-14 * float(np.abs(sample).max()):
        error = 0.0
    error = max(error, resolution / sqrt(12 * sample.size))
    return Estimate(float(sample.mean()), error, sample.size - 1)


def difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """The mean of first - second, seed by seed: what two arms share of a seed's luck cancels.

    >>> tuple(difference([2.0, 3.0, 4.0], [1.0, 2.0, 3.0]))
    (1.0, 1.0, 1.0)
    """
    pairs = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return mean(pairs.tolist())


def paired(
    first: Mapping[int, float], second: Mapping[int, float]
) -> tuple[list[float], list[float]]:
    """Two arms' values of the seeds that both have, in the same order.

    >>> paired({1: 0.1, 2: 0.2}, {2: 0.3, 3: 0.4})
    ([0.2], [0.3])
    """
    seeds = sorted(set(first) & set(second))
    return [first[seed] for seed in seeds], [second[seed] for seed in seeds]


def ratio(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """The geometric mean of first / second, seed by seed.

    >>> tuple(ratio([2.0, 4.0], [1.0, 2.0]))
    (2.0, 2.0, 2.0)
    """
    logs = np.log(np.asarray(first, dtype=np.float64) / np.asarray(second, dtype=np.float64))
    average = mean(logs.tolist())
    return Ratio(float(np.exp(average.value)), average.error, average.freedom)


def unpaired(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """The difference of two means whose seeds are not the same, by Welch.

    >>> [round(x, 3) for x in unpaired([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])]
    [2.0, -0.484, 4.484]
    """
    from scipy.stats import ttest_ind

    parts = [mean(values) for values in (first, second)]
    error = hypot(*(part.error for part in parts))
    freedom = inf
    if isfinite(error) and error > 0:
        freedom = float(ttest_ind(first, second, equal_var=False).df)
    return Estimate(parts[0].value - parts[1].value, error, freedom)


def slope(x: Sequence[float], values: Sequence[Sequence[float]]) -> Estimate:
    """The slope of `values` (one list for each x, one entry a seed) over x, seed by seed.

    >>> tuple(slope([0, 1, 2], [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]))
    (2.0, 2.0, 2.0)
    """
    places = np.asarray(x, dtype=np.float64)
    centred = places - places.mean()
    table = np.asarray(values, dtype=np.float64)
    return mean(np.atleast_1d(centred @ table / (centred @ centred)).tolist())


def log_slope(x: Sequence[float], values: Sequence[Sequence[float]]) -> Estimate:
    """The power of x with which positive values go: the slope between the logarithms.

    >>> [round(v, 6) for v in log_slope([1, 4, 16], [[2.0, 4.0], [1.0, 2.0], [0.5, 1.0]])]
    [-0.5, -0.5, -0.5]
    """
    logs = np.log(np.asarray(values, dtype=np.float64))
    return slope(np.log(np.asarray(x, dtype=np.float64)).tolist(), logs.tolist())


def proportion(successes: int, trials: int) -> Proportion:
    """The share of successes with Wilson's interval.

    >>> [round(x, 3) for x in proportion(9, 10)]
    [0.9, 0.596, 0.982]
    """
    return Proportion(successes / trials if trials else 0.0, 0.0, trials=trials)


def deviation_ratio(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """The ratio of two arms' standard deviations over the same seeds, by Miller's jackknife.

    The seeds are left out one by one in both arms, so pairs stay pairs; unlike the F distribution
    it does not take the values for Gaussian (Miller 1968): of twelve exponential ones 90 % of its
    intervals hold the truth, of the F distribution's 77 %.

    >>> quotient = deviation_ratio([0.0, 2.0, 4.0, 7.0], [0.0, 1.0, 2.0, 3.5])
    >>> round(quotient.value, 6), round(quotient.low, 6)
    (2.0, 2.0)
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    count = a.size

    def logs(places: Any) -> float:
        variances = [max(float(part[places].var(ddof=1)), 1e-300) for part in (a, b)]
        return log(variances[0] / variances[1]) / 2

    if count < 4:
        return Ratio(1.0, inf, 1)
    whole = logs(slice(None))
    parts = [count * whole - (count - 1) * logs(np.arange(count) != k) for k in range(count)]
    average = mean(parts)
    return Ratio(float(np.exp(average.value)), average.error, average.freedom)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's correlation; 0 where one of the two does not vary.

    >>> rank_correlation([1, 2, 3], [10, 20, 30]), rank_correlation([1, 2, 3], [5, 5, 5])
    (1.0, 0.0)
    """
    from scipy.stats import spearmanr

    if len(set(first)) < 2 or len(set(second)) < 2:
        return 0.0
    return round(float(spearmanr(first, second).statistic), 12)


@dataclass(frozen=True)
class Decision:
    """Of one statement, the p with which it is shown and that with which it is excluded."""

    shown: float
    excluded: float

    @property
    def holds(self) -> bool:
        """Whether the 95 % interval lies inside what the statement says."""
        return self.shown <= LEVEL

    @property
    def fails(self) -> bool:
        """Whether the 95 % interval lies outside what the statement says."""
        return self.excluded <= LEVEL


def more(estimate: Estimate, bound: float, least: float | None = None) -> Decision:
    """The statement that the truth is above `bound`.

    It is excluded where the interval lies below `least`, the smallest value that the statement
    could mean, which is `bound` itself if not said otherwise.

    >>> more(Estimate(1.0, 0.1), 0.0).holds, more(Estimate(0.1, 0.1), 0.0).fails
    (True, False)
    """
    return Decision(estimate.above(bound), estimate.below(bound if least is None else least))


def at_least(estimate: Estimate, bound: float) -> Decision:
    """The statement that the truth is `bound` or more: a share of one with no spread is."""
    return Decision(estimate.above(bound - 1e-12), estimate.below(bound - 1e-12))


def less(estimate: Estimate, bound: float, most: float | None = None) -> Decision:
    """The statement that the truth is below `bound`; excluded above `most`, by default `bound`."""
    return Decision(estimate.below(bound), estimate.above(bound if most is None else most))


def within(estimate: Estimate, low: float, high: float) -> Decision:
    """The statement that the truth lies between the two: equivalence, by two one-sided tests.

    >>> within(Estimate(0.0, 0.1), -1.0, 1.0).holds, within(Estimate(0.0, 9.0), -1.0, 1.0).holds
    (True, False)
    """
    shown = max(estimate.above(low), estimate.below(high))
    return Decision(shown, min(estimate.below(low), estimate.above(high)))


def all_of(*parts: Decision) -> Decision:
    """The statement that all of them are true; one that is excluded excludes it.

    For excluding, the best of k is taken k times as seriously (Bonferroni).

    >>> all_of(Decision(0.01, 1.0), Decision(0.04, 1.0)).shown
    0.04
    """
    excluded = min(1.0, len(parts) * min(part.excluded for part in parts))
    return Decision(max(part.shown for part in parts), excluded)


def any_of(*parts: Decision) -> Decision:
    """The statement that at least one of them is true.

    >>> any_of(Decision(0.01, 1.0), Decision(0.9, 0.04)).shown
    0.02
    """
    shown = min(1.0, len(parts) * min(part.shown for part in parts))
    return Decision(shown, max(part.excluded for part in parts))


def in_parts(*parts: Decision) -> Decision:
    """The core of a sentence of several parts: one that is shown is a part, one excluded fails it.

    >>> in_parts(Decision(0.01, 1.0), Decision(0.9, 0.9)).holds, in_parts(
    ...     Decision(0.9, 0.01), Decision(0.9, 0.9)).fails
    (True, True)
    """
    shown = min(any_of(*parts).shown, all_of(*parts).shown)
    return Decision(shown, all_of(*parts).excluded)


def deciding(
    decisions: Sequence[Decision], estimates: Sequence[Estimate], otherwise: Estimate
) -> Estimate:
    """The estimate that a sentence of several parts is decided by, for the reader to see.

    Where all parts are shown it is the least sure one, where some are the surest of these, where
    none is the surest of those that are excluded, and `otherwise` where nothing is decided. One of
    k has to be shown or excluded k times as surely, as in `in_parts`.

    >>> shown, sure, out = Decision(0.01, 1.0), Decision(0.001, 1.0), Decision(1.0, 0.01)
    >>> one, two = Estimate(1.0, 0.1), Estimate(2.0, 0.1)
    >>> [deciding(parts, (one, two), one).value for parts in
    ...  ((shown, sure), (out, sure), (UNDECIDED, out), (UNDECIDED, Decision(0.04, 1.0)))]
    [1.0, 2.0, 2.0, 1.0]
    """
    parts = list(zip(decisions, estimates, strict=True))
    if all(part.holds for part, _ in parts):
        return max(parts, key=lambda part: part[0].shown)[1]
    surest = min(parts, key=lambda part: part[0].shown)
    if len(parts) * surest[0].shown <= LEVEL:
        return surest[1]
    surest = min(parts, key=lambda part: part[0].excluded)
    return surest[1] if len(parts) * surest[0].excluded <= LEVEL else otherwise


def opposite(part: Decision) -> Decision:
    """The statement that it is not true.

    >>> opposite(Decision(0.01, 1.0))
    Decision(shown=1.0, excluded=0.01)
    """
    return Decision(part.excluded, part.shown)


UNDECIDED = Decision(1.0, 1.0)


def conclude(
    core: Decision,
    controls: Sequence[Decision],
    predicted: float | str | None,
    estimate: Estimate,
    reason: str,
    tolerance: float | None = None,
) -> Judgement:
    """The verdict on a statement, `core`, and on what must be true for it to mean what it says.

    *Holds* if core and controls are shown, *holds in part* if only the core is, *contradicted* if
    the core is excluded, and *inconclusive* otherwise. `estimate` is the number that the reader
    sees; `p` of the judgement is that of the verdict, or of the nearest one if undecided. Of what
    holds in part, `rest` says whether the controls are refuted or open.

    >>> shown, open_ = Decision(0.01, 1.0), Decision(0.5, 0.5)
    >>> [conclude(*parts, "> 0", Estimate(1.0, 0.3), "").verdict
    ...  for parts in ((shown, [shown]), (shown, [open_]), (opposite(shown), []), (open_, [shown]))]
    ['holds', 'holds in part', 'contradicted', 'inconclusive']
    >>> [conclude(shown, [each], "> 0", Estimate(1.0, 0.3), "").rest
    ...  for each in (shown, open_, opposite(shown))]
    ['', 'open', 'refuted']
    """
    # Undecided ones count too when the number of verdicts is corrected for.
    verdict, p, rest = INCONCLUSIVE, min(1.0, core.shown, core.excluded), ""
    whole = all_of(core, *controls)
    if whole.holds:
        verdict, p = HOLDS, whole.shown
    elif core.holds:
        verdict, p = IN_PART, core.shown
        rest = REFUTED if all_of(*controls).fails else OPEN
    elif core.fails:
        verdict, p = CONTRADICTED, core.excluded
    value, low, high = estimate
    return Judgement(verdict, predicted, value, reason, (low, high), tolerance, p, rest)


def too_few(predicted: float | str | None, what: str) -> Judgement:
    """The judgement of a measurement that is too small to be read."""
    return Judgement(INCONCLUSIVE, predicted, None, what)


def adjusted(levels: Mapping[str, float]) -> dict[str, float]:
    """The p of each verdict, corrected for how many there are (Benjamini & Yekutieli 2001).

    Of the verdicts whose corrected p is at most 0.05, at most 5 % are expected to be wrong by
    chance, however the verdicts depend on one another: many read the same runs.

    >>> {name: round(p, 3) for name, p in adjusted({"a": 0.001, "b": 0.04}).items()}
    {'a': 0.003, 'b': 0.06}
    """
    from scipy.stats import false_discovery_control

    if not levels:
        return {}
    corrected = false_discovery_control(list(levels.values()), method="by")
    return {name: float(p) for name, p in zip(levels, corrected, strict=True)}
