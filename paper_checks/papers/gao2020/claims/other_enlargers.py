"""Do larger dropout, a sharper loss, or leaving out small values enlarge the gradient?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import short, spread
from paper_checks.shared import Shared, reads
from paper_checks.statistics import all_of, conclude, deciding, in_parts, more, ratio, too_few

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context

BATCHES = 16
METHODS = ("dropout 0.5 → 0.8", "sharper loss", "small values left out")
PROTOCOL = (
    "Step 1 of an MLP (64-128-128-10, ReLU) on scikit-learn's digits, batches of the paper's 8192 "
    "of 50000, mean |g| over the second layer's weights.",
    "Dropout 0.8 instead of 0.5; cross-entropy at temperature 1/2, the logits doubled; the smaller "
    "half of the layer's |g| set to zero. Each beside the same batch with dropout 0.5 alone.",
    "Leaving out values cannot raise the mean over all entries; over the entries left it must: a "
    "mean over what is large is larger. What decides is the mean over all entries.",
)


ENLARGED = Shared.under("claim-other-enlargers")


@reads(ENLARGED)
def measure(context: "Context") -> dict[str, Any]:
    """Mean |g| of each method, batch by batch."""
    return context.shared("claim-other-enlargers", _measure)


def _measure(context: "Context") -> dict[str, Any]:
    import torch
    from torch.nn.functional import cross_entropy

    from paper_checks.papers.gao2020.figures.fig9 import FRACTION
    from sim.data import load
    from sim.models import build

    seed = context.profile.seeds[0]
    inputs, targets = load("digits").pair
    n = round(FRACTION * len(targets))
    values: dict[str, list[float]] = {"plain": [], **{name: [] for name in METHODS}}
    models = {
        rate: build("mlp", in_shape=(1, 8, 8), classes=10, seed=seed, dropout=rate)
        for rate in (0.5, 0.8)
    }
    generator = torch.Generator().manual_seed(seed)

    def gradient(rate: float, index: Any, scale: float, masks: int) -> Any:
        torch.manual_seed(masks)
        model = models[rate].train()
        loss = cross_entropy(scale * model(inputs[index]), targets[index])
        return torch.autograd.grad(loss, [model.get_parameter("fc2.weight")])[0].abs()

    with torch.random.fork_rng():
        for batch in range(BATCHES):
            index = torch.randperm(len(targets), generator=generator)[:n]
            plain = gradient(0.5, index, 1.0, batch)
            larger_half = torch.where(plain >= plain.median(), plain, 0.0)
            values["plain"].append(float(plain.mean()))
            values[METHODS[0]].append(float(gradient(0.8, index, 1.0, batch).mean()))
            values[METHODS[1]].append(float(gradient(0.5, index, 2.0, batch).mean()))
            values[METHODS[2]].append(float(larger_half.mean()))
    return {"seeds": [seed], "samples": len(targets), "n": n, "values": values}


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """The ratio of each method to the plain gradient."""
    values = measurements["values"]
    if len(values["plain"]) < thresholds["batches"]:
        return too_few("> 1", f"Only {len(values['plain'])} batches.")
    ratios = {name: ratio(values[name], values["plain"]) for name in METHODS}
    larger = [more(each, 1.0) for each in ratios.values()]
    reason = "Mean |g| over that of the plain batch: " + "; ".join(
        f"{name} {short(each.value)} {spread(each.interval())}" for name, each in ratios.items()
    )
    least = min(ratios.values(), key=lambda each: each.value)
    seen = deciding(larger, list(ratios.values()), least)
    return conclude(in_parts(*larger), [all_of(*larger)], "> 1", seen, f"{reason}.")
