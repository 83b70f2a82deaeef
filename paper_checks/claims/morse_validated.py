"""Does a small distance to the minimum validate the parabola?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.claims._networks import wilson
from paper_checks.claims.centre_on_minimum import measure
from paper_checks.numbers import short, spread
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    pass

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    "The measurement of fig-minimum, initialisation and trained together.",
    "The entries with a minimum within reach, by their distance to it; in the nearest quarter the "
    "parabola should point at the true minimum, in the farthest it need not.",
)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The share of right parabolas among the nearest and among the farthest quarter."""
    points = [
        point
        for point in measurements["points"]
        if point["gradient"] and point["true"] and point["newton"]
    ]
    predicted = f"≥ {thresholds['most']:g}"
    if len(points) < thresholds["entries"]:
        return Judgement(INCONCLUSIVE, predicted, None, f"Only {len(points)} entries.")
    points.sort(key=lambda point: abs(point["true"]))
    quarter = len(points) // 4
    factor = np.log(thresholds["factor"])

    def right(part: list[Mapping[str, Any]]) -> int:
        return sum(abs(np.log(abs(p["newton"] / p["true"]))) <= factor for p in part)

    near, far = right(points[:quarter]), right(points[-quarter:])
    share = near / quarter
    low, high = wilson(near, quarter)
    if share >= thresholds["most"]:
        verdict = HOLDS
    elif low > wilson(far, quarter)[1]:
        verdict = IN_PART
    else:
        verdict = CONTRADICTED
    reason = (
        f"Of the nearest quarter {100 * share:.0f} % {spread((low, high))} of the parabolas point "
        f"at the minimum within a factor {thresholds['factor']:g}, of the farthest "
        f"{100 * far / quarter:.0f} % {spread(wilson(far, quarter))}. The nearest quarter is "
        f"within {short(abs(points[quarter - 1]['true']))} of its minimum."
    )
    return Judgement(verdict, predicted, share, reason, (low, high))
