"""The check of a diagonal at random entries: by values of the loss, and by a double backward.

The values know no autograd (`_verification.differences`, `_verification.values`); the double
backward is torch's own in float64, sharper where the two agree. What they say together gives an
entry its word.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from hessian._batch.pieces import Division, Sum, added
from hessian._call import data as _data
from hessian._call.batches import Batch
from hessian._call.objective import Objective
from hessian._call.state import cast
from hessian._call.written import put_back
from hessian._results.storage import storable
from hessian._routes import parameter as _parameter
from hessian._runtime.entries import entries as drawn
from hessian._runtime.ledger import owe, settled
from hessian._tape.graph import is_leaf
from hessian._verification.frozen import frozen
from hessian._verification.values import Values, shares

# Changes in the last digits of all parameters, whose largest effect is the size of rounding.
DRAWS = 3
# How many times that size a derivative may have that is zero but for rounding.
ROUNDINGS = 10
# In machine precisions of the network's largest second derivative: what a route whose terms cancel
# may leave of zero where the double backward leaves less. Terms may be larger than any sum of them
# (below a layer norm of nearly equal inputs): then it may be what the values cannot tell from zero.
CANCELLED = 64
# A derivative below this part of what was computed is zero beside it.
NOTHING = 1e-3
# Below this share of the network's largest second derivative a tensor's may be rounding only.
SMALL = 1e-4
# Of the largest of its tensor: a difference that is less certain says nothing about an entry.
CERTAIN = 0.1

WORDS = {
    "agrees": "with the difference of values, within the tolerance or its error",
    "zero to rounding": "what terms that cancel leave behind; compared with their size",
    "kink": "no second derivative at this point; compared with the double backward",
    "own derivative": "the value has another one by the user's own definition (a custom function, "
    "a detached tensor, a padding row); compared with the double backward",
    "unclear": "the loss is too rough or noisy here; compared with the double backward",
    "hidden": "the value depends on the parameter, but the tape does not show it (detached, "
    "``.data``, a reentrant checkpoint)",
    "deviates": "from the difference of values, or from the double backward that agrees with it",
}


@storable
@dataclass(frozen=True)
class Verified:
    """One entry of a diagonal beside what values of the loss and a double backward say.

    Attributes:
        name: the parameter.
        index: flat entry.
        h: the diagonal's d²L/dw².
        value: by second differences of the loss's value in float64; NaN at a kink.
        error: how far `value` may be off, by its own reckoning.
        double: by a double backward in float64.
        word: ``"agrees"``, ``"zero to rounding"``, ``"kink"``, ``"own derivative"``,
            ``"unclear"``, ``"hidden"`` or ``"deviates"``.
        deviation: |Δ| / max|h| of the tensor; |Δ| itself where all of h is zero.
    """

    name: str
    index: int
    h: float
    value: float
    error: float
    double: float
    word: str
    deviation: float


@storable
class Verification(tuple[Verified, ...]):
    """The entries that were looked at, each a `Verified`; ``print`` shows them as a table."""

    def of_names(self, names: Container[str]) -> Verification:
        """The entries of some of the parameters."""
        return Verification(verified for verified in self if verified.name in names)

    def __str__(self) -> str:
        head = ("parameter", "entry", "h", "value", "± error", "double", "off by", "word")
        rows = [head]
        for v in self:
            numbers = (f"{v.h:.6g}", f"{v.value:.6g}", f"{v.error:.1e}", f"{v.double:.6g}")
            rows.append((v.name, str(v.index), *numbers, f"{v.deviation:.1e}", v.word))
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = []
        for row in rows:
            cells = [row[0].ljust(widths[0])]
            cells += [c.rjust(w) for c, w in zip(row[1:-1], widths[1:-1], strict=True)]
            lines.append("  ".join((*cells, row[-1])))
        words = dict.fromkeys(v.word for v in self)
        return "\n".join((*lines, *(f"{word}: {WORDS[word]}." for word in words)))


@storable
class Deviation(dict[str, float]):
    """Name → largest deviation of the entries that were looked at; NaN for all other names."""

    def __missing__(self, name: str) -> float:
        return math.nan


class Check:
    """A budget of random entries, summed over batches as the diagonal itself is."""

    def __init__(self, objective: Objective, budget: int) -> None:
        self.objective = objective
        self.index: dict[str, Tensor] = {}
        if budget:
            generator = torch.Generator("cpu").manual_seed(0)
            sizes = {name: p.numel() for name, p in objective.parameters.items()}
            counts = shares(sizes, budget, generator)
            self.index = {
                name: drawn(sizes[name], count, generator)
                for name, count in counts.items() if count
            }  # fmt: skip
        width = sum(len(index) for index in self.index.values())
        # A row of sums: value, its error, double backward, rounding, and two counts of batches.
        self.sums = {
            what: torch.zeros(width, dtype=torch.float64, device="cpu")
            for what in (SUMS if width else ())
        }

    def add(self, batch: Batch, h: Mapping[str, Tensor]) -> None:
        """Look at a batch, whose diagonal is h (a part of it where processes share it out)."""
        if not self.index:
            return
        inputs, targets = (_data.convert(values, torch.float64) for values in batch.raw)
        written = self.objective.written
        written.restore()  # before the parameters hold other memory, and after
        with cast(self.objective.modules(), torch.float64), put_back(written):
            double, own = self._double(batch, inputs, targets)
            values = Values(batch, inputs, targets)
            values.measure({name: index.tolist() for name, index in self.index.items()})
            value, error, kink = self._values(values, h)
            unlike = (value - double).abs() > 3 * error + 1e-6 * (value.abs() + double.abs())
            held = self._detached(values, double, value, unlike & ~kink)
        rounding = self._rounding(batch, h, double)
        a = batch.a
        self.sums["value"] += a * value
        self.sums["error"] += abs(a) * error
        self.sums["double"] += a * double
        self.sums["rounding"] += abs(a) * rounding
        self.sums["kinks"] += kink
        self.sums["own"] += own | held

    def _entries(self) -> Iterator[tuple[int, str, int]]:
        """Place in the sums, parameter and flat entry."""
        pairs = [(name, i) for name, index in self.index.items() for i in index.tolist()]
        for k, (name, i) in enumerate(pairs):
            yield k, name, i

    def _values(self, values: Values, h: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Second differences, their errors, and which entries lie at a kink."""
        value, error = (torch.zeros_like(self.sums["value"]) for _ in range(2))
        kink = torch.zeros_like(value, dtype=torch.bool)
        tight = {name: _enough(h[name]) * _largest(h[name]) for name in self.index}
        for k, name, i in self._entries():
            difference = values.second(name, i, tight[name])
            if difference.word == "kink":
                kink[k] = True
            else:
                value[k], error[k] = difference.value, difference.error
        return value, error, kink

    def _double(self, batch: Batch, inputs: object, targets: object) -> tuple[Tensor, Tensor]:
        """Double backward, and which entries lie below a function with a backward of its own."""
        own_leaves: set[int] = set()

        def take(value: Tensor) -> Sum:
            own_leaves.update(_below_own_functions(value))
            return self._take(value)

        # In parts where the tape of all exceeds the memory, as twice the size it may here.
        terms, extra = added(batch, take, Division(), inputs, targets)
        parameters = self.objective.parameters
        below = [id(parameters[name]) in own_leaves for _, name, _ in self._entries()]
        return self._flat(terms, extra), torch.tensor(below, device="cpu")

    def _flat(self, terms: Sum, extra: Mapping[str, Tensor]) -> Tensor:
        """Sums by parameter, and the diagonal of what the loss adds by itself, at the entries."""
        flat = []
        for (name, index), term in zip(self.index.items(), terms, strict=False):
            row = torch.zeros(len(index), dtype=torch.float64, device="cpu")
            if term is not None:
                row += term.double()
            if name in extra:
                row += extra[name].reshape(-1).cpu().double()[index]
            flat.append(row)
        return torch.cat(flat)

    def _take(self, value: Tensor) -> Sum:
        """Second derivatives of a loss at the entries."""
        parameters = [self.objective.parameters[name] for name in self.index]
        if not value.requires_grad:
            return [None] * len(parameters)
        gradients = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
        terms: Sum = []
        for p, index, gradient in zip(parameters, self.index.values(), gradients, strict=True):
            if gradient is None or not gradient.requires_grad:
                terms.append(None)
                continue
            terms.append(
                torch.stack([_parameter.single(gradient, p, i) for i in index.tolist()]).cpu()
            )
        return terms

    def _detached(self, values: Values, double: Tensor, value: Tensor, unlike: Tensor) -> Tensor:
        """Where the double backward is the derivative with all detached numbers held."""
        held = torch.zeros_like(unlike)
        if not bool(unlike.any()):
            return held
        with frozen(values) as constant:
            if constant is None:
                return held
            for k, name, i in self._entries():
                if unlike[k]:
                    apart = abs(float(value[k] - double[k]))
                    difference = constant.second(name, i, 1e-4 * apart)
                    rest = abs(difference.value - float(double[k]))
                    held[k] = difference.error < 0.1 * apart and rest < 0.1 * apart
        return held

    def _rounding(self, batch: Batch, h: Mapping[str, Tensor], double: Tensor) -> Tensor:
        """What changes in the parameters' last digits move, for tensors that may be zero."""
        size = torch.zeros_like(double)
        top = max((_largest(t) for t in h.values()), default=0.0)
        suspects = {name for name in self.index if 0 < _largest(h[name]) <= SMALL * top}
        if batch.objective.share.size == 1:
            for k, name, i in self._entries():
                apart = abs(float(h[name].detach().reshape(-1)[i]) - float(double[k]))
                if apart > 0.1 * _tolerance(h[name]) * _largest(h[name]):
                    suspects.add(name)
        if not suspects:
            return size
        plain = self._again(batch)
        size = (plain - double).abs()
        for draw in range(DRAWS):
            with _shaken(self.objective, draw):
                size = torch.maximum(size, (self._again(batch) - plain).abs())
        # One size for a tensor: an entry may be zero in all draws by chance.
        rows = size.split([len(index) for index in self.index.values()])
        pairs = zip(self.index, rows, strict=True)
        return torch.cat([row.max().expand_as(row) * (name in suspects) for name, row in pairs])

    def _again(self, batch: Batch) -> Tensor:
        """A double backward in the result's own dtype."""
        return self._flat(*added(batch, self._take, Division()))

    def result(self, h: Mapping[str, Tensor], factor: float) -> tuple[Deviation, Verification]:
        """What the sums say about the whole diagonal."""
        if not self.index:  # nothing was asked for: what follows reads all of the diagonal
            return Deviation(), Verification([])
        rows = []
        top = max((_largest(h[name]) for name in h), default=0.0)
        for k, name, i in self._entries():
            numbers = {what: float(total[k]) for what, total in self.sums.items()}
            for what in ("value", "double", "error", "rounding"):
                numbers[what] *= factor if what in ("value", "double") else abs(factor)
            rows.append(_judged(name, i, h[name], numbers, top))
        deviation = Deviation()
        for v in rows:
            deviation[v.name] = max(deviation.get(v.name, 0.0), v.deviation)
        return deviation, Verification(rows)


