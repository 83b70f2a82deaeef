"""Where a parameter meets the data, and the gradient it receives there from each sample.

A *site* is an operation of the tape that takes a shared tensor and yields one laid out by
samples. Given the adjoint of its output, the part of every single sample in the shared tensor's
gradient follows from what the tape saved: for z = U Wᵀ it is the outer product of adjoint and U.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from hessian._runtime.matrix_products import product
from hessian._tape.graph import Edge, shape
from hessian._tape.layouts import Layout

# (adjoint of the output with samples first [m, q, ...], slice of samples) → [m, *shared shape]
PerSample = Callable[[Tensor, slice], Tensor]


@dataclass
class Positions:
    """A use whose per-sample gradient is Σ_p rows[o, p]·columns[k, p], in `groups` blocks.

    `rows` maps an adjoint to ``[m, groups, o, p]``, `columns` a slice of samples to
    ``[m, groups, k, p]``; `count` is the number of positions p.

    Where the columns are windows of something smaller, k = (c, a) for an offset a in the window,
    `inputs` gives it as ``[m, groups, c, r]`` and `taps` ``[a, p]`` says which r the offset a of
    the window at p falls on, -1 for padding. With `in_order` there is one position, and `rows`
    leaves a sample's entries in their order.

    The parameter is stored as ``[groups, o, k]``; with `stored` (groups, c, o, a), k being (c, a),
    as ``[groups, c, o, a]``: the weight of a transposed convolution.
    """

    rows: Callable[[Tensor], Tensor]
    columns: Callable[[slice], Tensor]
    groups: int
    out: int
    count: int
    inputs: Callable[[slice], Tensor] | None = None
    taps: Tensor | None = None
    in_order: bool = False
    stored: tuple[int, int, int, int] | None = None

    def add(self, into: Tensor, values: Tensor) -> None:
        """Add ``[groups·o, k]`` to a parameter's own entries."""
        if self.stored is None:
            into += values.view(into.shape)
        else:
            g, c, o, a = self.stored
            into += values.view(g, o, c, a).transpose(1, 2).reshape(into.shape)


@lru_cache(maxsize=64)
def each_apart(d: int) -> Tensor:
    """Places ``[d, 1]`` of entries that meet themselves alone; one tensor for all who ask."""
    with torch.inference_mode(False):
        return torch.arange(d, device="cpu").unsqueeze(1)


@dataclass
class Site:
    """One use of one parameter.

    `edge` is the output of the operation; `gradient` gives the per-sample gradients of the
    parameter in its own shape. `outer` is set where each sample has one position: then they are
    outer products of the adjoint ``[n, o]`` and this input ``[n, k]``, and the sum of squares over
    samples is one matrix product; `transposed` says that the parameter is stored as ``[k, o]``.
    """

    edge: Edge
    layout: Layout
    gradient: PerSample
    scale: float = 1.0
    outer: Tensor | None = None
    transposed: bool = False
    extra: int = 1  # working set of `gradient`, in multiples of the parameter's size
    positions: Positions | None = None
    tokens: Tensor | None = None  # of an embedding: the rows read ``[n, p]``, -1 for padding

    def summed(self, adjoint: Tensor) -> Tensor:
        """The parameter's gradient over all samples, given the output's, where `outer` is set."""
        assert self.outer is not None
        u = self.outer.detach()
        total = product(u.T, adjoint) if self.transposed else product(adjoint.T, u)
        return total.contiguous() if self.scale == 1.0 else self.scale * total

    @cached_property
    def place(self) -> Tensor:
        """Which of a sample's entries at the site (row-major, samples first) belong together.

        ``[c, p]``: the parameters read curvature between entries of the same c only.
        """
        positions, dims = self.positions, shape(self.edge)
        assert positions is not None
        assert dims is not None
        axis, outer, inner = self.layout
        rest = [s for a, s in enumerate(dims) if a != axis]
        if positions.in_order:
            return each_apart(outer * inner * math.prod(rest))
        index = torch.arange(outer * inner * math.prod(rest), device="cpu").view(
            1, outer * inner, *rest
        )
        return positions.rows(index)[0].flatten(0, 1)
