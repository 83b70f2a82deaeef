"""A matrix with its entries: what an operator leaves in a file, or takes to another device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from hessian._batch.pieces import Division
from hessian._runtime.progress import Ticker

T = TypeVar("T")


@dataclass(frozen=True)
class WrittenOut:
    """A source of products, in the place of a model, a loss and data.

    Attributes:
        rows: the matrix, ``[P, P]``, symmetric.
        memory: for the bases of the spectrum's methods; their default.
    """

    kind: str
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    samples: int
    rows: Tensor
    memory: int | None = None

    def of_names(self, names: Sequence[str]) -> WrittenOut:
        """The diagonal block of some parameters."""
        places, shapes, first = [], [], 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            size = torch.Size(shape).numel()
            if name in names:
                places.append(torch.arange(first, first + size, device=self.rows.device))
                shapes.append(shape)
            first += size
        chosen = torch.cat(places)
        rows = self.rows[chosen[:, None], chosen]
        return replace(self, names=tuple(names), shapes=tuple(shapes), rows=rows)

    def diagonal(self) -> dict[str, Tensor]:
        """The diagonal by parameter."""
        parts = self.rows.diagonal().split([torch.Size(s).numel() for s in self.shapes])
        return dict(zip(self.names, parts, strict=True))

    def lent(
        self, compute: Callable[[Any, Ticker], T], keep: bool = True, walks: bool = False
    ) -> T:
        """What is computed with products."""
        return compute(MatrixProducts(self), Ticker())

    @contextmanager
    def kept(self) -> Iterator[MatrixProducts]:
        """Products; there are no tapes to keep."""
        yield MatrixProducts(self)


class MatrixProducts:
    """Products with a matrix that is written out, as `Products` has them."""

    bound = 2**30

    def __init__(self, source: WrittenOut) -> None:
        self.rows, self.samples = source.rows, source.samples
        self.count, self.division = 0, Division()

    @property
    def like(self) -> Tensor:
        """A vector of the length, dtype and device that products are taken in."""
        return torch.zeros((), dtype=self.rows.dtype, device=self.rows.device).expand(
            len(self.rows)
        )

    def __call__(self, block: Tensor) -> Tensor:
        """The matrix times the rows of ``[m, P]``, as rows."""
        self.count += len(block)
        return block @ self.rows


def written(products: Any, bar: Ticker) -> Tensor:
    """All entries of the matrix that `products` are with, ``[P, P]``.

    Raises:
        ValueError: they do not fit into the memory.
    """
    like = products.like
    size = len(like)
    taken = size * size * like.element_size()
    if taken > products.bound:
        raise ValueError(
            f"memory: the matrix has {size:,} x {size:,} entries, which take {taken:,} bytes, more "
            f"than {products.bound:,}; write a block of it, as in h.layer('layer1'), or pass "
            f"memory={taken} to operator"
        )
    bar.begin("matrix", size)
    rows = like.new_empty((size, size))
    for first in range(0, size, 64):
        units = like.new_zeros((min(64, size - first), size))
        units[:, first : first + 64].fill_diagonal_(1.0)
        rows[first : first + 64] = products(units)
        bar.tick(len(units))
    symmetric: Tensor = (rows + rows.T) / 2
    return symmetric
