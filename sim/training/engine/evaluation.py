"""What is measured of a network between its steps: losses, accuracy, curvature."""

from typing import Any

import torch
from torch import Tensor

from hessian import devices
from sim.training.config.train_config import TrainConfig
from sim.training.engine.batch import Batch, BatchLosses, Pair, predicted
from sim.training.engine.curvature import curvature
from sim.training.engine.gradient import Gradient
from sim.training.engine.network import Network
from sim.training.engine.samples import Samples
from sim.training.engine.world import World

# Samples of the test split that go through the network at a time, all lanes together, but at least
# so many of each.
TESTED = 1024
LEAST_TESTED = 32


class Evaluation:
    """Measures a network on a batch, on held-out samples and on the test split."""

    def __init__(
        self,
        config: TrainConfig,
        network: Network,
        gradient: Gradient,
        samples: Samples,
        world: World,
    ) -> None:
        self._measure = config.measure
        self._network, self._gradient = network, gradient
        self._samples, self._world = samples, world

    @torch.no_grad()
    def mean_loss(self, pair: Pair, step: int) -> Tensor:
        """`[lanes]`, in training mode, with the same masks before and after a step."""
        x, y = pair
        return self._gradient.all_losses(Batch(x, y, y.shape[1], step, 0)).mean(-1)

    @torch.no_grad()
    def objective(self, batch: Batch, losses: BatchLosses) -> Tensor:
        """Of the whole batch, by the weights of the given losses, `[lanes]`."""
        values = self._gradient.all_losses(batch)
        value = self._gradient.objective(batch, values, losses.weights)
        self._world.sum([value])
        return value

    def curvature(self, step: int) -> list[dict[str, Any]]:
        """A row for each parameter tensor; none where the loss is not finite."""
        pair = self._samples.fixed(self._measure.curvature_samples)
        try:
            return curvature(self._network, self._gradient.per_sample, pair, step)
        except ValueError:
            # Of a network whose loss is not finite there is none; the loss itself ends the run.
            if all(bool(p.isfinite().all()) for p in self._network.parameters):
                raise
            return []

    @torch.no_grad()
    def test(self) -> dict[str, Tensor]:
        """Loss and accuracy on the test split, in evaluation mode, `[lanes]` each."""
        network, data = self._network, self._samples.test
        device = data.targets.device
        sums = torch.zeros(2, network.lanes, device=device, dtype=devices.widest(device))
        share = self._world.share(len(data))
        with network.evaluating():
            size = max(LEAST_TESTED, TESTED // network.lanes)
            for start in range(share.start, share.stop, size):
                rows = torch.arange(start, min(share.stop, start + size), device=device)
                x, y = self._samples.take(data, rows.repeat(network.lanes, 1))
                losses, output = self._gradient.losses(x, y)
                sums[0] += losses.sum(-1)
                sums[1] += (predicted(output) == y).sum(-1)
        self._world.sum([sums])
        loss, accuracy = sums / len(data)
        return {"test_loss": loss, "test_accuracy": accuracy}
