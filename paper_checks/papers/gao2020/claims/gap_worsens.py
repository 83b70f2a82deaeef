"""Does the generalisation gap worsen with every larger batch?"""

from collections.abc import Mapping
from math import log

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import points
from paper_checks.papers.gao2020.figures._tuned import at_end, guarded, series_of
from paper_checks.papers.gao2020.figures.fig1 import PROTOCOL, accuracies, arms, edges_told, measure
from paper_checks.statistics import UNDECIDED, Decision, Estimate, conclude, less, slope, too_few

__all__ = ["PROTOCOL", "judge", "measure"]


def change(measurements: Measurements, series: str) -> Estimate:
    """By how much the accuracy changes from the smallest to the largest n, by its slope in log n.

    One slope for each seed that is read at every n.
    """
    by_size = accuracies(measurements, series)
    seeds = sorted(set.intersection(*(set(values) for values in by_size.values())))
    places = [log(n) for n in by_size]
    scale = max(places) - min(places)
    return slope(
        [place / scale for place in places],
        [[values[seed] for seed in seeds] for values in by_size.values()],
    )


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Whether accuracy falls with n, at equal epochs and at equal steps."""
    limit = -thresholds["gap"]
    predicted = f"< {100 * limit:g} points"
    changes = {series: change(measurements, series) for series in series_of(measurements)}
    if (
        changes["epochs"].freedom + 1 < thresholds["seeds"]
        or len(arms(measurements, "epochs")) < thresholds["sizes"]
    ):
        return too_few(predicted, "Too few seeds or batch sizes.")
    decisions: dict[str, Decision] = {}
    for series, each in changes.items():
        tuned = arms(measurements, series)
        ends = at_end(tuned[min(tuned)]), at_end(tuned[max(tuned)])
        decisions[series] = guarded(less(each, limit), *ends)
    told = "; ".join(
        f"at equal {series} {100 * each.value:+.1f} {points(each.interval())}"
        for series, each in changes.items()
    )
    reason = (
        "From the smallest to the largest n the accuracy changes, by its slope in log n, in "
        f"points: {told}." + edges_told(measurements)
    )
    controls = [decisions.get("steps", UNDECIDED)]
    return conclude(decisions["epochs"], controls, predicted, changes["epochs"], reason, -limit)
