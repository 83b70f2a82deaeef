"""A batch taken in parts of its samples, where the tape of the whole would be too large.

With samples apart in the network and in the loss, the second derivatives of
L(f_1(w), …, f_n(w)) are those along one part of the samples at a time, the outputs of all others
held: what is left out are products of two samples' derivatives with a block of the loss's Hessian
that is zero. The loss is always the user's own, of the whole batch, so that its normaliser (class
weights, ignored targets) is right. Only the outputs of the whole batch are kept, from one run of
the model without a tape; each part's tape is built, used and dropped.

That the model treats samples apart is proved on the tape of two of them, and seen on all: a part's
outputs must be the whole's. Where that fails, or the loss couples samples, there are no parts, and
the tape of the whole batch is built as one gradient would build it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from hessian._batch.analysis import BLOCKS, TAPES, Analysis, Curved
from hessian._batch.rehearsal import LAST, OTHER, Rows, rehearse
from hessian._call import data as _data
from hessian._call import outputs as _outputs
from hessian._call.draws import Draws, NotInParts
from hessian._call.objective import Objective, Start
from hessian._call.state import Randomness
from hessian._call.thaw import Thaw, only
from hessian._loss.columns import Quadratic
from hessian._loss.output_hessian import Products, by_sample, from_samples
from hessian._plan import Plan
from hessian._tape import hidden as _hidden
from hessian._tape.certificate import LINEAR
from hessian._tape.graph import Tape
from hessian._tape.operations import Layout, candidates


class Whole(Analysis):
    """The batch's outputs, its loss, and what the loss does to the outputs; no tape below them."""

    def __init__(
        self,
        objective: Objective,
        inputs: Any,
        targets: Any,
        index: int,
        sampled: Mapping[str, Tensor] | None,
    ) -> None:
        self.objective, self.index, self.bounded = objective, index, False
        self.sampled = sampled or {}
        self.inputs, self.targets = inputs, targets
        self.samples = _data.size(inputs)
        self.start = Start(objective)
        output = self._bare()
        self.after = Randomness(objective.devices())
        # What the loss is right after the model was called on all samples. Whatever else it is
        # called after, it must be that again.
        marks = [t._version for t in self.leaves if isinstance(t, Tensor)]
        self.value = self._value(output).detach()
        if marks != [t._version for t in self.leaves if isinstance(t, Tensor)]:
            self.start.rewind()
            self._bare()
        self.places: list[int] = []
        self.again: dict[int, int] = {}
        self.known: dict[int, Layout] = {}
        self.rows_at: dict[tuple[int, Layout], Rows] = {}
        self.at: Mapping[int, Any] = {}
        self.is_read = False

    def _bare(self) -> Any:
        """What the model makes of all samples, without a tape."""
        draws = Draws()
        with torch.no_grad(), draws:
            output = self.objective.output(self.inputs, self.index)
        self.drawn = draws.noted
        self.leaves, self.structure = _outputs.opened(output)
        return output

    def read(self, part: list[Any], places: list[int], again: dict[int, int]) -> None:
        """Read the loss, given which leaves of the output depend on the parameters.

        That is after the model was called on a part, and with a tape: what the loss reads of the
        network beside its outputs shows on its own tape, or in its value. `part` are the leaves of
        the part, of which those are handed on that are not known to be free of a tape.
        """
        self.is_read, self.places, self.again, self.part = True, places, again, part
        self.outputs = [self.leaves[i] for i in places]
        if len(part) != len(self.leaves) or any(not isinstance(t, Tensor) for t in self.outputs):
            raise NotInParts("the model returns something else for a part")
        for i, first in again.items():
            if not torch.equal(self.leaves[i], self.leaves[first]):
                raise NotInParts("the model returns something else for a part")
        self.after.restore()
        self.at = self._read(self.leaves)
        self.part = []
        if set(self.direct) - self.separable:
            raise NotInParts("the loss reads a parameter in a way that is not a sum over entries")
        curved = [i for i in self.used if self.at[i] != LINEAR]
        self.curved = Curved([], [])
        if curved:
            self.curved = self._layouts(curved, [self.detached[i] for i in curved], self.at)
            if self.curved.layouts is None:
                raise NotInParts("the loss couples samples")
            self.known = dict(zip(curved, self.curved.layouts, strict=True))

    def used_outputs(self) -> list[Tensor]:
        """The outputs that the loss reads."""
        return [self.outputs[i] for i in self.used]

    def rows(self, part: slice) -> Any:
        """The inputs of some samples."""
        inputs = rows(self.inputs, part, self.samples)
        if _data.size(inputs) != part.stop - part.start:
            raise NotInParts("the inputs are not laid out sample by sample")
        return inputs

    def _handed(self, leaves: list[Any]) -> list[Any]:
        handed = super()._handed(leaves)
        for i, leaf in enumerate(self.part):
            if i in self.places:
                handed[i].__dict__.update(leaf.__dict__)
            elif i not in self.again and _outputs.unseen(leaf):
                handed[i] = leaf
        return handed

    def _cut(self, leaves: list[Any]) -> Tape:
        begin = _hidden.now()
        handed = self._handed(leaves)
        try:
            self.loss = self._value(self.structure.rebuilt(handed))
        except ValueError as error:
            raise NotInParts(
                f"the loss depends on what the model was called with: {error}"
            ) from error
        self.end = Randomness(self.objective.devices())
        tape = Tape.of([self.loss]) if self.loss.requires_grad else Tape([])
        self._look_behind(tape, begin)
        if self.hidden:
            raise NotInParts(
                f"the loss reads more of the network than its outputs ({self.hidden} is older than "
                "the call of the loss)"
            )
        if not _hidden.equal(self.loss, self.value):
            raise NotInParts(LAST)
        return tape

    def _coupled(self, curved: list[int], leaves: list[Tensor], gradients: list[Tensor]) -> Curved:
        return Curved(curved, leaves)

    @property
    def width(self) -> int:
        """Entries of a sample in all outputs that the loss is curved in."""
        return sum(t.numel() for t in self.curved.tensors) // self.samples

    @cached_property
    def short(self) -> Quadratic | None:
        """The loss's second derivative in the outputs where that takes no block."""
        return self._short(self.curved)

    @cached_property
    def _blocks_of_all(self) -> Tensor | None:
        fits = BLOCKS * self.samples * self.width**2 <= self.objective.memory // 2
        return self._blocks(self.curved) if fits else None

    def blocks(self, part: slice) -> Tensor:
        """The loss's second derivative in the outputs of some samples, ``[m, w, w]``."""
        if self._blocks_of_all is not None:
            return self._blocks_of_all[part]
        layouts, n = self.curved.layouts, self.samples
        assert layouts is not None
        leaves = self.curved.tensors
        multiply = Products(
            [g for i in self.curved.leaves if (g := self.gradient_out[i]) is not None], leaves
        )
        found = []
        for i, layout in enumerate(layouts):
            for entry in range(leaves[i].numel() // n):
                vectors = [torch.zeros_like(leaf) for leaf in leaves]
                unit = leaves[i].new_zeros((n, leaves[i].numel() // n))
                unit[:, entry] = 1.0
                vectors[i] = from_samples(unit, layout, n, leaves[i].shape)
                rows = [
                    by_sample(g, lay, n).reshape(n, -1)[part]
                    for g, lay in zip(multiply(vectors), layouts, strict=True)
                ]
                found.append(torch.cat(rows, 1))
        return torch.stack(found, 2)

    def own(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Second derivative and gradient of what the loss adds by itself, once for all parts."""
        first = {name: g.detach() for name, g in self.direct.items() if g is not None}
        return self.separable_terms(), first


class Part(Analysis):
    """Some samples of a batch: their tape, the others' outputs held."""

    # It is not given those of the tape, but joined ones.
    writes = False

    def __init__(self, whole: Whole, part: slice) -> None:
        self.whole, self.part = whole, part
        whole.start.rewind()
        super().__init__(
            whole.objective, whole.rows(part), whole.targets, whole.index, whole.sampled
        )

    def _output(self) -> Any:
        whole = self.whole
        draws = Draws(whole.drawn, self.part, whole.samples)
        try:
            with draws if whole.drawn else nullcontext():
                output = self.objective.output(self.inputs, self.index)
        except (NotInParts, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise NotInParts(f"the model cannot be called on a part ({error})") from error
        if draws.count != len(whole.drawn):
            raise NotInParts("a part draws other random numbers than the whole")
        return output

    def _value(self, output: Any) -> Tensor:
        """The whole's loss, with this part's outputs put among the others'."""
        return self.among(self.used_of(output))

    def among(self, outputs: list[Tensor]) -> Tensor:
        """The whole's loss, with these outputs that it reads put among the others'."""
        whole, n = self.whole, self.whole.samples
        handed = list(whole.leaves)
        for i, own in zip(self.used, outputs, strict=True):
            at, layout = self.places[i], whole.known[i]
            full = by_sample(whole.leaves[at], layout, n)
            rows = by_sample(own, layout, self.samples)
            joined = torch.cat([full[: self.part.start], rows, full[self.part.stop :]])
            handed[at] = from_samples(joined, layout, n, whole.leaves[at].shape)
            handed[at].__dict__.update(whole.leaves[at].__dict__)
        for i, first in self.again.items():
            handed[i] = handed[first]
        whole.after.restore()
        every = [p for module in self.objective.modules() for p in module.parameters()]
        try:
            with only(every, set()):  # what the loss reads by itself is counted once, by the whole
                return self.objective.scalar(
                    whole.structure.rebuilt(handed), whole.inputs, whole.targets, self.index
                )
        except Thaw:
            raise NotInParts("the loss takes derivatives by parameters itself") from None

    def _read(self, leaves: list[Any]) -> Mapping[int, Any]:
        whole, n = self.whole, self.whole.samples
        if not whole.is_read:
            whole.read(leaves, self.places, self.again)
        same = self.structure.same(whole.structure)
        if not same or (self.places, self.again) != (whole.places, whole.again):
            raise NotInParts("the model returns something else for a part")
        self.loss, self.end, self.used = whole.loss, whole.end, whole.used
        self.detached = [t.detach() for t in self.outputs]
        self.gradient_out = [None] * len(self.outputs)
        self.direct = dict.fromkeys(whole.direct)
        self.hidden, self.hidden_bytes = "", 0
        self.softmax = whole.softmax
        self.separable = whole.separable
        for i in self.used:
            layout = self._same(i)
            whole.known[i] = layout
            gradient = whole.gradient_out[i]
            assert gradient is not None
            mine = by_sample(gradient.detach(), layout, n)[self.part]
            self.gradient_out[i] = from_samples(mine, layout, self.samples, self.outputs[i].shape)
        return whole.at

    def _same(self, i: int) -> Layout:
        """The layout under which an output is the whole's own."""
        whole, n = self.whole, self.whole.samples
        full, slope = whole.outputs[i], whole.gradient_out[i]
        assert slope is not None
        options = [whole.known[i]] if i in whole.known else candidates(tuple(full.shape), n)
        options += [lay._replace(outer=lay.inner, inner=lay.outer) for lay in options]
        for layout in options[: 1 if i in whole.known else None]:
            key = (i, layout)
            if key not in whole.rows_at:
                whole.rows_at[key] = Rows(full, slope.detach(), layout, n)
            if whole.rows_at[key].has(self.detached[i], self.part):
                return layout
        raise NotInParts(OTHER)

    def _repeats(self, value: Tensor) -> bool:
        """The outputs of a part differ from the whole's by rounding, and the loss follows them."""
        eps = torch.finfo(value.dtype).eps
        terms = sum(
            float((g * self.whole.outputs[i]).detach().nan_to_num(0.0, 0.0, 0.0).abs().sum())
            for i in self.used if (g := self.whole.gradient_out[i]) is not None
        )  # fmt: skip
        here, there = float(value.detach()), float(self.loss.detach())
        return abs(here - there) <= eps ** (2 / 3) * (terms + abs(there))

    def _samples(self, at: Mapping[int, Any]) -> None:
        super()._samples(self.whole.known)

    def _layouts(self, curved: list[int], leaves: list[Tensor], at: Mapping[int, Any]) -> Curved:
        return Curved(curved, leaves, [self.whole.known[i] for i in curved])

    def _short(self, found: Curved) -> Quadratic | None:
        return None if self.whole.short is None else self.whole.short.of(self.part)

    def _blocks(self, found: Curved) -> Tensor:
        return self.whole.blocks(self.part).detach()


def divided(
    whole: Whole, extra: Callable[[Analysis], float] = lambda _: 0.0
) -> tuple[list[slice], float]:
    """Which samples go together, and the bytes that each of them needs.

    `extra` says what a caller holds for each sample beyond what a plan tells.

    Raises:
        NotInParts: the tape of two samples does not prove that they stay apart.
    """
    n = whole.samples
    if n < 2:
        raise NotInParts("a single sample")
    pair = Part(whole, slice(0, 2))
    _refuse_mixed(pair)
    need, tape = pair.need() + extra(pair), pair.on_tape()
    pair._release()
    most = max(1, min(n, int(whole.objective.memory / max(1.0, need))))
    count = -(-n // most)
    cuts = [n * i // count for i in range(count + 1)]
    slices = [slice(a, b) for a, b in pairwise(cuts)]
    # Forward mode holds an output and its derivative at a time, on a tape all of them.
    rehearse(whole, slices, int(whole.objective.memory / max(1.0, 2 * tape)))
    return slices, need


def _refuse_mixed(part: Part) -> None:
    if part.mixed:
        raise NotInParts(f"samples are not proved to stay apart above {part.mixed[0]!r}")


class Parts:
    """A batch in parts; the interface is that of an `Analysis`."""

    def __init__(self, whole: Whole) -> None:
        n = whole.samples
        self.whole = whole
        self.slices, need = divided(whole)
        count = len(self.slices)
        self.first: Part | None = Part(whole, self.slices[0])
        self.samples, self.loss, self.end = n, whole.loss, whole.end
        self.plan: Plan = dataclasses.replace(self.first.plan, samples=n, parts=count)
        self.tape_bytes = int(need * n / TAPES)
        self.used, self.gradient_out = whole.used, whole.gradient_out
        self.layouts = [whole.known[i] for i in whole.used]

    def ticks(self) -> int:
        """Units of progress that `run` will report."""
        return len(self.slices) * (self.first.ticks() if self.first is not None else 0)

    def run(self, tick: Callable[[int], None]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The diagonal and the gradient of the batch's loss."""
        second, first = self.whole.own()
        parameters = self.whole.objective.parameters
        total, slope = (
            {name: torch.zeros_like(p, memory_format=torch.contiguous_format, requires_grad=False)
             for name, p in parameters.items()} for _ in range(2)
        )  # fmt: skip
        if self.whole.objective.share.rank:  # the first process adds it for all
            second = {}
        for into, given in ((total, second), (slope, first)):
            for name, value in given.items():
                into[name] += value
        try:
            for part in self.slices:
                now, self.first = self.first or Part(self.whole, part), None
                _refuse_mixed(now)
                h, g = now.run(tick)
                for into, given in ((total, h), (slope, g)):
                    for name, value in given.items():
                        into[name] += value
            return total, slope
        except NotInParts:
            pass  # a later part shows what the first two samples did not
        whole = self.whole
        whole.start.rewind()
        analysis = Analysis(
            whole.objective, whole.inputs, whole.targets, whole.index, whole.sampled
        )
        return analysis.run(lambda _: None)


def rows(values: Any, part: slice, n: int) -> Any:
    """Some samples' rows of every tensor with n rows; everything else whole."""

    def cut(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == n:
            if leaf.layout is not torch.strided:
                raise NotInParts("a sparse tensor is not cut into samples")
            return leaf[part]
        return leaf

    return tree_map(cut, _data._plain(values))
