"""Figure 11: the baseline's loss curves, and whether they stumble more."""

from collections.abc import Mapping

from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.figures._schedules import (
    BASELINE,
    OURS,
    PROTOCOL,
    curves,
    fluctuations,
    measure,
)
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

__all__ = ["PROTOCOL", "draw", "judge", "measure"]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The baseline's fluctuation from epoch to epoch over that of the paper's model."""
    found, reason = fluctuations(
        measurements, "loss_fluctuation", "training loss", thresholds["seeds"]
    )
    if not found:
        return Judgement(INCONCLUSIVE, "> 1", None, reason)
    mean, low, high = found[OURS]
    if low > 1 and max(found["warm-up"][2], found["only the rate"][2]) < high:
        verdict = HOLDS
    elif low > 1:
        verdict = IN_PART
    elif high <= 1:
        verdict = CONTRADICTED
    else:
        verdict = INCONCLUSIVE
    return Judgement(verdict, "> 1", mean, reason, (low, high))


def draw(measurements: Measurements) -> Drawing:
    """The seeds' curves beside the other protocol's and the controls."""
    return curves(
        measurements,
        "fig11",
        "Figure 11: loss curves of the baseline",
        BASELINE,
        "train_loss",
        judge(measurements, {"seeds": 2}).reason,
    )
