"""Beyond the paper: how Gaussian the per-sample gradients of equation 1 are."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.shared import Shared, reads
from paper_checks.statistics import all_of, conclude, mean, too_few, within

if TYPE_CHECKING:
    from torch import nn

    from paper_checks.papers.gao2020.measurements.context import Context

LAYERS = ("fc1", "fc2", "fc3")
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
PROTOCOL = (
    "The weights of the three fully connected layers: of an MLP (64-128-128-10, ReLU) on "
    "scikit-learn's digits at initialisation and after 20 epochs of SGD; with images, of AlexNet "
    "at initialisation. Cross-entropy, dropout off.",
    "For every entry the exact first four moments of its gradient over all samples, from those of "
    "the layer's inputs and of the loss's gradients at its outputs; the excess kurtosis is zero "
    "for a Gaussian, and that of a mean of n independent gradients is 1/n of it.",
    "Pooled over a layer, all entries and samples together, as a second reading of equation 1.",
)


LAYER_GRADIENTS = Shared.under("fig-gaussian", "fig-gaussian")


@reads(LAYER_GRADIENTS)
def measure(context: "Context") -> dict[str, Any]:
    """Quantiles of the entries' excess kurtosis and the pooled moments, for each layer."""
    return context.shared("fig-gaussian", _measure)


def _measure(context: "Context") -> dict[str, Any]:
    from paper_checks.papers.gao2020.figures._samples import repeats, small_data, small_networks
    from paper_checks.papers.gao2020.measurements.training import trained_network

    rows = []
    if context.ledger is None:
        pair = small_data(context)
        for seed in repeats(context):
            for name, model in small_networks(context, seed).items():
                rows += _rows(name, model, pair, seed)
    if context.network == "alexnet":
        sample = context.dataset.subset(min(context.profile.sample, len(context.dataset)), 0)
        for seed in repeats(context):
            stages = {"AlexNet at initialisation": context.model(seed)}
            if context.ledger is not None:
                stages["AlexNet trained"] = trained_network(context, seed)
            for name, model in stages.items():
                rows += _rows(name, model.eval(), sample.pair, seed)
    seeds = list(repeats(context))
    return {"seeds": seeds, "samples": max(row["samples"] for row in rows), "rows": rows}


def _rows(name: str, model: "nn.Module", pair: Any, seed: int) -> list[dict[str, Any]]:
    from paper_checks.papers.gao2020.figures._samples import factors

    rows = []
    for layer in LAYERS:
        _, a, delta = factors(model, pair, layer)
        rows.append(
            {"network": name, "parameter": f"{layer}.weight", "seed": seed, "samples": len(a)}
            | moments(a.double().cpu().numpy(), delta.double().cpu().numpy())
        )
    return rows


def moments(a: Any, delta: Any) -> dict[str, Any]:
    """Shape statistics of the entries δ_o a_k over the samples, by the moments of outer products.

    >>> x = np.random.default_rng(0).standard_normal((20_000, 1))
    >>> layer = moments(np.ones_like(x), x)
    >>> abs(layer["excess"][2]) < 0.2, abs(layer["absolute"] - 1) < 0.01
    (True, True)
    """
    n = len(a)
    one, two, three, four = ((delta**k).T @ (a**k) / n for k in (1, 2, 3, 4))
    variance = two - one**2
    alive = variance > 1e-12 * max(float(two.max()), 1e-300)
    central = four - 4 * one * three + 6 * one**2 * two - 3 * one**4
    excess = central[alive] / variance[alive] ** 2 - 3
    size = np.abs(delta).T @ np.abs(a) / n
    # E|N(0, σ)| with σ² the second moment: what a centred Gaussian entry would have.
    absolute = size[alive].sum() / np.sqrt(2 / np.pi * two[alive]).sum()
    pooled = float(four.mean() / two.mean() ** 2 - 3)
    return {
        "excess": [float(q) for q in np.quantile(excess, LEVELS)],
        "absolute": float(absolute),
        "pooled_excess": pooled,
        "mean_over_sigma": float(np.median(np.abs(one[alive]) / np.sqrt(variance[alive]))),
        "sigma": float(np.sqrt(variance[alive]).mean()),
        "dead": float(1 - alive.mean()),
    }


