"""Figure 10: training with 30 % of each batch's small losses discarded, and with controls."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import points, short
from paper_checks.papers.gao2020.figures._lines import MARKERS, PALETTE
from paper_checks.papers.gao2020.measurements.training import DISCARDED, DISCARDING_RUNS, discarding
from paper_checks.shared import reads
from paper_checks.statistics import (
    Estimate,
    all_of,
    conclude,
    deciding,
    difference,
    in_parts,
    more,
    too_few,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from paper_checks.papers.gao2020.measurements.context import Context

PROTOCOL = (
    "Batch sizes that are the paper's 2000, 8000 and 16384 of 50000; SGD with momentum 0.9 at one "
    "rate. 30 % of each batch is discarded in the first half of the epochs (the paper: the first "
    "100).",
    "Discarded are the small losses (the paper), random samples (the same number of steps, the "
    "same batch of samples kept), small losses with the sum divided by the whole n, so that the "
    "gradient is not enlarged by averaging over fewer, or the large losses.",
    "Test accuracy, the mean over the last 5 epochs, paired by seed: the same initialisation and "
    "the same order of samples.",
)


@reads(DISCARDING_RUNS)
def measure(context: "Context") -> dict[str, Any]:
    """Final accuracies by n, protocol and seed."""
    return discarding(context)


def values(measurements: Measurements, n: int, protocol: str) -> list[float]:
    """The seeds' test accuracies at the end; a run that diverged counts as none right."""
    row = next(row for row in measurements["rows"] if (row["n"], row["protocol"]) == (n, protocol))
    return [v or 0.0 for v in row["accuracy_late"]]


def against(measurements: Measurements, n: int, other: str) -> Estimate:
    """The paper's protocol less another, seed by seed."""
    return difference(values(measurements, n, "small losses"), values(measurements, n, other))


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Improvement over the baseline at the paper's two batch sizes, and over random discarding."""
    sizes = measurements["n"][:2]
    if len(measurements["seeds"]) < thresholds["seeds"]:
        return too_few("> 0", "Too few seeds.")
    over = [against(measurements, n, "baseline") for n in sizes]
    gains = [more(gain, 0.0, least=thresholds["gain"]) for gain in over]
    controls = [more(against(measurements, n, "random"), 0.0) for n in sizes]
    reason = (
        "Test accuracy with small losses discarded, in points: "
        + "; ".join(f"n = {n}: {told(measurements, n)}" for n in measurements["n"])
        + "."
    )
    least = min(over, key=lambda gain: gain.value)
    seen = deciding(gains, over, least)
    return conclude(in_parts(*gains), [all_of(*gains), *controls], "> 0", seen, reason)


def told(measurements: Measurements, n: int) -> str:
    """The gains over every other protocol at n, in points."""
    return "against " + ", ".join(
        f"{other} {100 * gain.value:+.2f} {points(gain.interval())}"
        for other in others(measurements)
        for gain in [against(measurements, n, other)]
    )


def others(measurements: Measurements) -> list[str]:
    """The protocols beside the paper's that were run."""
    ran = {row["protocol"] for row in measurements["rows"]}
    return [name for name in DISCARDED if name != "small losses" and name in ran]


def draw(measurements: Measurements) -> Drawing:
    """Accuracy by epoch for each n: the paper's protocol, the baseline and the controls."""
    sizes = measurements["n"]
    with drawing.style("fig10"):
        chart = drawing.figure(3.6 * len(sizes), 8.4)
        grid = chart.add_gridspec(2, len(sizes))
        panels = [chart.add_subplot(grid[0, 0])]
        panels += [chart.add_subplot(grid[0, k], sharey=panels[0]) for k in range(1, len(sizes))]
        for axes, n in zip(panels, sizes, strict=True):
            for number, name in enumerate(DISCARDED):
                if f"{name}-{n}" not in measurements["curves"]:
                    continue
                curve = measurements["curves"][f"{name}-{n}"]
                places = [k for k, v in enumerate(curve["mean"]) if v is not None]
                axes.plot(
                    [curve["epoch"][k] for k in places],
                    [100 * curve["mean"][k] for k in places],
                    color=PALETTE[number],
                    linestyle="-" if number < 2 else "--",
                    label=name,
                )
            axes.axvline(measurements["epochs"] / 2, color=drawing.GREY, linewidth=0.8)
            axes.set_title(f"n = {n}", loc="left")
            axes.set_xlabel("epoch")
        panels[0].set_ylabel("test accuracy (%)")
        handles, labels = panels[0].get_legend_handles_labels()
        chart.legend(handles, labels, loc="outside upper center", ncols=3)
        for axes in panels[1:]:
            axes.tick_params(labelleft=False)
        _draw_gains(chart.add_subplot(grid[1, :]), measurements)
    alt = (
        "Test accuracy by epoch for three batch sizes and five protocols. Small losses discarded "
        "less baseline at the end: "
        + ", ".join(
            f"n = {n} {100 * against(measurements, n, 'baseline').value:+.2f} points" for n in sizes
        )
        + "."
    )
    caption = (
        f"{measurements['network']}, means over {len(measurements['seeds'])} seeds, lr "
        f"{short(measurements['lr'])}. Discarding ends at the grey line. Below: the final "
        "accuracy with small losses discarded less that of each other protocol, paired by seed, "
        "with 95 % intervals; above 0 the paper's protocol is better."
    )
    title = "Figure 10: training without small losses"
    return drawing.finished(chart, "fig10", title, alt, caption)


def _draw_gains(axes: "Axes", measurements: Measurements) -> None:
    """What the paper's protocol gains over each other one at the end, in points."""
    for number, other in enumerate(others(measurements)):
        for place, n in enumerate(measurements["n"]):
            mean, low, high = (100 * value for value in against(measurements, n, other))
            axes.errorbar(
                [place + 0.12 * (number - 1.5)],
                [mean],
                yerr=[[mean - low], [high - mean]],
                marker=MARKERS[number],
                color=PALETTE[list(DISCARDED).index(other)],
                capsize=3,
                label=f"less {other}" if place == 0 else None,
            )
    axes.axhline(0, color=drawing.BLACK, linewidth=0.8)
    axes.set_xticks(range(len(measurements["n"])), [f"n = {n}" for n in measurements["n"]])
    axes.grid(False, axis="x")
    axes.set_ylabel("gain at the end (points)")
    axes.legend(loc="upper left", ncols=2)
