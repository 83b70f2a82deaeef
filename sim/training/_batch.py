"""One batch: the losses of its samples, what each counts for, and the gradient."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hessian
from sim.training import _losses
from sim.training._config import TrainConfig
from sim.training._network import Network
from sim.training._world import World

# Streams of random numbers beside each other: every draw of a run comes from
# (order seed, stream, number), so that nothing has to be stored to go on.
ORDER, MASKS, DISCARD, ENTRIES, HELD_OUT = range(5)


@dataclass(frozen=True)
class Batch:
    """The samples of one step, of all lanes, and where the step stands.

    Attributes:
        x, y: `[lanes, n, …]` and `[lanes, n]`, this process's share.
        n: the size of the whole batch.
        step, epoch: their numbers.
    """

    x: Tensor
    y: Tensor
    n: int
    step: int
    epoch: int


@dataclass(frozen=True)
class Found:
    """What a gradient brings along; the gradient itself is in `.grad`.

    Attributes:
        losses: `[lanes, n]`, this process's share, before the step.
        weights: what each counts for in the objective, or the one number for all.
        correct: `[lanes]`, how many of the share were classified rightly.
    """

    losses: Tensor
    weights: Tensor | float
    correct: Tensor

    @property
    def objective(self) -> Tensor:
        """Σ_i a_i ℓ_i over the share, `[lanes]`."""
        return (self.losses * self.weights).sum(-1)


class Gradient:
    """The gradient of a batch's objective, in parts where the batch is to be taken in parts."""

    def __init__(self, configs: list[TrainConfig], network: Network, world: World) -> None:
        self.config = configs[0]
        self.network = network
        self.world = world
        self.seeds = [order_seed(each) for each in configs]
        self.per_sample = _losses.per_sample(self.config.loss, self.config.loss_options)

    def losses(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Losses `[lanes, n]` and outputs `[lanes, n, C]` of all samples at one go."""
        output = self.network(x)
        flat = self.per_sample(output.flatten(0, 1), y.flatten())
        return flat.view_as(y), output

    def __call__(self, batch: Batch) -> Found:
        """Put the gradient into `.grad`, summed over all processes."""
        discard = self.config.discard
        active = discard is not None and discard.active(batch.epoch)
        pieces = list(self.parts(batch.y.shape[1]))
        whole = len(pieces) == 1 and self.world.size == 1
        weights: Tensor | float = 1 / batch.n
        if active and not whole:
            # The ranks are those in the whole batch, so all losses come first.
            with torch.no_grad(), self.network.buffers_kept():
                weights = self._weights(batch, self.all_losses(batch))
        for parameter in self.network.parameters:
            parameter.grad = None
        self._reseed(batch)
        losses, correct = [], []
        for part in pieces:
            values, output = self.losses(batch.x[:, part], batch.y[:, part])
            if active and whole:
                weights = self._weights(batch, values.detach())
            share = weights[:, part] if isinstance(weights, Tensor) else weights
            (values * share).sum().backward()
            losses.append(values.detach())
            right = output.detach().argmax(-1) == batch.y[:, part]
            correct.append(right.sum(-1))
        gradients = [p.grad for p in self.network.parameters if p.grad is not None]
        self.world.sum(gradients)
        chosen = self.config.discard_gradients
        if chosen is not None and chosen.active(batch.epoch):
            self._thin(chosen, batch.step)
        return Found(torch.cat(losses, 1), weights, torch.stack(correct).sum(0))

    def all_losses(self, batch: Batch) -> Tensor:
        """The share's losses with the masks that the gradient has, without a graph."""
        self._reseed(batch)
        parts = self.parts(batch.y.shape[1])
        return torch.cat([self.losses(batch.x[:, p], batch.y[:, p])[0] for p in parts], 1)

    def curvature(self, batch: Batch, weights: Tensor | float) -> hessian.Diagonal:
        """The exact diagonal of the Hessian of the same objective, with the same masks."""
        x, y, a = batch.x[0], batch.y[0], weights
        values = a[0] if isinstance(a, Tensor) else torch.full_like(y, a, dtype=x.dtype)
        limit = self.config.curvature_of
        if limit is not None and limit < batch.n:
            kept = max(0, min(len(y), limit - self.world.share(batch.n).start))
            x, y, values = x[:kept], y[:kept], values[:kept]
            total = torch.full((1,), float(values.sum()), device=x.device, dtype=x.dtype)
            self.world.sum([total])
            values = values / total
        pairs = [(x[p], (y[p], values[p])) for p in self.parts(len(y))]

        def loss(output: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
            return (self.per_sample(output, target[0]) * target[1]).sum()

        self._reseed(batch)
        found = hessian.diagonal(self.network.model, loss, pairs, weight="sum")
        self.world.sum([*found.values()])
        return found

    def parts(self, n: int) -> Iterator[slice]:
        """The share of n samples, cut where it is larger than a micro-batch."""
        size = self.config.micro_batch or n
        for start in range(0, n, size):
            yield slice(start, min(n, start + size))

    def _reseed(self, batch: Batch) -> None:
        self.network.reseed(self.seeds[0], MASKS, batch.step, self.world.rank)

    def _weights(self, batch: Batch, losses: Tensor) -> Tensor:
        discard = self.config.discard
        assert discard is not None
        whole = self.world.gather(losses, batch.n)
        scores = None
        if discard.kind == "random":
            drawn = [
                np.random.default_rng([seed, DISCARD, batch.step]).random(batch.n)
                for seed in self.seeds
            ]
            scores = torch.from_numpy(np.stack(drawn)).to(losses)
        return discard.weights(whole, scores)[:, self.world.share(batch.n)]

    def _thin(self, chosen: Any, step: int) -> None:
        network = self.network
        for lane, seed in enumerate(self.seeds):
            generator = torch.Generator(network.parameters[0].device)
            if chosen.kind == "random":
                word = np.random.SeedSequence([seed, ENTRIES, step]).generate_state(1, np.uint64)
                generator.manual_seed(int(word[0]) >> 1)

            def random(like: Tensor, generator: torch.Generator = generator) -> Tensor:
                return torch.rand(
                    like.shape, generator=generator, device=like.device, dtype=like.dtype
                )

            gradients = [p.grad for p in network.parameters if p.grad is not None]
            chosen.apply([network.lane(g, lane) for g in gradients], random)


def order_seed(config: TrainConfig) -> int:
    """The seed of all that is drawn in training."""
    return config.seed if config.order_seed is None else config.order_seed
