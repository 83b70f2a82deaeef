"""Do gradients fall to zero as the batch grows, or to the mean gradient?"""

from collections.abc import Mapping
from math import inf, sqrt
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short
from paper_checks.papers.gao2020.figures.fig3 import FIG3_CURVES
from paper_checks.shared import reads
from paper_checks.statistics import Ratio, conclude, less, too_few

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    "The measurement of figure 3, with dropout off, batches drawn without replacement.",
    "A line σ/√n is put through the smallest n and read at the largest.",
)


@reads(FIG3_CURVES)
def measure(context: "Context") -> dict[str, Any]:
    """E|g| at every n, with its standard error."""
    from paper_checks.papers.gao2020.figures import fig3

    figure = fig3.measure(context)
    curve = next(c for c in figure["curves"] if c["dropout"] == "off" and not c["replacement"])
    return {name: figure[name] for name in ("seeds", "samples", "parameter", "n", "batches")} | {
        "mean": curve["mean"],
        "standard_error": curve["standard_error"],
        "abs_mu_mean": figure["moments"]["off"]["abs_mu_mean"],
    }


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Reads how far E|g| stays above the 1/√n line at the largest n."""
    sizes, means = measurements["n"], measurements["mean"]
    if sizes[-1] < thresholds["range"] * sizes[0]:
        return too_few("1", f"n runs only from {sizes[0]} to {sizes[-1]}.")
    expected = means[0] * sqrt(sizes[0] / sizes[-1])
    relative = [
        (error or 0.0) / value
        for error, value in zip(measurements["standard_error"], means, strict=True)
    ]
    freedom = measurements.get("batches", inf) - 1
    error = sqrt(relative[0] ** 2 + relative[-1] ** 2)
    quotient = Ratio(means[-1] / expected, error, freedom)
    reason = (
        f"At n = {short(sizes[-1])} E|g| is {short(means[-1])}, {short(quotient.value)} times the "
        f"1/√n line; the mean |μ| over the training set, below which it cannot fall, is "
        f"{short(measurements['abs_mu_mean'])}."
    )
    core = less(quotient, thresholds["fails"])
    near = less(quotient, thresholds["holds"])
    return conclude(core, [near], 1.0, quotient, reason, thresholds["holds"] - 1)
