"""Batch norm over a whole batch that goes through the network in parts.

The statistics s_k of batch norm k depend on all samples. With them as variables of their own, the
objective is L(θ, s_1 … s_K) with s_k = S_k(θ, s_1 … s_{k-1}), and both L and S_k are sums over the
samples, so that parts add up. The total derivative is that of

    L + Σ_k λ_k·S_k  with respect to θ,  where  λ_k = ∂(L + Σ_{j>k} λ_j·S_j)/∂s_k

(the adjoint method): a sweep over the parts for each S_k, one for each λ_k, and one for θ. The
memory is that of one part. The time grows with the number of batch norms, which is the price.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hessian import torch_private
from sim.training.engine.world import World

Part = slice


class _Reached(Exception):
    """The batch norm whose statistics are wanted has seen its input."""


class SynchronisedBatchNorm(nn.Module):
    """Takes a batch norm's place, with its tensors under their names."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: Any, book: "Synchronised") -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)
        self.eps, self.momentum = norm.eps, float(norm.momentum or 0.0)
        self._book = [book]  # in a list, or the book's model would be a submodule

    def forward(self, x: Tensor) -> Tensor:
        """The normalised input: by running, the batch's own, or given statistics."""
        if self.training and self._book[0].active:
            return self._book[0].normalise(self, x)
        if self.training:
            self.num_batches_tracked += 1
        running = (self.running_mean, self.running_var)
        return F.batch_norm(
            x, *running, self.weight, self.bias, self.training, self.momentum, self.eps
        )


class Synchronised:
    """Statistics and gradients of whole batches for a network with batch norm.

    Args:
        model: its batch norms are replaced.
        world: the processes that share a batch.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self.model, self.world = model, world
        self.active = False
        self._fixed: dict[SynchronisedBatchNorm, tuple[Tensor, Tensor]] = {}
        self._counts: dict[SynchronisedBatchNorm, float] = {}
        self._dual: dict[SynchronisedBatchNorm, tuple[Tensor, Tensor]] = {}
        self._seen: list[tuple[SynchronisedBatchNorm, Tensor]] = []
        self._terms: list[Tensor] = []
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if isinstance(child, torch_private.BatchNorm):
                    setattr(parent, name, SynchronisedBatchNorm(child, self))

    @contextmanager
    def measured(self, forward: Callable[[Part], object], parts: Sequence[Part]) -> Iterator[None]:
        """Inside, batch norms use the statistics of all parts together, held fixed."""
        self.active = True
        try:
            self._statistics(forward, parts)
            yield
        finally:
            self.active = False
            for statistics in (self._fixed, self._counts, self._dual):
                statistics.clear()

    def backward(self, objective: Callable[[Part], Tensor], parts: Sequence[Part]) -> None:
        """Add the gradient of Σ_parts objective(part) to `.grad`, and update the running values.

        To be called inside `measured`. The gradient is this process's part of the sum.
        """
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in parameters:
            parameter.requires_grad_(False)
        for norm in reversed(list(self._fixed)):
            fixed = self._fixed[norm]
            leaves = tuple(statistic.clone().requires_grad_() for statistic in fixed)
            self._fixed[norm] = (leaves[0], leaves[1])
            total = [torch.zeros_like(statistic) for statistic in fixed]
            for part in parts:
                for derivative, addend in zip(
                    total,
                    torch.autograd.grad(self._with_terms(objective, part), leaves),
                    strict=True,
                ):
                    derivative += addend
            self._fixed[norm] = fixed
            self.world.sum(total)
            self._dual[norm] = (total[0], total[1])
        for parameter in parameters:
            parameter.requires_grad_(True)
        for part in parts:
            self._with_terms(objective, part).backward()
        self._update_running()

    def normalise(self, norm: SynchronisedBatchNorm, x: Tensor) -> Tensor:
        """The layer's output; its input is looked at on the way."""
        if norm not in self._fixed:
            self._seen.append((norm, x))
            raise _Reached
        mean, variance = self._fixed[norm]
        shape = (1, -1) + (1,) * (x.dim() - 2)
        dims = (0, *range(2, x.dim()))
        if norm in self._dual:
            # S_k as a sum over samples; dv/dm is 0 at the mean, so m is a constant in v.
            dual_mean, dual_variance = self._dual[norm]
            square = (x - mean.detach().view(shape)) ** 2
            both = dual_mean @ x.sum(dims) + dual_variance @ square.sum(dims)
            self._terms.append(both / self._counts[norm])
        scale = norm.weight * (variance + norm.eps).rsqrt()
        normalised: Tensor = (x - mean.view(shape)) * scale.view(shape) + norm.bias.view(shape)
        return normalised

    def _with_terms(self, objective: Callable[[Part], Tensor], part: Part) -> Tensor:
        self._terms = []
        value = objective(part)
        return value + sum(self._terms, value.new_zeros(()))

    @torch.no_grad()
    def _statistics(self, forward: Callable[[Part], object], parts: Sequence[Part]) -> None:
        """Mean and variance of every batch norm's input, from the first to the last."""
        while True:
            moments: list[tuple[float, Tensor, Tensor]] = []
            for part in parts:
                self._seen = []
                try:
                    forward(part)
                    return
                except _Reached:
                    ((norm, x),) = self._seen
                dims = (0, *range(2, x.dim()))
                count = x.numel() / x.shape[1]
                variance, mean = torch.var_mean(x, dims, correction=0)
                moments.append((count, mean, variance * count))
            # The moments of the parts, then of the processes, put together without cancellation.
            counts = moments[0][1].new_tensor([count for count, _, _ in moments])
            means = torch.stack([mean for _, mean, _ in moments])
            total, weighted = counts.sum().reshape(1), counts @ means
            self.world.sum([total, weighted])
            mean = weighted / total
            square = torch.stack([s for _, _, s in moments]).sum(0)
            square += counts @ (means - mean) ** 2
            self.world.sum([square])
            self._fixed[norm] = (mean, square / total)
            self._counts[norm] = float(total)

    @torch.no_grad()
    def _update_running(self) -> None:
        for norm, (mean, variance) in self._fixed.items():
            count = self._counts[norm]
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (count / max(1.0, count - 1)), norm.momentum)
            norm.num_batches_tracked += 1
