"""Is b = 0 reasonable: does |w| stand for |w - b| in a layer's statistics?"""

from collections.abc import Mapping
from math import log
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.claims._networks import PROTOCOL as NETWORKS
from paper_checks.claims._networks import by_share, networks, rows
from paper_checks.numbers import short

if TYPE_CHECKING:
    from paper_checks.context import Context

PROTOCOL = (
    *NETWORKS,
    "b = w - g/h, the minimum of the parabola through the point; so |w - b| = |g/h|.",
    "The median of b itself is shown too, and decides nothing: weights drawn symmetrically about "
    "zero have it near zero whatever |w - b| is.",
)


def measure(context: "Context") -> dict[str, Any]:
    """Medians of |w|, |w - b| and b in every tensor."""
    return networks(context, ("fit_entries", "fit_weight", "fit_distance", "b_q50"))


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Counts the tensors whose two medians agree within the factor."""
    usable = [
        row
        for row in rows(measurements)
        if row["fit_entries"] >= thresholds["entries"] and row["fit_distance"]
    ]
    ratios = [row["fit_distance"] / row["fit_weight"] for row in usable]
    good = sum(abs(log(ratio)) <= log(thresholds["factor"]) for ratio in ratios)
    what = f"The medians of |w - b| and |w| agree within a factor {thresholds['factor']:g}"
    if ratios:
        middle = sorted(ratios)[len(ratios) // 2]
        what = (
            f"|w - b| over |w|, by medians, runs from {short(min(ratios))} to "
            f"{short(max(ratios))} (middle {short(middle)}). {what}"
        )
    return by_share(good, len(usable), thresholds, f"≥ {thresholds['most']:g}", what)