SUMS = ("value", "error", "double", "rounding", "kinks", "own")


def _judged(name: str, index: int, h: Tensor, numbers: Mapping[str, float], top: float) -> Verified:
    """The word of an entry, and how far it is off."""
    here = float(h.detach().reshape(-1)[index])
    scale, tolerance = _largest(h), _tolerance(h)
    value, error, double = (numbers[what] for what in ("value", "error", "double"))
    if numbers["kinks"]:
        value, error = math.nan, math.inf
    by_value = max(0.0, abs(here - value) - error)
    by_double = abs(here - double)
    confirmed = abs(value - double) <= error + tolerance * scale
    # Terms whose last digits leave such a rest cancel; it is measured in units of their size.
    rest, terms = numbers["rounding"], numbers["rounding"] / torch.finfo(h.dtype).eps
    cancelled = max(abs(here), abs(double), abs(value) - error) <= ROUNDINGS * rest
    eps = float(torch.finfo(h.dtype).eps)
    nothing = max(abs(double), abs(value) - error) <= NOTHING * abs(here)
    room = max(CANCELLED * eps * top, min(error, tolerance * top))
    if here and nothing and not numbers["kinks"] and abs(here) <= room:
        cancelled, terms = True, max(terms, top)
    if terms and cancelled and max(by_double, error) > tolerance * scale:
        return Verified(
            name, index, here, value, error, double, "zero to rounding", by_double / terms
        )
    off = by_double  # where both witnesses agree the double backward is the sharper one
    if numbers["kinks"]:
        word = "kink"
    elif confirmed and error > CERTAIN * (scale or SMALL * top):
        word = "unclear" if scale or top else "agrees"
    elif confirmed:
        word = "agrees"
    elif scale and numbers["own"] and by_double <= tolerance * scale:
        word = "own derivative"
    elif not here and not double:
        word, off = "hidden", by_value
    else:
        word, off = "agrees", by_value
    if off > tolerance * scale and word in ("agrees", "unclear"):
        word = "deviates"
    return Verified(name, index, here, value, error, double, word, off / scale if scale else off)


