"""Orthonormal vectors as rows, in blocks, with their products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Multiply = Callable[[Tensor], Tensor]
# Entries of a vector that are summed in its own precision.
PIECE = 2**14


def signs(count: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Independent ±1, ``[count, P]``, the same on every device; `like` is ``[.., P]``."""
    shape = count, like.shape[-1]
    drawn = torch.randint(0, 2, shape, generator=generator, dtype=torch.int8, device="cpu")
    return drawn.to(like).mul_(2).sub_(1)


def normals(count: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Independent standard normal numbers, likewise."""
    shape = count, like.shape[-1]
    drawn = torch.randn(shape, generator=generator, dtype=like.dtype, device="cpu")
    return drawn.to(like)


class Basis:
    """Orthonormal rows Q, their products W = QM, and the matrix T = QMQᵀ in float64."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self.products: list[Tensor] = []
        self.matrix: NDArray[np.float64] = np.zeros((0, 0))

    def __len__(self) -> int:
        return len(self.matrix)

    def add(self, block: Tensor, product: Tensor) -> None:
        """Append orthonormal rows that are orthogonal to all others, and their products."""
        new = len(block)
        self.rows.append(block)
        self.products.append(product)
        corner = np.concatenate([_dots(rows, product) for rows in self.rows])
        matrix = np.zeros((len(self) + new, len(self) + new))
        matrix[: len(self), : len(self)] = self.matrix
        matrix[:, len(self) :] = corner
        matrix[len(self) :, :] = corner.T
        square = corner[len(self) :]
        matrix[len(self) :, len(self) :] = (square + square.T) / 2
        self.matrix = matrix

    def combined(self, weights: NDArray[np.float64], of: str = "rows") -> Tensor:
        """Combinations ``[k, P]`` of the rows, or of their products, with weights ``[m, k]``."""
        total: Tensor | None = None
        first = 0
        for block in getattr(self, of):
            part = torch.from_numpy(weights[first : first + len(block)].T.copy()).to(block)
            first += len(block)
            total = part @ block if total is None else total.addmm_(part, block)
        assert total is not None
        return total

    def restart(self, weights: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        """Keep the Ritz vectors with these weights ``[m, k]`` and values alone."""
        rows, products = self.combined(weights), self.combined(weights, "products")
        self.rows, self.products = [rows], [products]
        self.matrix = np.diag(values)

    def orthonormal(self, block: Tensor, size: float) -> Tensor:
        """What is new in the rows, orthonormal; fewer rows where less of `size` is left than noise.

        Classical Gram-Schmidt against all of the basis, twice (Giraud et al. 2005).
        """
        noise = 100 * torch.finfo(block.dtype).eps * max(size, 0.0)
        for _ in range(2):
            for rows in self.rows:
                block = block - (block @ rows.T) @ rows
            q, r = torch.linalg.qr(block.T)
            u, s, _ = torch.linalg.svd(r)
            block = (q @ u[:, s > noise]).T.contiguous()
            noise = 0.1  # of rows of length one
            if not len(block):
                break
        return block


def _dots(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """a bᵀ, summed in pieces of one size in float64."""
    if a.shape[1] <= PIECE:
        product: NDArray[np.float64] = (a @ b.T).double().cpu().numpy()
        return product
    total = torch.zeros((len(a), len(b)), dtype=torch.float64, device=a.device)
    for x, y in zip(a.split(PIECE, 1), b.split(PIECE, 1), strict=True):
        total += (x @ y.T).double()
    result: NDArray[np.float64] = total.cpu().numpy()
    return result
