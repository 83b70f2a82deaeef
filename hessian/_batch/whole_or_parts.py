"""A batch analysed whole, or in parts of its samples where the tape of all would be too large."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from hessian._batch.analysis import Batch
from hessian._batch.parts import Parts, Whole
from hessian._call.batches import Item
from hessian._call.draws import NotInParts
from hessian._call.forward import TooLarge


def planned(item: Item, sampled: Mapping[str, Tensor] | None = None) -> Batch | Parts:
    """The batch with its tapes read and its plan made, whole or in parts."""
    return item.uniform(lambda: _planned(item, sampled))


def _planned(item: Item, sampled: Mapping[str, Tensor] | None) -> Batch | Parts:
    problem, why = item.problem, ""
    given = (problem, item.inputs, item.targets, item.index, sampled)
    try:
        batch: Batch | Parts = Batch(*given, bounded=True, start=item.start)
    except TooLarge:
        why = "too large"  # beyond this block nothing holds the tape that was begun
    if why:
        item.start.rewind()
        try:
            batch = Parts(Whole(*given))
        except (NotInParts, ValueError) as error:
            why = str(error)
        else:
            why = ""
    if why:  # what is wrong with the data or the method is said here, of the whole batch
        item.start.rewind()
        batch = Batch(*given)
        batch.plan = dataclasses.replace(batch.plan, held=why)
    item.end = batch.end
    return batch
