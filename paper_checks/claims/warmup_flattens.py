"""Does warm-up flatten the sharpest layer first?"""

from collections.abc import Mapping

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.figures._interval import paired
from paper_checks.figures.fig_spread import PROTOCOL as SPREAD
from paper_checks.figures.fig_spread import WARM, measure
from paper_checks.numbers import short, spread
from paper_checks.verdicts import CONTRADICTED, HOLDS, INCONCLUSIVE

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    *SPREAD,
    "The layer of the largest mean |h| at the start, by seed: the change of its log10 |h| over the "
    "warm-up beside the mean change of the other layers.",
)


def changes(measurements: Measurements) -> tuple[list[float], list[float]]:
    """For each seed, the change of the sharpest layer's log10 |h| and that of the others."""
    rows = [row for row in measurements["rows"] if row["protocol"] == WARM]
    last = max(row["step"] for row in rows)
    at = {(row["seed"], row["step"]): row["layers"] for row in rows}
    sharpest, others = [], []
    for seed in sorted({row["seed"] for row in rows}):
        if (seed, last) not in at:
            continue
        before, after = at[seed, 0], at[seed, last]
        top = max(before, key=lambda name: before[name])
        sharpest.append(after[top] - before[top])
        others.append(
            float(np.mean([after[name] - before[name] for name in before if name != top]))
        )
    return sharpest, others


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The sharpest layer's change: downwards, and below the others'."""
    sharpest, others = changes(measurements)
    if len(sharpest) < thresholds["seeds"]:
        return Judgement(INCONCLUSIVE, "< 0", None, f"Only {len(sharpest)} seeds.")
    own = paired(sharpest, [0.0] * len(sharpest))
    apart = paired(sharpest, others)
    if own[2] < 0 and apart[2] < 0:
        verdict = HOLDS
    elif own[1] > 0 or apart[1] > 0:
        verdict = CONTRADICTED
    else:
        verdict = INCONCLUSIVE
    reason = (
        f"Over the warm-up the sharpest layer's log10 |h| changes by {short(own[0])} "
        f"{spread(own[1:])}, the others' by {short(float(np.mean(others)))} on average; the "
        f"difference is {short(apart[0])} {spread(apart[1:])}."
    )
    return Judgement(verdict, "< 0", own[0], reason, own[1:])
