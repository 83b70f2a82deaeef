"""Does weight decay bring the minimum nearer to zero, beyond what adding β to h does by itself?"""

from collections.abc import Mapping
from math import isclose, log
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.shared import Shared, reads
from paper_checks.statistics import conclude, difference, less, mean, paired, too_few

if TYPE_CHECKING:
    from torch import nn

    from paper_checks.papers.gao2020.measurements.context import Context

NEEDS_DATA = False
PROTOCOL = (
    "An MLP (64-128-128-10, ReLU) on scikit-learn's digits after 20 epochs of SGD, trained with "
    "weight decay and without, three seeds; exact g and h of the training loss.",
    "The misfit of a tensor is |log(median |w - b| / median |w|)|, b = w - (g + βw)/(h + β).",
    "The deciding control is the network trained without decay, to whose g and h the same β is "
    "added: where h is small beside β that alone puts b near zero, whatever the network is. Of "
    "parabolas drawn at random it lowers the misfit too.",
)
ARMS = ("trained with it", "added at the end", "without")


MISFITS = Shared.under("claim-weight-decay")


@reads(MISFITS)
def measure(context: "Context") -> dict[str, Any]:
    """The misfit of every tensor by seed and arm."""
    return context.shared("claim-weight-decay", _measure)


def _measure(context: "Context") -> dict[str, Any]:
    from paper_checks.papers.gao2020.figures._samples import repeats, small_networks
    from paper_checks.papers.gao2020.measurements.context import WEIGHT_DECAY

    rows = []
    for seed in repeats(context):
        plain = small_networks(context, seed)["MLP trained"]
        decayed = small_networks(context, seed, WEIGHT_DECAY)["MLP trained"]
        arms = zip(
            ARMS,
            (decayed, plain, plain),
            (WEIGHT_DECAY, WEIGHT_DECAY, 0.0),
            strict=True,
        )
        for arm, model, beta in arms:
            rows += [{"seed": seed, "arm": arm} | row for row in misfits(context, model, beta)]
    return {"seeds": list(repeats(context)), "beta": WEIGHT_DECAY, "rows": rows}


def misfits(context: "Context", model: "nn.Module", beta: float) -> list[dict[str, Any]]:
    """Of every tensor, the misfit over the entries with non-zero w and h, and their number."""
    from torch.nn.functional import cross_entropy

    import hessian
    from paper_checks.papers.gao2020.figures._samples import small_data
    from paper_checks.papers.gao2020.measurements.tensor_statistics import tensor_statistics

    exact = hessian.diagonal(model, cross_entropy, small_data(context))
    rows = []
    for name, weight in model.named_parameters():
        w, g, h = (x.detach().numpy().ravel() for x in (weight, exact.gradient[name], exact[name]))
        each = tensor_statistics(w, g, h, beta)
        if each["fit_weight"] and each["fit_distance_decayed"]:
            misfit = abs(log(each["fit_distance_decayed"] / each["fit_weight"]))
            rows.append({"parameter": name, "entries": each["fit_entries"], "misfit": misfit})
    return rows


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The mean misfit over the tensors, seed by seed, of the three arms."""
    if not isclose(measurements["beta"], thresholds["beta"]):
        raise ValueError(f"measured at β = {measurements['beta']:g}, not {thresholds['beta']:g}")
    by_arm: dict[str, dict[int, float]] = {arm: {} for arm in ARMS}
    for arm, seeds in by_arm.items():
        for seed in measurements["seeds"]:
            values = [
                row["misfit"]
                for row in measurements["rows"]
                if (row["arm"], row["seed"]) == (arm, seed)
                and row["entries"] >= thresholds["entries"]
            ]
            if len(values) >= thresholds["tensors"]:
                seeds[seed] = sum(values) / len(values)
    trained, added, without = (by_arm[arm] for arm in ARMS)
    beyond = difference(*paired(trained, added))
    if beyond.freedom + 1 < thresholds["seeds"]:
        return too_few("< 0", "Too few seeds or tensors.")
    reached = mean(list(trained.values()))
    plain = difference(*paired(added, without))
    reason = (
        f"Mean misfit over the tensors, trained with β = {thresholds['beta']:g}: "
        f"{short(reached.value)} {spread(reached.interval())}, which is "
        f"{short(beyond.value)} {spread(beyond.interval())} more than where β is only added at the "
        f"end; adding it changes the misfit by {short(plain.value)} {spread(plain.interval())} by "
        "itself."
    )
    near = less(reached, log(thresholds["factor"]))
    return conclude(less(beyond, 0.0), [near], "< 0", beyond, reason)
