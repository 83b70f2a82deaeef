"""May a_i be taken for one constant of the layer, as equations 27 and 28 do?"""

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
    "Equation 26 has d = g/(2a) with each entry's own curvature 2a = h; equations 27 and 28 take "
    "one a for all. The typical distance with the entries' own h, the median of |g/h|, stands "
    "beside the one with the layer's mean |h|, median |g| / mean |h|.",
)


@reads(SNAPSHOTS)
def measure(context: "Context") -> dict[str, Any]:
    """The typical distances of every tensor, with its entries' own curvature and with the mean."""
    columns = ("fit_entries", "fit_distance", "gradient_abs_median", "curvature_abs_mean")
    return networks(context, columns)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The share of tensors in which the two agree within the factor, seed by seed."""
    by_seed = by_network(
        measurements,
        lambda row: (
            row["fit_entries"] >= thresholds["entries"]
            and row["fit_distance"]
            and row["gradient_abs_median"]
            and row["curvature_abs_mean"]
        ),
    )
    quotients = [
        [
            row["fit_distance"] * row["curvature_abs_mean"] / row["gradient_abs_median"]
            for row in rows
        ]
        for rows in by_seed
    ]
    factor = log(thresholds["factor"])
    shares = [sum(abs(log(each)) <= factor for each in part) / len(part) for part in quotients]
    what = f"The two distances agree within a factor {thresholds['factor']:g}"
    if quotients:
        every = sorted(each for part in quotients for each in part)
        what = (
            f"With the entries' own curvature the typical distance is {short(every[0])} to "
            f"{short(every[-1])} times (middle {short(every[len(every) // 2])}) what one constant "
            f"for the layer gives. {what}"
        )
    tensors = min(map(len, quotients), default=0)
    return by_share(shares, tensors, thresholds, f"≥ {thresholds['most']:g}", what)
