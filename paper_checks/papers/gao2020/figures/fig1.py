"""Figure 1: the accuracy against the batch size, at equal epochs and at equal steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import points
from paper_checks.papers.gao2020.figures._lines import banded, chance
from paper_checks.papers.gao2020.figures._tuned import (
    Row,
    at_end,
    chosen,
    guarded,
    merit,
    read,
    series_of,
    sizes,
    tried,
)
from paper_checks.papers.gao2020.measurements.training import LONG_RUNS, long
from paper_checks.shared import reads
from paper_checks.statistics import (
    UNDECIDED,
    Decision,
    Estimate,
    conclude,
    difference,
    more,
    paired,
    too_few,
)

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    "Batch sizes that are the paper's shares n/N of the training set; SGD with momentum 0.9, "
    "whole batches only (drop_last), several seeds.",
    "Five rates over a factor 100 for each n, the accuracy at the end of training. The rate, and "
    "which small n is the best, are chosen on seeds that are not read, so that the choice gives no "
    "bonus.",
    "Two series: the same number of epochs for every n (the paper's), in which a large batch "
    "takes fewer steps; and, as the control, the same number of steps.",
)


@reads(LONG_RUNS)
def measure(context: "Context") -> dict[str, Any]:
    """Accuracies at the end by series, n, rate and seed."""
    return long(context)


def arms(measurements: Measurements, series: str) -> dict[int, list[Row]]:
    """For each n all rates that were tried."""
    return {n: tried(measurements, series=series, n=n) for n in sizes(measurements, series)}


def accuracies(
    measurements: Measurements, series: str, column: str = "accuracy"
) -> dict[int, dict[int, float]]:
    """For each n, by seed, the values at its chosen rate on the seeds that did not choose it."""
    return {n: read(chosen(rows), column) for n, rows in arms(measurements, series).items()}


@dataclass(frozen=True)
class Gap:
    """How far the largest n is behind the best of the smaller half, at equal epochs or steps."""

    small: int
    large: int
    estimate: Estimate
    decision: Decision


def gap(
    measurements: Measurements,
    series: str,
    limit: float,
    column: str = "accuracy",
) -> Gap:
    """The best small batch's accuracy less the largest's, seed by seed; above `limit`?

    Which small batch is the best is chosen on the seeds that chose the rates.
    """
    tuned = arms(measurements, series)
    by_size = accuracies(measurements, series, column)
    ordered = sorted(tuned)
    small = max(ordered[: max(1, len(ordered) // 2)], key=lambda n: merit(chosen(tuned[n])))
    large = ordered[-1]
    estimate = difference(*paired(by_size[small], by_size[large]))
    ends = at_end(tuned[small]), at_end(tuned[large])
    return Gap(small, large, estimate, guarded(more(estimate, limit), *ends))


def edges_told(measurements: Measurements) -> str:
    """A sentence on the batch sizes whose best rate is at an end of the grid, if there are any."""
    edges = [
        f"n = {n} at equal {series}"
        for series in series_of(measurements)
        for n, rows in arms(measurements, series).items()
        if at_end(rows)
    ]
    return f" The best rate is at an end of its grid for {', '.join(edges)}." if edges else ""


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Whether the largest batch is worse at equal epochs, and at equal steps too."""
    limit = thresholds["gap"]
    predicted = f"> {100 * limit:g} points"
    gaps = {series: gap(measurements, series, limit) for series in series_of(measurements)}
    epochs = gaps["epochs"]
    if epochs.estimate.freedom + 1 < thresholds["seeds"]:
        return too_few(predicted, "Too few seeds to read.")
    levels = "; ".join(
        f"n = {n} {100 * float(np.mean(list(values.values()))):.1f} %"
        for n, values in accuracies(measurements, "epochs").items()
    )
    steps = "not run"
    if "steps" in gaps:
        each = gaps["steps"].estimate
        steps = f"{100 * each.value:.1f} points worse {points(each.interval())}"
    reason = (
        f"At equal epochs n = {epochs.large} is {100 * epochs.estimate.value:.1f} points worse "
        f"than n = {epochs.small} {points(epochs.estimate.interval())}; at equal steps it is "
        f"{steps}. Equal epochs: {levels}." + edges_told(measurements)
    )
    control = gaps["steps"].decision if "steps" in gaps else UNDECIDED
    return conclude(epochs.decision, [control], predicted, epochs.estimate, reason, limit)


def draw(measurements: Measurements) -> Drawing:
    """Test accuracy against n, one line a series."""
    labels = {
        "epochs": f"{measurements['epochs']} epochs each (as in the paper: as many for all)",
        "steps": f"{measurements['equal_steps']} steps each",
    }
    with drawing.style("fig1"):
        chart = drawing.figure(8.0, 4.8)
        axes = chart.subplots()
        for number, series in enumerate(series_of(measurements)):
            by_size = accuracies(measurements, series)
            values = [[100 * v for v in each.values()] for each in by_size.values()]
            banded(axes, list(by_size), values, number, labels[series])
        shown = sizes(measurements, "epochs")
        axes.set_xscale("log")
        axes.set_xticks(shown, [str(n) for n in shown], rotation=45)
        chance(axes)
        axes.minorticks_off()
        axes.set_xlabel(f"batch size n (of N = {measurements['samples']})")
        axes.set_ylabel("test accuracy at the end (%)")
        axes.legend()
    told = ", ".join(
        f"at equal {series} {100 * gap(measurements, series, 0.0).estimate.value:.1f} points"
        for series in series_of(measurements)
    )
    alt = (
        f"Test accuracy at the end against the batch size from {shown[0]} to {shown[-1]}, rates "
        f"tuned. The largest batch is below the best small one: {told}."
    )
    caption = (
        f"{measurements['network']}; bars are 95 % intervals over seeds. The rate was chosen for "
        "each n and series on other seeds than those shown."
    )
    title = "Figure 1: accuracy against the batch size"
    return drawing.finished(chart, "fig1", title, alt, caption)
