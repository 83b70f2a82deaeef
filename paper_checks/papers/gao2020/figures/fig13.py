"""Figure 13: loss curves with a smaller batch in the first epoch."""

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
    """Whether the final loss is lower than the baseline's, and than every control's."""
    return improvement(measurements, "losses", "training loss", thresholds)


def draw(measurements: Measurements) -> Drawing:
    """The seeds' curves beside the other protocol's and the controls."""
    return curves(
        measurements,
        "fig13",
        "Figure 13: loss curves with a smaller first epoch",
        OURS,
        "train_loss",
        judge(measurements, {"seeds": 2, "gain": 0.95}).reason,
    )
