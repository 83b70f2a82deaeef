"""Beyond the paper: the error of equation 17 on a real network beside its law, along training."""

from collections.abc import Mapping, Sequence
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import short
from paper_checks.quotients import geometric
from paper_checks.shared import Shared, reads
from paper_checks.statistics import Decision, all_of, conclude, too_few, within

if TYPE_CHECKING:
    from torch import nn

    from paper_checks.papers.gao2020.measurements.context import Context

NEEDS_DATA = False
SIZES = (32, 128, 512)
# Batches of each size, and entries of a tensor that are followed.
BATCHES, ENTRIES = 24, 1500
LINES = {"law": "its own μ, σ and N", "free": "σ² = h, no gradient measured"}
PROTOCOL = (
    "An MLP (64-128-128-10, ReLU) on scikit-learn's digits at initialisation and after 1, 5 and 20 "
    "epochs of SGD, three seeds: for at most 1,500 entries of every weight tensor that are alive, "
    "|w/g_n| h over 24 batches drawn without replacement, h the exact second derivative of the "
    "whole training loss.",
    "Its median beside theory.shortcut_entries_quantile: with each entry's own μ, σ and the size N "
    "of the training set; and with σ² = h and μ = 0, which knows the weights, the curvatures and n "
    "and nothing of the gradients. No constant is fitted in either.",
    "The least-squares slope of log |w/g_n| on log R, which would be 1 if the quotient were an "
    "estimate of the radius and is 1/2 where σ² = h.",
)


SHORTCUTS = Shared.under("fig-shortcut")


@reads(SHORTCUTS)
def measure(context: "Context") -> dict[str, Any]:
    """Medians and shares, measured and predicted, by stage, tensor, batch size and seed."""
    return context.shared("fig-shortcut", _measure)


def _measure(context: "Context") -> dict[str, Any]:
    from paper_checks.papers.gao2020.figures._samples import along_training, repeats, small_data

    pair = small_data(context)
    rows = [
        {"epochs": epochs, "seed": seed} | row
        for seed in repeats(context)
        for epochs, model in along_training(seed).items()
        for row in _rows(model, pair, seed)
    ]
    return {"seeds": list(repeats(context)), "samples": len(pair[1]), "rows": rows}


def _rows(model: "nn.Module", pair: Any, seed: int) -> list[dict[str, Any]]:
    """One network's rows, a tensor and a batch size each."""
    from torch.nn.functional import cross_entropy

    import hessian
    from paper_checks.papers.gao2020.figures._samples import factors

    curvature = hessian.diagonal(model, cross_entropy, pair)
    parameters = dict(model.named_parameters())
    rows = []
    for name, exact in curvature.items():
        layer, _, last = name.rpartition(".")
        if last == "weight":
            _, a, delta = factors(model, pair, layer)
            weight = parameters[name].detach()
            w, h, inputs, slopes = (part.numpy() for part in (weight, exact, a, delta))
            layer_rows = of_layer(w, h, inputs, slopes, seed)
            rows += [{"parameter": name} | row for row in layer_rows]
    return rows


def of_layer(weight: Any, exact: Any, a: Any, delta: Any, seed: int) -> list[dict[str, Any]]:
    """The rows of one layer, from its inputs and the loss's slopes at its outputs."""
    rng = np.random.default_rng(seed)
    population = len(a)
    mean = delta.T @ a / population
    deviation = np.sqrt(np.maximum((delta**2).T @ (a**2) / population - mean**2, 0.0))
    alive = np.argwhere((exact > 0) & (deviation > 1e-12 * deviation.max()) & (weight != 0))
    chosen = alive[rng.permutation(len(alive))[:ENTRIES]]
    place = tuple(chosen.T)
    w, h, mu, sigma = (part[place] for part in (weight, exact, mean, deviation))
    rows = []
    for n in SIZES:
        batches = [rng.choice(population, n, replace=False) for _ in range(BATCHES)]
        g = np.array([((delta[i].T @ a[i]) / n)[place] for i in batches])
        rows.append(of_batches(g, w, h, n, mu, sigma, population))
    return rows


def of_batches(
    g: Any, w: Any, h: Any, n: int, mu: Any, sigma: Any, population: int
) -> dict[str, Any]:
    """The row of gradients `[batches, entries]` of n samples, beside what the law says of them."""
    from theory import shortcut_entries_probability, shortcut_entries_quantile

    with np.errstate(divide="ignore"):
        shortcut = np.abs(w / g) * h
    free = (w, h, n)
    law = (w, h, n, sigma, mu, population)
    near = (0.5, 2.0)
    finite = np.isfinite(shortcut) & (shortcut > 0)
    logs = [
        np.polyfit(-np.log(h[ok]), np.log(row[ok] / h[ok]), 1)[0]
        for row, ok in zip(shortcut, finite, strict=True)
    ]
    return {
        "n": n,
        "measured": float(np.median(shortcut)),
        "law": shortcut_entries_quantile(0.5, *law),
        "free": shortcut_entries_quantile(0.5, *free),
        "share": float(((shortcut >= near[0]) & (shortcut <= near[1])).mean()),
        "share_law": shortcut_entries_probability(near[1], *law)
        - shortcut_entries_probability(near[0], *law),
        "slope": float(np.mean(logs)),
        "noise": float(np.exp(np.mean(np.log(sigma**2 / h)))),
    }


