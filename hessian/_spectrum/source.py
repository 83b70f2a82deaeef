"""What products are taken of: a model, a loss and data, lent to them for as long as they go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn

from hessian._call import data as _data
from hessian._call.lending import lend
from hessian._call.objective import Objective
from hessian._call.state import Randomness
from hessian._call.thaw import Thaw, again, unfrozen
from hessian._runtime.ledger import Guard, alone, owe, settled
from hessian._runtime.progress import Ticker, ticker
from hessian._spectrum.products import Products
from hessian._tape.hidden import Firsts

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Arguments of `operator`, and the random state of the moment it was called."""

    model: nn.Module
    loss: _data.Loss
    data: Any
    forward: _data.Forward | None
    names: tuple[str, ...]
    memory: int | None
    dtype: torch.dtype | None
    weight: _data.Weight
    progress: bool
    kind: str
    start: Randomness
    firsts: Firsts

    def options(self) -> dict[str, Any]:
        """The arguments that `diagonal` and its like share."""
        return {
            "forward": self.forward, "names": self.names, "memory": self.memory,
            "dtype": self.dtype, "weight": self.weight, "progress": self.progress,
        }  # fmt: skip

    def of_names(self, names: Sequence[str]) -> Source:
        """The same for some of the parameters."""
        return replace(self, names=tuple(names))

    def lent(self, compute: Callable[[Products, Ticker], T], keep: bool, walks: bool = False) -> T:
        """What is computed with products, the model lent meanwhile and put back at the end.

        With `keep`, tapes are kept between products; with `walks`, progress counts batches.
        """

        def attempt() -> T:
            with Guard(), self._lend() as objective, ticker(self.progress) as bar:
                silent = Ticker()
                return compute(self._products(objective, bar if walks else silent, keep), bar)

        return again(attempt)

    @contextmanager
    def kept(self) -> Iterator[Products]:
        """Products whose tapes are kept until the block ends."""
        for is_thawed in (False, True):
            with unfrozen(is_thawed), Guard(), self._lend() as objective:
                products = self._products(objective, Ticker(), True)
                try:
                    products.prepare()
                except Thaw:
                    continue
                yield products
                return

    @contextmanager
    def as_then(self) -> Iterator[None]:
        """The random state of the moment the operator was made, and then again that of now."""
        with Guard(), alone(), settled():
            devices = {p.device for p in self.model.parameters()}
            owe(Randomness(devices).restore)
            self.start.restore()
            yield

    def _lend(self) -> Any:
        return lend(
            self.model, self.loss, "parameter", self.forward, self.names, self.memory, self.dtype
        )

    def _products(self, objective: Objective, bar: Ticker, keep: bool) -> Products:
        objective.firsts = self.firsts
        return Products(
            objective, self.data, self.dtype, self.weight, self.kind, self.start, bar, keep
        )
