"""Beyond the paper: the spread of curvature across the layers before and after warm-up."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.figures._interval import paired
from paper_checks.figures._lines import banded, group
from paper_checks.numbers import short, spread
from paper_checks.training import warmup
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.context import Context

WARM, FULL, SLOW = "warm-up", "full rate", "rate of the warm-up's start"
PROTOCOL = (
    "Batches of the paper's 8192 of 50000; the rate is raised linearly from zero over five epochs. "
    "Controls from the same initialisation: the full rate from the start, and the rate of the "
    "warm-up's first step throughout.",
    "Along the way the exact second derivative of every weight on a fixed sample; the spread is "
    "the standard deviation over the weight tensors of the log10 of their mean |h|.",
)


def measure(context: "Context") -> dict[str, Any]:
    """The spread by protocol, seed and step."""
    return warmup(context)


def ends(measurements: Measurements, protocol: str) -> tuple[list[float], list[float]]:
    """The spread at the first and at the last measured step, seed by seed."""
    found = [row for row in measurements["rows"] if row["protocol"] == protocol]
    steps = sorted({row["step"] for row in found})
    seeds = sorted({row["seed"] for row in found if row["step"] == steps[-1]})
    at = {(row["seed"], row["step"]): row["spread"] for row in found}
    return [at[seed, steps[0]] for seed in seeds], [at[seed, steps[-1]] for seed in seeds]


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Whether warm-up brings the curvatures together, and more than the full rate does."""
    before, after = ends(measurements, WARM)
    if len(before) < thresholds["seeds"]:
        return Judgement(INCONCLUSIVE, "< 0", None, f"Only {len(before)} seeds finished.")
    mean, low, high = paired(after, before)
    full_before, full_after = ends(measurements, FULL)
    full = paired(full_after, full_before)
    slow_before, slow_after = ends(measurements, SLOW)
    slow = paired(slow_after, slow_before)
    if len(full_after) == len(after):
        more = paired(after, full_after)
        beats = more[2] < 0
        told = f"warm-up's end less the full rate's {short(more[0])} {spread(more[1:])}"
    else:
        beats, told = True, f"{len(after) - len(full_after)} runs at the full rate diverged"
    if high < 0:
        verdict = HOLDS if beats else IN_PART
    elif low > 0:
        verdict = CONTRADICTED
    else:
        verdict = INCONCLUSIVE
    reason = (
        f"Change of the spread of log10 curvature across layers: with warm-up {short(mean)} "
        f"{spread((low, high))} (from {short(float(np.mean(before)))}), at the full rate "
        f"{short(full[0])} {spread(full[1:])}, at the warm-up's first rate {short(slow[0])} "
        f"{spread(slow[1:])}; {told}."
    )
    return Judgement(verdict, "< 0", mean, reason, (low, high))


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
    before, after = ends(measurements, WARM)
    alt = (
        "Left: spread of the curvature across layers by step for warm-up and two controls; with "
        f"warm-up it goes from {short(float(np.mean(before)))} to {short(float(np.mean(after)))}. "
        "Right: each layer's curvature before and after warm-up."
    )
    caption = (
        f"{measurements['network']}, batches of "
        f"{measurements['n'][0]}, rate raised to {measurements['lr']:g} over "
        f"{measurements['steps']} steps; bars are 95 % intervals over seeds."
    )
    title = "Curvature across the layers before and after warm-up"
    return drawing.finished(chart, "fig-spread", title, alt, caption)
