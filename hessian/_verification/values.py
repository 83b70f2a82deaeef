"""The loss's value on a batch with single parameter entries displaced, by the user's own calls.

Nothing of the analysis takes part: no tape is read, no operation replaced, no batch taken in parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from hessian._call import data as _data
from hessian._call.batches import Batch
from hessian._call.labelled import called
from hessian._call.precision import held
from hessian._call.state import Randomness
from hessian._call.thaw import thawed
from hessian._runtime.ledger import owe, settled
from hessian._verification.differences import Difference, noise, second_difference, spaced

# Entries along which the noise of the loss is measured.
PROBES = 3
# By how much two values of one loss may differ and be one: sums in another order.
SAME = 1e-12


class Values:
    """L_b as a function of one entry at a time; every call meets the same state.

    `inputs` and `targets` are the batch in float64; the modules' tensors must hold float64 too.
    """

    def __init__(self, batch: Batch, inputs: Any, targets: Any) -> None:
        self.batch, self.inputs, self.targets = batch, inputs, targets
        self.objective = batch.objective
        self.sigma: float | None = None
        self.evaluations = 0
        batch.start.rewind()  # what an earlier call wrote is none of the values
        self.originals = Originals(self.objective.modules())
        self.taped = True
        self.here = self._first()
        self.originals.narrow()

    def _first(self) -> float:
        """L_b at the point; settles whether the calls need a tape.

        A model that differentiates inside (forces from an energy) needs one, and one that asks
        whether gradients are enabled computes something else without.
        """
        try:
            # The tape is built, but holds no tensors: as little memory as without one.
            with saved_tensors_hooks(lambda _: None, _unavailable):
                here = self._value()
                # The next batch goes on where a plain loop would.
                self.batch.end = self.batch.end or Randomness(self.objective.devices())
        except RuntimeError:  # it is walked through inside the call
            value = self._call()
            self.batch.end = self.batch.end or Randomness(self.objective.devices())
            return float(_data.check_loss(value, self.batch.index, self.inputs, {}).detach())
        try:
            self.taped = False
            self.taped = not _same(self._value(), here)
        except RuntimeError:
            self.taped = True
        if self.taped and not _same(again := self._value(), here):
            raise ValueError(
                f"the loss is {here!r} at one call and {again!r} at the next, with the same "
                "parameters, buffers and random state; keep what forward() remembers in a buffer"
            )
        return here

    def _call(self) -> Tensor:
        """The user's own call, in the state that the batch started with."""
        self.batch.start.rewind()
        self.evaluations += 1
        with settled(), thawed(), nullcontext() if self.taped else torch.no_grad(), held():
            owe(self.originals.restore)
            output = _data.call(self.objective.model, self.inputs, self.objective.forward)
            value: Tensor = called(self.objective.loss, output, self.targets)
            return value

    def _value(self) -> float:
        """The loss as a number, finite or not."""
        return float(self._call().detach().reshape(()).double())

    def along(self, name: str, entry: int, displacement: float) -> float:
        """L_b with the entry of a parameter displaced."""
        p = self.objective.parameters[name]
        with displaced(p, entry, displacement):
            try:
                return self._value()
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, ArithmeticError):  # out of the loss's domain
                return math.nan

    def unit(self, name: str) -> float:
        """A step on which the loss may be expected to change."""
        p = self.objective.parameters[name].detach()
        size = float(p.double().square().mean().sqrt()) if p.numel() else 0.0
        return min(max(size, 2.0**-6), 1.0) if size and math.isfinite(size) else 0.25

    def measure(self, entries: Mapping[str, list[int]]) -> None:
        """The standard deviation of the rounding errors in L_b, along a few entries."""
        sizes: list[float] = []
        for name, index in entries.items():
            if index and len(sizes) < PROBES:
                line = partial(self.along, name, index[0])
                sizes.append(noise(spaced(line, self.unit(name))))
        self.sigma = sorted(sizes)[len(sizes) // 2] if sizes else 0.0

    def second(self, name: str, entry: int, enough: float) -> Difference:
        """d²L_b/dw² of one entry."""
        p = self.objective.parameters[name].detach()
        return second_difference(
            partial(self.along, name, entry),
            self.unit(name),
            here=self.here,
            sigma=self.sigma,
            enough=enough,
            size=abs(float(p[place(p, entry)])),
        )


class Originals:
    """The parameters of modules, put back after calls that write to them (a momentum encoder)."""

    def __init__(self, modules: list[nn.Module]) -> None:
        parameters = {id(p): p for m in modules for p in m.parameters()}.values()
        self._kept = [(p, p.data, p.detach().clone()) for p in parameters]
        self._written: set[int] = set()

    def restore(self) -> None:
        """Put memory and values back where they are others."""
        for p, memory, values in self._kept:
            if p.data_ptr() != memory.data_ptr():
                p.data = memory
            elif _equal(memory, values):
                continue
            memory.copy_(values)
            self._written.add(id(p))

    def narrow(self) -> None:
        """Watch from now on only those that were written to so far."""
        self._kept = [entry for entry in self._kept if id(entry[0]) in self._written]


def place(p: Tensor, entry: int) -> tuple[int, ...]:
    """Where the flat entry lies."""
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(entry, device="cpu"), p.shape))


@contextmanager
def displaced(p: Tensor, entry: int, displacement: float) -> Iterator[None]:
    """Add a number to one entry meanwhile."""
    data, where = p.data, place(p, entry)
    start = data[where].clone()
    with settled():
        owe(partial(data.__setitem__, where, start))
        data[where] = start + displacement
        yield


def plain(modules: list[nn.Module]) -> bool:
    """Whether all their floating tensors are float64 already, so that nothing need be cast."""
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    return all(t.dtype == torch.float64 for t in tensors if t.is_floating_point())


def shares(sizes: Mapping[str, int], budget: int, generator: torch.Generator) -> dict[str, int]:
    """How many entries of each tensor: in turn, in a random order, at most its size."""
    names = list(sizes)
    order = [
        names[i] for i in torch.randperm(len(names), generator=generator, device="cpu").tolist()
    ]
    result, left = dict.fromkeys(names, 0), min(budget, sum(sizes.values()))
    while left:
        for name in order:
            if left and result[name] < sizes[name]:
                result[name] += 1
                left -= 1
    return result


def _unavailable(_: Any) -> Tensor:
    raise RuntimeError("the tape holds no tensors")


def _same(a: float, b: float) -> bool:
    return a == b or abs(a - b) <= SAME * max(abs(a), abs(b)) or (a != a and b != b)


def _equal(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())
