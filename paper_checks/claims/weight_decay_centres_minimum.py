"""Does weight decay bring the minimum nearer to zero?"""

from collections.abc import Mapping
from math import isclose, log
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.claims._networks import PROTOCOL as NETWORKS
from paper_checks.claims._networks import by_share, networks, rows
from paper_checks.numbers import short

if TYPE_CHECKING:
    from paper_checks.context import Context

PROTOCOL = (
    *NETWORKS,
    "Weight decay enters exactly: g + βw and h + β at the same point.",
)


def measure(context: "Context") -> dict[str, Any]:
    """Medians of |w| and of |w - b| with and without weight decay, in every tensor."""
    from paper_checks.context import WEIGHT_DECAY

    columns = ("fit_entries", "fit_weight", "fit_distance", "fit_distance_decayed")
    return {"beta": WEIGHT_DECAY, **networks(context, columns)}


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Counts the tensors whose misfit falls by the stated share of itself."""
    if not isclose(measurements["beta"], thresholds["beta"]):
        raise ValueError(f"measured at β = {measurements['beta']:g}, not {thresholds['beta']:g}")
    usable = [
        row
        for row in rows(measurements)
        if row["fit_entries"] >= thresholds["entries"] and row["fit_distance"]
    ]

    def misfit(row: Mapping[str, Any], column: str) -> float:
        return abs(log(row[column] / row["fit_weight"]))

    pairs = [(misfit(row, "fit_distance"), misfit(row, "fit_distance_decayed")) for row in usable]
    good = sum(after <= (1 - thresholds["gain"]) * before for before, after in pairs)
    what = f"β = {thresholds['beta']:g} lowers the misfit by {100 * thresholds['gain']:.0f} %"
    if pairs:
        before, after = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
        what = f"Mean misfit {short(before)} without and {short(after)} with weight decay. {what}"
    return by_share(good, len(usable), thresholds, f"≥ {thresholds['most']:g}", what)
