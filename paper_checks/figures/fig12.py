"""Figure 12: the baseline's accuracy curves and the dispersion of its models."""

from collections.abc import Mapping

from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.figures._schedules import (
    BASELINE,
    OURS,
    PROTOCOL,
    both,
    curves,
    deviation_ratio,
    fluctuations,
    measure,
)
from paper_checks.numbers import short, spread
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

__all__ = ["PROTOCOL", "draw", "judge", "measure"]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The baseline's fluctuation and dispersion over those of the paper's model."""
    found, told = fluctuations(
        measurements, "accuracy_fluctuation", "accuracy", thresholds["seeds"]
    )
    if not found:
        return Judgement(INCONCLUSIVE, "> 1", None, told)
    mean, low, high = found[OURS]
    dispersion = deviation_ratio(*both(measurements, BASELINE, OURS, "accuracy"))
    if low > 1 and dispersion[1] > 1:
        verdict = HOLDS
    elif low > 1 or dispersion[1] > 1:
        verdict = IN_PART
    elif high <= 1 or dispersion[2] <= 1:
        verdict = CONTRADICTED
    else:
        verdict = INCONCLUSIVE
    reason = (
        f"{told} The final accuracies of the seeds disperse {short(dispersion[0])} times "
        f"{spread(dispersion[1:])} as much."
    )
    return Judgement(verdict, "> 1", mean, reason, (low, high))


def draw(measurements: Measurements) -> Drawing:
    """The seeds' curves beside the other protocol's and the controls."""
    return curves(
        measurements,
        "fig12",
        "Figure 12: accuracy curves of the baseline",
        BASELINE,
        "test_accuracy",
        judge(measurements, {"seeds": 2}).reason,
    )
