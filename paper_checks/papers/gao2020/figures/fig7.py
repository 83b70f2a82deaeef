"""Figure 7: the normalised loss decrease of the first epoch, on the batch and on held-out data."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.figures._lines import banded, by_size, sized
from paper_checks.papers.gao2020.measurements.training import FIRST_EPOCH_RUNS, first_epoch
from paper_checks.shared import reads
from paper_checks.statistics import conclude, difference, less, log_slope, mean, too_few, within

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

SERIES = {"decrease_batch": "on the step's own batch", "decrease_held_out": "on held-out images"}
PROTOCOL = (
    "The first epoch of plain SGD at one rate for every n. After each step the loss on the same "
    "batch and on held-out images is taken again; the mean decrease over the epoch is divided by "
    "the rate.",
    "Equation 8 has E(ΔL)/lr = σ²/n: slope -1. On the batch that gave the gradient the decrease "
    "is lr·|g|² to first order; on other data it is lr·g·G with the mean gradient G, which does "
    "not depend on n.",
)


@reads(FIRST_EPOCH_RUNS)
def measure(context: "Context") -> dict[str, Any]:
    """Loss decreases of the first epoch by n and seed."""
    return first_epoch(context)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Whether the decrease on the batch shrinks, with equation 8's power, and on other data too."""
    sizes = measurements["n"]
    if len(measurements["seeds"]) < thresholds["seeds"] or len(sizes) < thresholds["sizes"]:
        return too_few(-1.0, "Too few seeds or batch sizes.")
    batch = by_size(measurements, "decrease_batch")
    held_out = by_size(measurements, "decrease_held_out")
    if min(min(each) for each in batch) <= 0:
        return too_few(-1.0, "A batch's loss rose: the rate is too large.")
    slope, tolerance = log_slope(sizes, batch), thresholds["tolerance"]
    small, large = mean(held_out[0]), mean(held_out[-1])
    reason = (
        f"On the batch itself the slope against n is {short(slope.value)} "
        f"{spread(slope.interval())}, and the decrease at the largest n is "
        f"{short(float(np.mean(batch[-1]) / np.mean(batch[0])))} of that at the smallest. On "
        f"held-out images it is {short(small.value)} {spread(small.interval())} at the smallest n "
        f"and {short(large.value)} {spread(large.interval())} at the largest: what shrinks with n "
        "on the batch only is its own noise, fitted."
    )
    controls = [
        within(slope, -1 - tolerance, -1 + tolerance),
        less(difference(held_out[-1], held_out[0]), 0.0),
    ]
    return conclude(less(slope, 0.0), controls, -1.0, slope, reason, tolerance)


def draw(measurements: Measurements) -> Drawing:
    """Both decreases against n with the slope of equation 8."""
    sizes = measurements["n"]
    with drawing.style("fig7"):
        chart = drawing.figure(8.0, 5.0)
        axes = chart.subplots()
        for number, (name, label) in enumerate(SERIES.items()):
            banded(axes, sizes, by_size(measurements, name), number, label)
        first = float(np.mean(by_size(measurements, "decrease_batch")[0]))
        x = np.array([sizes[0], sizes[-1]], dtype=float)
        axes.plot(x, first * x[0] / x, ":", color=drawing.BLACK, label="1/n (equation 8)")
        decreases = [v for name in SERIES for each in by_size(measurements, name) for v in each]
        if min(decreases) > 0:
            axes.set_yscale("log")
        else:
            axes.set_yscale("symlog", linthresh=first * sizes[0] / sizes[-1])
            axes.axhline(0, color=drawing.BLACK, linewidth=0.8)
        sized(axes, measurements)
        axes.set_ylabel("loss decrease per step / lr")
        axes.legend()
    batch = by_size(measurements, "decrease_batch")
    alt = (
        "Loss decrease per step over the rate against n: on the batch itself its log-log slope is "
        f"{short(log_slope(sizes, batch).value)}; on held-out images it goes from "
        f"{short(float(np.mean(by_size(measurements, 'decrease_held_out')[0])))} to "
        f"{short(float(np.mean(by_size(measurements, 'decrease_held_out')[-1])))}."
    )
    caption = (
        f"{measurements['network']}, first epoch, lr {measurements['lr']:g}; bars are 95 % "
        "intervals over seeds. Where a mean decrease is negative the vertical axis is linear near "
        "zero."
    )
    return drawing.finished(chart, "fig7", "Figure 7: first-epoch loss stride", alt, caption)
