"""One batch: the losses of its samples, what each counts for, and the gradient."""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

import hessian
from sim.training.config.discard import Discard, DiscardGradients
from sim.training.config.losses import per_sample
from sim.training.config.train_config import TrainConfig
from sim.training.engine.batch import Batch, BatchLosses, predicted
from sim.training.engine.network import Network
from sim.training.engine.streams import DISCARD, ENTRIES, MASKS, order_seed
from sim.training.engine.synchronised import Synchronised
from sim.training.engine.world import World


class Gradient:
    """The gradient of a batch's objective, in parts where the batch is to be taken in parts."""

    def __init__(self, configs: list[TrainConfig], network: Network, world: World) -> None:
        self.config = configs[0]
        self.network = network
        self.world = world
        self.seeds = [order_seed(config) for config in configs]
        self.per_sample = per_sample(self.config.loss, self.config.loss_options)
        self._ones: Tensor | None = None
        self._n = 0
        self.synchronised: Synchronised | None = None
        if self.config.batch_norm == "synchronised":
            self.synchronised = Synchronised(network.model, world)

    def losses(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Losses `[lanes, n]` and outputs (as the network's) of all samples at one go."""
        output = self.network(x)
        target = y if self.network.lanes > 1 else y[0]
        return self.per_sample(output, target).view_as(y), output

    def __call__(self, batch: Batch) -> BatchLosses:
        """Put the gradient into `.grad`, summed over all processes."""
        for parameter in self.network.parameters:
            parameter.grad = None
        parts = self.parts(batch.y.shape[1])
        whole = len(parts) == 1 and self.world.size == 1
        losses = self._at_once(batch) if whole else self._in_parts(batch, parts)
        self.world.sum([p.grad for p in self.network.parameters if p.grad is not None])
        chosen = self.config.discard_gradients
        if chosen is not None and chosen.active(batch.epoch):
            self._thin(chosen, batch.step)
        return losses

    def _at_once(self, batch: Batch) -> BatchLosses:
        with self._masks(batch, 0):
            losses, output = self.losses(batch.x, batch.y)
        values = losses.detach()
        weights, discard = self._even(batch), self._discard(batch)
        if discard is not None:
            weights = self._weights(discard, batch, values)
        # The gradient of Σ_i a_i ℓ_i, without a node for the sum.
        losses.backward(weights)
        return BatchLosses(
            values, None if discard is None else weights, _right(output, batch.y, values)
        )

    def _even(self, batch: Batch) -> Tensor:
        """The weights of a plain mean, kept for the next batch of the size."""
        if self._ones is None or self._ones.shape != batch.y.shape or self._n != batch.n:
            self._n = batch.n
            self._ones = torch.full_like(batch.y, 1 / batch.n, dtype=self.network.dtype)
        return self._ones

    def _in_parts(self, batch: Batch, parts: list[slice]) -> BatchLosses:
        """The gradient summed over the parts, and the losses of all of them together."""
        weights, discard = self._even(batch), self._discard(batch)
        losses: dict[int, Tensor] = {}
        correct: dict[int, Tensor] = {}

        def objective(part: slice) -> Tensor:
            values, output = self._part(batch, part)
            losses[part.start] = values.detach()
            correct[part.start] = _right(output, batch.y[:, part], values)
            return (values * weights[:, part]).sum()

        with self._statistics(batch, parts):
            if discard is not None:
                # The ranks are those in the whole batch, so all losses come first.
                with torch.no_grad(), self.network.buffers_kept():
                    weights = self._weights(discard, batch, self._losses_of(batch, parts))
            if self.synchronised is not None:
                self.synchronised.backward(objective, parts)
            else:
                for part in parts:
                    objective(part).backward()
        together = torch.cat([losses[part.start] for part in parts], 1)
        right = torch.stack(list(correct.values())).sum(0)
        return BatchLosses(together, None if discard is None else weights, right)

    @torch.no_grad()
    def all_losses(self, batch: Batch) -> Tensor:
        """The share's losses with the masks that the gradient has; buffers are left alone."""
        parts = self.parts(batch.y.shape[1])
        with self.network.buffers_kept(), self._statistics(batch, parts):
            return self._losses_of(batch, parts)

    def _losses_of(self, batch: Batch, parts: list[slice]) -> Tensor:
        return torch.cat([self._part(batch, part)[0] for part in parts], 1)

    def _part(self, batch: Batch, part: slice) -> tuple[Tensor, Tensor]:
        y = batch.y[:, part].contiguous()
        with self._masks(batch, part.start):
            return self.losses(batch.x[:, part], y)

    def _statistics(self, batch: Batch, parts: list[slice]) -> AbstractContextManager[None]:
        """Batch norm over all parts together, where that is wanted and there are several."""
        if self.synchronised is None or (len(parts) == 1 and self.world.size == 1):
            return nullcontext()
        return self.synchronised.measured(lambda part: self._part(batch, part), parts)

    def objective(self, batch: Batch, losses: Tensor, weights: Tensor | None) -> Tensor:
        """Σ_i a_i ℓ_i over this process's share, `[lanes]`."""
        return (losses * (self._even(batch) if weights is None else weights)).sum(-1)

    def curvature(self, batch: Batch, weights: Tensor | None) -> dict[str, Tensor]:
        """The exact diagonal of the Hessian of the same objective, with the same masks."""
        x, y = batch.x[0], batch.y[0]
        values = (self._even(batch) if weights is None else weights)[0]
        limit = self.config.curvature_of
        if limit is not None and limit < batch.n:
            count = max(0, min(len(y), limit - self.world.share(batch.n).start))
            x, y, values = x[:count], y[:count], values[:count]
            total = values.sum().reshape(1)
            self.world.sum([total])
            values = values / total

        def loss(output: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
            return (self.per_sample(output, target[0]) * target[1]).sum()

        h = {
            name: torch.zeros_like(parameter, requires_grad=False)
            for name, parameter in self.network.model.named_parameters()
        }
        for part in self.parts(len(y)):
            pair = x[part], (y[part], values[part])
            with self._masks(batch, part.start):
                diagonal = hessian.diagonal(self.network.model, loss, pair)
            for name, value in diagonal.items():
                h[name] += value
        self.world.sum(h.values())
        return h

    def parts(self, n: int) -> list[slice]:
        """The share of n samples, cut where it is larger than a micro-batch."""
        size = self.config.micro_batch or max(1, n)
        return [slice(start, min(n, start + size)) for start in range(0, n, size)]

    def _discard(self, batch: Batch) -> Discard | None:
        """What leaves samples of this batch out, if anything does."""
        discard = self.config.discard
        return discard if discard is not None and discard.active(batch.epoch) else None

    def _masks(self, batch: Batch, start: int) -> AbstractContextManager[None]:
        return self.network.masks(self.seeds[0], MASKS, batch.step, self.world.rank, start)

    def _weights(self, discard: Discard, batch: Batch, losses: Tensor) -> Tensor:
        """What each sample of this process's share counts for in the objective."""
        whole = self.world.gather(losses, batch.n)
        scores = None
        if discard.kind == "random":
            drawn = [
                np.random.default_rng([seed, DISCARD, batch.step]).random(batch.n)
                for seed in self.seeds
            ]
            scores = torch.from_numpy(np.stack(drawn)).to(losses)
        return discard.weights(whole, scores)[:, self.world.share(batch.n)]

    def _thin(self, chosen: DiscardGradients, step: int) -> None:
        """Set entries of every lane's gradient to zero."""
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


def _right(output: Tensor, y: Tensor, like: Tensor) -> Tensor:
    """How many of each lane's samples have the largest output in the right place, `[lanes]`."""
    return (predicted(output.detach()) == y).sum(-1, dtype=like.dtype)
