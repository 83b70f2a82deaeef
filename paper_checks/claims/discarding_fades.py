"""Is the effect of discarding small losses not significant beyond 8000?"""

from collections.abc import Mapping

from paper_checks.check import Judgement, Measurements
from paper_checks.figures.fig10 import PROTOCOL, against, measure
from paper_checks.numbers import points
from paper_checks.verdicts import CONTRADICTED, HOLDS, INCONCLUSIVE

__all__ = ["PROTOCOL", "judge", "measure"]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The gain over the baseline at the largest of the three batch sizes."""
    if len(measurements["seeds"]) < thresholds["seeds"]:
        return Judgement(INCONCLUSIVE, "0", None, "Too few seeds.")
    n, margin = measurements["n"][-1], thresholds["margin"]
    mean, low, high = against(measurements, n, "baseline")
    if -margin <= low and high <= margin:
        verdict = HOLDS
    elif low > 0 or high < 0:
        verdict = CONTRADICTED
    else:
        verdict = INCONCLUSIVE
    reason = (
        f"At n = {n} discarding small losses changes the accuracy by {100 * mean:+.2f} points "
        f"{points((low, high))}."
    )
    return Judgement(verdict, 0.0, mean, reason, (low, high), margin)
