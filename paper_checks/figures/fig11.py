"""Figure 11: the baseline's loss curves, and whether they stumble more."""

from collections.abc import Mapping

from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.figures._interval import log_ratio
from paper_checks.figures._schedules import BASELINE, OURS, PROTOCOL, both, curves, measure
from paper_checks.numbers import short, spread
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

__all__ = ["PROTOCOL", "draw", "judge", "measure"]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The baseline's fluctuation from epoch to epoch over that of the paper's model."""
    first, second = both(measurements, BASELINE, OURS, "loss_fluctuation")
    if len(first) < thresholds["seeds"]:
        return Judgement(INCONCLUSIVE, "> 1", None, f"Only {len(first)} seeds finished.")
    mean, low, high = log_ratio(first, second)
    warm = log_ratio(*both(measurements, BASELINE, "warm-up", "loss_fluctuation"))
    rate = log_ratio(*both(measurements, BASELINE, "only the rate", "loss_fluctuation"))
    if low > 1 and max(warm[2], rate[2]) < high:
        verdict = HOLDS
    elif low > 1:
        verdict = IN_PART
    elif high <= 1:
        verdict = CONTRADICTED
    else:
        verdict = INCONCLUSIVE
    reason = (
        f"Over the first four fifths of the epochs the baseline's training loss fluctuates "
        f"{short(mean)} times {spread((low, high))} as much as with the smaller first epoch, "
        f"{short(warm[0])} times {spread(warm[1:])} as much as with warm-up and "
        f"{short(rate[0])} times {spread(rate[1:])} as much as with only the rate lowered."
    )
    return Judgement(verdict, "> 1", mean, reason, (low, high))


def draw(measurements: Measurements) -> Drawing:
    """The seeds' curves beside the other protocol's and the controls."""
    return curves(
        measurements,
        "fig11",
        "Figure 11: loss curves of the baseline",
        BASELINE,
        "train_loss",
        judge(measurements, {"seeds": 2, "gain": 0.0}).reason,
    )
