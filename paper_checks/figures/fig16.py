"""Figure 16: MCLR against LARS, each with its γ tuned, and true CBLR beside them."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.figures._interval import welch
from paper_checks.figures._lines import banded
from paper_checks.numbers import points, short
from paper_checks.training import best, rules
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    from paper_checks.context import Context

NAMES = {"lars": "LARS", "mclr": "MCLR", "cblr": "CBLR, exact", "sgd": "SGD"}
PROTOCOL = (
    "Batch sizes that are the paper's 1024, 8192 and 32768 of 50000; every rule with momentum 0.9 "
    "and four values of γ over a factor 30, which rise with the root of n, chosen on half the "
    "seeds and read on the others.",
    "Equal epochs (the paper), and as the control an equal number of steps.",
    "CBLR takes the exact second derivative of up to 256 samples of its batch, anew every tenth "
    "of an epoch or at every step where an epoch has fewer than ten.",
)


def measure(context: "Context") -> dict[str, Any]:
    """Accuracies by series, n, rule, γ and seed."""
    return rules(context)


def read(
    measurements: Measurements, series: str, n: int, rule: str, column: str = "accuracy"
) -> list[float]:
    """The accuracies at the chosen γ, on the seeds that did not choose it."""
    rows = [
        row
        for row in measurements["rows"]
        if (row["series"], row["n"], row["rule"]) == (series, n, rule)
    ]
    return list(best(rows, column)[1])


def untuned(
    measurements: Measurements, settings: Iterable[tuple[str, int]], rules: Iterable[str]
) -> list[str]:
    """Where the best γ is the smallest or the largest that was tried."""
    found = []
    for series, n in settings:
        for rule in rules:
            rows = [
                row
                for row in measurements["rows"]
                if (row["series"], row["n"], row["rule"]) == (series, n, rule)
            ]
            ends = {min(row["rate"] for row in rows), max(row["rate"] for row in rows)}
            if best(rows)[0]["rate"] in ends:
                found.append(f"{NAMES.get(rule, rule)} at n = {n}, equal {series}")
    return found


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """MCLR less LARS in training accuracy at the paper's 1024."""
    margin, n = thresholds["margin"], measurements["n"][0]
    predicted = f"within ±{margin:g}"
    seeds = len(measurements["seeds"]) // 2
    if seeds < thresholds["seeds"]:
        return Judgement(INCONCLUSIVE, predicted, None, f"Only {seeds} seeds to read.")

    def apart(series: str, size: int, column: str = "accuracy") -> tuple[float, float, float]:
        return welch(
            read(measurements, series, size, "mclr", column),
            read(measurements, series, size, "lars", column),
        )

    mean, low, high = apart("epochs", n, "train_accuracy")
    test = apart("epochs", n)
    if untuned(measurements, [("epochs", n)], ("mclr", "lars")):
        verdict = INCONCLUSIVE
    elif -margin <= low and high <= margin:
        verdict = HOLDS if -margin <= test[1] and test[2] <= margin else IN_PART
    elif low > margin or high < -margin:
        verdict = CONTRADICTED
    else:
        verdict = INCONCLUSIVE
    told = "; ".join(
        f"n = {size} at equal {series} {100 * apart(series, size)[0]:+.1f} points "
        f"{points(apart(series, size)[1:])}"
        for series in ("epochs", "steps")
        for size in measurements["n"]
    )
    exact = np.mean(read(measurements, "epochs", n, "cblr"))
    reason = (
        f"MCLR's training accuracy less LARS's at n = {n}: {100 * mean:+.2f} points "
        f"{points((low, high))}. Test accuracy, MCLR less LARS: {told}. True CBLR "
        f"reaches {short(float(100 * exact))} % at n = {n}."
    )
    everywhere = [(series, size) for series in ("epochs", "steps") for size in measurements["n"]]
    if edges := untuned(measurements, everywhere, ("mclr", "lars")):
        reason += f" The best γ is at an end of its grid for {', '.join(edges)}."
    return Judgement(verdict, predicted, mean, reason, (low, high), margin)


def draw(measurements: Measurements) -> Drawing:
    """Test accuracy against n for each rule, at equal epochs and at equal steps."""
    return draw_rules(measurements, "fig16", "Figure 16: MCLR against LARS", NAMES, PROTOCOL[1])


def draw_rules(
    measurements: Measurements, name: str, title: str, names: Mapping[str, str], said: str
) -> Drawing:
    """Test accuracy against n for some rules, at equal epochs and at equal steps."""
    sizes = measurements["n"]
    with drawing.style(name):
        chart = drawing.figure(10.0, 4.8)
        panels = chart.subplots(1, 2, sharey=True)
        for axes, series, label in zip(
            panels,
            ("epochs", "steps"),
            (f"{measurements['epochs']} epochs each", f"{measurements['equal_steps']} steps each"),
            strict=True,
        ):
            for number, (rule, shown) in enumerate(names.items()):
                values = [[100 * v for v in read(measurements, series, n, rule)] for n in sizes]
                banded(axes, [n * 1.04**number for n in sizes], values, number, shown)
            axes.set_xscale("log")
            axes.set_xticks(sizes, [str(n) for n in sizes])
            axes.minorticks_off()
            axes.set_title(label, loc="left")
            axes.set_xlabel("batch size n")
        panels[0].set_ylabel("best test accuracy (%)")
        handles, labels = panels[0].get_legend_handles_labels()
        chart.legend(handles, labels, loc="outside upper center", ncols=len(names))
    alt = "Best test accuracy by batch size, equal epochs: " + "; ".join(
        f"{shown} "
        + ", ".join(
            f"{100 * float(np.mean(read(measurements, 'epochs', n, rule))):.1f}" for n in sizes
        )
        for rule, shown in names.items()
    )
    caption = (
        f"{measurements['network']}, N = {measurements['samples']}. {said} Bars are 95 % "
        "intervals over the seeds that did not choose γ."
    )
    return drawing.finished(chart, name, title, alt + " per cent.", caption)
