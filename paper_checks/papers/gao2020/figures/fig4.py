"""Figure 4: the normalised parameter stride of the first epoch, in its three readings."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.figures._lines import banded, by_size, sized
from paper_checks.papers.gao2020.measurements.training import (
    FIRST_EPOCH_RUNS,
    STRIDE_PARAMETER,
    first_epoch,
)
from paper_checks.shared import reads
from paper_checks.statistics import conclude, less, log_slope, too_few, within

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

READINGS = {
    "stride": "per step, mean over the epoch",
    "path": "path length over the epoch",
    "displacement": "net displacement over the epoch",
}
PROTOCOL = (
    "The first epoch of plain SGD at one rate for every n; the text does not say which value of "
    "the stride an epoch has, so there are three: per step (equation 6), the path's length, and "
    "the distance between the epoch's ends.",
    f"Mean over the entries of {STRIDE_PARAMETER}, divided by the rate; several seeds.",
    "The law's slopes: -1/2 per step; -3/2 for the path of N/n steps; a random walk has -1.",
)


@reads(FIRST_EPOCH_RUNS)
def measure(context: "Context") -> dict[str, Any]:
    """Strides of the first epoch by n and seed."""
    return first_epoch(context)


def local_powers(sizes: Sequence[int], values: Sequence[Sequence[float]]) -> list[float]:
    """The power of n between neighbouring batch sizes, of the means over the seeds.

    >>> local_powers([1, 4, 16], [[1.0], [0.5], [0.5]])
    [-0.5, 0.0]
    """
    logs = np.log([float(np.mean(each)) for each in values])
    powers = np.diff(logs) / np.diff(np.log(sizes))
    return [round(float(power), 12) for power in powers]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Whether the stride per step shrinks, with equation 6's power, and in every reading."""
    sizes = measurements["n"]
    if len(measurements["seeds"]) < thresholds["seeds"] or len(sizes) < thresholds["sizes"]:
        return too_few(-0.5, "Too few seeds or batch sizes.")
    slopes = {name: log_slope(sizes, by_size(measurements, name)) for name in READINGS}
    step, tolerance = slopes["stride"], thresholds["tolerance"]
    ends = {name: by_size(measurements, name) for name in READINGS}
    reason = "Log-log slope against n, and value at the largest n over that at the smallest: "
    reason += "; ".join(
        f"{label} {short(slopes[name].value)} {spread(slopes[name].interval())}, "
        f"{short(float(np.mean(ends[name][-1]) / np.mean(ends[name][0])))}"
        for name, label in READINGS.items()
    )
    reason += ". From one n to the next the power per step is " + ", ".join(
        short(power) for power in local_powers(sizes, ends["stride"])
    )
    controls = [
        within(step, -0.5 - tolerance, -0.5 + tolerance),
        less(slopes["path"], 0.0),
        less(slopes["displacement"], 0.0),
    ]
    return conclude(less(step, 0.0), controls, -0.5, step, f"{reason}.", tolerance)


def draw(measurements: Measurements) -> Drawing:
    """The three readings against n, each over its value at the smallest n, with slopes."""
    sizes = measurements["n"]
    with drawing.style("fig4"):
        chart = drawing.figure(8.0, 5.0)
        axes = chart.subplots()
        for number, (name, label) in enumerate(READINGS.items()):
            values = by_size(measurements, name)
            first = float(np.mean(values[0]))
            banded(axes, sizes, [[v / first for v in each] for each in values], number, label)
        x = np.array([sizes[0], sizes[-1]], dtype=float)
        for power, dash in ((-0.5, ":"), (-1.0, "-."), (-1.5, "--")):
            line = (x / x[0]) ** power
            axes.plot(x, line, dash, color=drawing.BLACK, linewidth=1, label=f"n^{power:g}")
        axes.set_yscale("log")
        sized(axes, measurements)
        axes.set_ylabel("stride / lr, smallest n = 1")
        axes.legend(ncols=2)
    alt = "Log-log chart of the first epoch's normalised stride against n. Slopes: " + ", ".join(
        f"{label} {short(log_slope(sizes, by_size(measurements, name)).value)}"
        for name, label in READINGS.items()
    )
    caption = (
        f"{measurements['network']}, {STRIDE_PARAMETER}, lr {measurements['lr']:g}. The paper's "
        "text does not say which of the three its figure shows."
    )
    title = "Figure 4: normalised stride in the first epoch"
    return drawing.finished(chart, "fig4", title, alt + ".", caption)
