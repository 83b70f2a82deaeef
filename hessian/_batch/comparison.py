"""Whether outputs are the same to rounding: of a second call, and of some samples among all."""

from __future__ import annotations

import torch
from torch import Tensor

from hessian._loss.output_hessian import by_sample
from hessian._tape.layouts import Layout

LAST = "the loss depends on what the model was called with last"
OTHER = "the model gives some samples other outputs than it gives all of them"


def listened(values: Tensor, slope: Tensor) -> Tensor:
    """The size of the outputs that a loss listens to, by place of a sample: ``[1, positions, …]``.

    A mean over samples, weighed by the loss's slope: a logit that a mask has put to -1e9 counts
    nothing, as the loss does not change with it. No place is larger than the mean of all.
    """
    there = values.isfinite() & slope.isfinite()
    size, weight = (torch.where(there, t, 0.0).abs() for t in (values, slope))
    total, mass = (size * weight).sum(0, keepdim=True), weight.sum(0, keepdim=True)
    plain = size.sum(0, keepdim=True) / there.sum(0, keepdim=True).clamp_min(1)
    here = torch.where(mass > 0, total / mass, plain)
    every = total.sum() / mass.sum() if bool(mass.any()) else plain.mean()
    return torch.minimum(here, every)


def alike(part: Tensor, whole: Tensor, size: Tensor) -> bool:
    """Whether outputs are the same to rounding, entry by entry; samples come first.

    Sums run in another order in a part, which changes an entry by some eps of its terms; a
    dependence between samples shows far above that.
    """
    loose = torch.finfo(whole.dtype).eps ** (2 / 3) * torch.maximum(whole.abs(), size)
    same = ((part - whole).abs() <= loose) | (part == whole) | (part.isnan() & whole.isnan())
    return bool(same.all())


def repeats(new: Tensor, old: Tensor) -> bool:
    """Whether the outputs of a second call are those of the first, to rounding."""
    if new.shape != old.shape or torch.equal(new, old):
        return new.shape == old.shape
    size = torch.where(old.isfinite(), old, 0.0).abs().mean()
    return alike(new, old, size)


class Rows:
    """An output of all samples, which that of a part must be some rows of."""

    def __init__(self, output: Tensor, slope: Tensor, layout: Layout, n: int) -> None:
        self.shape, self.layout, self.n = tuple(output.shape), layout, n
        self.values = by_sample(output.detach(), layout, n)
        self.size = listened(self.values, by_sample(slope, layout, n))

    def has(self, output: Tensor, part: slice) -> bool:
        """Whether the output is that of the samples in `part`."""
        m, axis = part.stop - part.start, self.layout.axis
        dims = list(self.shape)
        dims[axis] = dims[axis] // self.n * m
        if tuple(dims) != tuple(output.shape):
            return False
        return alike(by_sample(output, self.layout, m), self.values[part], self.size)
