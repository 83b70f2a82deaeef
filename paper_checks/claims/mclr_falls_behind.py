"""Does MCLR fall faster than LARS at large batches?"""

from collections.abc import Mapping

from paper_checks.check import Judgement, Measurements
from paper_checks.figures._interval import welch
from paper_checks.figures.fig16 import PROTOCOL, measure, read, untuned
from paper_checks.numbers import points
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

__all__ = ["PROTOCOL", "judge", "measure"]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """MCLR less LARS at the largest batch, at equal epochs and at equal steps."""
    seeds = len(measurements["seeds"]) // 2
    if seeds < thresholds["seeds"]:
        return Judgement(INCONCLUSIVE, "< 0", None, f"Only {seeds} seeds to read.")
    n, small = measurements["n"][-1], measurements["n"][0]
    found = {
        series: welch(read(measurements, series, n, "mclr"), read(measurements, series, n, "lars"))
        for series in ("epochs", "steps")
    }
    before = welch(
        read(measurements, "epochs", small, "mclr"), read(measurements, "epochs", small, "lars")
    )
    mean, low, high = found["epochs"]
    edges = untuned(measurements, [("epochs", n), ("steps", n)], ("mclr", "lars"))
    if edges:
        verdict = INCONCLUSIVE
    elif high < 0:
        verdict = HOLDS if found["steps"][2] < 0 else IN_PART
    else:
        verdict = CONTRADICTED if low > -thresholds["margin"] else INCONCLUSIVE
    reason = (
        f"MCLR less LARS in test accuracy at n = {n}: {100 * mean:+.1f} points "
        f"{points((low, high))} at equal epochs, {100 * found['steps'][0]:+.1f} "
        f"{points(found['steps'][1:])} at equal steps; at n = {small} "
        f"{100 * before[0]:+.1f} {points(before[1:])}."
    )
    if edges:
        reason += f" The best γ is at an end of its grid for {', '.join(edges)}."
    return Judgement(verdict, "< 0", mean, reason, (low, high), thresholds["margin"])
