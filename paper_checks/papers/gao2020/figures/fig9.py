"""Figure 9: the gradient of the second fully connected layer when small losses are discarded."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks import drawing
from paper_checks.check import Drawing, Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.shared import Shared, reads
from paper_checks.statistics import Ratio, all_of, conclude, more, ratio, slope, too_few

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor, nn

    from paper_checks.papers.gao2020.measurements.context import Context

SHARES = tuple(round(0.1 * k, 1) for k in range(10))
# The paper's batch of 8192 of 50000 images.
FRACTION = 8192 / 50_000
KINDS = {
    "small": ("small losses discarded (the paper)", drawing.BLUE, "o"),
    "random": ("random samples discarded", drawing.ORANGE, "s"),
    "large": ("large losses discarded", drawing.VERMILION, "^"),
    "class": ("small losses discarded class by class", drawing.GREEN, "D"),
}
PROTOCOL = (
    "Batches of n = 0.164 N, the paper's 8192 of 50000; the weight of the second fully connected "
    "layer at step 1: of AlexNet at initialisation with dropout on, and of an MLP (64-128-128-10) "
    "on scikit-learn's digits at initialisation and after 20 epochs of SGD.",
    "In each batch the share p of the samples is discarded, those of the smallest loss, random "
    "ones, or those of the largest; all of the same batch with the same dropout masks.",
    "Beside the criterion: those of the smallest loss of every class, an equal share of each, so "
    "that what is left has the classes of the whole batch. Where losses differ between classes "
    "above all, as at initialisation, small losses discarded are whole classes discarded.",
    "Mean |g| over the layer of the mean over the kept samples, as in the paper; and, as a "
    "control, of the same sum divided by the whole n: what discarding does beyond averaging over "
    "fewer.",
)


DISCARDED_BATCHES = Shared.under("fig9", "fig9")


@reads(DISCARDED_BATCHES)
def measure(context: "Context") -> dict[str, Any]:
    """Mean |g| of each kept part, batch by batch, for each network."""
    return context.shared("fig9", _measure)


def _measure(context: "Context") -> dict[str, Any]:
    from paper_checks.papers.gao2020.figures._samples import small_data, small_networks
    from paper_checks.papers.gao2020.measurements.training import trained_network

    seed = context.profile.seeds[0]
    cases = []
    if context.network == "alexnet":
        model = context.model(seed).train()
        name = "AlexNet at initialisation"
        cases.append(_case(name, model, context.population.pair, context.profile.batches, seed))
    if context.ledger is not None:
        # Evidence on images is of one network, at its start and trained.
        model = trained_network(context, seed).train()
        pair = context.population.pair
        cases.append(_case("AlexNet trained", model, pair, context.profile.batches, seed))
    else:
        data = small_data(context)
        for name, model in small_networks(context).items():
            cases.append(_case(name, model, data, 4 * context.profile.batches, seed))
    return {"seeds": [seed], "samples": max(case["samples"] for case in cases), "cases": cases}


def _case(
    name: str, model: "nn.Module", pair: "tuple[Tensor, Tensor]", batches: int, seed: int
) -> dict[str, Any]:
    import torch

    from paper_checks.papers.gao2020.figures._samples import factors

    inputs, targets = pair
    n = max(20, round(FRACTION * len(targets)))
    values: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    ranks, shuffled = [], []
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(batches):
            index = torch.randperm(len(targets), generator=generator)[:n].to(targets.device)
            losses, a, delta = factors(model, (inputs[index], targets[index]), "fc2")
            order = {
                "small": losses.argsort(descending=True).cpu(),
                "random": torch.randperm(n, generator=generator),
                "large": losses.argsort().cpu(),
                "class": _by_class(losses.cpu(), targets[index].cpu()),
            }
            norms = a.norm(dim=1) * delta.norm(dim=1)
            ranks.append(_rank(losses, norms))
            shuffled.append(_rank(losses, norms[order["random"].to(norms.device)]))
            for kind, places in order.items():
                values[kind].append([_mean_abs(a, delta, places, share) for share in SHARES])
    return {
        "case": name,
        "samples": len(targets),
        "n": n,
        "batches": batches,
        "kept": [_kept(n, share) for share in SHARES],
        "ranks": ranks,
        "ranks_shuffled": shuffled,
        "values": values,
    }


def _by_class(losses: "Tensor", targets: "Tensor") -> "Tensor":
    """The samples by their loss's place within their class, the largest losses first.

    A first part of them holds the same share of every class.

    >>> import torch
    >>> _by_class(torch.tensor([1.0, 2.0, 8.0, 9.0]), torch.tensor([0, 0, 1, 1])).tolist()
    [1, 3, 0, 2]
    """
    import torch

    place = torch.empty_like(losses)
    for label in targets.unique():
        own = (targets == label).nonzero()[:, 0]
        ordered = own[losses[own].argsort(descending=True)]
        place[ordered] = (torch.arange(len(own), dtype=losses.dtype) + 0.5) / len(own)
    return place.argsort(stable=True)


def _kept(n: int, share: float) -> int:
    return max(1, round((1 - share) * n))


def _rank(losses: "Tensor", norms: "Tensor") -> float:
    """Spearman's correlation of the samples' losses with the norms of their gradients."""
    from scipy.stats import spearmanr

    correlation = float(spearmanr(losses.cpu().numpy(), norms.cpu().numpy()).statistic)
    return correlation if correlation == correlation else 0.0


def _mean_abs(a: "Tensor", delta: "Tensor", places: "Tensor", share: float) -> float:
    """Mean |g| of the mean gradient over the first samples of `places`, a share left out."""
    remaining = places[: _kept(len(places), share)].to(a.device)
    return float((delta[remaining].T @ a[remaining]).abs().mean() / len(remaining))


def batch_means(case: Mapping[str, Any], kind: str, share: float) -> list[float]:
    """Batch by batch, mean |g| when `share` is discarded in the way `kind`."""
    place = SHARES.index(share)
    return [row[place] for row in case["values"][kind]]


def against(case: Mapping[str, Any], share: float) -> dict[str, Ratio]:
    """Small losses discarded over the whole batch, over random discarding, and at a fixed 1/n.

    And, class by class, over the whole batch.
    """
    small, whole = batch_means(case, "small", share), batch_means(case, "small", 0.0)
    remaining = case["kept"][SHARES.index(share)] / case["n"]
    quotients = {
        "whole": ratio(small, whole),
        "random": ratio(small, batch_means(case, "random", share)),
        "fixed": ratio([remaining * value for value in small], whole),
    }
    if "class" in case["values"]:
        quotients["class"] = ratio(batch_means(case, "class", share), whole)
    return quotients


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Against the whole batch; then against random discarding, and at a fixed normaliser."""
    share, cases = thresholds["share"], measurements["cases"]
    if min(case["batches"] for case in cases) < thresholds["batches"]:
        return too_few("> 1", "Too few batches.")
    quotients = [against(case, share) for case in cases]
    # How the gradient goes with every further tenth, batch by batch.
    grows = [
        slope(SHARES, np.log(np.transpose(case["values"]["small"])).tolist()) for case in cases
    ]
    told = [
        f"{case['case']}: {short(each['whole'].value)} times the whole batch "
        f"{spread(each['whole'].interval())}, {short(each['random'].value)} times random "
        f"discarding {spread(each['random'].interval())}, with the fixed 1/n "
        f"{short(each['fixed'].value)} times {spread(each['fixed'].interval())}"
        + (
            f", class by class {short(each['class'].value)} times the whole batch "
            f"{spread(each['class'].interval())}"
            if "class" in each
            else ""
        )
        for case, each in zip(cases, quotients, strict=True)
    ]
    # The first network is the paper's own, or stands for it, at step 1.
    core = all_of(more(quotients[0]["whole"], 1.0), more(grows[0], 0.0))
    controls = [more(each[name], 1.0) for each in quotients for name in ("random", "fixed")]
    reason = (
        f"With {100 * share:.0f} % of the samples discarded by small loss, mean |g| is: "
        + "; ".join(told)
        + ". A fixed normaliser shows whether the gradient of the loss that is minimised grew, or "
        "only its average was taken over fewer samples."
    )
    return conclude(core, controls, "> 1", quotients[0]["whole"], reason)


