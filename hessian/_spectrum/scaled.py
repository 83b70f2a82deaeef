"""A matrix scaled from both sides by the roots of rates, in the place of the matrix itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from hessian._batch.pieces import Division
from hessian._runtime.progress import Ticker
from hessian._spectrum.products import Products
from hessian._spectrum.source import Source
from hessian._spectrum.written_out import MatrixProducts, WrittenOut

T = TypeVar("T")


@dataclass(frozen=True)
class Scaled:
    """A source of the products of ρ^½ M ρ^½, M being the matrix of another source.

    Attributes:
        base: the source of M.
        roots: ρ^½ by parameter name, float64, in the parameter's shape.
    """

    base: Source | WrittenOut
    roots: Mapping[str, Tensor]

    @property
    def kind(self) -> str:
        """Which matrix M is."""
        return self.base.kind

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters in order."""
        return self.base.names

    @property
    def memory(self) -> int | None:
        """What M's bases may take."""
        return self.base.memory

    def of_names(self, names: Sequence[str]) -> Scaled:
        """The same for some of the parameters."""
        roots = {name: self.roots[name] for name in names}
        return replace(self, base=self.base.of_names(names), roots=roots)

    def by(self, roots: Mapping[str, Tensor]) -> Scaled:
        """Scaled once more."""
        return replace(self, roots={name: roots[name] * r for name, r in self.roots.items()})

    def diagonal(self, of_base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """ρ times the diagonal of M."""
        return {
            name: h * self.roots[name].reshape(h.shape).square().to(h)
            for name, h in of_base.items()
        }

    def lent(
        self, compute: Callable[[Any, Ticker], T], keep: bool = True, walks: bool = False
    ) -> T:
        """What is computed with products."""
        return self.base.lent(
            lambda products, bar: compute(ScaledProducts(products, self), bar), keep, walks
        )

    @contextmanager
    def kept(self) -> Iterator[ScaledProducts]:
        """Products whose tapes are kept until the block ends."""
        with self.base.kept() as products:
            yield ScaledProducts(products, self)


class ScaledProducts:
    """Products with the scaled matrix, as `Products` has them.

    Attributes:
        like: a vector of the length, dtype and device that products are taken in.
        bound: bytes of working set.
    """

    def __init__(self, products: Products | MatrixProducts, source: Scaled) -> None:
        self._products = products
        self.like, self.bound = products.like, products.bound
        flat = [source.roots[name].reshape(-1) for name in source.names]
        self._root = torch.cat(flat).to(self.like)

    @property
    def count(self) -> int:
        """How many were taken."""
        return self._products.count

    @property
    def samples(self) -> int:
        """Of the last pass over the data."""
        return self._products.samples

    @property
    def division(self) -> Division:
        """Of the last pass over the data."""
        return self._products.division

    def __call__(self, block: Tensor) -> Tensor:
        """The matrix times the rows of ``[m, P]``, as rows."""
        return self._root * self._products(self._root * block)


def roots(
    radius: Mapping[str, Tensor], names: Sequence[str], shapes: Sequence[tuple[int, ...]]
) -> dict[str, Tensor]:
    """The roots of the rates of some parameters.

    Raises:
        ValueError: a rate is missing, of another shape, negative or not finite.
    """
    result = {}
    for name, shape in zip(names, shapes, strict=True):
        if name not in radius:
            raise ValueError(f"radius: the parameter {name!r} is missing; give a rate for each")
        value = radius[name]
        if tuple(value.shape) != shape:
            raise ValueError(
                f"radius: {name!r} has shape {tuple(value.shape)} where the parameter has {shape}; "
                "give one rate for each entry"
            )
        if not bool(((value >= 0) & value.isfinite()).all()):
            raise ValueError(
                f"radius: {name!r} holds a negative or infinite rate; cap it, as CBLR does"
            )
        result[name] = value.detach().double().cpu().sqrt()
    return result
