"""Figure 16: MCLR against LARS, each with its γ tuned, and true CBLR beside them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import points, short
from paper_checks.papers.gao2020.figures._lines import banded
from paper_checks.papers.gao2020.figures._tuned import (
    Row,
    at_end,
    chosen,
    guarded,
    read,
    series_of,
    tried,
)
from paper_checks.papers.gao2020.measurements.training import COMPARED_RUNS, compared
from paper_checks.shared import reads
from paper_checks.statistics import (
    Estimate,
    conclude,
    difference,
    paired,
    rank_correlation,
    too_few,
    within,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from paper_checks.papers.gao2020.measurements.context import Context

NAMES = {"lars": "LARS", "mclr": "MCLR", "cblr": "CBLR, exact", "sgd": "SGD"}
# What figure 16 compares.
RIVALS = ("mclr", "lars")
PROTOCOL = (
    "Batch sizes that are the paper's 1024, 8192 and 32768 of 50000; every rule with momentum 0.9 "
    "and four values of γ over a factor 30, which rise with the root of n, chosen on seeds that "
    "are not read. CBLR's cap is chosen with its γ; all rules have as many tuning runs. Accuracy "
    "is that at the end.",
    "Equal epochs (the paper), and as the control an equal number of steps.",
    "CBLR takes the exact second derivative of up to 256 samples of its batch, anew every tenth "
    "of an epoch or at every step where an epoch has fewer than ten.",
    "The full profile trains ResNet-18, as the paper does, in parts of 1024 that batch norm "
    "normalises each by itself. There samples are coupled and each entry's second derivative takes "
    "a product of its own, so that true CBLR is left to fig-cblr, on AlexNet; exact radii of 64 "
    "random entries of each weight tensor stand beside MCLR's median instead.",
)


@reads(COMPARED_RUNS)
def measure(context: "Context") -> dict[str, Any]:
    """Accuracies by series, n, rule, γ and seed; with batch norm, exact radii of random entries."""
    return compared(context)


def arm(measurements: Measurements, series: str, n: int, rule: str) -> list[Row]:
    """Every γ (and cap) of a rule that was tried in one place."""
    return tried(measurements, series=series, n=n, rule=rule)


def values(
    measurements: Measurements, series: str, n: int, rule: str, column: str = "accuracy"
) -> dict[int, float]:
    """By seed, the values at the chosen γ on the seeds that did not choose it."""
    return read(chosen(arm(measurements, series, n, rule)), column)


def untuned(
    measurements: Measurements, settings: Iterable[tuple[str, int]], rules: Iterable[str]
) -> list[str]:
    """Where the best γ is the smallest or the largest that was tried."""
    return [
        f"{NAMES.get(rule, rule)} at n = {n}, equal {series}"
        for series, n in settings
        for rule in rules
        if at_end(arm(measurements, series, n, rule))
    ]


def apart(
    measurements: Measurements,
    series: str,
    n: int,
    rules: tuple[str, str],
    column: str = "accuracy",
) -> Estimate:
    """The first rule less the second, each at its own γ, seed by seed."""
    first, second = (values(measurements, series, n, rule, column) for rule in rules)
    return difference(*paired(first, second))


def ends_told(edges: Sequence[str]) -> str:
    """A sentence on the rules whose γ is at an end of its grid, if there are any."""
    return f" The best γ is at an end of its grid for {', '.join(edges)}." if edges else ""


def trained(measurements: Measurements) -> set[str]:
    """The rules that were run."""
    return {row["rule"] for row in measurements["rows"]}


def medians(measurements: Measurements) -> str:
    """How MCLR's median radius compares with the exact one, where that was measured."""
    by_stage: dict[str, list[Mapping[str, Any]]] = {}
    for row in measurements.get("radii", ()):
        if row["radius"] and row["mclr"]:
            by_stage.setdefault(row["at"], []).append(row)
    told = []
    for stage, rows in by_stage.items():
        quotients = [row["mclr"] / row["radius"] for row in rows]
        rank = rank_correlation([row["mclr"] for row in rows], [row["radius"] for row in rows])
        told.append(
            f"{stage} {short(min(quotients))} to {short(max(quotients))} times "
            f"(rank correlation over {len(rows)} tensors {short(rank)})"
        )
    if not told:
        return ""
    return " MCLR's median radius of a weight tensor over its exact one: " + "; ".join(told) + "."


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Whether MCLR and LARS are equivalent at the paper's 1024."""
    margin, n = thresholds["margin"], measurements["n"][0]
    predicted = f"within ±{100 * margin:g} points"
    seeds = len(paired(*(values(measurements, "epochs", n, rule) for rule in RIVALS))[0])
    if seeds < thresholds["seeds"]:
        return too_few(predicted, f"Only {seeds} seeds to read.")
    training = apart(measurements, "epochs", n, RIVALS, "train_accuracy")
    test = apart(measurements, "epochs", n, RIVALS)
    edge = bool(untuned(measurements, [("epochs", n)], RIVALS))
    core, control = (
        guarded(within(each, -margin, margin), edge, edge) for each in (training, test)
    )
    told = "; ".join(
        f"n = {size} at equal {series} {100 * each.value:+.1f} {points(each.interval())}"
        for series in series_of(measurements)
        for size in places(measurements, series)
        for each in [apart(measurements, series, size, RIVALS)]
    )
    reason = (
        f"MCLR's training accuracy less LARS's at n = {n}: {100 * training.value:+.2f} points "
        f"{points(training.interval())}. Test accuracy, MCLR less LARS, in points: {told}."
    )
    if "sgd" in trained(measurements):
        gain = apart(measurements, "epochs", n, ("lars", "sgd"))
        reason += (
            f" LARS less plain SGD, tuned alike, at n = {n}: {100 * gain.value:+.1f} points "
            f"{points(gain.interval())}."
        )
    reason += medians(measurements)
    everywhere = [
        (series, size)
        for series in series_of(measurements)
        for size in places(measurements, series)
    ]
    reason += ends_told(untuned(measurements, everywhere, RIVALS))
    return conclude(core, [control], predicted, training, reason, margin)


