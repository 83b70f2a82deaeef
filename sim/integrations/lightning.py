"""Curvature beside Lightning's training, in its loggers."""

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
from torch import Tensor

from hessian._runtime.extras import extra
from sim.integrations._watch import MEASURES, Watch

with extra("integrations", __name__):
    from lightning.pytorch import Callback


class CurvatureMonitor(Callback):
    """Traces, radii and noise scale by layer, every so many steps, to the trainer's loggers.

    As `sim.monitor` has it: all is measured on the same samples, and training with it is training
    without it, bit for bit. What is logged is called `curvature/trace` for the whole network and
    `curvature/trace/net.0` for a layer; `table()` has it all.

    Args:
        loss: `loss(output, target)`, a mean over samples.
        data: the samples, in any form that `hessian.diagonal` takes; `None` for the first batch of
            the training loader.
        every: steps of the optimizer from one measurement to the next.
        measure: names of `sim.monitor`.
        network: the submodule to watch, by name; all of the LightningModule by default.
        options: of `sim.monitor`: `micro_batches`, `evaluation`, `memory`, `forward`, …

    Raises:
        TypeError, ValueError: as `sim.monitor`, at the start of training.
        ModuleNotFoundError: Lightning is not installed.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from torch.nn.functional import cross_entropy
        >>> callback = CurvatureMonitor(cross_entropy, every=100)
        >>> trainer = Trainer(callbacks=[callback], logger=False, enable_checkpointing=False,
        ...                   accelerator="cpu", devices=1)
    """

    def __init__(
        self,
        loss: Callable[[Any, Any], Tensor],
        data: Any = None,
        *,
        every: int = 50,
        measure: Iterable[str] = MEASURES,
        network: str = "",
        **options: Any,
    ) -> None:
        self.network = network
        self._watch = Watch(loss, data, every, measure, options)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin, now that model, optimizer and data are there."""
        model = pl_module.get_submodule(self.network)
        loader = trainer.train_dataloader
        self._watch.begin(model, trainer.optimizers[0], loader, trainer.global_step)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Measure where an optimizer has stepped and it is time."""
        values = self._watch.step(trainer.global_step)
        if values:
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)

    def table(self) -> pd.DataFrame:
        """As `sim.Monitor.table`."""
        return self._watch.table()
