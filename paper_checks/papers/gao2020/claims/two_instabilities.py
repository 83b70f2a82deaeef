"""Do small steps make large batches unstable, and randomness small ones?"""

from collections.abc import Mapping

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.figures._whole import arm, plateau_told
from paper_checks.papers.gao2020.figures.fig8 import PROTOCOL as CURVES
from paper_checks.papers.gao2020.figures.fig8 import deviations, measure
from paper_checks.statistics import (
    UNDECIDED,
    all_of,
    conclude,
    deciding,
    in_parts,
    more,
    paired,
    ratio,
    too_few,
)

__all__ = ["PROTOCOL", "judge", "measure"]

PROTOCOL = (
    *CURVES,
    "At equal steps: the smallest n against the next one for the randomness; and the largest n at "
    "one rate against itself at the rate that grows with n, which takes longer steps. If small "
    "steps make it unstable, longer ones must calm it.",
)


def at_largest(measurements: Measurements, column: str, rates: str) -> dict[int, float]:
    """By seed, the column at the largest n in whole batches."""
    return {
        row["seed"]: row[column]
        for row in arm(measurements, "steps", rates=rates)
        if row["n"] == measurements["n"][-1] and row[column] is not None
    }


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Both halves of the sentence, by intervals of ratios."""
    sizes, fluctuations = measurements["n"], deviations(measurements, "absolute")
    if not fluctuations or len(fluctuations[0]) < thresholds["seeds"] or len(sizes) < 3:
        return too_few("> 1", "Too few seeds or batch sizes.")
    randomness = ratio(fluctuations[0], fluctuations[1])
    reason = (
        f"n = {sizes[0]} fluctuates {short(randomness.value)} times "
        f"{spread(randomness.interval())} as much as n = {sizes[1]}: the randomness of small "
        "batches. "
    )
    small_steps, second = None, UNDECIDED
    arms = [at_largest(measurements, "absolute", rates) for rates in ("one", "grows")]
    if len(paired(*arms)[0]) >= thresholds["seeds"]:
        small_steps = ratio(*paired(*arms))
        second = more(small_steps, 1.0)
        paths = (at_largest(measurements, "path", rates) for rates in ("one", "grows"))
        longer = 1 / float(np.mean(np.divide(*map(np.array, paired(*paths)))))
        reason += (
            f"n = {sizes[-1]} at one rate fluctuates {short(small_steps.value)} times "
            f"{spread(small_steps.interval())} as much as at the rate that grows with n, where its "
            f"path is {short(longer)} times as long."
        )
    else:
        reason += "The rate that grows with n was not run."
    reason += " " + plateau_told(measurements["rows"], "steps")
    halves = more(randomness, 1.0), second
    known = small_steps or randomness
    seen = deciding(halves, (randomness, known), known)
    return conclude(in_parts(*halves), [all_of(*halves)], "> 1", seen, reason)
