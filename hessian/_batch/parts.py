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
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hessian._batch.analysis import TAPES, Analysis, analysed, planned
from hessian._batch.curvature import OutputCurvature, curved
from hessian._batch.curvature import by_sample as curvature_by_sample
from hessian._batch.plan import Plan
from hessian._batch.proof import prove
from hessian._batch.reading import Output, Reading, Task
from hessian._batch.rehearsal import rehearse
from hessian._batch.whole import OTHERWISE, Whole
from hessian._call import outputs as _outputs
from hessian._call.draws import Draws, NotInParts
from hessian._call.objective import Start
from hessian._call.thaw import Thaw, only
from hessian._loss.output_hessian import by_sample, from_samples


@dataclass(frozen=True)
class Part:
    """Calls the model on some samples of a batch, and the batch's loss with the others held."""

    whole: Whole
    samples: slice
    task: Task  # of the part: its own inputs

    @property
    def where(self) -> str:
        """Which samples."""
        return f", samples {self.samples.start} to {self.samples.stop}"

    def output(self) -> Any:
        """What the model makes of the samples, with the random numbers that they have in all."""
        whole, task = self.whole, self.task
        draws = Draws(whole.drawn, self.samples, whole.samples)
        try:
            with draws if whole.drawn else nullcontext():
                output = task.objective.output(task.inputs, task.index)
        except (NotInParts, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise NotInParts(f"the model cannot be called on a part ({error})") from error
        if draws.count != len(whole.drawn):
            raise NotInParts("a part draws other random numbers than the whole")
        return output

    def value(self, output: Any) -> Tensor:
        """The whole's loss, with this part's outputs put among the others'."""
        return self.among(self.whole.reading.used_of(output))

    def among(self, outputs: list[Tensor]) -> Tensor:
        """The whole's loss, with these outputs that it reads put among the others'."""
        whole, task, n = self.whole, self.whole.task, self.whole.samples
        leaves = list(whole.leaves)
        for read, tensor in zip(whole.reading.used, outputs, strict=True):
            place, layout = read.place, whole.known[read.place]
            full = by_sample(whole.leaves[place], layout, n)
            rows = by_sample(tensor, layout, self.task.samples)
            joined = torch.cat([full[: self.samples.start], rows, full[self.samples.stop :]])
            leaves[place] = from_samples(joined, layout, n, whole.leaves[place].shape)
            leaves[place].__dict__.update(whole.leaves[place].__dict__)
        for place, first in whole.reading.again.items():
            leaves[place] = leaves[first]
        whole.after.restore()
        every = [p for module in task.objective.modules() for p in module.parameters()]
        try:
            with only(every, set()):  # what the loss reads by itself is counted once, by the whole
                return task.value(whole.structure.rebuilt(leaves))
        except Thaw:
            raise NotInParts("the loss takes derivatives by parameters itself") from None

    def repeats(self, value: Tensor, reading: Reading) -> bool:
        """The outputs of a part differ from the whole's by rounding, and the loss follows them."""
        eps = torch.finfo(value.dtype).eps
        terms = sum(
            float((read.slope * read.tensor).detach().nan_to_num(0.0, 0.0, 0.0).abs().sum())
            for read in self.whole.reading.used
        )
        here, there = float(value.detach()), float(reading.loss.detach())
        return bool(abs(here - there) <= eps ** (2 / 3) * (terms + abs(there)))


def part_of(analysis: Analysis) -> Part | None:
    """The part of a batch that was analysed; ``None`` where it is a whole one."""
    return analysis.caller if isinstance(analysis.caller, Part) else None


def analysed_part(whole: Whole, samples: slice) -> Analysis:
    """The analysis of some samples of a batch: their tape, the others' outputs held.

    Raises:
        NotInParts: these samples are not what they are among all.
    """
    task = whole.task
    task.start.rewind()
    task = dataclasses.replace(task, inputs=whole.rows(samples), start=Start(task.objective))
    part = Part(whole, samples, task)
    reading = _reading(part)
    outputs = curved(reading)
    known = {output.place: whole.known[output.place] for output in reading.used}

    def curvature() -> OutputCurvature:
        if not outputs:
            return OutputCurvature(refusal="the loss is linear in the outputs")
        laid_out = OutputCurvature(outputs, [known[output.place] for output in outputs])
        return curvature_by_sample(
            task,
            laid_out,
            lambda: None if whole.short is None else whole.short.of(samples),
            lambda: whole.blocks(samples).detach(),
        )

    proof = prove(task, reading, curvature, list(known.values()))
    return planned(task, part, reading, proof)


def _reading(part: Part) -> Reading:
    """The whole's reading at the outputs of a part."""
    whole, count = part.whole, part.task.samples
    leaves, structure = _outputs.opened(part.output())
    places, again = _outputs.distinct(leaves)
    if not whole.is_read:
        whole.read(leaves, places, again)
    of_all = whole.reading
    if not structure.same(whole.structure) or (places, again) != (of_all.places, of_all.again):
        raise NotInParts(OTHERWISE)
    outputs = []
    for read in of_all.outputs:
        tensor = leaves[read.place]
        output = Output(read.place, tensor, tensor.detach(), tensor.detach(), label=read.label)
        if read.gradient is not None:
            layout = whole.layout(read, output.values, part.samples)
            whole.known[read.place] = layout
            slope = by_sample(read.slope.detach(), layout, whole.samples)[part.samples]
            output.gradient = from_samples(slope, layout, count, tensor.shape)
        outputs.append(output)
    return Reading(
        structure, outputs, again, of_all.loss, of_all.end,
        dict.fromkeys(of_all.direct), of_all.separable, of_all.softmax,
    )  # fmt: skip


def divided(
    whole: Whole, extra: Callable[[Analysis], float] = lambda _: 0.0
) -> tuple[list[slice], float]:
    """Which samples go together, and the bytes that each of them needs.

    `extra` says what a caller holds for each sample beyond what a plan tells.

    Raises:
        NotInParts: the tape of two samples does not prove that they stay apart.
    """
    n, memory = whole.samples, whole.task.objective.memory
    if n < 2:
        raise NotInParts("a single sample")
    pair = analysed_part(whole, slice(0, 2))
    _refuse_mixed(pair)
    need, tape = pair.need() + extra(pair), pair.on_tape()
    pair.release()
    most = max(1, min(n, int(memory / max(1.0, need))))
    count = -(-n // most)
    cuts = [n * i // count for i in range(count + 1)]
    slices = [slice(a, b) for a, b in pairwise(cuts)]
    # Forward mode holds an output and its derivative at a time, on a tape all of them.
    rehearse(whole, slices, int(memory / max(1.0, 2 * tape)))
    return slices, need


def _refuse_mixed(part: Analysis) -> None:
    mixed = part.proof.places.mixed
    if mixed:
        raise NotInParts(f"samples are not proved to stay apart above {mixed[0]!r}")


class Parts:
    """A batch in parts; the interface is that of an `Analysis`."""

    def __init__(self, whole: Whole) -> None:
        n = whole.samples
        self.whole = whole
        self.slices, need = divided(whole)
        count = len(self.slices)
        self.first: Analysis | None = analysed_part(whole, self.slices[0])
        self.plan: Plan = dataclasses.replace(self.first.plan, samples=n, parts=count)
        self.tape_bytes = int(need * n / TAPES)

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.whole.samples

    @property
    def loss(self) -> Tensor:
        """The batch's loss."""
        return self.whole.reading.loss

    @property
    def reading(self) -> Reading:
        """What the loss does to the outputs of all samples."""
        return self.whole.reading

    @property
    def slopes(self) -> list[Tensor]:
        """dL/d(output) at the outputs that the loss reads."""
        return [output.slope.detach() for output in self.whole.reading.used]

    @property
    def layouts(self) -> list[Any]:
        """Where samples lie in these."""
        return [self.whole.known[output.place] for output in self.whole.reading.used]

    def ticks(self) -> int:
        """Units of progress that `run` will report."""
        return len(self.slices) * (self.first.ticks() if self.first is not None else 0)

    def run(self, tick: Callable[[int], None]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The diagonal and the gradient of the batch's loss."""
        second, first = self.whole.own()
        task = self.whole.task
        total, slope = (
            {name: torch.zeros_like(p, memory_format=torch.contiguous_format, requires_grad=False)
             for name, p in task.objective.parameters.items()} for _ in range(2)
        )  # fmt: skip
        if task.objective.share.rank:  # the first process adds it for all
            second = {}
        for into, terms in ((total, second), (slope, first)):
            for name, value in terms.items():
                into[name] += value
        try:
            for part in self.slices:
                analysis, self.first = self.first or analysed_part(self.whole, part), None
                _refuse_mixed(analysis)
                h, g = analysis.run(tick)
                for into, terms in ((total, h), (slope, g)):
                    for name, value in terms.items():
                        into[name] += value
            return total, slope
        except NotInParts:
            pass  # a later part shows what the first two samples did not
        task.start.rewind()
        batch = analysed(
            *(task.objective, task.inputs, task.targets, task.index, task.sampled),
            checkpoint=task.checkpoint,
        )
        return batch.run(lambda _: None)
