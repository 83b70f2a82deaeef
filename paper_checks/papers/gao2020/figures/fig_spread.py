"""Beyond the paper: the spread of curvature across the layers before and after warm-up."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.figures._lines import banded, group
from paper_checks.papers.gao2020.measurements.training import WARMUP_RUNS, warmup
from paper_checks.shared import reads
from paper_checks.statistics import Estimate, conclude, difference, less, paired, too_few

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

WARM, FULL, SLOW = "warm-up", "full rate", "rate of the warm-up's start"
PROTOCOL = (
    "Batches of the paper's 8192 of 50000; the rate is raised linearly from zero over five epochs. "
    "Controls from the same initialisation: the full rate from the start, and the rate of the "
    "warm-up's first step throughout.",
    "Along the way the exact second derivative of every weight on a fixed sample; the spread is "
    "the standard deviation over the weight tensors of the log10 of their mean |h|.",
)


@reads(WARMUP_RUNS)
def measure(context: "Context") -> dict[str, Any]:
    """The spread by protocol, seed and step."""
    return warmup(context)


def ends(measurements: Measurements, protocol: str) -> dict[str, dict[int, float]]:
    """By seed, the spread at the first and at the last measured step."""
    rows = [row for row in measurements["rows"] if row["protocol"] == protocol]
    steps = sorted({row["step"] for row in rows})
    return {
        name: {row["seed"]: row["spread"] for row in rows if row["step"] == step}
        for name, step in (("before", steps[0]), ("after", steps[-1]))
    }


def change(measurements: Measurements, protocol: str) -> Estimate:
    """By how much the spread changes, seed by seed."""
    spreads = ends(measurements, protocol)
    return difference(*paired(spreads["after"], spreads["before"]))


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Whether warm-up brings the curvatures together, and more than the full rate does."""
    warm = change(measurements, WARM)
    if warm.freedom + 1 < thresholds["seeds"]:
        return too_few("< 0", f"Only {warm.freedom + 1:g} seeds finished.")
    after = {protocol: ends(measurements, protocol)["after"] for protocol in (WARM, FULL)}
    apart = difference(*paired(after[WARM], after[FULL]))
    before = float(np.mean(list(ends(measurements, WARM)["before"].values())))
    reason = (
        f"Change of the spread of log10 curvature across layers: with warm-up {short(warm.value)} "
        f"{spread(warm.interval())} (from {short(before)}); "
        + "; ".join(
            f"at the {name} {short(each.value)} {spread(each.interval())}"
            for name in (FULL, SLOW)
            for each in [change(measurements, name)]
        )
        + f". Warm-up's end less the full rate's: {short(apart.value)} {spread(apart.interval())}, "
        f"over {len(after[FULL])} of {len(after[WARM])} seeds that finished at the full rate."
    )
    return conclude(less(warm, 0.0), [less(apart, 0.0)], "< 0", warm, reason)


def draw(measurements: Measurements) -> Drawing:
    """The spread by step for the three protocols; the layers' curvatures before and after."""
    rows = measurements["rows"]
    with drawing.style("fig-spread"):
        chart = drawing.figure(10.0, 4.8)
        left, right = chart.subplots(1, 2)
        for number, protocol in enumerate((WARM, FULL, SLOW)):
            steps = sorted({row["step"] for row in rows if row["protocol"] == protocol})
            values = [group(rows, "spread", protocol=protocol, step=step) for step in steps]
            banded(left, steps, values, number, protocol)
        left.set_xlabel("step")
        left.set_ylabel("spread of log10 |h| across layers")
        left.legend()
        warm = [row for row in rows if row["protocol"] == WARM]
        last = max(row["step"] for row in warm)
        names = list(warm[0]["layers"])
        for number, (step, label) in enumerate(((0, "before"), (last, "after warm-up"))):
            values = [
                [row["layers"][name] for row in warm if row["step"] == step] for name in names
            ]
            banded(right, list(range(len(names))), values, number, label)
        right.set_xticks(range(len(names)), names, rotation=30, ha="right")
        right.set_ylabel("log10 of the mean |h|")
        right.legend()
    before, after = (
        float(np.mean(list(values.values()))) for values in ends(measurements, WARM).values()
    )
    alt = (
        "Left: spread of the curvature across layers by step for warm-up and two controls; with "
        f"warm-up it goes from {short(before)} to {short(after)}. "
        "Right: each layer's curvature before and after warm-up."
    )
    caption = (
        f"{measurements['network']}, batches of "
        f"{measurements['n'][0]}, rate raised to {measurements['lr']:g} over "
        f"{measurements['steps']} steps; bars are 95 % intervals over seeds. The verdict compares "
        "before and after seed by seed, which the bars do not show."
    )
    title = "Curvature across the layers before and after warm-up"
    return drawing.finished(chart, "fig-spread", title, alt, caption)
