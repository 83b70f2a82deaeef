"""Are the radii of biases ten times smaller than those of weights, as figure 2 was drawn for?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.claims._networks import PROTOCOL as NETWORKS
from paper_checks.papers.gao2020.claims._networks import networks
from paper_checks.papers.gao2020.measurements.context import SNAPSHOTS
from paper_checks.shared import reads
from paper_checks.statistics import conclude, more, ratio, too_few, within

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    *NETWORKS,
    "The caption enlarges the radii of biases by 10, which brings the two together if they are "
    "some ten times smaller: the median exact radius of a layer's weights over that of its bias, "
    "geometric mean over the layers.",
)


@reads(SNAPSHOTS)
def measure(context: "Context") -> dict[str, Any]:
    """The median exact radius of every tensor."""
    return networks(context, ("radius_finite_q50",))


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The ratio of weights to biases, layer by layer, seed by seed."""
    weights, biases, layers = [], [], 0
    for network in measurements["networks"]:
        radii = {row["parameter"]: row["radius_finite_q50"] for row in network["rows"]}
        pairs = [
            (radius, radii[f"{name.removesuffix('weight')}bias"])
            for name, radius in radii.items()
            if name.endswith("weight")
            and radius
            and radii.get(f"{name.removesuffix('weight')}bias")
        ]
        if len(pairs) < thresholds["layers"]:
            return too_few(10.0, f"Only {len(pairs)} layers have both.")
        layers = len(pairs)
        # The geometric mean over the layers, so that none outweighs the others.
        of_network = ratio(*zip(*pairs, strict=True))
        weights.append(of_network.value)
        biases.append(1.0)
    quotient = ratio(weights, biases)
    reason = (
        f"The median exact radius of a layer's weights is {short(quotient.value)} "
        f"{spread(quotient.interval())} times that of its bias, geometric mean over {layers} "
        "layers."
    )
    factor = thresholds["factor"]
    control = within(quotient, 10 / factor, 10 * factor)
    return conclude(more(quotient, 1.0), [control], 10.0, quotient, reason, factor)
