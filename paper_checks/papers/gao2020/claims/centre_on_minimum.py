"""Do all parameters centre on a local minimum at large n, at initialisation already?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import points, short
from paper_checks.papers.gao2020.figures.fig_minimum import MINIMA, counts_of, of_samples
from paper_checks.shared import reads
from paper_checks.statistics import conclude, more, proportion, too_few

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    "The measurement of fig-minimum: random entries of an MLP at initialisation, the loss over the "
    "whole sample (no batch noise: the limit of a large n).",
    "The displacement to the true minimum along the weight, over the root mean square weight of "
    "its tensor. An entry without a minimum within reach is far from one.",
)


@reads(MINIMA)
def measure(context: "Context") -> dict[str, Any]:
    """The entries of fig-minimum."""
    from paper_checks.papers.gao2020.figures import fig_minimum

    return fig_minimum.measure(context)


def distances(measurements: Measurements, samples: int) -> list[float]:
    """|displacement| over the tensor's root mean square weight, at initialisation."""
    points = [
        point
        for point in of_samples(measurements, samples)
        if point["network"] == "MLP at initialisation" and point["gradient"]
    ]
    tensors: dict[str, list[float]] = {}
    for point in points:
        tensors.setdefault(point["parameter"], []).append(point["weight"])
    scale = {name: float(np.sqrt(np.mean(np.square(w)))) for name, w in tensors.items()}
    return [
        np.inf if point["true"] is None else abs(point["true"]) / scale[point["parameter"]]
        for point in points
    ]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The share of entries whose minimum is near, in units of the weights."""
    counts = counts_of(measurements)
    by_count = {count: distances(measurements, count) for count in counts}
    predicted = f"> {thresholds['most']:g}"
    if min(map(len, by_count.values()), default=0) < thresholds["entries"]:
        return too_few(predicted, "Too few entries.")
    shares = {
        count: proportion(sum(each <= thresholds["near"] for each in values), len(values))
        for count, values in by_count.items()
    }
    share, values = shares[counts[-1]], by_count[counts[-1]]
    far = sum(not np.isfinite(distance) for distance in values)
    middle = sorted(values)[len(values) // 2]
    told = ", ".join(
        f"{100 * each.value:.0f} % {points(each.interval())} with {count} samples"
        for count, each in shares.items()
    )
    reason = (
        f"Without any batch noise, within {thresholds['near']:g} root mean square weights of the "
        f"minimum along them are {told}. The median distance is "
        f"{short(middle) if np.isfinite(middle) else 'beyond reach'}, and {far} of {len(values)} "
        "have none within reach. What shrinks with n is the noise about the mean gradient, not "
        "the mean's distance from zero."
    )
    controls = [more(each, thresholds["most"]) for each in shares.values()]
    return conclude(more(share, thresholds["few"]), controls, predicted, share, reason)
