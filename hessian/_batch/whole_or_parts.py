"""A batch analysed whole, or in parts of its samples where the tape of all would be too large."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from hessian._batch.analysis import Analysis, analysed
from hessian._batch.parts import Parts
from hessian._batch.reading import Task
from hessian._batch.whole import Whole
from hessian._call.batches import Batch
from hessian._call.draws import NotInParts
from hessian._call.forward import TooLarge
from hessian._call.objective import Start
from hessian._runtime.checkpoint import Checkpoint


def planned(
    batch: Batch,
    sampled: Mapping[str, Tensor] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Analysis | Parts:
    """The batch with its tapes read and its plan made, whole or in parts."""
    return batch.uniform(lambda: _planned(batch, sampled, checkpoint))


def _planned(
    batch: Batch, sampled: Mapping[str, Tensor] | None, checkpoint: Checkpoint | None
) -> Analysis | Parts:
    objective, why = batch.objective, ""
    arguments = (objective, batch.inputs, batch.targets, batch.index)
    try:
        analysis: Analysis | Parts = analysed(
            *arguments, sampled, bounded=True, start=batch.start, checkpoint=checkpoint
        )
    except TooLarge:
        why = "too large"  # beyond this block nothing holds the tape that was begun
    if why:
        batch.start.rewind()
        try:
            task = Task(*arguments, Start(objective), sampled or {}, checkpoint=checkpoint)
            analysis = Parts(Whole(task))
        except (NotInParts, ValueError) as error:
            why = str(error)
        else:
            why = ""
    if why:  # what is wrong with the data or the method is said here, of the whole batch
        batch.start.rewind()
        analysis = analysed(*arguments, sampled, checkpoint=checkpoint)
        analysis.plan = dataclasses.replace(analysis.plan, held=why)
    batch.end = analysis.reading.end
    return analysis
