"""The Hessian of the loss in the model's outputs as columns: H = Σ_c λ_c S_c S_cᵀ.

The λ have either sign, since a loss need not be convex. Where the loss is a sum over samples, H is
block-diagonal and column c carries one vector for each sample.

No entry is dropped for being small beside others: softmax probabilities of many classes, or a head
whose loss weighs 1e-7, are small and right. A diagonal form is its own factorisation; that of a
softmax is known in closed form, without a subtraction; any other block is brought to rows of one
size before its eigenvalues are compared with rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hessian._loss import softmax as _softmax_of
from hessian._loss.quadratic import Quadratic
from hessian._tape.layouts import Layout

NOT_FINITE = "its second derivative with respect to the model's output is not finite"
CHECK = "check the loss at this output (a square root or logarithm at zero, an overflow)"


@dataclass
class Factor:
    """Columns of H.

    `columns[l]` has shape ``[r, *leaf.shape]``: the part of the r columns in output leaf l.
    `weights` holds the λ, of shape ``[r, n]`` (or ``[r]`` where samples are coupled).
    """

    columns: list[Tensor]
    weights: Tensor

    @property
    def rank(self) -> int:
        """Number of columns r."""
        return int(self.weights.shape[0])


def factored(
    form: Quadratic, leaves: Sequence[Tensor], layouts: Sequence[Layout], every: bool = False
) -> Factor:
    """Factor a form that is given sample by sample.

    Columns without weight in all samples are dropped, unless `every` column of a sample is wanted,
    whatever the others.
    """
    dtype = leaves[0].dtype
    if form.kind == "softmax":
        columns, weights = _softmax(form, dtype)
    elif form.kind == "diagonal":
        columns, weights = _diagonal(form.values)
    else:
        columns, weights = _blocks(form.values, torch.finfo(dtype).eps)
    if not every:
        live = (weights != 0).any(0)
        if not bool(live.all()):
            columns, weights = columns[:, live], weights[:, live]
    return _laid_out(columns, weights, leaves, layouts)


def leading(
    form: Quadratic, leaves: Sequence[Tensor], layouts: Sequence[Layout], count: int
) -> Factor:
    """The eigenvectors of the eigenvalues of largest size, by one measure for all entries."""
    matrix = form.matrix()
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError(f"loss: {NOT_FINITE}; {CHECK}")
    values, vectors = torch.linalg.eigh(_symmetric(matrix))
    if form.kind == "softmax" and form.values.shape[1] == 1:  # all of one sign
        values = torch.where(values * form.values.to(values.dtype) < 0, values, 0.0)
    order = values.abs().argsort(dim=1, descending=True)[:, :count]
    picked = vectors.gather(2, order.unsqueeze(1).expand(-1, vectors.shape[1], -1))
    return _laid_out(picked.transpose(1, 2), values.gather(1, order), leaves, layouts)


def _laid_out(
    columns: Tensor, weights: Tensor, leaves: Sequence[Tensor], layouts: Sequence[Layout]
) -> Factor:
    """Columns ``[n, r, entries]`` and weights ``[n, r]`` in the shapes of the leaves."""
    dtype, parts, start = leaves[0].dtype, [], 0
    for leaf, layout in zip(leaves, layouts, strict=True):
        size = leaf.numel() // len(weights)
        part = columns[:, :, start : start + size].transpose(0, 1).to(dtype)
        parts.append(_restored(part, layout, leaf.shape))
        start += size
    return Factor(parts, weights.T.to(dtype).contiguous())


def factor_dense(matrix: Tensor, leaves: Sequence[Tensor]) -> Factor:
    """Factor H as a whole, for a loss that couples samples."""
    vectors, values = _blocks(matrix.unsqueeze(0), torch.finfo(leaves[0].dtype).eps)
    live = values[0] != 0
    columns, start = [], 0
    for leaf in leaves:
        part = vectors[0, live, start : start + leaf.numel()].to(leaf.dtype)
        columns.append(part.reshape(len(part), *leaf.shape))
        start += leaf.numel()
    return Factor(columns, values[0, live].to(leaves[0].dtype))


def _restored(values: Tensor, layout: Layout, like: Sequence[int]) -> Tensor:
    """Columns ``[r, n, entries]`` laid out as a leaf, ``[r, *like]``."""
    axis, outer, inner = layout
    rest = [s for a, s in enumerate(like) if a != axis]
    parts = values.reshape(*values.shape[:2], outer, inner, *rest)
    parts = parts.movedim((1, 2, 3), (axis + 2, axis + 1, axis + 3))
    return parts.reshape(len(values), *like)


def _diagonal(values: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors, and the entries themselves."""
    n, width = values.shape
    units = torch.eye(width, dtype=values.dtype, device=values.device)
    return units.expand(n, width, width), values


