"""Does a large batch end in sharper minima?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.figures._lines import group
from paper_checks.papers.gao2020.measurements.training import SHARP_RUNS
from paper_checks.shared import reads
from paper_checks.statistics import UNDECIDED, Ratio, conclude, more, paired, ratio, too_few

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    "SGD with momentum 0.9 at one rate from the same initialisations, the same number of steps for "
    "the paper's 512, 2048 and 49152 of 50000.",
    "λ_max of the Hessian of the loss over a sample of the training images at the end.",
    "Control: a rate that grows with n. Gradient descent at a rate η goes on sharpening up to "
    "2(1 + m)/η (Cohen et al. 2021), so that at one rate only the noise sets batches apart.",
)
TOLD = {"one": "at one rate", "tuned": "each at its best rate", "grows": "at a rate growing with n"}


@reads(SHARP_RUNS)
def measure(context: "Context") -> dict[str, Any]:
    """λ_max by n and seed."""
    from paper_checks.papers.gao2020.measurements.training import sharp

    return sharp(context)


ARMS = ("one", "tuned", "grows")


def growth(measurements: Measurements, rates: str) -> Ratio:
    """λ_max of the largest batch over that of the smallest, seed by seed."""
    by_n = {
        n: {
            row["seed"]: row["sharpness"]
            for row in measurements["rows"]
            if (row["n"], row.get("rates", "one")) == (n, rates) and row["sharpness"] is not None
        }
        for n in (measurements["n"][-1], measurements["n"][0])
    }
    return ratio(*paired(*by_n.values()))


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """λ_max of the largest batch over that of the smallest, at one rate and at one that grows."""
    ran = [arm for arm in ARMS if any(r.get("rates", "one") == arm for r in measurements["rows"])]
    growths = {arm: growth(measurements, arm) for arm in ran}
    first, *others = growths.values()
    if first.freedom + 1 < thresholds["seeds"]:
        return too_few("> 1", "Too few seeds.")
    reason = f"λ_max after {measurements['equal_steps']} steps: " + "; ".join(
        f"n = {n} {short(float(np.mean(values)))}"
        for n in measurements["n"]
        if (values := group(measurements["rows"], "sharpness", n=n))
    )
    reason += ". Largest over smallest batch: " + "; ".join(
        f"{TOLD[arm]} {short(each.value)} {spread(each.interval())}"
        for arm, each in growths.items()
    )
    controls = [more(each, 1.0) for each in others] or [UNDECIDED]
    return conclude(more(first, 1.0), controls, "> 1", first, f"{reason}.")
