"""Does taking a layer's median make equation 17 more accurate?"""

from collections.abc import Mapping
from math import log10
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.claims._networks import PROTOCOL as NETWORKS
from paper_checks.claims._networks import by_share, networks, rows
from paper_checks.numbers import short

if TYPE_CHECKING:
    from paper_checks.context import Context

PROTOCOL = (
    *NETWORKS,
    "The group's median is that of |w/g| itself, the reading of equation 20 that follows the text.",
)


def measure(context: "Context") -> dict[str, Any]:
    """Both errors of every tensor, in decades."""
    found = networks(context, ("error_count", "radius_finite_q50", "ratio_finite", "entry_error"))
    for network in found["networks"]:
        for row in network["rows"]:
            radius, ratio = row.pop("radius_finite_q50"), row.pop("ratio_finite")
            whole = row["error_count"] > 0 and ratio[1] > 0
            row["median_error"] = abs(log10(ratio[1] / radius)) if whole else None
    return found


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Counts the tensors where the median is the more accurate."""
    usable = [
        row
        for row in rows(measurements)
        if row["error_count"] >= thresholds["entries"] and row["median_error"] is not None
    ]
    good = sum(row["median_error"] < row["entry_error"] for row in usable)
    what = "The layer's median is nearer to the exact one than the median entry is to its own"
    if usable:
        median, entry = (
            sorted(row[name] for row in usable)[len(usable) // 2]
            for name in ("median_error", "entry_error")
        )
        what = f"Middle errors {short(median)} and {short(entry)} decades. {what}"
    return by_share(good, len(usable), thresholds, f"≥ {thresholds['most']:g} of tensors", what)
