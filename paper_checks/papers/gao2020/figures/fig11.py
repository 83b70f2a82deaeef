"""Figure 11: the baseline's loss curves, and whether they stumble more."""

from collections.abc import Mapping

from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.papers.gao2020.figures._schedules import (
    BASELINE,
    PROTOCOL,
    curves,
    fluctuations,
    measure,
    plateau_told,
    stumbles,
)
from paper_checks.statistics import conclude, more, too_few

__all__ = ["PROTOCOL", "draw", "judge", "measure"]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The baseline's upward moves from epoch to epoch less those of the paper's model."""
    differences, scale = fluctuations(measurements, "losses", 1)
    base, least = differences[BASELINE], thresholds["least"]
    predicted = f"> {least:g}"
    if base.freedom + 1 < thresholds["seeds"]:
        return too_few(predicted, "Too few seeds finished.")
    controls = [more(differences[protocol], 0.0) for protocol in ("warm-up", "only the rate")]
    reason = stumbles(differences, scale, "training loss") + plateau_told(measurements)
    return conclude(more(base, least), controls, predicted, base, reason)


def draw(measurements: Measurements) -> Drawing:
    """The seeds' curves beside the other protocol's and the controls."""
    return curves(
        measurements,
        "fig11",
        "Figure 11: loss curves of the baseline",
        BASELINE,
        "train_loss",
        judge(measurements, {"seeds": 2, "least": 0.1}).reason,
    )
