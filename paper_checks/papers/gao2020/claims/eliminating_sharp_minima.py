"""Does eliminating sharp minima improve the generalisation of large batches?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paper_checks.check import Judgement, Measurements
from paper_checks.numbers import points, short, spread
from paper_checks.shared import Shared, reads
from paper_checks.statistics import (
    Decision,
    Estimate,
    Ratio,
    conclude,
    difference,
    less,
    more,
    paired,
    ratio,
    too_few,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paper_checks.papers.gao2020.measurements.context import Context

NEEDS_DATA = False
SEEDS = 6
STEPS = 240
RATE = 0.05
# Of each tensor's root mean square weight.
NOISE = 0.1
PLAIN, SMOOTH, RANDOM = "plain", "noise on the weights", "noise on the gradient"
PROTOCOL = (
    f"The MLP of the other training figures (64-32-32-10) on all of scikit-learn's digits in one "
    f"batch, {STEPS} steps of SGD with momentum 0.9 at {RATE:g}, {SEEDS} seeds.",
    "Sharp minima are eliminated as in Wen et al. (2018), which the paper names: each gradient is "
    f"taken at the weights plus uniform noise of up to {NOISE:g} of their root mean square, which "
    "smooths the loss over its neighbourhood.",
    "Control: noise of the same length as that makes in the gradient, added to the plain gradient, "
    "which does not look at the neighbourhood.",
    "λ_max of the Hessian of the training loss at the end, and the test accuracy there.",
)


ENDS = Shared.under("claim-eliminating-sharp-minima")


@reads(ENDS)
def measure(context: "Context") -> dict[str, Any]:
    """λ_max and test accuracy at the end by arm and seed."""
    return context.shared("claim-eliminating-sharp-minima", _measure)


def _measure(context: "Context") -> dict[str, Any]:
    from sim.data import load

    train, test = (
        (inputs.double(), targets)
        for inputs, targets in (load("digits", split=part).pair for part in ("train", "test"))
    )
    rows = [
        {"arm": arm, "seed": seed, **_run(arm, seed, train, test)}
        for seed in range(SEEDS)
        for arm in (PLAIN, SMOOTH, RANDOM)
    ]
    return {"seeds": list(range(SEEDS)), "samples": len(train[1]), "steps": STEPS, "rows": rows}


def _run(arm: str, seed: int, train: Any, test: Any) -> dict[str, float]:
    import torch
    from torch.nn.functional import cross_entropy

    from sim import sharpness
    from sim.models import build

    model = build("mlp", in_shape=(1, 8, 8), classes=10, hidden=[32, 32], seed=seed).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        gradient(model, train, arm, generator)
        optimizer.step()
    with torch.no_grad():
        accuracy = float((model(test[0]).argmax(1) == test[1]).double().mean())
        loss = float(cross_entropy(model(train[0]), train[1]))
    top = sharpness(model, cross_entropy, train, tolerance=0.05)
    return {"sharpness": float(top), "accuracy": accuracy, "loss": loss}


def gradient(model: "nn.Module", pair: "tuple[Tensor, Tensor]", arm: str, generator: Any) -> None:
    """Put the gradient of the arm into the parameters' `.grad`."""
    import torch
    from torch.nn.functional import cross_entropy

    parameters = list(model.parameters())

    def plain() -> "tuple[Tensor, ...]":
        return torch.autograd.grad(cross_entropy(model(pair[0]), pair[1]), parameters)

    gradients = plain()
    if arm != PLAIN:
        shifts = [
            NOISE * w.detach().square().mean().sqrt()
            * (2 * torch.rand(w.shape, generator=generator, dtype=w.dtype) - 1)
            for w in parameters
        ]  # fmt: skip
        with torch.no_grad():
            for w, shift in zip(parameters, shifts, strict=True):
                w.add_(shift)
        shifted = plain()
        with torch.no_grad():
            for w, shift in zip(parameters, shifts, strict=True):
                w.sub_(shift)
        if arm == RANDOM:
            # As long as what the neighbourhood adds, in a direction that knows nothing of it.
            random = [torch.randn(g.shape, generator=generator, dtype=g.dtype) for g in gradients]
            shifted = tuple(
                g + r * (s - g).norm() / r.norm()
                for g, s, r in zip(gradients, shifted, random, strict=True)
            )
        gradients = shifted
    for w, g in zip(parameters, gradients, strict=True):
        w.grad = g


def arm_of(measurements: Measurements, arm: str, column: str) -> dict[int, float]:
    """The column of one arm by seed."""
    return {row["seed"]: row[column] for row in measurements["rows"] if row["arm"] == arm}


def judge(measurements: Measurements, thresholds: Mapping[str, float]) -> Judgement:
    """Where noise on the weights makes the minimum flatter, whether the accuracy rises."""
    gap = thresholds["gap"]

    def gain(over: str) -> Estimate:
        arms = (arm_of(measurements, arm, "accuracy") for arm in (SMOOTH, over))
        return difference(*paired(*arms))

    flatter: Ratio = ratio(
        *paired(*(arm_of(measurements, arm, "sharpness") for arm in (SMOOTH, PLAIN)))
    )
    over, beyond = gain(PLAIN), gain(RANDOM)
    if over.freedom + 1 < thresholds["seeds"]:
        return too_few("> 0", "Too few seeds.")
    reason = (
        f"With noise on the weights λ_max is {short(flatter.value)} {spread(flatter.interval())} "
        f"times that without; the test accuracy changes by {100 * over.value:+.2f} points "
        f"{points(over.interval())}, against noise on the gradient by {100 * beyond.value:+.2f} "
        f"{points(beyond.interval())}."
    )
    if not less(flatter, 1.0).holds:
        return too_few("> 0", f"Sharp minima were not eliminated. {reason}")
    better: Decision = more(over, 0.0, least=gap)
    return conclude(better, [more(beyond, 0.0)], "> 0", over, reason, gap)
