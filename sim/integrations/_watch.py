"""What the callbacks share: `sim.monitor` beside a loop that someone else runs."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Sampler

from sim import _arguments
from sim._isolation import isolated
from sim._measurements.monitor import Monitor, monitor
from sim._measurements.monitored.state import as_found

MEASURES = ("noise_scale", "trace", "radius")
# Parts of a measure that are for the table; a logger has enough with the measure.
PARTS = ("gradient_covariance", "gradient_squared", "loss")
# What of a loader holds samples, and its longest list that may hold other loaders.
HOLDERS = {"dataset", "data_source"}
LOADERS = 64


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
        data = first_batch(loader) if self.data is None else self.data
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


def first_batch(loader: Any) -> Any:
    """The first batch of a training loader, which goes on as if nobody had asked.

    Raises:
        ValueError: it holds none, or can be gone through only once.
    """
    with isolated(), as_found([], set()):
        restores = [restore for part in _parts(loader) if (restore := _restore(part)) is not None]
        try:
            batches = iter(loader)
            if batches is loader:
                raise ValueError(
                    f"data: got None, and the training loader is a {type(loader).__name__}, whose "
                    "first batch would be lost to training; give the samples as data="
                )
            for batch in batches:
                return batch
        finally:
            for restore in restores:
                restore()
    raise ValueError("data: got None, and the training loader holds no batch; give the samples")


def _parts(loader: Any) -> Iterator[Any]:
    """Loaders and samplers of which a loader is made, and what they hold beside samples."""
    parts, seen = [loader], set()
    while parts:
        part = parts.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, Mapping):
            parts += part.values()
        elif isinstance(part, list | tuple) and len(part) <= LOADERS:
            parts += part
        elif part is loader or isinstance(part, DataLoader | Sampler):
            parts += [v for name, v in getattr(part, "__dict__", {}).items() if name not in HOLDERS]


def _restore(part: Any) -> Callable[[], Any] | None:
    """A function that puts a source of random numbers back where it is now."""
    if isinstance(part, torch.Generator):
        return partial(part.set_state, part.get_state())
    if isinstance(part, np.random.Generator):
        return partial(setattr, part.bit_generator, "state", part.bit_generator.state)
    if isinstance(part, np.random.RandomState):
        return partial(part.set_state, part.get_state())
    if isinstance(part, random.Random):
        return partial(part.setstate, part.getstate())
    return None


def bare(optimizer: Any) -> Optimizer:
    """The optimizer inside of what Lightning and accelerate wrap it in."""
    inner = getattr(optimizer, "optimizer", optimizer)
    wrapped: Optimizer = inner if isinstance(inner, Optimizer) else optimizer
    return wrapped
