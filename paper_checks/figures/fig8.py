"""Figure 8: loss curves, and whether their fluctuation is U-shaped in the batch size."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.figures._interval import log_ratio, t_interval
from paper_checks.figures._lines import PALETTE, banded, by_size
from paper_checks.numbers import short, spread
from paper_checks.training import whole
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.context import Context

PROTOCOL = (
    "SGD with momentum 0.9 at one rate for every n; the loss of each batch before its step.",
    "The fluctuation: from the second half of the steps, the deviation that is left when the "
    "trend is taken out (second differences), at the same number of steps for every n; and over "
    "the mean loss there.",
    "The paper's own curves have equal epochs, in which large batches are still falling when "
    "small ones have settled.",
)


def measure(context: "Context") -> dict[str, Any]:
    """Loss curves and fluctuations by series, n and seed."""
    return whole(context)


def deviations(measurements: Measurements, column: str) -> list[list[float]]:
    """The seeds' fluctuations at equal steps, one list for each n."""
    return by_size(measurements, column, series="steps")


def u_shaped(found: Sequence[Sequence[float]]) -> bool:
    """Whether some middle value lies below both ends by their 95 % intervals.

    >>> u_shaped([[3.0, 3.1], [1.0, 1.1], [3.0, 3.1]]), u_shaped([[3.0, 3.1], [2, 2.1], [1, 1.1]])
    (True, False)
    """
    ends = [t_interval(found[0]), t_interval(found[-1])]
    middles = [t_interval(each) for each in found[1:-1]]
    lowest = min(middles, key=lambda each: each[0])
    return all(lowest[2] < end[1] for end in ends)


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """U-shaped as it is, or only over the loss."""
    sizes = measurements["n"]
    absolute = deviations(measurements, "absolute")
    relative = deviations(measurements, "relative")
    few = min(len(each) for each in absolute)
    if few < thresholds["seeds"] or len(sizes) < thresholds["sizes"]:
        return Judgement(INCONCLUSIVE, "U-shaped", None, "Too few seeds or batch sizes.")
    if u_shaped(absolute):
        verdict = HOLDS
    elif u_shaped(relative):
        verdict = IN_PART
    else:
        verdict = CONTRADICTED
    found = [t_interval(each) for each in absolute]
    low, largest = found[-1][0] / found[0][0], absolute[-1]
    calmest = min(absolute[1:-1], key=lambda each: t_interval(each)[0])
    # A seed whose run diverged has no deviation, and its pair is gone.
    pairs = len(calmest) == len(largest)
    alone = (t_interval(calmest)[0] / found[-1][0],)
    high, *ends = log_ratio(calmest, largest) if pairs else alone
    reason = (
        f"Detrended deviation of the loss per step at {measurements['equal_steps']} steps: "
        + "; ".join(
            f"n = {n} {short(each[0])} {spread(each[1:])}"
            for n, each in zip(sizes, found, strict=True)
        )
        + ". Over the mean loss: "
        + ", ".join(short(t_interval(each)[0]) for each in relative)
        + f". The largest batch fluctuates {short(low)} times as much as the smallest; the calmest "
        f"middle one {short(high)} times {spread(ends) if ends else ''} as much as the largest; "
        "below 1 it would be U-shaped."
    )
    return Judgement(verdict, "< 1", high, reason, (ends[0], ends[1]) if ends else None)


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
        banded(right, sizes, deviations(measurements, "absolute"), 0, "deviation of the loss")
        banded(right, sizes, deviations(measurements, "relative"), 1, "over the mean loss")
        right.set_xscale("log")
        right.set_yscale("log")
        right.set_xticks(sizes, [str(n) for n in sizes], rotation=45)
        right.minorticks_off()
        right.set_xlabel("batch size n")
        right.set_ylabel(f"detrended, {measurements['equal_steps']} steps each")
        right.legend()
    alt = (
        "Left: loss curves for each batch size at equal epochs. Right: detrended fluctuation of "
        "the loss against n at equal steps: "
        + ", ".join(short(t_interval(each)[0]) for each in deviations(measurements, "absolute"))
        + "."
    )
    caption = (
        f"{measurements['network']}, lr {measurements['lr']:g}; one seed's curves at the left."
    )
    return drawing.finished(chart, "fig8", "Figure 8: loss curves and fluctuation", alt, caption)