def draw(measurements: Measurements) -> Drawing:
    """Mean |g| against the discarded share, over the whole batch's, for each network."""
    cases = measurements["cases"]
    with drawing.style("fig9"):
        chart = drawing.figure(3.9 * len(cases) + 1, 4.8)
        panels = chart.subplots(1, len(cases), squeeze=False)[0]
        for axes, case in zip(panels, cases, strict=True):
            _draw(axes, case)
        panels[0].set_ylabel("mean |g|, whole batch = 1")
        handles, labels = panels[0].get_legend_handles_labels()
        chart.legend(handles, labels, loc="outside upper center", ncols=2)
    alt = (
        "Mean absolute gradient of the second fully connected layer against the discarded share of "
        "the batch, 0 to 90 per cent, for "
        + ", ".join(case["case"] for case in cases)
        + ". At 50 per cent, small losses discarded over random: "
        + ", ".join(short(against(case, 0.5)["random"].value) for case in cases)
        + " times."
    )
    caption = (
        "Filled: mean over the kept samples, as in the paper; dashed: the same sum over the whole "
        "n. The paper discards small losses; random and large-loss discarding are the controls. "
        + "; ".join(f"{case['case']}: n = {case['n']}, {case['batches']} batches" for case in cases)
        + "."
    )
    return drawing.finished(
        chart, "fig9", "Figure 9: gradient against the discarded share", alt, caption
    )


def _draw(axes: "Axes", case: Mapping[str, Any]) -> None:
    whole = sum(batch_means(case, "small", 0.0)) / case["batches"]
    percent = [100 * share for share in SHARES]
    for kind, (label, colour, marker) in KINDS.items():
        if kind not in case["values"]:
            continue
        means = [sum(batch_means(case, kind, p)) / case["batches"] / whole for p in SHARES]
        axes.plot(percent, means, marker=marker, color=colour, markersize=5, label=label)
        fixed = [k / case["n"] * mean for k, mean in zip(case["kept"], means, strict=True)]
        label = f"{label.split(' (')[0]}, fixed 1/n"
        axes.plot(percent, fixed, "--", color=colour, linewidth=1.2, label=label)
    axes.axhline(1, color=drawing.BLACK, linewidth=0.8)
    axes.set_yscale("log")
    axes.set_title(case["case"], loc="left")
    axes.set_xlabel("discarded share of the batch (%)")
