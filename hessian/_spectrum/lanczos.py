"""Extreme eigenvalues of a symmetric matrix that is known by its products, with their residuals.

A block Krylov space with full reorthogonalisation, restarted with its best Ritz vectors where it
would outgrow the memory (thick restart: Wu & Simon 2000; block form: Zhou & Saad 2008). The
products of the basis are kept beside it, so that a residual is Mv - λv itself and no recurrence's
opinion of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessian._spectrum.basis import Basis, Multiply, normals
from hessian._spectrum.unseen import ENDS, ORDERS, Start, beyond

Array = NDArray[np.float64]
# Residuals below this many roundings of the largest eigenvalue are as small as they get.
ROUNDINGS = 32
# Vectors that a look for copies of repeated eigenvalues may take.
LOOK = 24


@dataclass(frozen=True)
class Search:
    """What is looked for, and how long.

    `order` is one of `ORDERS`, `block` how many vectors are multiplied together, `by_value` that
    the eigenvalue, not the residual, is to be within the tolerance; `missed` is the probability
    with which an eigenvalue or a copy of one may be missing, `None` if that is not looked at;
    `most` bounds the vectors that are held, `products` what may be spent.
    """

    count: int
    order: str
    block: int
    tolerance: float
    by_value: bool
    missed: float | None
    products: int
    most: int


@dataclass(frozen=True)
class Ritz:
    """Pairs in the order wanted: values, rows of unit length, residual norms, errors of values."""

    values: Array
    vectors: Tensor
    residuals: Array
    errors: Array
    converged: NDArray[np.bool_]
    products: int
    missed: float = math.nan


def extreme(
    multiply: Multiply,
    like: Tensor,
    search: Search,
    generator: torch.Generator,
    tick: Callable[[int], None] = lambda _: None,
) -> Ritz:
    """The `search.count` extreme eigenpairs of a matrix of ``like.shape[-1]`` rows.

    An eigenvalue λ lies within ‖Mv - θv‖ of every Ritz value θ (Weinstein), and to second order
    within ‖Mv - θv‖² / gap, the gap being that to the next Ritz value that is not the same one
    within the residuals (Kato & Temple).

    The Krylov space of a block meets at most as many copies of a repeated eigenvalue as it has
    vectors; the others are eigenvectors of what is left of the matrix beside the space. So once all
    pairs have converged, a random vector beside the space begins a space of its own, which finds
    one more copy, or shows how improbable it is that there is one (`beyond`).

    Small residuals do not say which eigenvalue it is: where the start has next to nothing of the
    first one, another has converged long before it shows. So the first space also goes on until
    it is as improbable that an eigenvalue lies unseen before the last of those wanted (`Start`).
    """
    size = like.shape[-1]
    basis = Basis()
    block = basis.orthonormal(normals(search.block, generator, like), 1.0)
    spent = 0
    mark: int | None = None  # where the rows begin that look for copies
    first = search.block == 1  # whether all rows are of the Krylov space of the start
    start, unseen = Start(), 0.0
    while True:
        block = block[: max(1, search.products - spent)]
        product = multiply(block)
        spent += len(block)
        tick(len(block))
        basis.add(block, product)
        values, weights = np.linalg.eigh(basis.matrix)
        order = np.argsort(ORDERS[search.order](values), kind="stable")
        values, weights = values[order], weights[:, order]
        scale = float(np.abs(values).max())
        fresh = basis.orthonormal(product, max(scale, torch.finfo(like.dtype).tiny))
        over = spent >= search.products or len(basis) == size
        if len(basis) >= search.count or over:
            pairs, rest = _pairs(basis, values, weights, search, spent)
            chance = _missing(basis, values, pairs, mark, search, len(fresh) == 0, size)
            done = bool(pairs.converged.all())
            if first and search.missed is not None and (done or over):
                is_open = len(fresh) > 0 and len(basis) < size
                unseen = start.unseen(basis.matrix, search.order, search.count, size) * is_open
                done = done and unseen <= search.missed
            pairs = dataclasses.replace(pairs, missed=min(max(chance, unseen), 1.0))
            if over or (done and (search.missed is None or chance <= search.missed)):
                return pairs
            if done and mark is not None and len(basis) + 1 > search.most:
                return pairs
            if done and (mark is None or chance == math.inf):  # a copy was found: is there another?
                if len(basis) + LOOK > search.most:
                    _restart(basis, values, weights, search)
                mark, first = len(basis), False
                block = basis.orthonormal(normals(1, generator, like), 1.0)
                continue
            if not done and not first:
                # Of one Krylov space all residuals lie in `fresh`; after a look for copies, in
                # what that has left aside too.
                late = torch.from_numpy(~pairs.converged).to(rest.device)
                fresh = basis.orthonormal(rest[late][: search.block], 1.0)
                mark = None
        if not len(fresh):  # the space is closed, and smaller than what is asked for
            fresh = basis.orthonormal(normals(search.block, generator, like), 1.0)
            first = False
        block = fresh[: size - len(basis)]
        if len(basis) + len(block) > search.most:
            retained = _restart(basis, values, weights, search)
            mark = None
            if first:
                start.restart(values, weights, retained)


def _restart(basis: Basis, values: Array, weights: Array, search: Search) -> int:
    """Keep the best Ritz vectors alone, and say how many."""
    retained = max(search.count, min(search.most - search.block, len(basis)) * 2 // 3)
    basis.restart(weights[:, :retained], values[:retained])
    return retained


def _missing(
    basis: Basis, values: Array, pairs: Ritz, mark: int | None, search: Search, closed: bool,
    size: int,
) -> float:  # fmt: skip
    """The probability that there are more copies of the wanted values than were found; ∞ if seen.

    Copies of the last value change nothing, so it is those of the next that count. Without a look
    (`mark` is `None`) nothing is known, unless all wanted values are the same or all is known.
    """
    key = ORDERS[search.order](pairs.values)
    last = key[-1]
    rounding = ROUNDINGS * torch.finfo(pairs.vectors.dtype).eps * float(np.abs(values).max())
    loose = 2 * pairs.errors + rounding
    above = key[last - key > loose]
    if not len(above) or len(basis) == size:
        return 0.0
    if mark is None:
        return math.nan if search.missed is None else 1.0
    looked = basis.matrix[mark:, mark:]
    limit = -float(above.max())  # of the value, or its size, that a copy would have
    ends = ENDS[search.order]
    return math.fsum(beyond(sign * looked, limit, closed, size - mark) for sign in ends)


def _pairs(
    basis: Basis, values: Array, weights: Array, search: Search, spent: int
) -> tuple[Ritz, Tensor]:
    """The wanted Ritz pairs, and their residuals as rows of length one."""
    count = min(search.count, len(values))
    chosen = weights[:, :count]
    vectors = basis.combined(chosen)
    rest = basis.combined(chosen, "products")
    theta = torch.from_numpy(values[:count].copy()).to(vectors)
    rest -= theta.unsqueeze(1) * vectors
    residuals: Array = rest.double().norm(dim=1).cpu().numpy()
    lengths: Array = vectors.double().norm(dim=1).cpu().numpy()
    residuals = residuals / lengths
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    errors = np.minimum(residuals, residuals**2 / _gaps(values, residuals))
    floor = ROUNDINGS * torch.finfo(vectors.dtype).eps * float(np.abs(values).max())
    bound = np.maximum(search.tolerance * np.abs(values[:count]), floor)
    converged = (errors if search.by_value else residuals) <= bound
    rest /= rest.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rest.dtype).tiny)
    return Ritz(values[:count].copy(), vectors, residuals, errors, converged, spent), rest


def _gaps(values: Array, residuals: Array) -> Array:
    """The distance from each of the first values to the next that is another one."""
    gaps = np.empty(len(residuals))
    for i, residual in enumerate(residuals):
        distance = np.abs(values - values[i])
        others = distance[distance > residual]
        gaps[i] = others.min() if len(others) else residual
    least = np.finfo(np.float64).eps * float(np.abs(values).max(initial=1e-300))
    return np.maximum(gaps, least).astype(np.float64, copy=False)
