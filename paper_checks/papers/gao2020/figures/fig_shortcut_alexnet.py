"""Beyond the paper: the law of fig-shortcut on convolutions, at the start and in training."""

from copy import deepcopy
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Measurements
from paper_checks.numbers import short
from paper_checks.papers.gao2020.figures.fig_shortcut import (
    BATCHES,
    ENTRIES,
    LINES,
    judge,
    of_batches,
    quotients,
)
from paper_checks.shared import Shared, reads

if TYPE_CHECKING:
    from torch import nn

    from paper_checks.papers.gao2020.measurements.context import Context

__all__ = ["PROTOCOL", "draw", "judge", "measure"]

SIZES = (8, 32, 128)
# The samples whose gradients are the population, and those that are trained on.
POPULATION, TRAINED = 256, 2048
BATCH, EPOCHS, RECORDED_EPOCHS = 32, 4, 30
PROTOCOL = (
    "AlexNet (a quarter of its width on digits, the profile's on images, dropout off) at "
    "initialisation and after 4 epochs of SGD in batches of 32 on at most 2,048 images (30 epochs "
    "where the ledger records it), three seeds. The population are 256 of them: h is the exact "
    "second derivative of their mean loss, μ and σ the moments of their gradients.",
    "For at most 1,500 entries of each of the eight weight tensors that are alive, |w/g_n| h over "
    "24 batches of n of the 256, drawn without replacement, beside the law as in fig-shortcut; "
    "no constant is fitted.",
)


SHORTCUTS = Shared.under("shortcut-network", "shortcut-network")


@reads(SHORTCUTS)
def measure(context: "Context") -> dict[str, Any]:
    """Medians and shares, measured and predicted, by stage, tensor, batch size and seed."""
    return context.shared("shortcut-network", _measure)


def _measure(context: "Context") -> dict[str, Any]:
    from torch.nn.functional import cross_entropy

    from paper_checks.papers.gao2020.figures._samples import repeats, train

    epochs = EPOCHS if context.ledger is None else RECORDED_EPOCHS
    images = context.dataset.subset(min(TRAINED, len(context.dataset)), seed=0).pair
    pair = (images[0][:POPULATION], images[1][:POPULATION])
    rows, losses = [], []
    for seed in repeats(context):
        model = context.model(seed).eval()
        stages = {0: deepcopy(model)}
        train(model, images, seed, epochs, batch=BATCH)
        stages[epochs] = model
        for number, stage in stages.items():
            labels = {"epochs": number, "seed": seed}
            loss = float(cross_entropy(stage(pair[0]), pair[1]).detach())
            losses.append({**labels, "loss": loss})
            rows += [{**labels, **row} for row in of_network(stage, pair, seed)]
    return {
        "seeds": list(repeats(context)),
        "samples": len(pair[1]),
        "network": f"{context.network}, width {context.profile.width:g}",
        "losses": losses,
        "rows": rows,
    }


def of_network(model: "nn.Module", pair: Any, seed: int) -> list[dict[str, Any]]:
    """The rows of every weight tensor of linear layers and convolutions, and each batch size."""
    from torch.nn.functional import cross_entropy

    import hessian
    from paper_checks.papers.gao2020.figures._samples import deviations

    parameters = dict(model.named_parameters())
    rows = []
    for name, exact in hessian.diagonal(model, cross_entropy, pair).items():
        layer, _, last = name.rpartition(".")
        if last != "weight":
            continue
        rng = np.random.default_rng(seed)
        w, h = (part.detach().cpu().double().numpy().ravel() for part in (parameters[name], exact))
        spread, slopes = deviations(model, pair, layer)
        deviation = spread.cpu().numpy()
        alive = np.flatnonzero((h > 0) & (deviation > 1e-6 * deviation.max()) & (w != 0))
        chosen = alive[rng.permutation(len(alive))[:ENTRIES]]
        g = slopes(chosen).cpu().numpy()
        for n in SIZES:
            index = [rng.choice(len(g), n, replace=False) for _ in range(BATCHES)]
            means = np.array([g[i].mean(0) for i in index])
            moments = (g.mean(0), g.std(0))
            rows.append(
                {"parameter": name} | of_batches(means, w[chosen], h[chosen], n, *moments, len(g))
            )
    return rows


def draw(measurements: Measurements) -> Drawing:
    """The error of the law in per cent by tensor and n, at the start and trained."""
    rows = measurements["rows"]
    names = list(dict.fromkeys(row["parameter"] for row in rows))
    epochs = sorted({row["epochs"] for row in rows})
    panels = [(line, epoch) for line in LINES for epoch in epochs]
    colours = (drawing.BLUE, drawing.ORANGE, drawing.GREEN)
    readings = []
    with drawing.style("fig-shortcut-alexnet"):
        chart = drawing.figure(11.0, 6.4)
        grid = chart.subplots(2, len(epochs), sharex=True, squeeze=False)
        for axes, (line, epoch) in zip(grid.flat, panels, strict=True):
            cases = quotients(measurements, line)
            for colour, n in zip(colours, SIZES, strict=True):
                errors = [100 * (np.median(cases[epoch, name, n]) - 1) for name in names]
                axes.plot(range(len(names)), errors, "o-", color=colour, label=f"n = {n}")
                endless = [k for k, error in enumerate(errors) if not isfinite(error)]
                top = np.full(len(endless), 0.97)  # of the panel's height
                edge = axes.get_xaxis_transform()
                axes.plot(endless, top, "^", color=colour, transform=edge)
                readings.append(
                    f"{LINES[line]}, {epoch} epochs, n = {n}: {short(float(min(errors)))} to "
                    f"{short(float(max(errors)))} %"
                )
            axes.axhline(0, color=drawing.BLACK, linewidth=0.8)
            axes.set_yscale("symlog", linthresh=100)
            axes.set_xticks(range(len(names)), [n.removesuffix(".weight") for n in names])
            axes.set_ylabel("measured / predicted − 1 (%)")
            axes.set_title(f"{LINES[line]}; {epoch} epochs", loc="left")
        grid[0, 0].legend()
    alt = "Measured over predicted medians less one, by tensor: " + "; ".join(readings) + "."
    losses = {e: [r["loss"] for r in measurements["losses"] if r["epochs"] == e] for e in epochs}
    caption = f"{measurements['network']}; medians over seeds, triangles at the top where they are "
    caption += "infinite. Loss of the population: " + (
        ", ".join(f"{short(float(np.median(v)))} after {e} epochs" for e, v in losses.items()) + "."
    )
    title = "The error of |w/g| and its law on AlexNet"
    return drawing.finished(chart, "fig-shortcut-alexnet", title, alt, caption)