def layers(measurements: Measurements, network: str) -> dict[str, dict[int, Mapping[str, Any]]]:
    """The rows of one network by layer and seed."""
    by_layer: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in measurements["rows"]:
        if row["network"] == network:
            by_layer.setdefault(row["parameter"], {})[row["seed"]] = row
    return by_layer


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The median entry's excess kurtosis at initialisation: alone, and in a batch."""
    limit, batch = thresholds["excess"], thresholds["n"]
    fresh = [row for row in measurements["rows"] if "trained" not in row["network"]]
    if not fresh or min(row["samples"] for row in fresh) < thresholds["samples"]:
        return too_few(f"≤ {limit:g}", "Too few samples for a kurtosis.")
    middle = {
        (network, layer): mean([row["excess"][2] for row in rows.values()])
        for network in dict.fromkeys(row["network"] for row in measurements["rows"])
        for layer, rows in layers(measurements, network).items()
    }
    initial = [each for (network, _), each in middle.items() if "trained" not in network]
    alone = all_of(*(within(each, -limit, limit) for each in initial))
    together = all_of(*(within(each, -limit * batch, limit * batch) for each in initial))
    worst = max(initial, key=lambda each: abs(each.value))
    first = measurements["rows"][0]["seed"]
    pooled = {
        (row["network"], row["parameter"]): (row["pooled_excess"], row["absolute"])
        for row in measurements["rows"]
        if row["seed"] == first
    }
    reason = (
        "Median excess kurtosis of an entry (pooled over the layer; E|g| over a Gaussian's): "
        + "; ".join(
            f"{network}, {layer} {short(each.value)} {spread(each.interval())} "
            f"({short(pooled[network, layer][0])}; {short(pooled[network, layer][1])})"
            for (network, layer), each in middle.items()
        )
        + f". A mean over n = {batch:g} independent ones has 1/n of it."
    )
    return conclude(together, [alone], f"≤ {limit:g}", worst, reason, limit)


def draw(measurements: Measurements) -> Drawing:
    """Quantiles of the excess kurtosis of each layer's entries, for one sample and for 32."""
    # One seed is drawn; the others say how sure it is.
    first = measurements["rows"][0]["seed"]
    rows = [row for row in measurements["rows"] if row["seed"] == first]
    with drawing.style("fig-gaussian"):
        chart = drawing.figure(8.6, 5.2)
        axes = chart.subplots()
        for factor, colour, marker, shift, label in (
            (1, drawing.BLUE, "o", -0.14, "single samples"),
            (32, drawing.ORANGE, "s", 0.14, "means of 32 samples"),
        ):
            excesses = np.array([row["excess"] for row in rows]) / factor
            x = np.arange(len(rows)) + shift
            axes.vlines(x, excesses[:, 0], excesses[:, 4], color=colour, linewidth=1)
            axes.vlines(x, excesses[:, 1], excesses[:, 3], color=colour, linewidth=4, alpha=0.6)
            axes.plot(x, excesses[:, 2], marker, color=colour, label=label)
        axes.axhline(0, color=drawing.BLACK, linewidth=0.8)
        axes.axhspan(-1, 1, color="#EEEEEE", zorder=0, linewidth=0)
        axes.set_yscale("symlog", linthresh=1)
        names = [f"{row['network']}\n{row['parameter']}" for row in rows]
        axes.set_xticks(range(len(rows)), names, rotation=45, ha="right")
        axes.tick_params(axis="x", labelsize=8.5)
        axes.grid(False, axis="x")
        axes.set_ylabel("excess kurtosis of an entry (0 = Gaussian)")
        chart.legend(loc="outside upper center", ncols=2)
    alt = (
        "Excess kurtosis of per-sample gradients by layer, quantiles over the entries, for single "
        "samples and for means of 32. Medians: "
        + ", ".join(
            f"{row['network']} {row['parameter']} {short(row['excess'][2])}" for row in rows
        )
        + "."
    )
    caption = (
        "Points are medians over a layer's entries, thick lines quartiles, thin lines 5 to 95 %. "
        "Grey: within 1 of a Gaussian. ReLU units make many per-sample gradients exactly zero, "
        "which gives heavy tails; averages over a batch are nearer to a Gaussian by the factor n."
    )
    title = "How Gaussian per-sample gradients are"
    return drawing.finished(chart, "fig-gaussian", title, alt, caption)
