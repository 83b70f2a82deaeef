"""Diagonals from products with a few vectors, the range of the products taken exactly."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Multiply = Callable[[Array], Array]
# Singular values of the products below this part of the greatest are rounding, of float32 too.
RANK = 1e-6


def _signs(size: int, count: int, rng: np.random.Generator) -> Array:
    drawn: Array = np.where(rng.integers(0, 2, (size, count)), 1.0, -1.0)
    return drawn


def hutch_plus_plus(
    multiply: Multiply, size: int, products: int, rng: np.random.Generator
) -> Array:
    """diag(Q Qᵀ H) + the mean of ω ⊙ (1 - Q Qᵀ) H ω, with Q the range of H on a third of them.

    H symmetric. Of `products` multiplications a third sketch the range, a third give H Q, a third
    probe what is left. Unbiased, since Q does not depend on the last probes.

    Source: Meyer, Musco, Musco & Woodruff (2021); for the diagonal Baston & Nakatsukasa (2022).
    """
    part = max(1, products // 3)
    basis, _ = np.linalg.qr(multiply(_signs(size, part, rng)))
    known = np.einsum("ij,ij->i", basis, multiply(basis))
    probes = _signs(size, max(1, products - 2 * part), rng)
    images = multiply(probes)
    left = images - basis @ (basis.T @ images)
    diagonal: Array = known + np.mean(probes * left, axis=1)
    return diagonal


def xdiag(multiply: Multiply, size: int, products: int, rng: np.random.Generator) -> Array:
    """The mean over i of diag(Q_i Q_iᵀ H) + ω_i ⊙ (1 - Q_i Q_iᵀ) H ω_i, Q_i the range without ω_i.

    H symmetric. Every vector serves the range and, left out of it, as the probe: with Q R = H Ω
    and s_i column i of R⁻ᵀ, normalised, Q_i Q_iᵀ = Q (1 - s_i s_iᵀ) Qᵀ. Half of the `products`
    are H Ω, half H Q. Unbiased.

    Source: Epperly, Tropp & Webber (2024), XTrace, section 3.
    """
    count = max(2, products // 2)
    probes = _signs(size, count, rng)
    images = multiply(probes)
    left, sizes, _ = np.linalg.svd(images, full_matrices=False)
    rank = int(np.count_nonzero(sizes > RANK * sizes.max(initial=0.0)))
    if rank < count:  # without any one probe the range is the same, and nothing is left to probe
        basis = left[:, :rank]
        return np.asarray(np.einsum("ij,ij->i", basis, multiply(basis)))
    basis, upper = np.linalg.qr(images)
    inverse = np.linalg.inv(upper.T)
    directions = inverse / np.linalg.norm(inverse, axis=0)
    products_of_basis = multiply(basis)
    whole = np.einsum("ij,ij->i", basis, products_of_basis)
    along, image = basis @ directions, products_of_basis @ directions
    missing = np.einsum("ij,ij->j", directions, upper)
    diagonal: Array = whole + np.mean(-along * image + probes * along * missing, axis=1)
    return diagonal
