"""Extreme eigenvalues of a symmetric matrix that is known by its products, with their residuals.

A block Krylov space with full reorthogonalisation, restarted with its best Ritz vectors where it
would outgrow the memory (thick restart: Wu & Simon 2000; block form: Zhou & Saad 2008). The
products of the basis are kept beside it, so that a residual is Mv - λv itself and no recurrence's
opinion of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessian._spectrum.basis import Basis, Multiply, normals

Array = NDArray[np.float64]
# Residuals below this many roundings of the largest eigenvalue are as small as they get.
ROUNDINGS = 32
# Shares of the order in which Ritz values are wanted.
ORDERS: dict[str, Callable[[Array], Array]] = {
    "largest": lambda values: -values,
    "smallest": lambda values: values,
    "magnitude": lambda values: -np.abs(values),
}


@dataclass(frozen=True)
class Search:
    """What is looked for, and how long.

    `order` is one of `ORDERS`, `block` how many vectors are multiplied together, `by_value` that
    the eigenvalue, not the residual, is to be within the tolerance; `most` bounds the vectors that
    are held, `products` what may be spent.
    """

    count: int
    order: str
    block: int
    tolerance: float
    by_value: bool
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
    """
    size = like.shape[-1]
    basis = Basis()
    block = basis.orthonormal(normals(search.block, generator, like), 1.0)
    spent = 0
    before: Array | None = None  # the values when the space was invariant the last time
    while True:
        block = block[: max(1, search.products - spent)]
        product = multiply(block)
        spent += len(block)
        tick(len(block))
        basis.add(block, product)
        values, weights = np.linalg.eigh(basis.matrix)
        order = np.argsort(ORDERS[search.order](values), kind="stable")
        values, weights = values[order], weights[:, order]
        over = spent >= search.products or len(basis) == size
        scale = float(np.abs(values).max())
        fresh = basis.orthonormal(product, max(scale, torch.finfo(like.dtype).tiny))
        if len(basis) >= search.count or over:
            pairs = _pairs(basis, values, weights, search, spent)
            known = len(fresh) > 0 or (before is not None and _same(before, pairs, scale, like))
            if over or (bool(pairs.converged.all()) and known):
                return pairs
        if not len(fresh):
            # Invariant: all other eigenvectors, copies of these values too, are orthogonal to it.
            before = values[: search.count]
            fresh = basis.orthonormal(normals(search.block, generator, like), 1.0)
        block = fresh[: size - len(basis)]
        if len(basis) + len(block) > search.most:
            kept = max(search.count, min(search.most - search.block, len(basis)) * 2 // 3)
            basis.restart(weights[:, :kept], values[:kept])


def _pairs(basis: Basis, values: Array, weights: Array, search: Search, spent: int) -> Ritz:
    """The wanted Ritz pairs with their residuals."""
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
    return Ritz(values[:count].copy(), vectors, residuals, errors, converged, spent)


def _same(before: Array, pairs: Ritz, scale: float, like: Tensor) -> bool:
    """Whether another direction has changed nothing."""
    loose = ROUNDINGS * torch.finfo(like.dtype).eps * scale
    return len(before) == len(pairs.values) and bool((np.abs(before - pairs.values) <= loose).all())


def _gaps(values: Array, residuals: Array) -> Array:
    """The distance from each of the first values to the next that is another one."""
    gaps = np.empty(len(residuals))
    for i, residual in enumerate(residuals):
        distance = np.abs(values - values[i])
        others = distance[distance > residual]
        gaps[i] = others.min() if len(others) else residual
    return np.maximum(gaps, np.finfo(np.float64).eps * np.abs(values).max(initial=1e-300))
