"""Does MCLR fall faster than LARS at large batches?"""

from collections.abc import Mapping

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import points
from paper_checks.papers.gao2020.figures._tuned import guarded, series_of
from paper_checks.papers.gao2020.figures.fig16 import (
    PROTOCOL,
    RIVALS,
    arm,
    ends_told,
    measure,
    untuned,
    values,
)
from paper_checks.statistics import (
    UNDECIDED,
    Estimate,
    conclude,
    difference,
    less,
    paired,
    too_few,
)

__all__ = ["PROTOCOL", "judge", "measure"]

# The ledger has the rules at the paper's 1024 alone, and no large batch beside it.
RECORDED = False


def behind(measurements: Measurements, series: str, n: int) -> dict[int, float]:
    """By seed, MCLR's accuracy less LARS's."""
    first, second = (values(measurements, series, n, rule) for rule in RIVALS)
    return {seed: first[seed] - second[seed] for seed in first if seed in second}


def faster(measurements: Measurements, series: str) -> Estimate:
    """By how much MCLR falls further behind LARS from the smallest to the largest n."""
    small, large = measurements["n"][0], measurements["n"][-1]
    later, before = (behind(measurements, series, n) for n in (large, small))
    return difference(*paired(later, before))


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The change of MCLR less LARS with n, at equal epochs and at equal steps."""
    small, n = measurements["n"][0], measurements["n"][-1]
    if n < thresholds["range"] * small:
        return too_few("< 0", f"n runs only from {small} to {n}.")
    lags = {series: faster(measurements, series) for series in series_of(measurements)}
    seeds = min(each.freedom for each in lags.values()) + 1
    if seeds < thresholds["seeds"] or not all(
        arm(measurements, "epochs", size, rule) for size in (small, n) for rule in RIVALS
    ):
        return too_few("< 0", f"Only {seeds:g} seeds to read.")
    decisions = {}
    for series, each in lags.items():
        loser, winner = (
            bool(untuned(measurements, [(series, size)], [rule]))
            for size, rule in ((n, "mclr"), (n, "lars"))
        )
        decided = less(each, 0.0, most=-thresholds["margin"])
        decisions[series] = guarded(decided, winner, loser)
    epochs = lags["epochs"]
    told = "; ".join(
        f"at equal {series} {100 * each.value:+.1f} {points(each.interval())}"
        for series, each in lags.items()
    )
    reason = (
        f"From n = {small} to {n} MCLR's test accuracy less LARS's changes, in points: {told}."
        + ends_told(
            untuned(
                measurements, [(series, size) for series in lags for size in (small, n)], RIVALS
            )
        )
    )
    controls = [decisions.get("steps", UNDECIDED)]
    return conclude(decisions["epochs"], controls, "< 0", epochs, reason, thresholds["margin"])
