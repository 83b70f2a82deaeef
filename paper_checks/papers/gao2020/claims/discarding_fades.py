"""Does the effect of discarding small losses fade beyond 8000?"""

from collections.abc import Mapping

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import points
from paper_checks.papers.gao2020.figures.fig10 import PROTOCOL as DISCARDING
from paper_checks.papers.gao2020.figures.fig10 import against, measure, values
from paper_checks.statistics import conclude, difference, more, too_few, within

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    *DISCARDING,
    "The gain over the baseline at the paper's 16384, and how much less it is than the mean gain "
    "at 2000 and 8000: an effect that was never there cannot fade.",
)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Whether the gain is negligible at the largest of the batch sizes, and was not before."""
    margin = thresholds["margin"]
    if len(measurements["seeds"]) < thresholds["seeds"] or len(measurements["n"]) < 3:
        return too_few(0.0, "Too few seeds or batch sizes.")
    *smaller, n = measurements["n"]
    large = against(measurements, n, "baseline")

    def gains(size: int) -> list[float]:
        ours, base = (values(measurements, size, arm) for arm in ("small losses", "baseline"))
        gained: list[float] = np.subtract(ours, base).tolist()
        return gained

    fades = difference(np.mean([gains(size) for size in smaller], axis=0).tolist(), gains(n))
    reason = (
        f"At n = {n} discarding small losses changes the accuracy by {100 * large.value:+.2f} "
        f"points {points(large.interval())}; the mean gain at n = {smaller[0]} and {smaller[1]} "
        f"is {100 * fades.value:+.2f} points {points(fades.interval())} more."
    )
    core = within(large, -margin, margin)
    return conclude(core, [more(fades, 0.0)], 0.0, large, reason, margin)
