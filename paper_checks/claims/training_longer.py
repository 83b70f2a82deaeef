"""Do more steps enlarge the searching space of a large batch, and find a better minimum?"""

from collections.abc import Mapping

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.figures._interval import welch
from paper_checks.figures.fig1 import PROTOCOL, accuracies, measure
from paper_checks.numbers import points, short
from paper_checks.training import best
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

__all__ = ["PROTOCOL", "judge", "measure"]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The largest batch with more steps against itself with few: accuracy and path."""
    seeds = len(measurements["seeds"]) // 2
    if seeds < thresholds["seeds"]:
        return Judgement(INCONCLUSIVE, "> 0", None, f"Only {seeds} seeds to read.")
    n = measurements["n"][-1]
    gain = welch(accuracies(measurements, "steps")[n][1], accuracies(measurements, "epochs")[n][1])
    paths = {}
    for series in ("epochs", "steps"):
        rows = [row for row in measurements["rows"] if (row["series"], row["n"]) == (series, n)]
        paths[series] = float(np.mean([v for v in best(rows)[0]["path"] if v is not None]))
    farther = paths["steps"] > paths["epochs"]
    if gain[1] > 0:
        verdict = HOLDS if farther else IN_PART
    else:
        verdict = CONTRADICTED if gain[2] < 0 else INCONCLUSIVE
    reason = (
        f"At n = {n}, {measurements['equal_steps']} steps instead of {measurements['epochs']} "
        f"epochs change the accuracy by {100 * gain[0]:+.1f} points {points(gain[1:])} and the "
        f"path by a factor {short(paths['steps'] / paths['epochs'])}."
    )
    return Judgement(verdict, "> 0", gain[0], reason, gain[1:])
