"""The trace of a symmetric matrix from its products with random signs.

Hutchinson's estimate is the mean of zᵀMz. Hutch++ (Meyer, Musco, Musco & Woodruff 2021) takes the
trace exactly on an orthonormal basis Q of M's image of a few vectors, and Hutchinson's estimate of
what is left, tr (1-QQᵀ)M(1-QQᵀ): its variance is that of the small eigenvalues alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hessian._spectrum.basis import Basis, Multiply, signs

# Probes before a stop: two that are alike by chance say little about their mean.
LEAST = 4
# Probes that are multiplied together.
TOGETHER = 8


@dataclass(frozen=True)
class Trace:
    """A trace and how well it is known; ``float`` gives the value.

    Attributes:
        value: the trace, or the estimate of it.
        standard_error: of the estimate over its probes; 0 where it is exact.
        products: products with a vector that were taken; 0 where the exact diagonal was.
        method: ``"exact"``, ``"hutch++"`` or ``"hutchinson"``.
    """

    value: float
    standard_error: float
    products: int
    method: str

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        if self.method == "exact":
            return f"{self.value:.7g} (exact)"
        return (
            f"{self.value:.6g} ± {self.standard_error:.2g} ({self.method}, "
            f"{self.products:,} products)"
        )


def estimated(
    multiply: Multiply,
    like: Tensor,
    method: str,
    products: int,
    relative_error: float | None,
    generator: torch.Generator,
    tick: Callable[[int], None] = lambda _: None,
) -> Trace:
    """The trace of a matrix of ``like.shape[-1]`` rows.

    Hutch++ spends a third of the products on the image, a third on its trace, and the rest, until
    the standard error is below `relative_error` times the value, on probes.
    """
    size = like.shape[-1]
    basis, spent = Basis(), 0
    if method == "hutch++" and size <= products:  # all of it
        rows = torch.eye(size, dtype=like.dtype, device=like.device)
        basis.add(rows, multiply(rows))
        spent = size
    elif method == "hutch++":
        third = products // 3
        image = multiply(signs(third, generator, like))
        rows = basis.orthonormal(image, float(image.double().norm(dim=1).max()))
        spent = third + len(rows)
        if len(rows):
            basis.add(rows, multiply(rows))
    tick(spent)
    exact = float(basis.matrix.trace())
    samples: list[float] = []
    while spent < products and len(basis) < size:
        count = min(products - spent, TOGETHER)
        if relative_error is not None:
            count = min(count, max(LEAST, len(samples)))
        block = signs(count, generator, like)
        for rows in basis.rows:
            block = block - (block @ rows.T) @ rows
        samples += (block * multiply(block)).double().sum(1).tolist()
        spent += count
        tick(count)
        if relative_error is not None and len(samples) >= LEAST:
            value, error = exact + _mean(samples), _error(samples)
            if error <= relative_error * abs(value):
                break
    error = _error(samples) if len(basis) < size else 0.0
    return Trace(exact + _mean(samples), error, spent, method)


def _mean(samples: list[float]) -> float:
    return math.fsum(samples) / len(samples) if samples else 0.0


def _error(samples: list[float]) -> float:
    """The standard error of the mean; NaN of fewer than two."""
    n = len(samples)
    if n < 2:
        return math.nan
    mean = _mean(samples)
    return math.sqrt(math.fsum((s - mean) ** 2 for s in samples) / (n * (n - 1)))
