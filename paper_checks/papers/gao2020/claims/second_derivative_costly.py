"""What does every exact second derivative cost, in gradients?"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.papers.gao2020.measurements.context import SNAPSHOTS
from paper_checks.shared import Shared, reads
from paper_checks.statistics import Ratio, all_of, any_of, conclude, deciding, more, ratio, too_few

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

# Entries of ResNet-18 whose second derivatives are timed, and the samples of the loss.
ENTRIES = 6
SAMPLES = 64
WIDTH = 0.25
TENSORS = ("conv1.weight", "layer2.0.conv1.weight", "layer4.1.conv2.weight")
PROTOCOL = (
    "The network of figure 2 and its sample: the exact diagonal is timed as it is computed for "
    "figure 2, without its cross-check, and so is one gradient, the least of three timings.",
    f"ResNet-18 (width {WIDTH:g}) in training mode: below batch norm samples are coupled and each "
    f"entry takes a product of its own. {ENTRIES} random entries of {len(TENSORS)} tensors are "
    "timed, and their mean cost is multiplied by the number of all.",
    "The plain way, one double backward for each parameter, would cost as many gradients as there "
    "are parameters, and more.",
)


COUPLED = Shared.under("claim-second-derivative-costly")


@reads(SNAPSHOTS, COUPLED)
def measure(context: "Context") -> dict[str, Any]:
    """Seconds of one gradient and of all second derivatives, for each network and seed."""
    snapshots = [context.snapshot(seed) for seed in context.profile.seeds]
    coupled = context.shared("claim-second-derivative-costly", _measure)
    rows = [
        {
            "network": context.network,
            "seed": snapshot.seed,
            "parameters": snapshot.parameters,
            "gradient_seconds": snapshot.gradient_seconds,
            "diagonal_seconds": snapshot.seconds,
        }
        for snapshot in snapshots
    ]
    return {
        "seeds": list(context.profile.seeds),
        "samples": snapshots[0].samples,
        "rows": rows + coupled["rows"],
    }


def _measure(context: "Context") -> dict[str, Any]:
    return {"rows": [_coupled(context, seed) for seed in context.profile.seeds]}


def _coupled(context: "Context", seed: int) -> dict[str, Any]:
    """The cost on a network whose batch norm couples the samples."""
    import torch
    from torch.nn.functional import cross_entropy

    import hessian
    from paper_checks.papers.gao2020.measurements.context import _gradient_seconds
    from sim.models import build

    data = context.dataset
    model = build("resnet18", in_shape=data.shape, classes=data.classes, width=WIDTH, seed=seed).to(
        context.device
    )
    model.train()
    pair = data.subset(min(SAMPLES, len(data)), seed).pair
    gradient = _gradient_seconds(model, cross_entropy, pair)
    began = time.perf_counter()
    hessian.sample(
        model,
        cross_entropy,
        pair,
        ENTRIES,
        torch.Generator().manual_seed(seed),
        names=TENSORS,
    )
    entry = (time.perf_counter() - began) / (ENTRIES * len(TENSORS))
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "network": "resnet18 in training mode",
        "seed": seed,
        "parameters": parameters,
        "gradient_seconds": gradient,
        "diagonal_seconds": entry * parameters,
    }


def costs(measurements: Measurements) -> dict[str, Ratio]:
    """By network, the cost of all second derivatives in gradients."""
    seconds: dict[str, tuple[list[float], list[float]]] = {}
    for row in measurements["rows"]:
        whole, one = seconds.setdefault(row["network"], ([], []))
        whole.append(row["diagonal_seconds"])
        one.append(row["gradient_seconds"])
    return {network: ratio(*pair) for network, pair in seconds.items()}


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Compares each network's cost with the two thresholds."""
    predicted = f"> {thresholds['costly']:g}"
    sizes = {row["network"]: row["parameters"] for row in measurements["rows"]}
    if min(sizes.values()) < thresholds["parameters"]:
        return too_few(predicted, f"{short(min(sizes.values()))} parameters are no big network.")
    quotients = costs(measurements)
    costly = [
        more(each, thresholds["costly"], least=thresholds["cheap"]) for each in quotients.values()
    ]
    reason = "All second derivatives, in gradients: " + "; ".join(
        f"{network} ({short(sizes[network])} parameters) {short(each.value)} "
        f"{spread(each.interval())}, {short(each.value / sizes[network])} for each"
        for network, each in quotients.items()
    )
    least = min(quotients.values(), key=lambda each: each.value)
    seen = deciding(costly, list(quotients.values()), least)
    return conclude(any_of(*costly), [all_of(*costly)], predicted, seen, f"{reason}.")
