"""Does σ relate to the average curvature of the layer?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.shared import Shared, reads
from paper_checks.statistics import Ratio, all_of, conclude, ratio, too_few, within

if TYPE_CHECKING:
    from torch import nn

    from paper_checks.papers.gao2020.measurements.context import Context

NEEDS_DATA = False
PROTOCOL = (
    "An MLP (64-128-128-10, ReLU) on scikit-learn's digits at initialisation and after 20 epochs "
    "of SGD, three seeds: over every weight tensor the sum of σ² + μ² of the per-sample gradients "
    "beside the sum of the exact second derivatives of the training loss.",
    "Where the labels are as the network's own probabilities have them, the two are equal: "
    "Fisher's information is the expected Hessian. At initialisation all labels are nearly as "
    "probable as one another; training makes them far from it.",
)


QUOTIENTS = Shared.under("claim-sigma-and-curvature")


@reads(QUOTIENTS)
def measure(context: "Context") -> dict[str, Any]:
    """The quotient of the two sums by stage, tensor and seed."""
    return context.shared("claim-sigma-and-curvature", _measure)


def _measure(context: "Context") -> dict[str, Any]:
    from paper_checks.papers.gao2020.figures._samples import repeats, small_data, small_networks

    rows = [
        {"network": name, "seed": seed, "parameter": parameter, "quotient": quotient}
        for seed in repeats(context)
        for name, model in small_networks(context, seed).items()
        for parameter, quotient in _quotients(model, small_data(context)).items()
    ]
    samples = len(small_data(context)[1])
    return {"seeds": list(repeats(context)), "samples": samples, "rows": rows}


def _quotients(model: "nn.Module", pair: Any) -> dict[str, float]:
    """Σ(σ² + μ²) / Σh of every weight tensor."""
    from torch.nn.functional import cross_entropy

    import hessian
    from paper_checks.papers.gao2020.figures._samples import factors

    curvature = hessian.diagonal(model, cross_entropy, pair)
    quotients = {}
    for name in curvature:
        layer, _, last = name.rpartition(".")
        if last == "weight":
            _, a, delta = factors(model, pair, layer)
            # The gradient of sample i is δ_i a_iᵀ, so its squares are sums of products of squares.
            second = float(((delta**2).T @ (a**2)).sum()) / len(a)
            quotients[name] = second / float(curvature[name].sum())
    return quotients


def by_stage(measurements: Measurements, network: str) -> dict[str, Ratio]:
    """By tensor, the quotient over the seeds."""
    quotients: dict[str, list[float]] = {}
    for row in measurements["rows"]:
        if row["network"] == network and row["quotient"] > 0:
            quotients.setdefault(row["parameter"], []).append(row["quotient"])
    return {name: ratio(values, [1.0] * len(values)) for name, values in quotients.items()}


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Whether σ² is the curvature at initialisation, and still is after training."""
    stages = {
        when: by_stage(measurements, f"MLP {when}") for when in ("at initialisation", "trained")
    }
    fresh, trained = stages.values()
    least = min((each.freedom + 1 for part in stages.values() for each in part.values()), default=0)
    if least < thresholds["seeds"]:
        return too_few(1.0, "Too few seeds.")
    factor = thresholds["factor"]
    decisions = [
        all_of(*(within(each, 1 / factor, factor) for each in part.values()))
        for part in (fresh, trained)
    ]
    reason = (
        "Σ(σ² + μ²) over Σh: "
        + "; ".join(
            f"{when} "
            + ", ".join(
                f"{name} {short(each.value)} {spread(each.interval())}"
                for name, each in part.items()
            )
            for when, part in stages.items()
        )
        + "."
    )
    worst = max(fresh.values(), key=lambda each: abs(each.value - 1))
    return conclude(decisions[0], [decisions[1]], 1.0, worst, reason, factor)
