"""Do gradients fall to zero as the batch grows, or to the mean gradient?"""

from collections.abc import Mapping
from math import sqrt
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.context import Context

PROTOCOL = (
    "The measurement of figure 3, with dropout off, batches drawn without replacement.",
    "A line σ/√n is put through the smallest n and read at the largest.",
)


def measure(context: "Context") -> dict[str, Any]:
    """E|g| at every n, with its standard error."""
    from paper_checks import fig3

    found = fig3.measure(context)
    curve = next(c for c in found["curves"] if c["dropout"] == "off" and not c["replacement"])
    return {name: found[name] for name in ("seeds", "samples", "parameter", "n")} | {
        "mean": curve["mean"],
        "standard_error": curve["standard_error"],
        "abs_mu_mean": found["moments"]["off"]["abs_mu_mean"],
    }


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Reads how far E|g| stays above the 1/√n line at the largest n."""
    sizes, mean = measurements["n"], measurements["mean"]
    if sizes[-1] < thresholds["range"] * sizes[0]:
        return Judgement(INCONCLUSIVE, "1", None, f"n runs only from {sizes[0]} to {sizes[-1]}.")
    expected = mean[0] * sqrt(sizes[0] / sizes[-1])
    ratio = mean[-1] / expected
    relative = [(e or 0.0) / m for e, m in zip(measurements["standard_error"], mean, strict=True)]
    half = 1.96 * ratio * sqrt(relative[0] ** 2 + relative[-1] ** 2)
    low, high = ratio - half, ratio + half
    if high < thresholds["holds"]:
        verdict = HOLDS
    elif low > thresholds["fails"]:
        verdict = CONTRADICTED
    else:
        verdict = IN_PART
    reason = (
        f"At n = {short(sizes[-1])} E|g| is {short(mean[-1])}, {short(ratio)} times the 1/√n line; "
        f"the mean |μ| over the training set, below which it cannot fall, is "
        f"{short(measurements['abs_mu_mean'])}."
    )
    return Judgement(verdict, 1.0, ratio, reason, (low, high), thresholds["holds"] - 1)
