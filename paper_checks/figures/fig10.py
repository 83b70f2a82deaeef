"""Figure 10: training with 30 % of each batch's small losses discarded, and with controls."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.figures._interval import paired
from paper_checks.figures._lines import MARKERS, PALETTE
from paper_checks.numbers import points, short
from paper_checks.training import DISCARDED, discarding
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from paper_checks.context import Context

PROTOCOL = (
    "Batch sizes that are the paper's 2000, 8000 and 16384 of 50000; SGD with momentum 0.9 at one "
    "rate. 30 % of each batch is discarded in the first half of the epochs (the paper: the first "
    "100).",
    "Discarded are the small losses (the paper), random samples (the same number of steps, the "
    "same batch of samples kept), small losses with the sum divided by the whole n, so that the "
    "gradient is not enlarged by averaging over fewer, or the large losses.",
    "Final test accuracy, paired by seed: the same initialisation and the same order of samples.",
)


def measure(context: "Context") -> dict[str, Any]:
    """Final accuracies by n, protocol and seed."""
    return discarding(context)


def values(measurements: Measurements, n: int, protocol: str) -> list[float]:
    """The final test accuracies; a run that diverged counts as none right."""
    row = next(row for row in measurements["rows"] if (row["n"], row["protocol"]) == (n, protocol))
    return [v or 0.0 for v in row["accuracy"]]


def against(measurements: Measurements, n: int, other: str) -> tuple[float, float, float]:
    """The paper's protocol less another, seed by seed."""
    return paired(values(measurements, n, "small losses"), values(measurements, n, other))


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Improvement over the baseline at the paper's two batch sizes, and over random discarding."""
    sizes = measurements["n"][:2]
    if len(measurements["seeds"]) < thresholds["seeds"]:
        return Judgement(INCONCLUSIVE, "> 0", None, "Too few seeds.")
    over = [against(measurements, n, "baseline") for n in sizes]
    random = [against(measurements, n, "random") for n in sizes]
    better = [low > 0 for _, low, _ in over]
    if all(better) and all(low > 0 for _, low, _ in random):
        verdict = HOLDS
    elif any(better):
        verdict = IN_PART
    elif all(high < thresholds["gain"] for _, _, high in over):
        verdict = CONTRADICTED
    else:
        verdict = INCONCLUSIVE
    told = []
    for n in measurements["n"]:
        parts = [
            f"{other} {100 * against(measurements, n, other)[0]:+.2f} "
            f"{points(against(measurements, n, other)[1:])}"
            for other in DISCARDED
            if other != "small losses"
        ]
        told.append(f"n = {n}: against " + ", ".join(parts))
    reason = "Test accuracy with small losses discarded, in points: " + "; ".join(told) + "."
    least = min(over)
    return Judgement(verdict, "> 0", least[0], reason, least[1:])


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
                curve = measurements["curves"][f"{name}-{n}"]
                kept = [k for k, v in enumerate(curve["mean"]) if v is not None]
                axes.plot(
                    [curve["epoch"][k] for k in kept],
                    [100 * curve["mean"][k] for k in kept],
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
            f"n = {n} {100 * against(measurements, n, 'baseline')[0]:+.2f} points" for n in sizes
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
    others = [name for name in DISCARDED if name != "small losses"]
    for number, other in enumerate(others):
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
