"""The gradient noise scale, layer by layer, from the gradients of micro-batches."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hessian import devices, torch_private
from sim._measurements.per_sample import Objective
from sim._measurements.samples import count, rows
from sim.optimizers._rule import working


def noise_scale(
    objective: Objective,
    pair: tuple[Any, Any],
    parameters: Mapping[str, Tensor],
    micro_batches: int,
) -> dict[str, tuple[float, float]]:
    """Unbiased tr Σ and |G|² of every parameter, Σ the covariance of one sample's gradient.

    With G_i the mean gradient of micro-batch i of b_i samples, Ḡ that of all n, M their number,

        tr Σ = (Σ_i b_i |G_i|² - n |Ḡ|²) / (M - 1),    |G|² = |Ḡ|² - tr Σ / n

    The first is the mean square between groups, whose expectation is tr Σ whatever the sizes; with
    two sizes of batch, b and n, it is McCandlish et al. (2018), equations A.2. Their ratio is the
    simple noise scale: the batch size at which noise and gradient weigh the same. The samples of a
    micro-batch are drawn, the same ones every time: neighbours in the data may be of one class.

    Returns:
        Name → (tr Σ, |G|²); the sum over names is that of the whole network.
    """
    x, y = pair
    tensors = list(parameters.values())
    devices.check_float64("model", {p.device for p in tensors}, "squares are summed")
    total = [torch.zeros_like(p, dtype=working(p.dtype), requires_grad=False) for p in tensors]
    within = torch.zeros(len(tensors), dtype=torch.float64, device="cpu")
    samples = count(x)
    drawn = torch.Generator("cpu").manual_seed(0)
    parts = torch.randperm(samples, generator=drawn, device="cpu").tensor_split(micro_batches)
    for index in parts:
        value = objective.scalar(rows(x, index, samples), rows(y, index, samples))
        gradients = _gradients(value, tensors)
        within += len(index) * _squares(gradients)
        torch_private.foreach_add_(total, gradients, alpha=len(index) / samples)
    whole = _squares(total)
    trace = (within - samples * whole) / (len(parts) - 1)
    signal = whole - trace / samples
    return dict(zip(parameters, zip(trace.tolist(), signal.tolist(), strict=True), strict=True))


def _gradients(value: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    if not value.requires_grad:
        return [torch.zeros_like(tensor) for tensor in tensors]
    gradients = torch.autograd.grad(value, tensors, **options)
    # Of an embedding they may be sparse.
    return [g if g.layout is torch.strided else g.to_dense() for g in gradients]


def _squares(tensors: list[Tensor]) -> Tensor:
    """|·|² of each, float64."""
    norms = torch_private.foreach_norm(tensors, 2, dtype=torch.float64)
    return torch.stack([norm.cpu() for norm in norms]).square()
