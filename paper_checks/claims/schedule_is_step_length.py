"""Is the step length what batch-size scheduling works by?"""

from collections.abc import Mapping

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.figures._interval import paired, rank_correlation
from paper_checks.figures._schedules import BASELINE, OURS, both, column, measure
from paper_checks.figures._schedules import PROTOCOL as RUNS
from paper_checks.numbers import points, short
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    *RUNS,
    "If the step length of the first epoch is what a schedule works by, the protocols' accuracies "
    "must be ordered as their strides, and the smaller batch must do more than the rate alone.",
)
PROTOCOLS = (BASELINE, OURS, "only the rate", "only the batch", "warm-up")


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The rank correlation over the protocols of the first stride and the final accuracy."""
    pairs = {
        name: paired(*both(measurements, name, BASELINE, "accuracy")) for name in PROTOCOLS[1:]
    }
    if len(both(measurements, OURS, BASELINE, "accuracy")[0]) < thresholds["seeds"]:
        return Judgement(INCONCLUSIVE, None, None, "Too few seeds.")
    strides = [float(np.nanmean(column(measurements, p, "first_stride"))) for p in PROTOCOLS]
    accuracy = [float(np.nanmean(column(measurements, p, "accuracy"))) for p in PROTOCOLS]
    rank = rank_correlation(strides, accuracy)
    told = "; ".join(
        f"{name} {100 * pairs[name][0]:+.2f} {points(pairs[name][1:])}" for name in pairs
    )
    if not any(low > 0 or high < 0 for _, low, high in pairs.values()):
        verdict = INCONCLUSIVE
    elif rank >= thresholds["rank"]:
        verdict = HOLDS
    elif rank > 0:
        verdict = IN_PART
    else:
        verdict = CONTRADICTED
    reason = (
        f"Rank correlation of first-epoch stride and final accuracy over five protocols: "
        f"{short(rank)}. Accuracy less the baseline's, in points: {told}."
    )
    return Judgement(verdict, f"≥ {thresholds['rank']:g}", rank, reason)
