"""How many radii of equation 17 are anywhere near the exact ones?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short
from paper_checks.papers.gao2020.claims._networks import PROTOCOL as NETWORKS
from paper_checks.papers.gao2020.claims._networks import networks
from paper_checks.papers.gao2020.measurements.context import SNAPSHOTS
from paper_checks.shared import reads
from paper_checks.statistics import conclude, less, mean, too_few

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    *NETWORKS,
    "For each entry with non-zero w, g and h, whether |w/g| is within the factor of R.",
)


@reads(SNAPSHOTS)
def measure(context: "Context") -> dict[str, Any]:
    """In every tensor, the share of entries within a factor two, of those that can be compared."""
    measurements = networks(context, ("error_count", "within_factor_2"))
    # `sim.compare_radii` counts at this factor; the judge refuses another.
    return {"factor": 2.0, **measurements}


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Compares each network's share of accurate entries with the majority."""
    if measurements["factor"] != thresholds["factor"]:
        raise ValueError(f"measured at a factor {measurements['factor']:g}, judged at another")
    predicted = f"< {thresholds['majority']:g}"
    shares, counts, left_out = [], [], []
    for network in measurements["networks"]:
        usable = [row for row in network["rows"] if row["error_count"]]
        counted = sum(row["error_count"] for row in usable)
        if counted < thresholds["entries"]:
            return too_few(predicted, f"Only {counted} entries can be compared.")
        hits = sum(row["within_factor_2"] * row["error_count"] for row in usable)
        counts.append(counted)
        shares.append(hits / counted)
        left_out.append(1 - counted / sum(row["size"] for row in network["rows"]))
    share = mean(shares)
    reason = (
        f"{short(100 * share.value)} % of the {short(min(counts))} usable entries are within a "
        f"factor {thresholds['factor']:g} of the exact radius; {100 * max(left_out):.1f} % have a "
        "zero weight, gradient or curvature and cannot be compared."
    )
    return conclude(less(share, thresholds["majority"]), [], predicted, share, reason)
