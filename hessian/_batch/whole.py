"""All samples of a batch that is taken in parts: their outputs and loss, without a tape below."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hessian import torch_private, trees
from hessian._batch.comparison import LAST, OTHER, Rows
from hessian._batch.curvature import (
    BLOCKS,
    OutputCurvature,
    blocks,
    curved,
    proved_layouts,
    short_form,
)
from hessian._batch.reading import (
    LossCall,
    Output,
    Reading,
    Task,
    differentiated,
    handed,
    looked_behind,
)
from hessian._call import data as _data
from hessian._call import outputs as _outputs
from hessian._call.draws import Draws, NotInParts
from hessian._call.state import Randomness
from hessian._loss.output_hessian import Products, by_sample, from_samples
from hessian._loss.quadratic import Quadratic
from hessian._tape import hidden as _hidden
from hessian._tape.layouts import Layout, candidates

OTHERWISE = "the model returns something else for a part"


class Whole:
    """The batch's outputs, its loss, and what the loss does to the outputs."""

    def __init__(self, task: Task) -> None:
        self.task = task
        output = self._bare()
        self.after = Randomness(task.objective.devices())
        # What the loss is right after the model was called on all samples. Whatever else it is
        # called after, it must be that again.
        marks = self._marks()
        self.value = task.value(output).detach()
        if None in marks or marks != self._marks():
            task.start.rewind()
            self._bare()
        self.known: dict[int, Layout] = {}  # by place of an output
        self.rows_at: dict[tuple[int, Layout], Rows] = {}
        self.curvature = OutputCurvature()
        self._reading: Reading | None = None

    def _marks(self) -> list[int | None]:
        return [torch_private.version(t) for t in self.leaves if isinstance(t, Tensor)]

    def _bare(self) -> Any:
        """What the model makes of all samples, without a tape."""
        draws = Draws()
        with torch.no_grad(), draws:
            output = self.task.objective.output(self.task.inputs, self.task.index)
        self.drawn = draws.noted
        self.leaves, self.structure = _outputs.opened(output)
        return output

    @property
    def samples(self) -> int:
        """Number of samples of the batch."""
        return self.task.samples

    @property
    def is_read(self) -> bool:
        """Whether the loss was read."""
        return self._reading is not None

    @property
    def reading(self) -> Reading:
        """What the loss does to the outputs, once that was read."""
        if self._reading is None:
            raise AssertionError("the loss is read with the first part")
        return self._reading

    def read(self, part: list[Any], places: list[int], again: dict[int, int]) -> None:
        """Read the loss, given which leaves of the output depend on the parameters.

        That is after the model was called on a part, and with a tape: what the loss reads of the
        network beside its outputs shows on its own tape, or in its value. `part` are the leaves of
        the part, of which those are handed on that are not known to be free of a tape.
        """
        tensors = [self.leaves[place] for place in places]
        if len(part) != len(self.leaves) or any(not isinstance(t, Tensor) for t in tensors):
            raise NotInParts(OTHERWISE)
        for place, first in again.items():
            if not torch.equal(self.leaves[place], self.leaves[first]):
                raise NotInParts(OTHERWISE)
        outputs = [Output.of(place, t) for place, t in zip(places, tensors, strict=True)]
        self.after.restore()
        call = self._call(part, outputs, again)
        reading = differentiated(self.task, call, self.structure, outputs, again)
        self._reading = reading
        if set(reading.direct) - reading.separable:
            raise NotInParts("the loss reads a parameter in a way that is not a sum over entries")
        curved_outputs = curved(reading)
        if curved_outputs:
            layouts = proved_layouts(self.task, curved_outputs)
            if layouts is None:
                raise NotInParts("the loss couples samples")
            self.curvature = OutputCurvature(curved_outputs, layouts)
            self.known = {o.place: lay for o, lay in zip(curved_outputs, layouts, strict=True)}

    def _call(self, part: list[Any], outputs: list[Output], again: dict[int, int]) -> LossCall:
        """The loss of outputs that are cut off the tape."""
        begin = _hidden.now()
        copies = handed(self.leaves, outputs, again)
        places = {output.place for output in outputs}
        for place, leaf in enumerate(part):
            if place in places:
                copies[place].__dict__.update(leaf.__dict__)
            elif place not in again and _outputs.unseen(leaf):
                copies[place] = leaf
        try:
            loss = self.task.value(self.structure.rebuilt(copies))
        except ValueError as error:
            raise NotInParts(
                f"the loss depends on what the model was called with: {error}"
            ) from error
        call = looked_behind(self.task, loss, begin, [output.tensor for output in outputs])
        if call.hidden:
            raise NotInParts(
                f"the loss reads more of the network than its outputs ({call.hidden} is older than "
                "the call of the loss)"
            )
        if not _hidden.equal(loss, self.value):
            raise NotInParts(LAST)
        return call

    def used_outputs(self) -> list[Tensor]:
        """The outputs that the loss reads."""
        return [output.tensor for output in self.reading.used]

    def rows(self, part: slice) -> Any:
        """The inputs of some samples."""
        inputs = rows(self.task.inputs, part, self.samples)
        if _data.size(inputs) != part.stop - part.start:
            raise NotInParts("the inputs are not laid out sample by sample")
        return inputs

    def layout(self, output: Output, values: Tensor, part: slice) -> Layout:
        """The layout under which a part's values of an output are the whole's own."""
        place, shape = output.place, tuple(output.tensor.shape)
        is_known = place in self.known
        options = [self.known[place]] if is_known else candidates(shape, self.samples)
        options += [lay._replace(outer=lay.inner, inner=lay.outer) for lay in options]
        for layout in options[: 1 if is_known else None]:
            key = (place, layout)
            if key not in self.rows_at:
                self.rows_at[key] = Rows(output.tensor, output.slope.detach(), layout, self.samples)
            if self.rows_at[key].has(values, part):
                return layout
        raise NotInParts(OTHER)

    @property
    def width(self) -> int:
        """Entries of a sample in all outputs that the loss is curved in."""
        return self.curvature.entries // self.samples

    @cached_property
    def short(self) -> Quadratic | None:
        """The loss's second derivative in the outputs where that takes no block."""
        return short_form(self.reading, self.curvature, self.samples)

    @cached_property
    def _blocks_of_all(self) -> Tensor | None:
        fits = BLOCKS * self.samples * self.width**2 <= self.task.objective.memory // 2
        return blocks(self.curvature, self.samples) if fits else None

    def blocks(self, part: slice) -> Tensor:
        """The loss's second derivative in the outputs of some samples, ``[m, w, w]``."""
        if self._blocks_of_all is not None:
            return self._blocks_of_all[part]
        layouts, n = self.curvature.layouts or [], self.samples
        leaves = self.curvature.tensors
        multiply = Products(self.curvature.slopes, leaves)
        columns = []
        for i, layout in enumerate(layouts):
            for entry in range(leaves[i].numel() // n):
                vectors = [torch.zeros_like(leaf) for leaf in leaves]
                unit = leaves[i].new_zeros((n, leaves[i].numel() // n))
                unit[:, entry] = 1.0
                vectors[i] = from_samples(unit, layout, n, leaves[i].shape)
                column = [
                    by_sample(g, lay, n).reshape(n, -1)[part]
                    for g, lay in zip(multiply(vectors), layouts, strict=True)
                ]
                columns.append(torch.cat(column, 1))
        return torch.stack(columns, 2)

    def own(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Second derivative and gradient of what the loss adds by itself, once for all parts."""
        reading, parameters = self.reading, self.task.objective.parameters
        first = {name: g.detach() for name, g in reading.direct.items() if g is not None}
        return reading.separable_terms(parameters), first


def rows(values: Any, part: slice, n: int) -> Any:
    """Some samples' rows of every tensor with n rows; everything else whole."""

    def cut(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == n:
            if leaf.layout is not torch.strided:
                raise NotInParts("a sparse tensor is not cut into samples")
            return leaf[part]
        return leaf

    return trees.mapped(cut, _data._plain(values))
