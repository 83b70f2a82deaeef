"""Figure 5: the parameter stride over training, and whether the area under it predicts accuracy."""

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.figures._interval import rank_correlation, t_interval
from paper_checks.figures._lines import MARKERS, PALETTE, group
from paper_checks.numbers import short
from paper_checks.training import STRIDE_PARAMETER, whole
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.context import Context

PROTOCOL = (
    "SGD with momentum 0.9 at one rate for every n, the same number of epochs; "
    f"E|Δw| of {STRIDE_PARAMETER} in every step.",
    "The searching space is the sum of the strides, the path's length; the net displacement "
    "stands beside it.",
    "Control: the same number of steps for every n.",
)


def measure(context: "Context") -> dict[str, Any]:
    """Strides, paths and accuracies by series, n and seed."""
    return whole(context)


def relation(measurements: Measurements, series: str, column: str = "path") -> float:
    """Spearman's correlation over the batch sizes of the mean path with the mean accuracy."""
    rows, sizes = measurements["rows"], measurements["n"]
    paths = [float(np.mean(group(rows, column, series=series, n=n))) for n in sizes]
    accuracy = [float(np.mean(group(rows, "accuracy", series=series, n=n))) for n in sizes]
    return rank_correlation(paths, accuracy)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Whether the path shrinks with every n, and goes with the accuracy at equal epochs."""
    rows, sizes = measurements["rows"], measurements["n"]
    predicted = f"≥ {thresholds['rank']:g}"
    if len(measurements["seeds"]) < thresholds["seeds"] or len(sizes) < thresholds["sizes"]:
        return Judgement(INCONCLUSIVE, predicted, None, "Too few seeds or batch sizes.")
    paths = [t_interval(group(rows, "path", series="epochs", n=n)) for n in sizes]
    falls = all(b[2] < a[1] for a, b in pairwise(paths))
    rank = relation(measurements, "epochs")
    verdict = (
        HOLDS
        if falls and rank >= thresholds["rank"]
        else IN_PART
        if paths[-1][2] < paths[0][1]
        else CONTRADICTED
    )
    reason = (
        f"At equal epochs the path falls from {short(paths[0][0])} at n = {sizes[0]} to "
        f"{short(paths[-1][0])} at n = {sizes[-1]}"
        f"{' at every step of n' if falls else ', not at every step of n'}; its rank correlation "
        f"with the accuracy over n is {short(rank)}, the net displacement's "
        f"{short(relation(measurements, 'epochs', 'displacement'))}. At equal steps, where a large "
        f"batch is not trained less, the path's is {short(relation(measurements, 'steps'))}."
    )
    return Judgement(verdict, predicted, rank, reason)


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
                rows = measurements["rows"]
                right.plot(
                    [np.mean(group(rows, "path", series=series, n=n))],
                    [100 * np.mean(group(rows, "accuracy", series=series, n=n))],
                    marker,
                    color=colour,
                    markerfacecolor=face,
                    markersize=8,
                )
        left.set_yscale("log")
        left.set_xlabel("epoch")
        left.set_ylabel("E|Δw| per step")
        left.legend(ncols=2)
        right.set_xscale("log")
        right.set_xlabel("path length (the searching space)")
        right.set_ylabel("final test accuracy (%)")
        right.set_title("filled: equal epochs, open: equal steps", loc="left")
    alt = (
        "Left: stride by epoch for each batch size. Right: final accuracy against path length; "
        f"rank correlation {short(relation(measurements, 'epochs'))} at equal epochs, "
        f"{short(relation(measurements, 'steps'))} at equal steps."
    )
    caption = (
        f"{measurements['network']}, {STRIDE_PARAMETER}, lr {measurements['lr']:g}. Batch sizes of "
        "more than half the data take one step an epoch each, and their curves coincide."
    )
    return drawing.finished(chart, "fig5", "Figure 5: stride over training", alt, caption)
