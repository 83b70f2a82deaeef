"""The loss's second derivative in the model's outputs, by sample where samples stay apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from hessian._batch.reading import Output, Reading, Task
from hessian._loss import factor as _factor
from hessian._loss import output_hessian as _loss
from hessian._loss.quadratic import Quadratic
from hessian._tape.certificate import LINEAR
from hessian._tape.layouts import Layout, candidates

# Bytes for an entry of the loss's second derivative: itself, and its factorisation in float64.
BLOCKS = 32


@dataclass
class OutputCurvature:
    """The outputs that the loss is curved in, and its second derivative there.

    `form` holds it by sample, `matrix` as a whole where samples are coupled (`layouts` is `None`).
    """

    outputs: list[Output] = field(default_factory=list)
    layouts: list[Layout] | None = None
    form: Quadratic | None = None
    matrix: Tensor | None = None
    refusal: str = ""

    @property
    def tensors(self) -> list[Tensor]:
        """The outputs off the network's tape."""
        return [output.cut for output in self.outputs]

    @property
    def slopes(self) -> list[Tensor]:
        """The loss's derivatives by these outputs, on its tape."""
        return [output.slope for output in self.outputs]

    @cached_property
    def factor(self) -> _factor.Factor | None:
        """The second derivative as columns and weights, where a factorisation pays."""
        if self.matrix is not None and not self.refusal:
            return _factor.factor_dense(self.matrix, self.tensors)
        if self.form is None or self.layouts is None or self.refusal:
            return None
        return _factor.factored(self.form, self.tensors, self.layouts)

    @property
    def is_factored(self) -> bool:
        """Whether `factor` was asked for already."""
        return "factor" in self.__dict__

    @property
    def entries(self) -> int:
        """Number of entries of these outputs in all samples."""
        return sum(output.cut.numel() for output in self.outputs)

    @property
    def most(self) -> int | None:
        """The most columns that `factor` may have, `None` where there is none."""
        if self.form is None or self.layouts is None or self.refusal:
            return None
        width = self.entries // len(self.form.values)
        return width - (self.form.values.shape[1] if self.form.kind == "softmax" else 0)

    @property
    def width(self) -> int:
        """Entries of a sample's blocks where these were written out, else 0."""
        if self.form is None or (self.form.kind != "full" and not self.is_factored):
            return 0
        return self.entries // self.form.values.shape[0]


def curved(reading: Reading) -> list[Output]:
    """The outputs that the loss is not proved to be linear in."""
    return [output for output in reading.used if output.label != LINEAR]


def output_curvature(task: Task, reading: Reading) -> OutputCurvature:
    """The loss's second derivative in the outputs of a whole batch."""
    outputs = curved(reading)
    if not outputs:
        return OutputCurvature(refusal="the loss is linear in the outputs")
    layouts = proved_layouts(task, outputs)
    if layouts is not None:
        laid_out = OutputCurvature(outputs, layouts)
        return by_sample(
            task,
            laid_out,
            lambda: short_form(reading, laid_out, task.samples),
            lambda: blocks(laid_out, task.samples),
        )
    entries = sum(output.cut.numel() for output in outputs)
    if entries <= _loss.LARGEST_BLOCK:
        return _coupled(task, outputs)
    return OutputCurvature(
        outputs,
        refusal=f"the loss is not proved to keep samples apart and has {entries} output "
        f"entries, more than {_loss.LARGEST_BLOCK}",
    )


def proved_layouts(task: Task, outputs: Sequence[Output]) -> list[Layout] | None:
    """Where samples lie in these outputs, if the loss is proved, or seen, to keep them apart."""
    labels = [output.label for output in outputs]
    if task.samples == 1:  # nothing to keep apart: any layout will do
        labels = [next(iter(candidates(tuple(o.cut.shape), 1)), None) for o in outputs]
    layouts = [label for label in labels if isinstance(label, Layout)]
    if len(layouts) == len(labels):
        return layouts
    if sum(output.cut.numel() for output in outputs) <= _loss.LARGEST_BLOCK:
        return _seen_apart(outputs, task.samples)
    return None


