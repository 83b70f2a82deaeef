"""May σ be treated as a constant?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from paper_checks.check import Judgement, Measurements
from paper_checks.claims.gaussian_initially import measure, pairs
from paper_checks.numbers import short
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    pass

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    "The measurement of fig-gaussian: a layer's mean standard deviation σ of per-sample gradients, "
    "of an MLP at initialisation and after 20 epochs of SGD.",
)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Compares σ before and after training, layer by layer."""
    found = pairs(measurements)
    if len(found) < thresholds["layers"]:
        return Judgement(INCONCLUSIVE, None, None, f"Only {len(found)} layers to compare.")
    ratios = [after["sigma"] / before["sigma"] for before, after in found]
    factor = thresholds["factor"]
    near = [1 / factor <= ratio <= factor for ratio in ratios]
    verdict = HOLDS if all(near) else IN_PART if any(near) else CONTRADICTED
    reason = "σ trained over σ at initialisation: " + "; ".join(
        f"{before['parameter']} {short(ratio)}"
        for (before, _), ratio in zip(found, ratios, strict=True)
    )
    return Judgement(verdict, 1.0, min(ratios), reason + ".", (min(ratios), max(ratios)), factor)