def _below_own_functions(value: Tensor) -> set[int]:
    """The ``id`` of every leaf below a node that is no operation of torch's."""
    leaves: set[int] = set()
    if value.grad_fn is None:
        return leaves
    seen: set[tuple[object, bool]] = set()
    stack: list[tuple[Any, bool]] = [(value.grad_fn, False)]
    while stack:
        node, below = stack.pop()
        below = below or isinstance(node, BackwardCFunction)
        if (node, below) in seen:
            continue
        seen.add((node, below))
        if below and is_leaf(node):
            leaves.add(id(node.variable))
        stack += [(child, below) for child, _ in node.next_functions if child is not None]
    return leaves


def _tolerance(h: Tensor) -> float:
    """Half of the digits of a result are left to terms that cancel."""
    return math.sqrt(torch.finfo(h.dtype).eps)


def _enough(h: Tensor) -> float:
    """How certain a difference has to be: a double backward that it confirms is sharper."""
    return max(0.1 * _tolerance(h), 1e-6)


def _largest(h: Tensor) -> float:
    return float(h.detach().abs().max()) if h.numel() else 0.0


@contextmanager
def _shaken(objective: Objective, seed: int) -> Iterator[None]:
    """All parameters changed in their last digits meanwhile."""
    generator = torch.Generator("cpu").manual_seed(seed)
    every = {id(p): p for m in objective.modules() for p in m.parameters()}.values()
    with settled():
        for p in every:
            if p.is_floating_point():
                owe(partial(p.data.copy_, p.detach().clone()))
                digits = torch.randn(
                    p.shape, generator=generator, dtype=torch.float64, device="cpu"
                )
                eps = torch.finfo(p.dtype).eps
                p.data.copy_(p.detach().double() * (1 + eps * digits.to(p.device)))
        yield
