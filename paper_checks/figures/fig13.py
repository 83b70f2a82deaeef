"""Figure 13: loss curves with a smaller batch in the first epoch."""

from collections.abc import Mapping

from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.figures._interval import paired
from paper_checks.figures._schedules import (
    BASELINE,
    CONTROLS,
    OURS,
    PROTOCOL,
    both,
    curves,
    measure,
)
from paper_checks.numbers import short, spread
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

__all__ = ["PROTOCOL", "draw", "judge", "measure"]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Whether the final loss is lower than the baseline's, and than every control's."""
    first, second = both(measurements, OURS, BASELINE, "loss")
    if len(first) < thresholds["seeds"]:
        return Judgement(INCONCLUSIVE, "< 0", None, f"Only {len(first)} seeds finished.")
    mean, low, high = paired(first, second)
    others = {control: paired(*both(measurements, OURS, control, "loss")) for control in CONTROLS}
    better = high < 0
    if better and all(interval[2] < 0 for interval in others.values()):
        verdict = HOLDS
    elif better:
        verdict = IN_PART
    elif low >= thresholds["gain"]:
        verdict = CONTRADICTED
    else:
        verdict = INCONCLUSIVE
    reason = (
        f"The final training loss with the smaller first epoch less the baseline's: {short(mean)} "
        f"{spread((low, high))}; less that of the controls: "
        + "; ".join(
            f"{control} {short(interval[0])} {spread(interval[1:])}"
            for control, interval in others.items()
        )
        + "."
    )
    return Judgement(verdict, "< 0", mean, reason, (low, high))


def draw(measurements: Measurements) -> Drawing:
    """The seeds' curves beside the other protocol's and the controls."""
    return curves(
        measurements,
        "fig13",
        "Figure 13: loss curves with a smaller first epoch",
        OURS,
        "train_loss",
        judge(measurements, {"seeds": 2, "gain": 0.0}).reason,
    )
