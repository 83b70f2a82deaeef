"""Figure 8: loss curves, and whether their fluctuation is U-shaped in the batch size."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.figures._lines import PALETTE, banded
from paper_checks.papers.gao2020.figures._whole import arm, by_seed, plateau_told
from paper_checks.papers.gao2020.measurements.training import WHOLE_RUNS, whole
from paper_checks.shared import reads
from paper_checks.statistics import (
    UNDECIDED,
    Decision,
    Ratio,
    all_of,
    any_of,
    conclude,
    deciding,
    more,
    ratio,
    too_few,
)

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    "SGD with momentum 0.9 at one rate for every n; the loss of each batch before its step.",
    "The fluctuation: from the second half of the steps, the deviation that is left when the "
    "trend is taken out (second differences), at the same number of steps for every n. At equal "
    "epochs, as in the paper, large batches are still falling when small ones have settled.",
    "Controls: whole batches only, or a smaller one at the end of each epoch, whose loss is of "
    "another size of batch (49152 of the paper's 50000 leave 848, and as many of any N in "
    "proportion); one rate, or one that grows with n as in the paper's pair, 0.005 at 512 and 0.05 "
    "at 8192.",
)


@reads(WHOLE_RUNS)
def measure(context: "Context") -> dict[str, Any]:
    """Loss curves and fluctuations by series, n and seed."""
    return whole(context)


# What the curves may be of: whole batches or a smaller one at the end of each epoch, which is what
# PyTorch's loader does if not told otherwise (`remainder`); one rate, or one that grows with n.
ARMS = {
    "whole batches": (False, "one"),
    "whole batches, rate growing with n": (False, "grows"),
    "with the remainder's batch": (True, "one"),
}


def deviations(
    measurements: Measurements, column: str, name: str = "whole batches"
) -> list[list[float]]:
    """The fluctuations at equal steps, a list for each n, of the seeds that have all of them."""
    remainder, rates = ARMS[name]
    rows = arm(measurements, "steps", remainder=remainder, rates=rates)
    by_size: list[list[float]] = np.transpose(by_seed(rows, column, measurements["n"])).tolist()
    return by_size


def ends_over(by_size: Sequence[Sequence[float]], middle: int) -> tuple[Ratio, Ratio]:
    """The fluctuation at the smallest and at the largest n over that at a middle one."""
    return ratio(by_size[0], by_size[middle]), ratio(by_size[-1], by_size[middle])


def u_shaped(by_size: Sequence[Sequence[float]]) -> Decision:
    """Whether some middle n lies below both ends, seed by seed; each has its chance.

    >>> shaped = u_shaped([[3.0, 3.1, 3.2], [1.0, 1.1, 1.0], [3.0, 3.3, 3.1]])
    >>> shaped.holds, u_shaped([[3.0, 3.1, 3.2], [2.0, 2.1, 2.0], [1.0, 1.1, 1.0]]).fails
    (True, True)
    """
    if not by_size or len(by_size) < 3:
        return UNDECIDED
    return any_of(
        *(
            all_of(*(more(each, 1.0) for each in ends_over(by_size, middle)))
            for middle in range(1, len(by_size) - 1)
        )
    )


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """U-shaped in whole batches at either rate, or only with the remainder's batch."""
    sizes = measurements["n"]
    by_arm = {name: deviations(measurements, "absolute", name) for name in ARMS}
    whole_batches = by_arm["whole batches"]
    few = len(whole_batches[0]) if whole_batches else 0
    if few < thresholds["seeds"] or len(sizes) < thresholds["sizes"]:
        return too_few("U-shaped", "Too few seeds or batch sizes.")
    decisions = {name: u_shaped(each) for name, each in by_arm.items() if each}
    sentences, lower_ends = [], {}
    for name, each in by_arm.items():
        if not each:
            sentences.append(f"{name}: not run")
            continue
        middle = min(range(1, len(sizes) - 1), key=lambda k: sum(each[k]))
        first, last = ends_over(each, middle)
        lower_ends[name] = min(first, last, key=lambda end: end.value)
        sentences.append(
            f"{name}: "
            + ", ".join(short(sum(values) / len(values)) for values in each)
            + f"; over n = {sizes[middle]}, the calmest middle one, the smallest is "
            f"{short(first.value)} times {spread(first.interval())} and the largest "
            f"{short(last.value)} times {spread(last.interval())}"
        )
    reason = (
        f"Detrended deviation of the loss per step at {measurements['equal_steps']} steps, for n = "
        f"{', '.join(map(str, sizes))}. "
        + ". ".join(sentences)
        + ". "
        + plateau_told(measurements["rows"], "steps")
    )
    controls = [decisions.get(name, UNDECIDED) for name in list(ARMS)[:2]]
    seen = deciding(
        list(decisions.values()),
        [lower_ends[name] for name in decisions],
        lower_ends["whole batches"],
    )
    return conclude(any_of(*decisions.values()), controls, "> 1", seen, reason)


def draw(measurements: Measurements) -> Drawing:
    """Loss by step at equal epochs; fluctuation against n at equal steps."""
    sizes = measurements["n"]
    with drawing.style("fig8"):
        chart = drawing.figure(10.0, 4.8)
        left, right = chart.subplots(1, 2)
        for number, n in enumerate(sizes):
            curve = measurements["curves"][f"epochs-{n}"]
            total = max(curve["step"]) + 1
            x = [(step + 1) / total * measurements["epochs"] for step in curve["step"]]
            left.plot(
                x,
                curve["loss"],
                color=PALETTE[number % len(PALETTE)],
                linewidth=1,
                label=f"n = {n}",
            )
        left.set_xlabel("epoch")
        left.set_ylabel("loss of the batch")
        left.set_ylim(0, 3)
        # Apart from the curves, which fill the panel.
        left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        for number, name in enumerate(ARMS):
            if values := deviations(measurements, "absolute", name):
                banded(right, sizes, values, number, name, geometric=True)
        right.set_xscale("log")
        right.set_yscale("log")
        right.set_xticks(sizes, [str(n) for n in sizes], rotation=45)
        right.minorticks_off()
        right.set_xlabel("batch size n")
        right.set_ylabel("deviation of the loss per step")
        right.set_title(f"trend taken out, {measurements['equal_steps']} steps each", loc="left")
        right.legend()
    alt = (
        "Left: loss curves for each batch size at equal epochs. Right: detrended fluctuation of "
        "the loss against n at equal steps: "
        + ", ".join(short(sum(v) / len(v)) for v in deviations(measurements, "absolute"))
        + "."
    )
    caption = (
        f"{measurements['network']}, lr {measurements['lr']:g}, N = {measurements['samples']}; one "
        "seed's curves at the left. Right: geometric means with 95 % intervals over seeds; the "
        "verdict compares batch sizes seed by seed."
    )
    return drawing.finished(chart, "fig8", "Figure 8: loss curves and fluctuation", alt, caption)
