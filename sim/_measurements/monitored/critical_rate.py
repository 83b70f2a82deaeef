"""The largest learning rate whose next step does not raise the loss, for any optimizer."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

import hessian
from sim._measurements.monitored.state import OptimizerState, stepped
from sim._measurements.per_sample import Objective
from sim.optimizers import CBLR

# Beyond so many times the first rate it is infinite, and below that part of it 0.
FARTHEST = 2.0**40
# The most that a rate is multiplied by at once, on the way to one beyond the critical rate.
LARGEST = 16.0
# Roundings of the loss below which a decrease may be none.
NOISE = 16.0


def critical_rate(
    objective: Objective,
    pair: tuple[Any, Any],
    optimizer: Optimizer,
    guess: float | None,
    tolerance: float,
    restore: Callable[[], None],
) -> float:
    """The rate r at which L(w after a step with r) = L(w), by doubling and bisection.

    The gradient is that of the loss on the data; momentum and all other state of the optimizer are
    its own. Every trial is a step and a forward pass, with the same random numbers, from the same
    state. Where groups have rates of their own those keep their proportion, and r is the largest.

    For plain gradient descent on a quadratic that is 2 gᵀg / gᵀHg: between 2/λ_max, along the top
    eigenvector, and 2/λ_min; with a direction d (momentum, Adam) it is 2 gᵀd / dᵀHd.

    Args:
        objective, pair: of `monitor`.
        optimizer: any whose step takes no closure.
        guess: the rate to begin with; `None` for its own.
        tolerance: the bracket ends when it is so narrow, relative to the rate.
        restore: puts modules and random state back.

    Returns:
        The rate; 0.0 where every step raises the loss (the direction does not descend), infinite
        where none does, nan where the loss falls by no more than its rounding, in which the rate
        is lost.
    """
    x, y = pair
    state = OptimizerState(optimizer)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    largest = max(rates)
    shares = [rate / largest if largest else 1.0 for rate in rates]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    try:
        trained = [p for p in parameters if p.requires_grad]
        value = objective.scalar(x, y)
        gradients = torch.autograd.grad(value, trained, allow_unused=True)
        before, precision = value.item(), torch.finfo(value.dtype).eps
        del value
        arguments = _arguments(objective, pair, optimizer)

        def step(rate: float) -> None:
            state.restore()
            restore()
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.grad = None if gradient is None else gradient.clone()
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate * share)
                else:
                    group["lr"] = rate * share
            stepped(optimizer, *arguments)

        falls: list[float] = []

        def raises(rate: float) -> bool:
            step(rate)
            with torch.no_grad():
                after = float(objective(x, y))
            falls.append(before - after)
            return not after <= before

        # The rate of last time is near, and rarely outside of a bracket that two trials narrow.
        factor = (1 + tolerance) ** 4 if guess else 2.0
        first = guess or largest or 1.0
        rate = _crossing(raises, first, factor, tolerance)
        if not 0 < rate < math.inf:
            return rate
        least = NOISE * precision * abs(before)
        if not max(falls) > least:
            raises(rate / 2)  # where the loss has fallen most
        if max(falls) > least:
            return rate
        state.restore()
        start = [parameter.detach().clone() for parameter in trained]
        step(first)
        return 0.0 if _slope(gradients, start, trained) > 0 else math.nan
    finally:
        state.restore()
        restore()


def _slope(
    gradients: Iterable[Tensor | None], start: Iterable[Tensor], end: Iterable[Tensor]
) -> float:
    """gᵀΔw of a step, by which the loss changes to first order."""
    return math.fsum(
        float((gradient.to_dense().double() * (after.detach().double() - before.double())).sum())
        for gradient, before, after in zip(gradients, start, end, strict=True)
        if gradient is not None
    )


def _crossing(
    raises: Callable[[float], bool], rate: float, factor: float, tolerance: float
) -> float:
    """Where `raises` turns from False to True, to the middle of a narrow enough bracket."""
    low, high = 0.0, math.inf
    least, most = rate / FARTHEST, rate * FARTHEST
    while least <= rate <= most and not (low and high < math.inf):
        if raises(rate):
            high = rate
            rate /= factor
        else:
            low = rate
            rate *= factor
        factor = min(factor**2, LARGEST)
    if not low or high == math.inf:
        return low and high
    while high > low * (1 + tolerance) * (1 + 1e-12):  # not once more for a rounding
        middle = math.sqrt(low * high)
        if raises(middle):
            high = middle
        else:
            low = middle
    return math.sqrt(low * high)


def _arguments(
    objective: Objective, pair: tuple[Any, Any], optimizer: Optimizer
) -> tuple[Any, ...]:
    """What the step takes: of CBLR the exact curvature, where the next step needs a new one."""
    if isinstance(optimizer, CBLR) and optimizer.due:
        return (hessian.diagonal(objective.model, objective.loss, pair, forward=objective.how),)
    return ()
