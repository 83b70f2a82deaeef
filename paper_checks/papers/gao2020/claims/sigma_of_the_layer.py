"""Do equations 1 and 4 hold with one Gaussian for all gradients of a layer?"""

from collections.abc import Mapping
from math import inf, pi, sqrt
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.figures.fig3 import FIG3_CURVES
from paper_checks.shared import reads
from paper_checks.statistics import Estimate, any_of, conclude, too_few, within

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    "The measurement of figure 3, with dropout off. Equation 1 gives all gradients 'in a given "
    "layer' one μ and one σ: the standard deviation over entries and samples together.",
    "E|g|·√n over that σ at the smallest n: 2/√π by the printed equation 4, √(2/π) by the "
    "corrected one. Figure 3's own lines take the mean of the entries' σ, which is kinder to the "
    "law.",
)


@reads(FIG3_CURVES)
def measure(context: "Context") -> dict[str, Any]:
    """E|g| at the smallest n, and the two readings of σ."""
    from paper_checks.papers.gao2020.figures import fig3

    figure = fig3.measure(context)
    curve = next(c for c in figure["curves"] if c["dropout"] == "off" and not c["replacement"])
    moments = figure["moments"]["off"]
    return {name: figure[name] for name in ("seeds", "samples", "parameter", "batches")} | {
        "n": figure["n"][0],
        "mean": curve["mean"][0],
        "standard_error": curve["standard_error"][0],
        "sigma_layer": moments["sigma_layer"],
        "sigma_mean": moments["sigma_mean"],
    }


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The constant of equation 4, with the σ of the layer."""
    tolerance, printed, corrected = thresholds["tolerance"], 2 / sqrt(pi), sqrt(2 / pi)
    scale = sqrt(measurements["n"]) / (measurements["sigma_layer"] or inf)
    if not scale or measurements["standard_error"] is None:
        return too_few(printed, "There is no spread over the batches.")
    estimate = Estimate(
        measurements["mean"] * scale,
        measurements["standard_error"] * scale,
        measurements["batches"] - 1,
    )
    decisions = [
        within(estimate, (1 - tolerance) * constant, (1 + tolerance) * constant)
        for constant in (printed, corrected)
    ]
    reason = (
        f"E|g|·√n/σ at n = {measurements['n']} is {short(estimate.value)} "
        f"{spread(estimate.interval())} with the σ of the layer, entries and samples together, and "
        f"{short(estimate.value * measurements['sigma_layer'] / measurements['sigma_mean'])} "
        f"with the mean of the entries' σ; printed {short(printed)}, corrected {short(corrected)}."
    )
    return conclude(any_of(*decisions), [decisions[0]], printed, estimate, reason, tolerance)