def quotients(measurements: Measurements, line: str) -> dict[tuple[int, str, int], list[float]]:
    """Measured over predicted medians, seed by seed, by epochs, tensor and n.

    A median is infinite, and stored as none, where most batches have no gradient at all.
    """
    by_case: dict[tuple[int, str, int], list[float]] = {}
    for row in measurements["rows"]:
        key = (row["epochs"], row["parameter"], row["n"])
        measured = inf if row["measured"] is None else row["measured"]
        by_case.setdefault(key, []).append(measured / row[line])
    return by_case


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Whether the medians are the law's, with measured moments everywhere, without any at first."""
    cases = {line: quotients(measurements, line) for line in LINES}
    law, free = (
        {key: geometric(v) for key, v in cases[line].items() if all(map(isfinite, v))}
        for line in LINES
    )
    if (
        min((len(v) for v in quotients(measurements, "law").values()), default=0)
        < thresholds["seeds"]
    ):
        return too_few(1.0, "Too few seeds.")
    near, far = thresholds["factor"], thresholds["free"]
    fresh = {key: each for key, each in free.items() if key[0] == 0}
    core = all_of(*(_near(values, near) for values in cases["law"].values()))
    control = all_of(*(_near(v, far) for key, v in cases["free"].items() if key[0] == 0))
    worst = max(law.values(), key=lambda each: abs(np.log(each.value)))

    def off(of: Mapping[Any, Any]) -> str:
        """The error in per cent, middle and largest."""
        errors = sorted(100 * abs(each.value - 1) for each in of.values()) or [inf]
        return f"{short(errors[len(errors) // 2])} % in the middle, at most {short(errors[-1])} %"

    shares = [row["share"] for row in measurements["rows"]]
    slopes = [row["slope"] for row in measurements["rows"] if row["epochs"] == 0]
    later = {key: each for key, each in free.items() if key[0] > 0}
    reason = (
        f"Measured over predicted medians of |w/g| h: with measured μ and σ off by {off(law)}; "
        f"with σ² = h and no gradient measured off by {off(fresh)} at initialisation, and "
        f"{off(later)} along training. Within a factor of two of the radius are "
        f"{100 * min(shares):.0f} to {100 * max(shares):.0f} % of the entries. log |w/g| goes with "
        f"log R with the power {short(min(slopes))} to {short(max(slopes))} at initialisation."
    )
    if endless := len(cases["law"]) - len(law):
        reason += (
            f" In {endless} of {len(cases['law'])} cases, left out of these numbers, the median is "
            "infinite: most batches have no gradient at all."
        )
    return conclude(core, [control], 1.0, worst, reason, near)


def _near(values: Sequence[float], factor: float) -> Decision:
    """That the geometric mean lies within a factor of 1; by the signs where all are infinite.

    Infinite values have no spread for Student's interval. That all of k seeds lie above has the p
    of a sign test, 2^(1 - k).
    """
    if all(map(isfinite, values)):
        return within(geometric(values), 1 / factor, factor)
    return Decision(1.0, 1.0 if any(map(isfinite, values)) else 2.0 ** (1 - len(values)))


def draw(measurements: Measurements) -> Drawing:
    """Measured over predicted medians along training, and the medians themselves against n."""
    rows = measurements["rows"]
    epochs = sorted({row["epochs"] for row in rows})
    names = list(dict.fromkeys(row["parameter"] for row in rows))
    colours = (drawing.BLUE, drawing.ORANGE, drawing.GREEN, drawing.VERMILION)
    with drawing.style("fig-shortcut"):
        chart = drawing.figure(11.0, 4.8)
        left, *panels = chart.subplots(1, 3)
        for colour, name in zip(colours, names, strict=False):
            for marker, epoch in zip("os^D", (epochs[0], epochs[-1]), strict=False):
                part = [r for r in rows if r["parameter"] == name and r["epochs"] == epoch]
                sizes = sorted({r["n"] for r in part})
                for line, style, mark in (("measured", "", marker), ("law", "-", "")):
                    middle = [np.median([r[line] for r in part if r["n"] == n]) for n in sizes]
                    label = f"{name}, {epoch} epochs" if line == "measured" else None
                    left.plot(sizes, middle, linestyle=style or "none", marker=mark, color=colour,
                              label=label)  # fmt: skip
        left.axhline(1, color=drawing.BLACK, linewidth=0.8)
        left.set_xscale("log", base=2)
        left.set_yscale("log")
        left.set_xlabel("batch size n")
        left.set_ylabel("median of |w/g| over R")
        left.set_title("Points measured, lines the law", loc="left")
        for axes, line in zip(panels, LINES, strict=True):
            for colour, name in zip(colours, names, strict=False):
                for marker, n in zip("os^D", SIZES, strict=False):
                    cases = quotients(measurements, line)
                    values = [np.median(cases[epoch, name, n]) for epoch in epochs]
                    axes.plot(range(len(epochs)), values, marker=marker, color=colour, alpha=0.8)
            axes.axhline(1, color=drawing.BLACK, linewidth=0.8)
            axes.set_yscale("log")
            axes.set_xticks(range(len(epochs)), [str(epoch) for epoch in epochs])
            axes.set_xlabel("epochs")
            axes.set_ylabel("measured over predicted median")
            axes.set_title(LINES[line], loc="left")
        chart.legend(loc="outside upper center", ncols=3)
    ratios = {
        line: [float(np.median(v)) for v in quotients(measurements, line).values()]
        for line in LINES
    }
    alt = (
        "Left: the median of |w/g| over the exact radius against the batch size, by tensor. "
        "Middle and right: measured over predicted medians along training: "
        + "; ".join(
            f"with {LINES[line]} {short(min(values))} to {short(max(values))}"
            for line, values in ratios.items()
        )
        + "."
    )
    caption = (
        "Circles, squares and triangles are n = 32, 128 and 512 in the two right panels. The law "
        "has no fitted constant; along training σ² leaves h, and the line without measured "
        "gradients leaves 1 with it."
    )
    title = "The error of |w/g| and its law"
    return drawing.finished(chart, "fig-shortcut", title, alt, caption)
