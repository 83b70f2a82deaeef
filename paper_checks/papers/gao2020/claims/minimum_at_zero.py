"""Is b = 0 reasonable: does |w| stand for |w - b| in a layer's statistics?"""

from collections.abc import Mapping
from math import log
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short
from paper_checks.papers.gao2020.claims._networks import PROTOCOL as NETWORKS
from paper_checks.papers.gao2020.claims._networks import by_network, by_share, networks
from paper_checks.papers.gao2020.measurements.context import SNAPSHOTS
from paper_checks.shared import reads

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    *NETWORKS,
    "b = w - g/h, the minimum of the parabola through the point; so |w - b| = |g/h|.",
    "The median of b itself is shown too, and decides nothing: weights drawn symmetrically about "
    "zero have it near zero whatever |w - b| is.",
)


@reads(SNAPSHOTS)
def measure(context: "Context") -> dict[str, Any]:
    """Medians of |w|, |w - b| and b in every tensor."""
    return networks(context, ("fit_entries", "fit_weight", "fit_distance", "b_q50"))


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The share of tensors whose two medians agree within the factor, seed by seed."""
    networks = by_network(
        measurements,
        lambda row: row["fit_entries"] >= thresholds["entries"] and row["fit_distance"],
    )
    ratios = [[row["fit_distance"] / row["fit_weight"] for row in rows] for rows in networks]
    factor = log(thresholds["factor"])
    shares = [sum(abs(log(each)) <= factor for each in part) / len(part) for part in ratios]
    what = f"The medians of |w - b| and |w| agree within a factor {thresholds['factor']:g}"
    if ratios:
        every = sorted(each for part in ratios for each in part)
        what = (
            f"|w - b| over |w|, by medians, runs from {short(every[0])} to {short(every[-1])} "
            f"(middle {short(every[len(every) // 2])}). {what}"
        )
    tensors = min(map(len, ratios), default=0)
    return by_share(shares, tensors, thresholds, f"≥ {thresholds['most']:g}", what)
