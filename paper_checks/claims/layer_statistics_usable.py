"""Can a layer's statistic of equation 17 replace its exact median radius?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.claims._networks import PROTOCOL as NETWORKS
from paper_checks.claims._networks import networks
from paper_checks.numbers import short
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.context import Context

PROTOCOL = (
    *NETWORKS,
    "Each statistic over the exact median radius of the same tensor, in decades; the median over "
    "the tensors is subtracted, since one common factor belongs to γ.",
    "Four statistics are tried, so one of them has four chances to pass.",
)
STATISTICS = {
    "median |w/g|": "ratio_median",
    "mean |w/g| (equation 17 averaged)": "ratio_finite_mean",
    "harmonic mean (equation 24)": "eq24_nonzero",
    "ratio of norms (equation 23)": "eq23",
}


def measure(context: "Context") -> dict[str, Any]:
    """The exact median radius and the four statistics of every tensor."""
    found = networks(
        context,
        (
            "error_count",
            "radius_finite_q50",
            "ratio_finite",
            "ratio_finite_mean",
            "eq24_nonzero",
            "eq23",
        ),
    )
    for network in found["networks"]:
        for row in network["rows"]:
            ratio = row.pop("ratio_finite")
            row["ratio_median"] = ratio[1] if ratio else None
    return found


def compare(rows: list[Mapping[str, Any]], column: str, factor: float) -> tuple[float, float]:
    """The share of tensors within `factor` after one common factor, and the rank correlation."""
    from scipy.stats import rankdata

    exact = np.log10([row["radius_finite_q50"] for row in rows])
    found = np.log10([row[column] for row in rows])
    misfit = found - exact
    within = np.abs(misfit - np.median(misfit)) <= np.log10(factor)
    if np.ptp(found) == 0 or np.ptp(exact) == 0:
        return float(within.mean()), 0.0
    correlation = np.corrcoef(rankdata(found), rankdata(exact))[0, 1]
    return float(within.mean()), float(correlation)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The best statistic decides, taken at its worst seed."""
    worst: dict[str, tuple[float, float]] = {}
    for network in measurements["networks"]:
        usable = [
            row
            for row in network["rows"]
            if row["error_count"] >= thresholds["entries"]
            and all(row[column] for column in ("radius_finite_q50", *STATISTICS.values()))
        ]
        if len(usable) < thresholds["tensors"]:
            return Judgement(
                INCONCLUSIVE, None, None, f"Only {len(usable)} tensors can be compared."
            )
        for title, column in STATISTICS.items():
            share, rank = compare(usable, column, thresholds["factor"])
            before = worst.get(title, (1.0, 1.0))
            worst[title] = min(before[0], share), min(before[1], rank)
    best = max(worst, key=lambda title: worst[title])
    best_rank = max(rank for _, rank in worst.values())
    if worst[best][0] >= thresholds["most"]:
        verdict = HOLDS
    elif best_rank >= thresholds["rank"]:
        verdict = IN_PART
    else:
        verdict = CONTRADICTED
    reason = "Share of tensors within the factor, and rank correlation, at the worst seed: "
    reason += "; ".join(
        f"{title} {100 * share:.0f} %, {short(rank, 2)}" for title, (share, rank) in worst.items()
    )
    return Judgement(verdict, f"≥ {thresholds['most']:g}", worst[best][0], reason + ".")
