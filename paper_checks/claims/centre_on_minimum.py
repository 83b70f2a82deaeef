"""Do all parameters centre on a local minimum at large n, at initialisation already?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.claims._networks import wilson
from paper_checks.numbers import short
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.context import Context

PROTOCOL = (
    "The measurement of fig-minimum: random entries of an MLP at initialisation, the loss over the "
    "whole sample (no batch noise: the limit of a large n).",
    "The displacement to the true minimum along the weight, over the root mean square weight of "
    "its tensor. An entry without a minimum within reach is far from one.",
)


def measure(context: "Context") -> dict[str, Any]:
    """The entries of fig-minimum."""
    from paper_checks.figures import fig_minimum

    return fig_minimum.measure(context)


def distances(measurements: Measurements) -> list[float]:
    """|displacement| over the tensor's root mean square weight, at initialisation."""
    points = [
        point
        for point in measurements["points"]
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
    found = distances(measurements)
    predicted = f"≥ {thresholds['most']:g}"
    if len(found) < thresholds["entries"]:
        return Judgement(INCONCLUSIVE, predicted, None, f"Only {len(found)} entries.")
    near = sum(distance <= thresholds["near"] for distance in found)
    share = near / len(found)
    if share >= thresholds["most"]:
        verdict = HOLDS
    elif share >= thresholds["few"]:
        verdict = IN_PART
    else:
        verdict = CONTRADICTED
    far = sum(not np.isfinite(distance) for distance in found)
    middle = sorted(found)[len(found) // 2]
    reason = (
        f"Without any batch noise, {near} of {len(found)} entries are within "
        f"{thresholds['near']:g} root mean square weights of the minimum along them; the median "
        f"distance is {short(middle) if np.isfinite(middle) else 'beyond reach'}, and {far} have "
        "none within reach. What shrinks with n is the noise about the mean gradient, not the "
        "mean's distance from zero."
    )
    return Judgement(verdict, predicted, share, reason, wilson(near, len(found)))
