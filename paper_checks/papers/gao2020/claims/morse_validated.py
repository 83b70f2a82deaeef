"""Does a small distance to the minimum validate the parabola?"""

from collections.abc import Mapping
from math import sqrt

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import points, short
from paper_checks.papers.gao2020.claims.centre_on_minimum import measure
from paper_checks.papers.gao2020.figures.fig_minimum import counts_of, right, usable
from paper_checks.statistics import Decision, Estimate, Proportion, all_of, conclude, more, too_few

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    "The measurement of fig-minimum, initialisation and trained together.",
    "The entries with a minimum within reach, by their distance to it; in the nearest quarter the "
    "parabola should point at the true minimum, in the farthest it need not.",
)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The share of right parabolas among the nearest and among the farthest quarter."""
    predicted, factor = f"> {thresholds['most']:g}", thresholds["factor"]
    nearest, farthest, reaches = {}, {}, {}
    for count in counts_of(measurements):
        ordered = sorted(usable(measurements, count), key=lambda point: abs(point["true"]))
        if len(ordered) < thresholds["entries"]:
            return too_few(predicted, f"Only {len(ordered)} entries.")
        quarter = len(ordered) // 4
        nearest[count] = right(ordered[:quarter], factor)
        farthest[count] = right(ordered[-quarter:], factor)
        reaches[count] = abs(ordered[quarter - 1]["true"])
    most = counts_of(measurements)[-1]
    near, far = nearest[most], farthest[most]
    # The difference of two shares, each with the variance of a binomial one, never quite zero.
    apart = Estimate(near.value - far.value, sqrt(_variance(near) + _variance(far)))
    reason = (
        "Of the nearest quarter the parabolas point at the minimum within a factor "
        f"{factor:g} in "
        + ", ".join(
            f"{100 * each.value:.0f} % {points(each.interval())} with {count} samples (within "
            f"{short(reaches[count])} of it)"
            for count, each in nearest.items()
        )
        + f"; of the farthest in {100 * far.value:.0f} % {points(far.interval())}."
    )
    core = Decision(more(apart, 0.0).shown, more(near, thresholds["most"]).excluded)
    controls = [more(each, thresholds["most"]) for each in nearest.values()]
    whole = all_of(*controls)
    if whole.holds:
        # Near and far alike: the parabola is right everywhere.
        core = Decision(min(core.shown, whole.shown), core.excluded)
    return conclude(core, controls, predicted, near, reason)


def _variance(share: Proportion) -> float:
    """That of a share, with one success and one failure more (Agresti and Caffo 2000)."""
    trials = share.trials + 2
    adjusted = (share.value * share.trials + 1) / trials
    return adjusted * (1 - adjusted) / trials
