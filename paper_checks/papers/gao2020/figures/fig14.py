"""Figure 14: accuracy curves with a smaller batch in the first epoch."""

from collections.abc import Mapping

from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.papers.gao2020.figures._schedules import (
    OURS,
    PROTOCOL,
    curves,
    improvement,
    measure,
)

__all__ = ["PROTOCOL", "draw", "judge", "measure"]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Whether the final accuracy is above the baseline's, and above every control's."""
    return improvement(measurements, "accuracies", "test accuracy", thresholds)


def draw(measurements: Measurements) -> Drawing:
    """The seeds' curves beside the other protocol's and the controls."""
    return curves(
        measurements,
        "fig14",
        "Figure 14: accuracy curves with a smaller first epoch",
        OURS,
        "test_accuracy",
        judge(measurements, {"seeds": 2, "gain": 0.005}).reason,
    )