def by_sample(
    task: Task,
    laid_out: OutputCurvature,
    short: Callable[[], Quadratic | None],
    full: Callable[[], Tensor],
) -> OutputCurvature:
    """The second derivative sample by sample: in a short form where it has one, else in blocks."""
    n, width = task.samples, laid_out.entries // task.samples
    large = ""
    if width > _loss.LARGEST_BLOCK:
        large = f"each sample has {width} output entries, more than {_loss.LARGEST_BLOCK}"
    form = short()
    if form is None:
        item = laid_out.tensors[0].element_size()
        if large and n * width * width * item > task.objective.memory:
            return dataclasses.replace(laid_out, refusal=large)
        task.check(BLOCKS * width**2)
        form = Quadratic("full", full())
    if not bool(torch.isfinite(form.values).all()):
        return dataclasses.replace(laid_out, refusal=f"the loss: {_factor.NOT_FINITE}")
    return dataclasses.replace(laid_out, form=form, refusal=large)


def short_form(reading: Reading, laid_out: OutputCurvature, n: int) -> Quadratic | None:
    """The second derivative where that takes no block: of a softmax, or a diagonal."""
    layouts = laid_out.layouts or []
    if reading.softmax is not None:
        edge, adjoint = reading.softmax
        return _loss.softmax_form(edge[0], adjoint.detach(), laid_out.tensors[0], layouts[0], n)
    if not layouts or not all(output.entrywise for output in laid_out.outputs):
        return None
    multiply = _loss.Products(laid_out.slopes, laid_out.tensors)
    diagonal = multiply([torch.ones_like(tensor) for tensor in laid_out.tensors])
    return Quadratic("diagonal", torch.cat([
        _loss.by_sample(h.detach(), layout, n).reshape(n, -1)
        for h, layout in zip(diagonal, layouts, strict=True)
    ], 1))  # fmt: skip


def blocks(laid_out: OutputCurvature, n: int) -> Tensor:
    """The second derivative written out, ``[n, w, w]``."""
    layouts = laid_out.layouts or []
    return _loss.blocks_by_sample(laid_out.slopes, laid_out.tensors, layouts, n).detach()


def _coupled(task: Task, outputs: list[Output]) -> OutputCurvature:
    """The loss's second derivative in all outputs at once."""
    coupled = OutputCurvature(outputs)
    task.check(BLOCKS * coupled.entries**2 / task.samples)
    matrix = _loss.dense(coupled.slopes, coupled.tensors)
    finite = bool(torch.isfinite(matrix).all())
    why = "" if finite else f"the loss: {_factor.NOT_FINITE}"
    return OutputCurvature(outputs, matrix=matrix, refusal=why)


def _seen_apart(outputs: Sequence[Output], n: int) -> list[Layout] | None:
    """Layouts under which H, looked at row by row, has only exact zeros between samples."""
    layouts, owners = [], []
    for output in outputs:
        leaf = output.cut
        options = candidates(tuple(leaf.shape), n)
        if not options:
            return None
        layouts.append(options[0])
        index = torch.arange(leaf.numel(), device=leaf.device).view(leaf.shape)
        parts = _loss.by_sample(index, options[0], n).reshape(n, -1)
        owner = torch.empty(leaf.numel(), dtype=torch.long, device=leaf.device)
        owner[parts.reshape(-1)] = torch.arange(n, device=leaf.device).repeat_interleave(
            parts.shape[1]
        )
        owners.append(owner)
    owner = torch.cat(owners)
    slopes, leaves = [output.slope for output in outputs], [output.cut for output in outputs]
    for row, sample in zip(_loss.rows(slopes, leaves), owner, strict=True):
        if bool((row.bool() & (owner != sample)).any()):
            return None
    return layouts
