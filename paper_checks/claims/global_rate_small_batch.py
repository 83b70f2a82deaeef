"""Is a small batch content with any global rate, and a large one highly sensitive to it?"""

from collections.abc import Mapping

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.figures._interval import paired
from paper_checks.figures.fig1 import PROTOCOL as TUNED
from paper_checks.figures.fig1 import measure
from paper_checks.numbers import points
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    *TUNED,
    "The sensitivity: by how much the accuracy at the best rate exceeds the mean over the five "
    "rates, seed by seed.",
)


def sensitivity(measurements: Measurements, series: str, n: int) -> list[float]:
    """For each seed, the accuracy at the rate best on average less the mean over the rates."""
    table = np.array(
        [
            [v or 0.0 for v in row["accuracy"]]
            for row in measurements["rows"]
            if (row["series"], row["n"]) == (series, n)
        ]
    )
    chosen = int(table.mean(1).argmax())
    return list(table[chosen] - table.mean(0))


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The largest batch's sensitivity less the smallest one's."""
    if len(measurements["seeds"]) < thresholds["seeds"]:
        return Judgement(INCONCLUSIVE, "> 0", None, "Too few seeds.")
    small, large = measurements["n"][0], measurements["n"][-1]
    found = {
        series: paired(
            sensitivity(measurements, series, large), sensitivity(measurements, series, small)
        )
        for series in ("epochs", "steps")
    }
    mean, low, high = found["epochs"]
    if low > 0:
        verdict = HOLDS if found["steps"][1] > 0 else IN_PART
    else:
        verdict = CONTRADICTED if high < 0 else INCONCLUSIVE
    reason = (
        f"A badly chosen rate costs the largest batch {100 * mean:+.1f} points more than the "
        f"smallest at equal epochs {points((low, high))}, at equal steps "
        f"{100 * found['steps'][0]:+.1f} {points(found['steps'][1:])}."
    )
    return Judgement(verdict, "> 0", mean, reason, (low, high))
