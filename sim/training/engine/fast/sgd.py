"""The step of SGD without what `torch.optim` does around it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from hessian import torch_private
from sim.training.engine.fast.flat_parameters import FlatParameter

# Takes the step on a weight, its gradient and its momentum, or on a part of them.
SGDKernel = Callable[[Tensor, Tensor, Tensor | None], None]


def sgd_step(optimizer: Optimizer) -> SGDKernel | None:
    """The step of `torch.optim.SGD` on a weight, its gradient and its momentum, or a part of them.

    The kernel itself, entry by entry, so that a step can be taken part by part; and for a small
    network all else in `step` takes longer. `None` for another optimizer, before the first
    step, and where torch has no such kernel.
    """
    kernel = torch_private.fused_sgd
    if kernel is None or type(optimizer) is not torch.optim.SGD:
        return None
    (group,) = optimizer.param_groups
    momentum = group["momentum"]
    if momentum and any("momentum_buffer" not in optimizer.state[p] for p in group["params"]):
        return None

    def step(weight: Tensor, gradient: Tensor, buffer: Tensor | None) -> None:
        kernel(
            [weight],
            [gradient],
            [] if buffer is None else [buffer],
            weight_decay=group["weight_decay"],
            momentum=momentum,
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=False,
            is_first_step=False,
        )

    return step


def take(
    flat_parameters: Sequence[FlatParameter],
    optimizer: Optimizer,
    sgd: SGDKernel | None,
    update: Callable[[], bool],
) -> bool:
    """Take a whole step, by the kernel where there is one; whether it could be taken."""
    if sgd is None:
        return update()
    for flat in flat_parameters:
        if flat.leaf.grad is not None:
            buffer = optimizer.state[flat.leaf].get("momentum_buffer")
            sgd(flat.leaf.detach(), flat.leaf.grad, buffer)
    return True
