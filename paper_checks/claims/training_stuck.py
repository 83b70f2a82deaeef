"""Is training stuck at a very large batch?"""

from collections.abc import Mapping

from paper_checks.check import Judgement, Measurements
from paper_checks.figures._interval import t_interval
from paper_checks.figures.fig1 import PROTOCOL as TUNED
from paper_checks.figures.fig1 import measure
from paper_checks.numbers import points
from paper_checks.training import best
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    *TUNED,
    "The training accuracy of the largest batch at its best rate, at equal steps: an optimizer "
    "whose parameters all sit in local minima cannot raise it above that of the start.",
)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The training accuracy that the largest batch reaches."""
    seeds = len(measurements["seeds"]) // 2
    predicted = f"≤ {thresholds['stuck']:g}"
    if seeds < thresholds["seeds"]:
        return Judgement(INCONCLUSIVE, predicted, None, f"Only {seeds} seeds to read.")
    n = measurements["n"][-1]
    found = {}
    for series in ("epochs", "steps"):
        rows = [row for row in measurements["rows"] if (row["series"], row["n"]) == (series, n)]
        found[series] = t_interval(best(rows, "train_accuracy")[1])
    mean, low, high = found["steps"]
    if high <= thresholds["stuck"]:
        verdict = HOLDS
    elif low >= thresholds["moves"]:
        verdict = CONTRADICTED
    else:
        verdict = IN_PART
    reason = (
        f"At n = {n} the training accuracy reaches {100 * mean:.1f} % {points((low, high))} in "
        f"{measurements['equal_steps']} steps and {100 * found['epochs'][0]:.1f} % in "
        f"{measurements['epochs']} epochs."
    )
    return Judgement(verdict, predicted, mean, reason, (low, high))
