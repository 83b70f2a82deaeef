"""A batch's loss as a sum of losses of its parts, where the tape of the whole would be too large.

What is linear in the Hessian (its product with a vector, its entries, the estimates of its
diagonal) is a sum over parts of the samples, each on a tape of its own, as `_batch.parts` has it:
the loss is the user's, of the whole batch, with the outputs of all other samples held. What the
loss adds by itself in a parameter is counted once, and is a diagonal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hessian._batch.analysis import TAPES, Analysis, analysed
from hessian._batch.parts import analysed_part, divided, part_of
from hessian._batch.reading import Task
from hessian._batch.whole import Whole
from hessian._call.batches import Batch
from hessian._call.draws import NotInParts
from hessian._call.forward import TooLarge
from hessian._call.objective import AGAIN, Start
from hessian._call.state import Randomness
from hessian._tape.graph import Tape
from hessian._tape.opaque import refuse_opaque

# Of a batch or a part: bytes for each sample beyond what its plan tells.
Extra = Callable[[Analysis], float]


@dataclass
class Division:
    """How batches were taken: the most parts of one, and why one was held whole, if one was."""

    parts: int = 1
    held: str = ""

    def note(self, parts: int, held: str = "") -> None:
        """Add what was done with a batch."""
        self.parts = max(self.parts, parts)
        self.held = self.held or held


def _over_parts(
    batch: Batch,
    inputs: Any,
    targets: Any,
    take: Callable[[Analysis], None],
    division: Division,
    extra: Extra = lambda _: 0.0,
) -> dict[str, Tensor] | None:
    """Hand over the parts of a batch, one tape at a time.

    Returns:
        The diagonal of what the loss adds by itself; ``None`` where the batch cannot be taken in
        parts, also if that shows after some of them.
    """
    batch.start.rewind()
    # "parameter" counts what double backward takes, and factors nothing that is not needed.
    objective = dataclasses.replace(batch.objective, method="parameter")
    try:
        whole = Whole(Task(objective, inputs, targets, batch.index, Start(objective)))
        slices, _ = divided(whole, extra)
        batch.end = batch.end or whole.reading.end
        for samples in slices:
            take(analysed_part(whole, samples))
    except (NotInParts, ValueError) as error:
        division.note(1, str(error))
        return None
    division.note(len(slices))
    return whole.own()[0]


def connected(analysis: Analysis) -> Tensor:
    """The batch's loss with all other samples' outputs held, on the tape of a part."""
    part = part_of(analysis)
    assert part is not None
    return part.among([output.tensor for output in analysis.reading.used])


def limit(batch: Batch) -> int | None:
    """Bytes that the tape of a whole batch may take under a double backward."""
    return batch.objective.memory // TAPES if batch.samples > 1 else None


Sum = list[Tensor | None]


def added(
    batch: Batch,
    take: Callable[[Tensor], Sum],
    division: Division,
    inputs: Any = None,
    targets: Any = None,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[Sum, dict[str, Tensor]]:
    """Σ take(value) over losses whose Hessians add up to the batch's, but for a diagonal.

    Args:
        item: the batch.
        take: what is wanted of a loss; linear in its Hessian, and zero where `None`.
        division: is told what was done.
        inputs, targets: the batch in another dtype; the item's own by default.
        around: stands around the user's code where the batch is whole, and needs no proof.

    Returns:
        The sum, and by name the diagonal of what the loss adds by itself, in parts only.
    """
    return batch.uniform(lambda: _added(batch, take, division, inputs, targets, around))


def _added(
    batch: Batch,
    take: Callable[[Tensor], Sum],
    division: Division,
    inputs: Any,
    targets: Any,
    around: Callable[[], AbstractContextManager[Any]],
) -> tuple[Sum, dict[str, Tensor]]:
    if inputs is None:
        inputs, targets = batch.inputs, batch.targets
    try:
        with around():
            value = _value(batch, inputs, targets, limit(batch))
        return take(value), {}
    except TooLarge:
        pass  # beyond this block nothing holds the tape that was begun
    total: Sum = []

    def add(part: Analysis) -> None:
        nonlocal total
        total = _plus(total, take(connected(part)))

    loss_diagonal = _over_parts(batch, inputs, targets, add, division)
    if loss_diagonal is None:
        with around():
            value = _value(batch, inputs, targets, None)
        return take(value), {}
    return total, loss_diagonal


Diagonals = list[dict[str, Tensor]]


def gathered(
    batch: Batch, take: Callable[[Analysis], Diagonals], division: Division, extra: Extra
) -> tuple[Diagonals, dict[str, Tensor]]:
    """The same for what is read off a batch's analysis, sums over samples by parameter.

    `take` is given the whole batch or one part after the other, the first samples first; where it
    is given the whole after all, that is from the start.
    """
    return batch.uniform(lambda: _gathered(batch, take, division, extra))


def _gathered(
    batch: Batch, take: Callable[[Analysis], Diagonals], division: Division, extra: Extra
) -> tuple[Diagonals, dict[str, Tensor]]:
    arguments = (batch.objective, batch.inputs, batch.targets, batch.index)
    try:
        analysis = analysed(*arguments, bounded=True, start=batch.start)
        batch.end = analysis.reading.end
        n = analysis.samples
        if n > 1 and n * (analysis.need() + extra(analysis)) > batch.objective.memory:
            del analysis
            raise TooLarge
        return take(analysis), {}
    except TooLarge:
        pass
    total: Diagonals = []

    def add(part: Analysis) -> None:
        nonlocal total
        new = take(part)
        for into, values in zip(total, new, strict=False):
            for name, value in values.items():
                into[name] = into[name] + value
        total = total or [dict(one) for one in new]

    loss_diagonal = _over_parts(batch, batch.inputs, batch.targets, add, division, extra)
    if loss_diagonal is not None:
        return total, loss_diagonal
    batch.start.rewind()
    analysis = analysed(*arguments, start=batch.start)
    batch.end = analysis.reading.end
    return take(analysis), {}


def of_all(analysis: Analysis) -> int:
    """Samples of the batch that a part is of."""
    part = part_of(analysis)
    return analysis.samples if part is None else part.whole.samples


def is_first(analysis: Analysis) -> bool:
    """Whether it starts with the first sample."""
    part = part_of(analysis)
    return part is None or part.samples.start == 0


def _value(batch: Batch, inputs: Any, targets: Any, most: int | None) -> Tensor:
    """The loss, on a tape that connects it with the parameters; the same at every call."""
    batch.start.rewind()
    objective = batch.objective
    output = objective.output(inputs, batch.index, most)
    value = objective.scalar(output, inputs, targets, batch.index)
    if inputs is batch.inputs and not objective.firsts.meets(batch.index, batch.raw[0], value):
        raise ValueError(AGAIN.format("loss: its value on", batch.index))
    batch.end = batch.end or Randomness(objective.devices())
    if value.requires_grad and not objective.read:
        refuse_opaque(Tape.of([value]), [value], [torch.ones_like(value)], objective.parameters)
        objective.read = True
    return value


def _plus(total: Sum, new: Sum) -> Sum:
    if not total:
        return new
    sums: Sum = []
    for old, term in zip(total, new, strict=True):
        sums.append(term if old is None else old if term is None else old + term)
    return sums
