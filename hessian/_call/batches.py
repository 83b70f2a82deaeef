"""The batches of the user's data, each with the state that a plain loop would meet it in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from hessian._call import data as _data
from hessian._call import precision as _precision
from hessian._call.labelled import paired
from hessian._call.objective import Objective, Start
from hessian._call.precision import Mixed, current
from hessian._call.state import Randomness

T = TypeVar("T")


@dataclass
class Batch:
    """One batch of the user's data.

    `raw` is the pair as it came, `inputs` and `targets` are in the dtype of the computation;
    `a` is the batch's weight before normalisation.
    """

    index: int
    raw: _data.Batch
    inputs: Any
    targets: Any
    a: float
    start: Start
    objective: Objective
    end: Randomness | None = None

    @property
    def samples(self) -> int:
        """Number of samples in the batch."""
        return _data.size(self.inputs)

    def uniform(self, take: Callable[[], T]) -> T:
        """What `take` gives, in a higher precision where the user's code turns out to need one."""
        while True:
            try:
                return take()
            except Mixed as mixed:
                dtype = mixed.dtype
            # Beyond this block nothing holds the tape that was begun.
            self.start.rewind()
            self.objective.hold(dtype)
            self.inputs, self.targets = (_data.convert(v, current()) for v in self.raw)
            self.end = None
            self.start.rewind()

    def value(self) -> Tensor:
        """The loss, on a tape that connects it with the parameters; the same at every call."""
        self.start.rewind()
        _, value = self.objective.value(self.inputs, self.targets, self.index)
        if self.end is None:
            self.end = Randomness(self.objective.devices())
        return value


def walk(
    objective: Objective, data: Any, dtype: torch.dtype | None, weight: _data.Weight
) -> Iterator[Batch]:
    """The batches of `data`, each with the random state a plain loop would meet it in."""
    for index, item in enumerate(_data.batches(data)):
        inputs, targets = paired(item, objective.model, objective.forward is not None)
        if current() is None and any(map(_precision.half, _data.tensors(inputs))):
            objective.hold(torch.float32)
        x, y = (_data.convert(v, current()) for v in (inputs, targets))
        a = _data.batch_weight(weight, item, _data.size(x))
        batch = Batch(index, (inputs, targets), x, y, a, Start(objective), objective)
        yield batch
        batch.start.rewind(batch.end)


def scale(items: list[float], weight: _data.Weight) -> float:
    """The factor that turns Σ a_b loss_b into L, given the a_b."""
    return 1.0 / sum(items) if weight is None else 1.0
