"""A batch analysed whole, or in parts of its samples where the tape of all would be too large."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from hessian._batch.analysis import Analysis
from hessian._batch.parts import Parts, Whole
from hessian._call.batches import Batch
from hessian._call.draws import NotInParts
from hessian._call.forward import TooLarge


def planned(batch: Batch, sampled: Mapping[str, Tensor] | None = None) -> Analysis | Parts:
    """The batch with its tapes read and its plan made, whole or in parts."""
    return batch.uniform(lambda: _planned(batch, sampled))


def _planned(batch: Batch, sampled: Mapping[str, Tensor] | None) -> Analysis | Parts:
    objective, why = batch.objective, ""
    given = (objective, batch.inputs, batch.targets, batch.index, sampled)
    try:
        analysis: Analysis | Parts = Analysis(*given, bounded=True, start=batch.start)
    except TooLarge:
        why = "too large"  # beyond this block nothing holds the tape that was begun
    if why:
        batch.start.rewind()
        try:
            analysis = Parts(Whole(*given))
        except (NotInParts, ValueError) as error:
            why = str(error)
        else:
            why = ""
    if why:  # what is wrong with the data or the method is said here, of the whole batch
        batch.start.rewind()
        analysis = Analysis(*given)
        analysis.plan = dataclasses.replace(analysis.plan, held=why)
    batch.end = analysis.end
    return analysis
