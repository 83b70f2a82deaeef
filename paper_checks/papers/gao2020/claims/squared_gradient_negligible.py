"""Is (dL/dw)² far less than one, so that equation 9 may drop it?"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.shared import Shared, reads
from paper_checks.statistics import Ratio, all_of, conclude, less, ratio, too_few

if TYPE_CHECKING:
    from torch import nn

    from paper_checks.papers.gao2020.measurements.context import Context

# The paper's batch sizes that both data sets have in images; a gradient's noise depends on their
# number, not on their share.
SIZES = (32, 128, 512)
DRAWS = 6
PROTOCOL = (
    "The gradient of the mean loss over random batches of 32, 128 and 512 images, dropout off; a "
    "loss c times as large has g² c² times as large.",
    "The network of figure 2 at initialisation, and an MLP (64-128-128-10, ReLU) on scikit-learn's "
    "digits at initialisation and after 1, 5 and 20 epochs of SGD, three seeds each.",
    f"By network and seed, over {DRAWS} batches: the largest g² of any entry, and the largest 0.99 "
    "quantile of a tensor.",
)


LARGEST_SQUARES = Shared.under("claim-squared-gradient", "claim-squared-gradient")


@reads(LARGEST_SQUARES)
def measure(context: "Context") -> dict[str, Any]:
    """The largest g² and the largest 0.99 quantile by network, batch size and seed."""
    return context.shared("claim-squared-gradient", _measure)


def _measure(context: "Context") -> dict[str, Any]:
    from paper_checks.papers.gao2020.figures._samples import repeats

    rows = [
        {"network": name, "n": n, "seed": seed, **_largest(model, pair, n, seed)}
        for seed in repeats(context)
        for name, model, pair in _networks(context, seed)
        for n in SIZES
        if n <= len(pair[1])
    ]
    return {"seeds": list(repeats(context)), "samples": len(context.dataset), "rows": rows}


def _networks(context: "Context", seed: int) -> "Iterator[tuple[str, nn.Module, Any]]":
    from paper_checks.papers.gao2020.figures._samples import along_training, small_data
    from paper_checks.papers.gao2020.measurements.training import trained_network

    if context.network == "alexnet":
        model = context.model(seed).eval()
        yield "AlexNet at initialisation", model, context.population.pair
    if context.ledger is not None:
        yield "AlexNet trained", trained_network(context, seed).eval(), context.population.pair
        return
    for epoch, model in along_training(seed).items():
        yield f"MLP after {epoch} epochs", model, small_data(context)


def _largest(model: "nn.Module", pair: Any, n: int, seed: int) -> dict[str, float]:
    import torch
    from torch.nn.functional import cross_entropy

    inputs, targets = pair
    parameters = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(seed)
    largest = quantile = 0.0
    for _ in range(DRAWS):
        index = torch.randperm(len(targets), generator=generator)[:n].to(targets.device)
        loss = cross_entropy(model(inputs[index]), targets[index])
        for g in torch.autograd.grad(loss, list(parameters.values())):
            squares = g.detach().cpu().double().numpy().ravel() ** 2
            largest = max(largest, float(squares.max()))
            quantile = max(quantile, float(np.quantile(squares, 0.99)))
    return {"largest": largest, "quantile": quantile}


def arms(measurements: Measurements, column: str) -> dict[tuple[str, int], Ratio]:
    """By network and batch size, the geometric mean over the seeds."""
    largest: dict[tuple[str, int], list[float]] = {}
    for row in measurements["rows"]:
        # A network whose gradient vanishes has less than any bound.
        largest.setdefault((row["network"], row["n"]), []).append(max(row[column], 1e-300))
    return {key: ratio(values, [1.0] * len(values)) for key, values in largest.items()}


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """For all entries, or for all but a hundredth of each tensor."""
    limit = thresholds["largest"]
    predicted = f"< {limit:g}"
    largest, quantile = (arms(measurements, name) for name in ("largest", "quantile"))
    if min(each.freedom + 1 for each in largest.values()) < thresholds["seeds"]:
        return too_few(predicted, "Too few seeds.")
    where = max(largest, key=lambda key: largest[key].value)
    worst = largest[where]
    common = max(quantile, key=lambda key: quantile[key].value)
    reason = (
        f"The largest g² is {short(worst.value)} {spread(worst.interval())} ({where[0]}, "
        f"n = {where[1]}), which changes R by {short(100 * ((1 + worst.value) ** 1.5 - 1))} %; the "
        f"largest 0.99 quantile of a tensor is {short(quantile[common].value)} "
        f"{spread(quantile[common].interval())} ({common[0]}, n = {common[1]}). Largest by network "
        "and n: "
        + "; ".join(f"{name}, {n}: {short(each.value)}" for (name, n), each in largest.items())
        + "."
    )
    core = all_of(*(less(each, limit) for each in quantile.values()))
    whole = [less(each, limit) for each in largest.values()]
    # What holds in part, or not at all, does so by the quantiles.
    seen = worst if all_of(*whole).holds else quantile[common]
    return conclude(core, whole, predicted, seen, reason)
