"""Figure 5: the parameter stride over training, and whether the area under it predicts accuracy."""

from collections.abc import Mapping
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.figures._lines import MARKERS, PALETTE, chance, group
from paper_checks.papers.gao2020.figures._whole import arm, by_seed, plateau_told
from paper_checks.papers.gao2020.measurements.training import STRIDE_PARAMETER, WHOLE_RUNS, whole
from paper_checks.shared import reads
from paper_checks.statistics import (
    Estimate,
    all_of,
    conclude,
    less,
    log_slope,
    mean,
    more,
    rank_correlation,
    too_few,
)

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    "SGD with momentum 0.9 at one rate for every n, the same number of epochs; "
    f"E|Δw| of {STRIDE_PARAMETER} in every step.",
    "The searching space is the sum of the strides, the path's length; the net displacement "
    "stands beside it.",
    "Controls: the same number of steps for every n; a rate that grows with n as in the paper's "
    "pair, 0.005 at 512 and 0.05 at 8192.",
)


@reads(WHOLE_RUNS)
def measure(context: "Context") -> dict[str, Any]:
    """Strides, paths and accuracies by series, n and seed."""
    return whole(context)


def relation(
    measurements: Measurements, series: str, column: str = "path", rates: str = "one"
) -> Estimate:
    """Spearman's correlation over the batch sizes of path and accuracy, one for each seed."""
    rows = arm(measurements, series, rates=rates)
    seeds = sorted({row["seed"] for row in rows})
    correlations = []
    for seed in seeds:
        own = [
            row
            for row in rows
            if row["seed"] == seed and row[column] is not None and row["accuracy"] is not None
        ]
        if len(own) > 2:
            correlations.append(
                rank_correlation([row[column] for row in own], [row["accuracy"] for row in own])
            )
    return mean(correlations)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Whether the path shrinks with n, and goes with the accuracy, at equal steps too."""
    sizes = measurements["n"]
    paths = by_seed(arm(measurements, "epochs"), "path", sizes)
    if len(paths) < thresholds["seeds"] or len(sizes) < thresholds["sizes"]:
        return too_few("> 0", "Too few seeds or batch sizes.")
    power = log_slope(sizes, np.transpose(paths).tolist())
    epochs, steps = (relation(measurements, series) for series in ("epochs", "steps"))
    grows = relation(measurements, "epochs", rates="grows")
    displacement = relation(measurements, "epochs", "displacement")
    reason = (
        f"At equal epochs the path goes with the power {short(power.value)} "
        f"{spread(power.interval())} of n; its rank correlation with the accuracy over n is "
        f"{short(epochs.value)} {spread(epochs.interval())}, the net displacement's "
        f"{short(displacement.value)}. At equal steps, where a large batch is not trained less, "
        f"the path's is {short(steps.value)} {spread(steps.interval())}"
    )
    # What was not run has no interval, and is not shown.
    controls = [more(steps, 0.0), more(grows, 0.0)]
    reason += "; at a rate that grows with n "
    if isfinite(grows.error):
        reason += f"{short(grows.value)} {spread(grows.interval())}"
    else:
        reason += "it was not run"
    core = all_of(less(power, 0.0), more(epochs, 0.0))
    reason += ". " + " ".join(plateau_told(measurements["rows"], s) for s in ("epochs", "steps"))
    return conclude(core, controls, "> 0", epochs, reason)


def _bar(estimate: Estimate, unit: float, most: float = inf) -> list[list[float]] | None:
    """The half width of an interval as error bars have it; at most `most` below, on a log axis."""
    half = unit * (estimate.high - estimate.value)
    return [[min(half, 0.9 * most)], [half]] if isfinite(half) else None


def draw(measurements: Measurements) -> Drawing:
    """Stride by epoch for every n; accuracy against path for both series."""
    sizes = measurements["n"]
    with drawing.style("fig5"):
        chart = drawing.figure(10.0, 4.8)
        left, right = chart.subplots(1, 2)
        for number, n in enumerate(sizes):
            curve = measurements["curves"][f"epochs-{n}"]
            colour, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
            left.plot(
                curve["epoch"],
                curve["stride"],
                marker=marker,
                markersize=4,
                color=colour,
                label=f"n = {n}",
            )
            for series, face in (("epochs", colour), ("steps", "none")):
                rows = arm(measurements, series)
                spreads = [mean(group(rows, name, n=n)) for name in ("path", "accuracy")]
                if all(isfinite(each.value) for each in spreads):
                    path, accuracy = spreads
                    right.errorbar(
                        [path.value],
                        [100 * accuracy.value],
                        xerr=_bar(path, 1.0, path.value),
                        yerr=_bar(accuracy, 100.0),
                        marker=marker,
                        color=colour,
                        markerfacecolor=face,
                        markersize=8,
                        linewidth=1,
                    )
        left.set_yscale("log")
        left.set_xlabel("epoch")
        left.set_ylabel("E|Δw| per step")
        left.legend(ncols=2)
        right.set_xscale("log")
        right.set_xlabel("path length (the searching space)")
        right.set_ylabel("final test accuracy (%)")
        right.set_title("filled: equal epochs, open: equal steps", loc="left")
        chance(right)
    alt = (
        "Left: stride by epoch for each batch size. Right: final accuracy against path length; "
        f"rank correlation {short(relation(measurements, 'epochs').value)} at equal epochs, "
        f"{short(relation(measurements, 'steps').value)} at equal steps."
    )
    caption = (
        f"{measurements['network']}, {STRIDE_PARAMETER}, lr {measurements['lr']:g}, "
        f"N = {measurements['samples']}. Bars are 95 % intervals over seeds, the dotted line is "
        "chance. Batch sizes of more than half the data take one step an epoch each, and their "
        "curves coincide."
    )
    return drawing.finished(chart, "fig5", "Figure 5: stride over training", alt, caption)
