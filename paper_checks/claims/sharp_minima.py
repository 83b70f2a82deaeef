"""Does a large batch end in sharper minima?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.figures._interval import log_ratio
from paper_checks.numbers import short, spread
from paper_checks.verdicts import CONTRADICTED, HOLDS, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.context import Context

PROTOCOL = (
    "SGD with momentum 0.9 at one rate from the same initialisations, the same number of steps for "
    "the paper's 512, 2048 and 49152 of 50000.",
    "λ_max of the Hessian of the loss over a sample of the training images at the end.",
)


def measure(context: "Context") -> dict[str, Any]:
    """λ_max by n and seed."""
    from paper_checks.training import sharp

    return sharp(context)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """λ_max of the largest batch over that of the smallest, seed by seed."""
    sizes = measurements["n"]
    found = {
        n: [row["sharpness"] for row in sorted(measurements["rows"], key=lambda r: r["seed"])
            if row["n"] == n]
        for n in sizes
    }  # fmt: skip
    if len(found[sizes[0]]) < thresholds["seeds"]:
        return Judgement(INCONCLUSIVE, "> 1", None, "Too few seeds.")
    mean, low, high = log_ratio(found[sizes[-1]], found[sizes[0]])
    verdict = HOLDS if low > 1 else CONTRADICTED if high < 1 else INCONCLUSIVE
    reason = f"λ_max after {measurements['equal_steps']} steps: " + "; ".join(
        f"n = {n} {short(sum(values) / len(values))}" for n, values in found.items()
    )
    reason += f". Largest over smallest batch {short(mean)} {spread((low, high))}."
    return Judgement(verdict, "> 1", mean, reason, (low, high))
