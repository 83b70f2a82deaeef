"""Whether the samples of a part get the outputs that they get among all: here, and nearby.

At the weights as they are a way between samples may be shut: a branch whose last layer is zero at
the start couples nothing yet, but its derivative does. So the comparison is made again with all
parameters moved at random, on every part. No tape is built for it, and the parameters get their
values back bit for bit.

What this shows: two analytic functions that agree at a random point, in every entry that the loss
listens to, agree everywhere, so values cannot hide a way between samples. A derivative can: a term
that is added and taken off again, detached. So the outputs' derivatives along a random direction
in all parameters are compared too, which forward mode computes beside the outputs. Where an
operation has no forward mode, such a term must show on the tape of a part (`Part.mixed`). What is
seen by neither: a term that is zero with its first derivative, and whose second one couples samples
through numbers without a tape.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from hessian import torch_private
from hessian._batch.comparison import LAST, OTHER, Rows
from hessian._batch.whole import Whole
from hessian._call import outputs as _outputs
from hessian._call.draws import Draw, Draws, NotInParts
from hessian._call.state import Randomness
from hessian._loss.output_hessian import by_sample, from_samples
from hessian._runtime.ledger import owe, settled
from hessian._tape import hidden as _hidden
from hessian._tape.layouts import Layout

# Steps in units of a tensor's root mean square; the smaller ones where the larger overflow.
STEPS = (0.1, 0.01, 0.001)
# A tensor that is zero, or next to it, moves as if it had this part of the others' size.
LEAST = 1 / 3
# Relative difference of a sample's derivatives, and the share of samples that may exceed it: a
# preactivation within rounding of a kink may fall on either side, in a few of very many samples.
APART, KINKED = 1e-2, 0.01
BLOCK = 16411  # random numbers, laid out again and again: a prime, so that rows differ
SLOPES = "outputs of some samples have other derivatives than among all of them"


class _Tangents(Rows):
    """The derivative of an output along a direction, which that of a part must be some rows of."""

    def has(self, output: Tensor, part: slice) -> bool:
        """Whether the derivative is that of the samples in `part`, but for kinks."""
        rows, values = by_sample(output, self.layout, part.stop - part.start), self.values[part]
        scale = torch.maximum(values.abs(), self.size)
        apart = ((rows - values).abs() > APART * scale).flatten(1).any(1)
        return int(apart.sum()) <= KINKED * self.n


def rehearse(whole: Whole, slices: Sequence[slice], together: int) -> None:
    """Compare the parts with the whole at weights nearby: their outputs, and their derivatives.

    Derivatives are compared with those of the first samples, as many as are `together`.

    Raises:
        NotInParts: they differ, or there are none to compare.
    """
    for step in STEPS:
        with settled():
            written = whole.task.objective.written
            written.restore()  # before they are moved, and before they come back
            _move(whole.task.objective.parameters.values(), step)
            owe(written.restore)
            try:
                full = _Call(whole, None)
                after = Randomness(whole.task.objective.devices())
                value = whole.task.value(full.rebuilt(full))
            except ValueError:  # the model or the loss itself refuses such weights
                continue
            if not all(map(_as_finite, full.used(), whole.used_outputs())):
                continue
            every = [
                Rows(output, read.slope.detach(), whole.known[read.place], whole.samples)
                for read, output in zip(whole.reading.used, full.used(), strict=True)
            ]
            for part in slices:
                call = _compare(whole, part, every, full.drawn)
                if part.start:
                    continue
                after.restore()
                try:
                    again = whole.task.value(full.rebuilt(call))
                except ValueError as error:
                    raise NotInParts(f"{LAST} ({error})") from error
                if not _hidden.equal(again, value):
                    raise NotInParts(LAST)
            _derivatives(whole, slices, together, full.drawn)
            whole.task.start.rewind()
            return
    raise NotInParts("the model has no finite outputs at weights nearby")


def _derivatives(
    whole: Whole, slices: Sequence[slice], together: int, drawn: Sequence[Draw]
) -> None:
    """Compare derivatives of outputs along a direction in all parameters, by forward mode."""
    count = min(together, whole.samples)
    inside = [part for part in slices if part.stop <= count]
    if not (torch_private.HAS_FORWARD_LEVEL and torch_private.KEEPS_VERSIONS):
        raise NotInParts("this torch's forward mode cannot be entered and left without a trace")
    with settled():
        try:
            _point(whole.task.objective.parameters.values())
            group = _Call(whole, None if count == whole.samples else slice(0, count), drawn)
        except (ValueError, NotImplementedError):
            return  # an operation has no forward mode: tapes alone can tell
        every = [
            _Tangents(
                tangent,
                _first(read.slope.detach(), whole.known[read.place], whole.samples, count),
                whole.known[read.place], count,
            )
            for read, tangent in zip(whole.reading.used, group.tangents, strict=True)
        ]  # fmt: skip
        for part in inside:
            call = _Call(whole, part, drawn)
            if not all(map(partial(_Tangents.has, part=part), every, call.tangents)):
                raise NotInParts(SLOPES)


def _first(values: Tensor, layout: Layout, n: int, count: int) -> Tensor:
    """The first samples of a tensor of all."""
    rows = by_sample(values, layout, n)[:count]
    dims = list(values.shape)
    dims[layout.axis] = dims[layout.axis] // n * count
    return from_samples(rows, layout, count, tuple(dims))


class _Call:
    """What the model makes of all samples, or some, without a tape."""

    def __init__(self, whole: Whole, part: slice | None, drawn: Sequence[Draw] = ()) -> None:
        self.whole = whole
        whole.task.start.rewind()
        draws = Draws() if part is None else Draws(list(drawn), part, whole.samples)
        inputs = whole.task.inputs if part is None else whole.rows(part)
        with torch.no_grad(), draws if whole.drawn else nullcontext():
            output = whole.task.objective.output(inputs, whole.task.index)
        if part is not None and draws.count != len(drawn):
            raise NotInParts("a part draws other random numbers than the whole")
        self.drawn = draws.noted
        leaves, self.structure = _outputs.opened(output)
        if not self.structure.same(whole.structure):
            raise NotInParts("the model returns something else at weights nearby")
        duals = [_unpacked(leaf) for leaf in leaves]
        self.leaves = [leaf for leaf, _ in duals]
        self.tangents = [duals[read.place][1] for read in whole.reading.used]

    def used(self) -> list[Tensor]:
        """The outputs that the loss reads."""
        return [self.leaves[read.place] for read in self.whole.reading.used]

    def rebuilt(self, last: _Call) -> Any:
        """A copy of the output; what is not known to be values is that of the last call."""
        leaves = [
            leaf.clone() if isinstance(leaf, Tensor)
            else other if _outputs.unseen(other) else leaf
            for leaf, other in zip(self.leaves, last.leaves, strict=True)
        ]  # fmt: skip
        return self.structure.rebuilt(leaves)


def _unpacked(leaf: Any) -> tuple[Any, Any]:
    """A leaf of the output, and its derivative along the direction if there is one."""
    if not isinstance(leaf, Tensor) or torch_private.forward_level() < 0:
        return leaf, None
    primal, tangent = forward_ad.unpack_dual(leaf)
    return primal, torch.zeros_like(primal) if tangent is None else tangent


def _compare(whole: Whole, part: slice, full: list[Rows], drawn: Sequence[Draw]) -> _Call:
    try:
        call = _Call(whole, part, drawn)
    except ValueError as error:
        raise NotInParts(f"the model cannot be called on a part ({error})") from error
    if not all(rows.has(output, part) for output, rows in zip(call.used(), full, strict=True)):
        raise NotInParts(OTHER)
    return call


def _as_finite(moved: Tensor, here: Tensor) -> bool:
    return moved.shape == here.shape and bool((moved.isfinite() | ~here.isfinite()).all())


def _point(parameters: Iterable[Tensor]) -> None:
    """Give all parameters a direction to differentiate along; that they lose it is owed.

    Raises:
        NotImplementedError: someone else's forward mode is at work, which cannot be nested.
    """
    if torch_private.forward_level() >= 0:
        raise NotImplementedError
    owe(_end_forward_mode)
    forward_ad.enter_dual_level()
    generator = torch.Generator("cpu").manual_seed(1)
    every = [p for p in parameters if p.numel()]
    pattern = torch.randn(_longest(every), generator=generator, device="cpu")
    for p in every:
        size = p.detach().square().mean().sqrt()
        direction = _laid_out(pattern.to(size) * size, p)
        # A user's tape that holds the parameter stays good: its values do not change.
        with torch.no_grad(), torch_private.preserve_version(p):
            p.copy_(_dual(p.detach(), direction))


def _dual(tensor: Tensor, direction: Tensor) -> Tensor:
    with warnings.catch_warnings():  # torch uses what it deprecates, the first time
        warnings.simplefilter("ignore")
        dual: Tensor = forward_ad.make_dual(tensor, direction)
        return dual


def _end_forward_mode() -> None:
    if torch_private.forward_level() >= 0:
        forward_ad.exit_dual_level()


def _longest(parameters: Iterable[Tensor]) -> int:
    return min(BLOCK, max((p.numel() for p in parameters), default=0))


def _laid_out(block: Tensor, like: Tensor) -> Tensor:
    """The block's numbers, again and again, in a tensor's shape."""
    repeats = -(-like.numel() // len(block))
    return block.repeat(repeats)[: like.numel()].view(like.shape)


def _move(parameters: Iterable[Tensor], step: float) -> None:
    """Move all parameters at random; that they come back is owed."""
    every = [p for p in parameters if p.numel()]
    if not every:
        return
    values = [(p, p.data.clone()) for p in every]
    owe(lambda: _put_back(values))
    sizes = [float(p.data.square().mean().sqrt()) for p in every]
    usual = sorted(s for s in sizes if 0 < s < float("inf"))
    least = LEAST * usual[len(usual) // 2] if usual else 1.0
    generator = torch.Generator("cpu").manual_seed(0)
    pattern = torch.randn(_longest(every), generator=generator, device="cpu")
    for p, size in zip(every, sizes, strict=True):
        amount = step * (max(size, least) if size < float("inf") else least)
        data, count = p.data, p.numel()
        block = (amount * pattern[:count]).to(device=p.device, dtype=p.dtype)
        if count <= len(block) or not data.is_contiguous():
            data.add_(_laid_out(block, p))
            continue
        flat, full = data.view(-1), count // len(block) * len(block)
        flat[:full].view(-1, len(block)).add_(block)
        flat[full:].add_(block[: count - full])


def _put_back(values: list[tuple[Tensor, Tensor]]) -> None:
    for p, value in values:
        p.data.copy_(value)
