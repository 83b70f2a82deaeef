"""May σ be treated as a constant?"""

from collections.abc import Mapping
from math import log

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.claims.gaussian_initially import changes, measure
from paper_checks.statistics import all_of, conclude, deciding, in_parts, too_few, within

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    "The measurement of fig-gaussian: a layer's mean standard deviation σ of per-sample gradients, "
    "of an MLP at initialisation and after 20 epochs of SGD.",
)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Compares σ before and after training, layer by layer."""
    factor = thresholds["factor"]
    ratios = changes(measurements, lambda row: row["sigma"])
    if len(ratios) < thresholds["layers"]:
        return too_few(1.0, f"Only {len(ratios)} layers to compare.")
    near = [within(each, 1 / factor, factor) for each in ratios.values()]
    reason = (
        "σ trained over σ at initialisation: "
        + "; ".join(
            f"{layer} {short(each.value)} {spread(each.interval())}"
            for layer, each in ratios.items()
        )
        + "."
    )
    farthest = max(ratios.values(), key=lambda each: abs(log(each.value)))
    seen = deciding(near, list(ratios.values()), farthest)
    return conclude(in_parts(*near), [all_of(*near)], 1.0, seen, reason, factor)