def _softmax(form: Quadratic, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """-t (diag(p) - ppᵀ) at every position, by the closed form of `_loss.softmax`."""
    assert form.shares is not None
    shares, t = form.shares.to(torch.float64), form.values.to(torch.float64)
    (n, width), q = shares.shape, form.values.shape[1]
    order = _softmax_of.order_of(form.spots, width, q, shares)
    p = shares[:, order]  # [n, q, classes]
    later = _softmax_of.tails(p)
    count = p.shape[2] - 1
    columns = torch.zeros((n, q, count, width), dtype=dtype, device=shares.device)
    for s in range(q):
        columns[:, s, :, order[s]] = _softmax_of.columns(p[:, s], later[:, s], dtype)
    weights = _softmax_of.weights(p, later) * -t.unsqueeze(2)
    return columns.view(n, -1, width), weights.reshape(n, -1)


def _blocks(blocks: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Columns ``[n, r, w]`` and weights ``[n, r]``, those of largest size first."""
    if not bool(torch.isfinite(blocks).all()):
        raise ValueError(f"loss: {NOT_FINITE}; {CHECK}")
    diagonal = blocks.diagonal(dim1=1, dim2=2)
    if int(torch.count_nonzero(blocks)) == int(torch.count_nonzero(diagonal)):
        return _diagonal(diagonal)
    whole = _symmetric(blocks)
    scale = _balance(whole)
    values, vectors = torch.linalg.eigh(whole * scale.unsqueeze(1) * scale.unsqueeze(2))
    order = values.abs().argsort(dim=1, descending=True)
    values = values.gather(1, order)
    vectors = vectors.gather(2, order.unsqueeze(1).expand_as(vectors))
    # Entries are sums of terms whose rounding is eps of the row's and the column's size: beside
    # rows of size one that is eps each, and an eigenvalue below width·eps may as well be zero.
    # It is dropped to save its column; what goes with it is of the size of that rounding, for
    # every entry by its own row's and column's measure.
    values = torch.where(values.abs() <= blocks.shape[1] * eps, 0.0, values)
    return (vectors / scale.unsqueeze(2)).transpose(1, 2), values


def _symmetric(blocks: Tensor) -> Tensor:
    whole = blocks.to(torch.float64)
    return (whole + whole.transpose(1, 2)) / 2


def _balance(blocks: Tensor) -> Tensor:
    """d ``[n, w]`` such that the largest entry in each row of d_i |H_ij| d_j is about one.

    Ruiz's scaling (2001), by powers of two: no rounding. Rows of zeros keep theirs.
    """
    size = blocks.abs()
    total = torch.ones_like(size[:, 0])
    for _ in range(16):  # the distance from one, in powers of two, halves every time
        top = size.amax(2)
        step = torch.where(top > 0, -0.5 * top.log2(), 0.0).round_()
        if not bool(step.any()):
            break
        step = torch.exp2(step)
        total *= step
        size *= step.unsqueeze(1) * step.unsqueeze(2)
    return total
