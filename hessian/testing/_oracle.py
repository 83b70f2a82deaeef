"""d²L/dw² from the loss's values alone: no autograd, no analysis, no parts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hessian._call import data as _data
from hessian._call.batches import scale, walk
from hessian._call.lending import lend
from hessian._runtime.entries import entries as drawn
from hessian._runtime.ledger import Guard
from hessian._verification.differences import Difference
from hessian._verification.frozen import frozen
from hessian._verification.values import Values, plain, shares

# The better first: a sum over batches has the worst of its terms.
WORDS = ("smooth", "unclear", "kink")
Entries = int | str | Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Record:
    """Second difference of the loss along one entry.

    Attributes:
        name: the parameter.
        index: flat entry.
        value: d²L/dw²; NaN at a kink.
        error: how far the value may be off, by its own reckoning; infinite at a kink.
        word: ``"smooth"``; ``"kink"`` where slope, value or second derivative jump at the point
            itself; ``"unclear"`` where no steps agree.
    """

    name: str
    index: int
    value: float
    error: float
    word: str


class Differences(list[Record]):
    """A `Record` per entry.

    Attributes:
        loss: L at the point itself.
        evaluations: how often the model was called, over all batches.
    """

    loss: float
    evaluations: int


def differences(
    model: nn.Module,
    loss: _data.Loss,
    data: Any,
    *,
    entries: Entries = 16,
    seed: int = 0,
    enough: float | Mapping[str, float] = 0.0,
    forward: _data.Forward | None = None,
    names: Iterable[str] | None = None,
    weight: _data.Weight = None,
    detached: str = "free",
) -> Differences:
    """Second differences of the loss's value in float64, extrapolated, along single entries.

    The model is called in the plain way, the whole batch at once, without a tape where the value
    is the same without one; parameters, buffers and data are turned to float64 meanwhile. Every
    call meets the same random state and buffers. Autograd takes no part, so what it is wrong about
    or does not see (a wrong double backward, a parameter hidden by ``.data``) shows here; what
    it decides by definition is not seen, and the value's own derivative comes out: with
    ``detached="held"`` numbers from ``detach``, ``.data``, ``.item()``, a block without gradients
    or the row of an embedding's ``padding_idx`` are constants, as autograd has them; the surrogate
    gradient of a custom function has nothing to do with values.

    Two errors are weighed for every entry: what extrapolations over steps that halve disagree by,
    and the measured rounding noise of the loss, which a difference of step s amplifies by 4/s².
    A loss of size 1 gives 1e-11 where it is smooth over steps of 1, 1e-7 with a kink at 1e-3 from
    the point. An entry takes about 15 to 40 evaluations.

    Args:
        model, loss, data, forward, names, weight: as for `hessian.diagonal`.
        entries: how many random entries in all, spread over the tensors in turn; ``"all"``; or a
            mapping from parameter name to flat entries.
        seed: of the draw.
        enough: an error at which an entry's estimate is good enough, for all or by name: fewer
            evaluations.
        detached: ``"free"`` or ``"held"``, as above.

    Raises:
        TypeError, ValueError: as `hessian.diagonal`; `entries` is none of these.

    Example:
        L = (2w₀ + w₁ - 1)² has d²L/dw² = (8, 2).

        >>> model = nn.Linear(2, 1, bias=False)
        >>> data = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]])
        >>> for r in differences(model, nn.functional.mse_loss, data, entries="all"):
        ...     print(r.name, r.index, round(r.value, 9), r.error < 1e-9, r.word)
        weight 0 8.0 True smooth
        weight 1 2.0 True smooth
    """
    if detached not in ("free", "held"):
        raise ValueError(f'detached must be "free" or "held", got {detached!r}')
    double = isinstance(model, nn.Module) and plain(
        [m for m in (model, loss) if isinstance(m, nn.Module)]
    )
    dtype = None if double else torch.float64
    with Guard(), lend(model, loss, "auto", forward, names, None, dtype) as objective:
        index = chosen(objective.parameters, entries, seed)
        sums = [_Sum(name, entry) for name, places in index.items() for entry in places]
        weights, value, evaluations = [], 0.0, 0
        for batch in walk(objective, data, dtype, weight):
            values = Values(batch, batch.inputs, batch.targets)
            values.measure(index)
            with frozen(values) if detached == "held" else nullcontext() as constant:
                witness = constant or values
                for total in sums:
                    name = total.name
                    least = enough.get(name, 0.0) if isinstance(enough, Mapping) else enough
                    total.add(batch.a, witness.second(name, total.index, least))
            value += batch.a * values.here
            weights.append(batch.a)
            evaluations += values.evaluations
        factor = scale(weights, weight)
    result = Differences(total.record(factor) for total in sums)
    result.loss, result.evaluations = factor * value, evaluations
    return result


def chosen(parameters: Mapping[str, Tensor], entries: Entries, seed: int) -> dict[str, list[int]]:
    """Flat entries by parameter, for a budget, all of them, or those that are named."""
    sizes = {name: p.numel() for name, p in parameters.items()}
    if entries == "all":
        return {name: list(range(size)) for name, size in sizes.items()}
    if isinstance(entries, Mapping):
        for name, places in entries.items():
            if name not in sizes:
                raise ValueError(f"entries: {name!r} is not one of the parameters looked at")
            if any(not 0 <= int(i) < sizes[name] for i in places):
                raise ValueError(
                    f"entries: {name!r} has {sizes[name]} entries; give flat ones from 0 to "
                    f"{sizes[name] - 1}"
                )
        return {name: [int(i) for i in places] for name, places in entries.items()}
    if not isinstance(entries, int) or isinstance(entries, bool) or entries < 1:
        raise ValueError(
            f'entries must be a number of entries >= 1, "all" or a mapping from parameter names '
            f"to flat entries, got {entries!r}"
        )
    generator = torch.Generator("cpu").manual_seed(seed)
    budget = shares(sizes, entries, generator)
    return {name: drawn(sizes[name], budget[name], generator).tolist() for name in sizes}


@dataclass
class _Sum:
    """Σ a_b of one entry's second differences on the batches."""

    name: str
    index: int
    value: float = 0.0
    error: float = 0.0
    word: str = "smooth"

    def add(self, a: float, term: Difference) -> None:
        self.value += a * term.value
        self.error += abs(a) * term.error
        self.word = max(self.word, term.word, key=WORDS.index)

    def record(self, factor: float) -> Record:
        return Record(
            self.name, self.index, factor * self.value, abs(factor) * self.error, self.word
        )


def is_clear(record: Record) -> bool:
    """Whether its value may be compared with."""
    return record.word != "kink" and math.isfinite(record.error)
