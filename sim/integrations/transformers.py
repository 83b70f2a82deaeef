"""Curvature beside the training of Hugging Face's Trainer, in its logs."""

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
from torch import Tensor

import hessian
from hessian._runtime.extras import extra
from sim.integrations._watch import MEASURES, Watch

with extra("integrations", __name__):
    from transformers import TrainerCallback


class CurvatureMonitor(TrainerCallback):
    """Traces, radii and noise scale by layer, every so many steps, to the Trainer's logs.

    As `sim.monitor` has it: all is measured on the same samples, and training with it is training
    without it, bit for bit. What is logged is called `curvature/trace` for the whole network and
    `curvature/trace/classifier` for a layer; `table()` has it all. A Trainer does not show itself
    to its callbacks: `CurvatureMonitor(…).attach(trainer)` logs to wherever the Trainer reports;
    given as `callbacks=[…]` it writes to the Trainer's `state.log_history` alone.

    Args:
        loss: `loss(output, target)`, a mean over samples.
        data: the samples, in any form that `hessian.diagonal` takes; `None` for the first batch of
            the training loader.
        every: steps of the optimizer from one measurement to the next.
        measure: names of `sim.monitor`.
        options: of `sim.monitor`: `micro_batches`, `evaluation`, `memory`, `forward`, …

    Raises:
        TypeError, ValueError: as `sim.monitor`, at the start of training.
        ModuleNotFoundError: transformers is not installed.

    Example:
        >>> callback = CurvatureMonitor(every=100, measure=["trace"])
        >>> callback.table().empty
        True
    """

    def __init__(
        self,
        loss: Callable[[Any, Any], Tensor] | None = None,
        data: Any = None,
        *,
        every: int = 50,
        measure: Iterable[str] = MEASURES,
        **options: Any,
    ) -> None:
        self._watch = Watch(loss or hessian.on_logits(), data, every, measure, options)
        self._log: Callable[[dict[str, float]], None] | None = None

    def attach(self, trainer: Any) -> "CurvatureMonitor":
        """Add it to a Trainer, and log by it."""
        trainer.add_callback(self)
        self._log = trainer.log
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **around: Any) -> None:
        """Begin, now that model, optimizer and data are there."""
        loader, optimizer = around["train_dataloader"], around["optimizer"]
        self._watch.begin(around["model"], optimizer, loader, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **around: Any) -> None:
        """Measure if it is time."""
        values = self._watch.step(state.global_step)
        if not values:
            return
        if self._log is not None:
            self._log(values)
        else:
            state.log_history.append({**values, "step": state.global_step})

    def table(self) -> pd.DataFrame:
        """As `sim.Monitor.table`."""
        return self._watch.table()
