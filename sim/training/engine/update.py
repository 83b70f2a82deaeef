"""The optimizer's step on a gradient, with fresh curvature where the rule wants it."""

from torch.optim import Optimizer

from sim.optimizers import CBLR
from sim.training.config.train_config import TrainConfig
from sim.training.engine.batch import Batch, BatchLosses
from sim.training.engine.gradient import Gradient
from sim.training.engine.network import Network


class Update:
    """Takes steps.

    Args:
        config: of the run.
        network: whose gradients are there.
        gradient: of which the curvature is taken.
        optimizer: whose steps they are.

    Attributes:
        optimizer: the same.
        failed: whether the last step could not be taken, for curvature that is not finite.
    """

    def __init__(
        self, config: TrainConfig, network: Network, gradient: Gradient, optimizer: Optimizer
    ) -> None:
        self._config, self._network, self._gradient = config, network, gradient
        self.optimizer = optimizer
        self.failed = False

    def __call__(self, batch: Batch, losses: BatchLosses) -> bool:
        """Take the step on a batch; whether it could be taken."""
        if not isinstance(self.optimizer, CBLR):
            self._network.lend_gradients()
            self.optimizer.step()
            return True
        every_step = self._config.optimizer_options.get("refresh_interval") is None
        fresh = None
        if every_step or self.optimizer.due:
            try:
                fresh = self._gradient.curvature(batch, losses.weights)
                finite = all(bool(h.isfinite().all()) for h in fresh.values())
            except ValueError:
                # It is refused where the network's output is not finite, and not only there.
                known = [losses.losses, *self._network.parameters]
                if all(bool(values.isfinite().all()) for values in known):
                    raise
                finite = False
            if not finite:
                self.failed = True
                return False
        self.optimizer.step(fresh)
        return True
