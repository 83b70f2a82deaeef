"""Does curvature differ between layers, and more than it does inside them?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import points, short, spread
from paper_checks.papers.gao2020.claims._networks import PROTOCOL as NETWORKS
from paper_checks.papers.gao2020.claims._networks import networks
from paper_checks.papers.gao2020.measurements.context import SNAPSHOTS
from paper_checks.shared import reads
from paper_checks.statistics import conclude, mean, more, ratio, too_few

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    *NETWORKS,
    "Weights only. The variance of log10 R is split into that of the layers' means and the mean "
    "of the layers' own variances.",
)


@reads(SNAPSHOTS)
def measure(context: "Context") -> dict[str, Any]:
    """Median, log mean and log variance of the exact radius in every tensor."""
    return networks(context, ("radius_finite_q50", "log_radius_mean", "log_radius_variance"))


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The ratio of layers decides first, then whether layers explain the spread."""
    predicted = f"> {thresholds['ratio']:g}"
    ratios, explained = [], []
    for network in measurements["networks"]:
        rows = [
            row
            for row in network["rows"]
            if row["parameter"].endswith("weight") and row["radius_finite_q50"]
        ]
        if len(rows) < 2:
            return too_few(predicted, "There are fewer than two layers.")
        medians = [row["radius_finite_q50"] for row in rows]
        ratios.append(max(medians) / min(medians))
        between = float(np.var([row["log_radius_mean"] for row in rows]))
        inside = float(np.mean([row["log_radius_variance"] for row in rows]))
        explained.append(between / (between + inside) if between + inside else 0.0)
    apart, layers = ratio(ratios, [1.0] * len(ratios)), mean(explained)
    reason = (
        f"The layers' median radii differ by a factor {short(apart.value)} "
        f"{spread(apart.interval())}; layers explain {100 * layers.value:.0f} % "
        f"{points(layers.interval())} of the variance of log R."
    )
    core = more(apart, thresholds["ratio"])
    return conclude(core, [more(layers, thresholds["explained"])], predicted, apart, reason)
