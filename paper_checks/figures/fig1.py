"""Figure 1: the best accuracy against the batch size, at equal epochs and at equal steps."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.figures._interval import t_interval, welch
from paper_checks.figures._lines import banded
from paper_checks.numbers import points, short
from paper_checks.training import best, tuned
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.context import Context

PROTOCOL = (
    "Batch sizes that are the paper's shares n/N of the training set; SGD with momentum 0.9, "
    "whole batches only (drop_last), several seeds.",
    "Five rates over a factor 100 for each n. The rate is chosen on half the seeds and the "
    "accuracy read on the other half, so that the choice gives no bonus.",
    "Two series: the same number of epochs for every n (the paper's), in which a large batch "
    "takes fewer steps; and, as the control, the same number of steps.",
)


def measure(context: "Context") -> dict[str, Any]:
    """Best test accuracies by series, n, rate and seed."""
    return tuned(context)


def accuracies(measurements: Measurements, series: str) -> dict[int, tuple[float, list[float]]]:
    """For each n the chosen rate and the accuracies at it on the seeds that did not choose it."""
    found = {}
    for n in measurements["n"]:
        rows = [row for row in measurements["rows"] if (row["series"], row["n"]) == (series, n)]
        row, values = best(rows)
        found[n] = row["lr"], values
    return found


def gap(measurements: Measurements, series: str) -> tuple[float, float, float]:
    """The best small batch's accuracy less the largest batch's, with Welch's 95 % interval."""
    found = accuracies(measurements, series)
    sizes = sorted(found)
    small = max(sizes[: max(1, len(sizes) // 2)], key=lambda n: sum(found[n][1]))
    return welch(found[small][1], found[sizes[-1]][1])


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Whether the largest batch is worse at equal epochs, and at equal steps too."""
    predicted = f"≥ {thresholds['gap']:g}"
    seeds = len(measurements["seeds"]) // 2
    if seeds < thresholds["seeds"]:
        return Judgement(INCONCLUSIVE, predicted, None, f"Only {seeds} seeds to read.")
    epochs, steps = gap(measurements, "epochs"), gap(measurements, "steps")
    worse = epochs[1] >= thresholds["gap"]
    if not worse and epochs[2] > thresholds["gap"]:
        verdict = INCONCLUSIVE
    elif worse and steps[1] >= thresholds["gap"]:
        verdict = HOLDS
    else:
        verdict = IN_PART if worse else CONTRADICTED
    told = "; ".join(
        f"n = {n} {100 * t_interval(values)[0]:.1f} % (lr {short(lr)})"
        for n, (lr, values) in accuracies(measurements, "epochs").items()
    )
    reason = (
        f"At equal epochs the largest batch is {100 * epochs[0]:.1f} points worse than the best of "
        f"the small ones {points(epochs[1:])}; at {measurements['equal_steps']} steps for every n "
        f"it is {100 * steps[0]:.1f} points worse {points(steps[1:])}. Equal epochs: {told}."
    )
    return Judgement(verdict, predicted, epochs[0], reason, epochs[1:], thresholds["gap"])


def draw(measurements: Measurements) -> Drawing:
    """Test accuracy against n, one line a series."""
    sizes = measurements["n"]
    with drawing.style("fig1"):
        chart = drawing.figure(8.0, 4.8)
        axes = chart.subplots()
        for number, (series, label) in enumerate(
            (
                ("epochs", f"{measurements['epochs']} epochs each (the paper)"),
                ("steps", f"{measurements['equal_steps']} steps each"),
            )
        ):
            found = accuracies(measurements, series)
            values = [[100 * v for v in found[n][1]] for n in sizes]
            banded(axes, sizes, values, number, label)
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.minorticks_off()
        axes.set_xlabel(f"batch size n (of N = {measurements['samples']})")
        axes.set_ylabel("best test accuracy (%)")
        axes.legend()
    epochs, steps = gap(measurements, "epochs"), gap(measurements, "steps")
    alt = (
        f"Best test accuracy against the batch size from {sizes[0]} to {sizes[-1]}, rates tuned. "
        f"At equal epochs the largest batch is {100 * epochs[0]:.1f} points below the best small "
        f"one, at equal steps {100 * steps[0]:.1f} points."
    )
    caption = (
        f"{measurements['network']}; bars are 95 % intervals over seeds. The rate was chosen for "
        "each n and series on other seeds than those shown."
    )
    title = "Figure 1: accuracy against the batch size"
    return drawing.finished(chart, "fig1", title, alt, caption)
