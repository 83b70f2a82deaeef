"""What the callbacks share: `sim.monitor` beside a loop that someone else runs."""

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
from torch import Tensor, nn
from torch.optim import Optimizer

from sim import _arguments
from sim._isolation import isolated
from sim._measurements.monitor import Monitor, monitor

MEASURES = ("noise_scale", "trace", "radius")
# Parts of a measure that are for the table; a logger has enough with the measure.
PARTS = ("gradient_covariance", "gradient_squared", "loss")


class Watch:
    """A monitor that begins when model and optimizer are known, and what it measured last."""

    def __init__(
        self,
        loss: Callable[[Any, Any], Tensor],
        data: Any,
        every: int,
        measure: Iterable[str],
        options: dict[str, Any],
    ) -> None:
        if not callable(loss):
            raise TypeError(f"loss: got {type(loss).__name__}; give a function of (output, target)")
        self.loss, self.data = loss, data
        self.every = _arguments.integer("every", every, 1)
        self.measure = measure if isinstance(measure, str) else tuple(measure)
        self.options = options
        self.monitor: Monitor | None = None

    def begin(self, model: nn.Module, optimizer: Any, loader: Any, step: int) -> None:
        """Watch a model from this step on; `loader` gives the data where the user gave none."""
        with isolated():
            data = next(iter(loader)) if self.data is None else self.data
        self.monitor = monitor(
            model, self.loss, data, bare(optimizer), every=self.every, measure=self.measure,
            **self.options,
        )  # fmt: skip
        self.monitor.steps = step

    def step(self, step: int) -> dict[str, float]:
        """What is measured at a step of training: name → value; nothing where it is no turn."""
        if self.monitor is None or step <= self.monitor.steps:
            return {}
        self.monitor.steps = step - 1
        if not self.monitor.step():
            return {}
        table = self.monitor.table()
        now = table[(table.step == step) & ~table.measure.isin(PARTS)]
        values = zip(now.measure, now.layer, now.value, strict=True)
        return {
            f"curvature/{measure}" + (f"/{layer}" if isinstance(layer, str) else ""): float(value)
            for measure, layer, value in values
        }

    def table(self) -> pd.DataFrame:
        """As `sim.Monitor.table`; empty before training."""
        if self.monitor is None:
            return pd.DataFrame(columns=["step", "measure", "layer", "value"])
        return self.monitor.table()


def bare(optimizer: Any) -> Optimizer:
    """The optimizer inside of what Lightning and accelerate wrap it in."""
    inner = getattr(optimizer, "optimizer", optimizer)
    wrapped: Optimizer = inner if isinstance(inner, Optimizer) else optimizer
    return wrapped
