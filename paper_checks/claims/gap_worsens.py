"""Does the generalisation gap worsen with every larger batch?"""

from collections.abc import Mapping

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.figures._interval import rank_correlation
from paper_checks.figures.fig1 import PROTOCOL, accuracies, gap, measure
from paper_checks.numbers import points, short
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

__all__ = ["PROTOCOL", "judge", "measure"]


def rank(measurements: Measurements, series: str) -> float:
    """Spearman's correlation over n of the batch size with the mean accuracy."""
    found = accuracies(measurements, series)
    means = [float(np.mean(values)) for _, values in found.values()]
    return rank_correlation(list(found), means)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Whether accuracy falls with n in order, at equal epochs and at equal steps."""
    seeds = len(measurements["seeds"]) // 2
    limit = thresholds["rank"]
    if seeds < thresholds["seeds"] or len(measurements["n"]) < thresholds["sizes"]:
        return Judgement(INCONCLUSIVE, f"≤ {limit:g}", None, "Too few seeds or batch sizes.")
    found = {series: rank(measurements, series) for series in ("epochs", "steps")}
    gaps = {series: gap(measurements, series) for series in ("epochs", "steps")}
    falls = {series: found[series] <= limit and gaps[series][1] > 0 for series in found}
    verdict = HOLDS if all(falls.values()) else IN_PART if falls["epochs"] else CONTRADICTED
    reason = "; ".join(
        f"at equal {series} the rank correlation of n and accuracy is {short(found[series])}, the "
        f"largest batch {100 * gaps[series][0]:.1f} points behind {points(gaps[series][1:])}"
        for series in found
    )
    return Judgement(verdict, f"≤ {limit:g}", found["epochs"], f"{reason[0].upper()}{reason[1:]}.")
