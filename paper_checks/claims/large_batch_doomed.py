"""Is a very large batch doomed, or only trained for fewer steps?"""

from collections.abc import Mapping

from paper_checks.check import Judgement, Measurements
from paper_checks.figures.fig1 import PROTOCOL, gap, measure
from paper_checks.numbers import points
from paper_checks.verdicts import CONTRADICTED, HOLDS, INCONCLUSIVE

__all__ = ["PROTOCOL", "judge", "measure"]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The largest batch against the best small one at equal steps, rates tuned."""
    predicted = f"≥ {thresholds['gap']:g}"
    seeds = len(measurements["seeds"]) // 2
    if seeds < thresholds["seeds"]:
        return Judgement(INCONCLUSIVE, predicted, None, f"Only {seeds} seeds to read.")
    mean, low, high = gap(measurements, "steps")
    if low >= thresholds["gap"]:
        verdict = HOLDS
    elif high < thresholds["gap"]:
        verdict = CONTRADICTED
    else:
        verdict = INCONCLUSIVE
    epochs = gap(measurements, "epochs")
    reason = (
        f"Trained for as many steps as the others and with its own rate, the largest batch is "
        f"{100 * mean:.1f} points behind {points((low, high))}; at equal epochs, where it takes "
        f"fewer steps, {100 * epochs[0]:.1f} points {points(epochs[1:])}."
    )
    return Judgement(verdict, predicted, mean, reason, (low, high), thresholds["gap"])