def places(measurements: Measurements, series: str) -> list[int]:
    """The batch sizes at which both rules were run."""
    return sorted(
        set.intersection(
            *({row["n"] for row in tried(measurements, series=series, rule=r)} for r in RIVALS)
        )
    )


def draw(measurements: Measurements) -> Drawing:
    """Test accuracy against n for each rule, at equal epochs and at equal steps."""
    return draw_rules(measurements, "fig16", "Figure 16: MCLR against LARS", NAMES, PROTOCOL[1])


def draw_rules(
    measurements: Measurements, name: str, title: str, names: Mapping[str, str], said: str
) -> Drawing:
    """Test accuracy against n for some rules, at equal epochs and, where run, at equal steps."""
    sizes = measurements["n"]
    labels = {
        series: f"{measurements[count]} {series} each"
        for series, count in (("epochs", "epochs"), ("steps", "equal_steps"))
        if series in series_of(measurements)
    }
    names = {rule: shown for rule, shown in names.items() if rule in trained(measurements)}
    radii = measurements.get("radii")
    with drawing.style(name):
        count = len(labels) + bool(radii)
        chart = drawing.figure(2.0 + 4.0 * count, 4.8)
        axes = chart.subplots(1, count, squeeze=False)[0]
        panels = axes[: len(labels)]
        for panel in panels[1:]:
            panel.sharey(panels[0])
            panel.tick_params(labelleft=False)
        for panel, (series, label) in zip(panels, labels.items(), strict=True):
            for number, (rule, shown) in enumerate(names.items()):
                ran = [n for n in sizes if arm(measurements, series, n, rule)]
                by_size = [
                    [100 * v for v in values(measurements, series, n, rule).values()] for n in ran
                ]
                if ran:
                    banded(panel, [n * 1.04**number for n in ran], by_size, number, shown)
            panel.set_xscale("log")
            panel.set_xticks(sizes, [str(n) for n in sizes])
            panel.minorticks_off()
            panel.set_title(label, loc="left")
            panel.set_xlabel("batch size n")
        panels[0].set_ylabel("test accuracy at the end (%)")
        handles, rules = panels[0].get_legend_handles_labels()
        chart.legend(handles, rules, loc="outside upper center", ncols=len(names))
        if radii:
            _draw_radii(axes[-1], radii)
    alt = "Test accuracy at the end by batch size, equal epochs: " + "; ".join(
        f"{shown} "
        + ", ".join(
            f"{100 * float(np.mean(list(values(measurements, 'epochs', n, rule).values()))):.1f}"
            for n in sizes
            if arm(measurements, "epochs", n, rule)
        )
        for rule, shown in names.items()
    )
    alt += f" per cent.{medians(measurements)}"
    caption = (
        f"{measurements['network']}, N = {measurements['samples']}. {said} Bars are 95 % "
        "intervals over the seeds that did not choose γ."
    )
    if radii:
        caption += (
            " Right: MCLR's median radius of each weight tensor against the exact median, with "
            "the 95 % interval of random entries, where it has an end; on the line they are equal."
        )
    return drawing.finished(chart, name, title, alt, caption)


def _draw_radii(axes: "Axes", rows: list[dict[str, Any]]) -> None:
    """MCLR's radius of every weight tensor against the exact median with its interval."""
    rows = [row for row in rows if row["radius"] and row["mclr"]]
    for colour, marker, stage in (
        (drawing.BLUE, "o", "at initialisation"),
        (drawing.VERMILION, "s", "trained"),
    ):
        chosen = [row for row in rows if row["at"] == stage]
        x = np.array([row["radius"] for row in chosen])
        # An interval of few entries has no upper end where curvatures vanish.
        low, high = (
            np.array([row[f"radius_{end}"] or row["radius"] for row in chosen])
            for end in ("low", "high")
        )
        axes.errorbar(
            x,
            [row["mclr"] for row in chosen],
            xerr=np.array([x - low, high - x]),
            fmt=marker,
            color=colour,
            markersize=5,
            linewidth=1,
            label=stage,
        )
    values = [value for row in rows for value in (row["radius"], row["mclr"])]
    if values:
        axes.plot([min(values), max(values)], [min(values), max(values)], "--", color=drawing.BLACK)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("exact median radius")
    axes.set_ylabel("median |w| / median |g|")
    axes.set_title("Radius of every weight tensor", loc="left")
    axes.legend()
