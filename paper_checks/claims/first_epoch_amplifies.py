"""Is the step length amplified by a smaller batch and rate in the first epoch?"""

from collections.abc import Mapping

from paper_checks.check import Judgement, Measurements
from paper_checks.figures._interval import log_ratio
from paper_checks.figures._schedules import BASELINE, OURS, PROTOCOL, both, measure
from paper_checks.numbers import short, spread
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

__all__ = ["PROTOCOL", "judge", "measure"]

READINGS = {"first_stride": "per step", "first_path": "path", "first_displacement": "displacement"}


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The first epoch's stride, path and displacement, over the baseline's."""
    found = {}
    for name in READINGS:
        pair = both(measurements, OURS, BASELINE, name)
        if len(pair[0]) < thresholds["seeds"]:
            return Judgement(INCONCLUSIVE, "> 1", None, "Too few seeds.")
        found[name] = log_ratio(*pair)
    longer = [low > 1 for _, low, _ in found.values()]
    verdict = HOLDS if longer[0] else IN_PART if any(longer) else CONTRADICTED
    only = log_ratio(*both(measurements, "only the batch", BASELINE, "first_stride"))
    reason = (
        "The first epoch's update over the baseline's: "
        + "; ".join(
            f"{label} {short(found[name][0])} {spread(found[name][1:])}"
            for name, label in READINGS.items()
        )
        + f". A tenth of the rate outweighs the larger gradient; with only the batch smaller the "
        f"stride per step is {short(only[0])} times as long."
    )
    mean, low, high = found["first_stride"]
    return Judgement(verdict, "> 1", mean, reason, (low, high))
