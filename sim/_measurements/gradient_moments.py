"""The moments of the per-sample gradients of one parameter (equation 1)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sim import _arguments
from sim._measurements.per_sample import (
    Loss,
    Objective,
    outer_product,
    per_sample_gradients,
    trained_parameter,
)
from sim._measurements.samples import (
    Forward,
    all_samples,
    chunks,
    count,
    dropout_switched,
    progress_bar,
    seeded_anew,
)
from sim._measurements.separable import check_separable

# Bytes beyond the model and the data, and samples that go through the network at a time.
WORKING_SET = 256 * 2**20
CHUNK = 256


@dataclass(frozen=True, eq=False)
class GradientMoments:
    """The first two moments of a parameter's per-sample gradient: what `gradient_moments` returns.

    Attributes:
        parameter: its name.
        mean: μ, in the parameter's shape.
        std: σ with divisor N, in the parameter's shape.
        samples: N.
        passes: how often the data was gone through, each time with fresh dropout masks.
        mask_std: the part of σ that is due to the masks: the root of the mean over the samples of
            a sample's own variance over masks; σ² - mask_std² is the variance between samples.
            `None` after a single pass, which cannot tell.

    >>> GradientMoments("weight", torch.zeros(2), torch.ones(2), samples=8).passes
    1
    """

    parameter: str
    mean: Tensor
    std: Tensor
    samples: int
    passes: int = 1
    mask_std: Tensor | None = None


def gradient_moments(
    model: nn.Module,
    loss: Loss,
    data: Any,
    parameter: str,
    *,
    dropout: bool | None = None,
    passes: int = 1,
    seed: int = 0,
    memory: int | None = None,
    forward: Forward | None = None,
    progress: bool = False,
) -> GradientMoments:
    """Mean μ and standard deviation σ of every entry's gradient over the samples (equation 1).

    With g_i the gradient of ℓ_i, the loss of sample i alone, μ = Σ_i g_i / N and
    σ² = Σ_i (g_i - μ)² / N, entry by entry. For the weight of a linear layer that is called once,
    on `[N, d]`, g_i is an outer product δ_i a_iᵀ, and both come from two matrix products; every
    other parameter takes its per-sample gradients from `torch.func.vmap`, some samples at a time.

    Args:
        model: any module whose samples do not see each other.
        loss: `loss(output, target)`, a mean over the samples.
        data: as for `hessian.diagonal`, mappings with the targets inside included, or a
            `sim.data.Dataset`.
        parameter: a name from `model.named_parameters()`; see `sim.models.first_linear`.
        dropout: `True` or `False` switches the model's dropout modules on or off for the
            measurement, `None` leaves them as they stand. Where it is on, every sample of every
            pass has a mask of its own, and the moments are over samples and masks together.
        passes: how often to go through the data; of use with dropout only, where two passes or
            more tell the variance over masks from that over samples.
        seed: of the dropout masks.
        memory: bytes of working set beyond the model and the data (256 MiB).
        forward: ``forward(model, inputs)``, to call the model in another way, as for
            `hessian.diagonal`.
        progress: show progress on standard error.

    Returns:
        A `GradientMoments`, on the parameter's device, in its dtype. Sums run in float64.

    Raises:
        ValueError: an unknown parameter, empty data, a loss that is not the mean of the samples'
            losses (class weights, sum reduction), a model that couples samples (training-mode
            batch norm), a loss that is not finite.

    With ℓ = (w x - y)² at w = 1 the gradient is 2x(x - y): here 2 and -4.

    >>> line = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(line.weight, 1.0)
    >>> batch = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    >>> moments = gradient_moments(line, nn.MSELoss(), batch, "weight")
    >>> moments.mean.item(), moments.std.item(), moments.samples
    (-1.0, 3.0, 2)
    """
    passes = _arguments.integer("passes", passes, 1)
    seed = _arguments.integer("seed", seed, 0)
    memory = WORKING_SET if memory is None else _arguments.integer("memory", memory, 1)
    weight = trained_parameter(model, parameter)
    inputs, targets = all_samples(data, model, forward)
    total = count(inputs)
    objective = Objective(model, loss, forward)
    device = weight.device
    with (
        dropout_switched(model, dropout),
        seeded_anew(seed, device),
        progress_bar(progress, f"moments of {parameter}") as bar,
    ):
        advance = bar(passes * total)
        check_separable(objective, inputs, targets, device)
        factors = outer_product(objective, inputs, targets, parameter)
        first = torch.zeros_like(weight, dtype=torch.float64, requires_grad=False)
        second = torch.zeros_like(first)
        cross = torch.zeros_like(first) if passes > 1 else first
        chunk = CHUNK
        if factors is None:  # as many as their gradients fit, each once more in float64
            chunk = max(1, min(CHUNK, memory // (16 * max(1, weight.numel()))))
        for x, y in chunks(inputs, targets, chunk, device):
            last: tuple[Tensor, ...] | None = None
            for _ in range(passes):
                if factors is not None:
                    draw = tuple(f.double() for f in factors(x, y))
                else:
                    draw = (per_sample_gradients(objective, x, y, parameter).double(),)
                _accumulate(first, draw)
                _accumulate(second, draw, draw)
                if last is not None:
                    _accumulate(cross, draw, last)
                last = draw
                advance(count(x))
    mean, square = first.div_(passes * total), second.div_(passes * total)
    mask_std = None
    if passes > 1:
        # Two draws of one sample share nothing but its own mean: E g g' is that mean's square.
        cross.div_((passes - 1) * total).neg_().add_(square)
        mask_std = cross.clamp_(min=0).sqrt_().to(weight)
    std = square.addcmul_(mean, mean, value=-1).clamp_(min=0).sqrt_()
    return GradientMoments(parameter, mean.to(weight), std.to(weight), total, passes, mask_std)


def _accumulate(total: Tensor, *draws: tuple[Tensor, ...]) -> None:
    """Add Σ_i Π_k g_i^(k), where each draw is the gradients or their two factors."""
    parts = [math.prod(part[1:], start=part[0]) for part in zip(*draws, strict=True)]
    if len(parts) == 2:
        # In place: no further array of the parameter's size.
        total.addmm_(parts[0].T, parts[1])
    else:
        total += parts[0].sum(0)
