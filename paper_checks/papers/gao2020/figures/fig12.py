"""Figure 12: the baseline's accuracy curves and the dispersion of its models."""

from collections.abc import Mapping

from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.figures._schedules import (
    BASELINE,
    OURS,
    PROTOCOL,
    curves,
    end,
    fluctuations,
    measure,
    plateau_told,
    stumbles,
)
from paper_checks.statistics import (
    all_of,
    conclude,
    deciding,
    deviation_ratio,
    in_parts,
    more,
    paired,
    too_few,
)

__all__ = ["PROTOCOL", "draw", "judge", "measure"]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The baseline's downward moves and dispersion against those of the paper's model."""
    differences, scale = fluctuations(measurements, "accuracies", -1)
    base, least = differences[BASELINE], thresholds["least"]
    predicted = f"> {least:g}"
    if base.freedom + 1 < thresholds["seeds"]:
        return too_few(predicted, "Too few seeds finished.")
    ends = paired(*(end(measurements, arm, "accuracies") for arm in (BASELINE, OURS)))
    dispersion = deviation_ratio(*ends)
    halves = more(base, least), more(dispersion, 1.0)
    reason = (
        f"{stumbles(differences, scale, 'accuracy', 100)} (Moves in points.) The accuracies at the "
        f"end disperse over the seeds {short(dispersion.value)} times "
        f"{spread(dispersion.interval())} as much.{plateau_told(measurements)}"
    )
    core = in_parts(*halves)
    seen = deciding(halves, (base, dispersion), base)
    if seen is dispersion:
        predicted = "> 1"
    return conclude(core, [all_of(*halves)], predicted, seen, reason)


def draw(measurements: Measurements) -> Drawing:
    """The seeds' curves beside the other protocol's and the controls."""
    return curves(
        measurements,
        "fig12",
        "Figure 12: accuracy curves of the baseline",
        BASELINE,
        "test_accuracy",
        judge(measurements, {"seeds": 2, "least": 0.1}).reason,
    )
