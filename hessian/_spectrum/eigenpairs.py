"""Eigenpairs with vectors by parameter, and what is known of how exact they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hessian._spectrum.lanczos import Ritz


@dataclass(frozen=True)
class Eigenpair:
    """An eigenvalue λ and its vector v of length one.

    Attributes:
        value: λ.
        vector: mapping from parameter name to the entries of v in the parameter's shape.
        residual: ‖Hv - λv‖, which no eigenvalue is further away than.
        error: an estimate of the error of λ, ‖Hv - λv‖² over the gap to the next one where that is
            less than the residual.
        converged: whether it came within the tolerance asked for.
    """

    value: float
    vector: Mapping[str, Tensor]
    residual: float
    error: float
    converged: bool


class Eigenpairs(Sequence[Eigenpair]):
    """Eigenpairs in the order they were asked for; ``print`` shows a table.

    Attributes:
        values: the eigenvalues, float64 ``[k]``.
        residual, error: of each, float64 ``[k]``; see `Eigenpair`.
        converged: whether all came within the tolerance.
        missed: a bound on the probability that an eigenvalue is not listed that belongs to them,
            or is there more often; 0 where that could not be, NaN where it was not looked at.
        products: products of the matrix with a vector that were taken.
    """

    def __init__(self, ritz: Ritz, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> None:
        self.values = torch.from_numpy(ritz.values)
        self.residual = torch.from_numpy(ritz.residuals)
        self.error = torch.from_numpy(ritz.errors)
        self.missed, self.products = ritz.missed, ritz.products
        self.converged = bool(ritz.converged.all())
        sizes = [torch.Size(shape).numel() for shape in shapes]
        self._pairs = []
        for i, row in enumerate(ritz.vectors):
            row = row if float(row[row.abs().argmax()]) > 0 else -row
            pieces = zip(names, row.split(sizes), shapes, strict=True)
            vector = {name: piece.view(shape) for name, piece, shape in pieces}
            self._pairs.append(
                Eigenpair(
                    float(ritz.values[i]), vector, float(ritz.residuals[i]),
                    float(ritz.errors[i]), bool(ritz.converged[i]),
                )
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Eigenpair:  # type: ignore[override]
        return self._pairs[index]

    def __iter__(self) -> Iterator[Eigenpair]:
        return iter(self._pairs)

    def __str__(self) -> str:
        lines = [f"{'eigenvalue':>14} {'residual':>10} {'error':>10}"]
        lines += [
            f"{p.value:14.7g} {p.residual:10.2g} {p.error:10.2g}"
            f"{'' if p.converged else '  not converged'}"
            for p in self
        ]
        return "\n".join([*lines, f"{self.products:,} products"])

    def shortfall(self, budget: int, tolerance: float, missed: float | None) -> str:
        """What to say of pairs that did not converge or may be missing, or nothing."""
        late = [p for p in self if not p.converged]
        if late:
            worst = max(late, key=lambda p: p.residual)
            return (
                f"{len(late)} of {len(self)} eigenpairs did not come within tolerance="
                f"{tolerance:g} in products={budget}: of {worst.value:.4g} the residual is "
                f"{worst.residual:.2g} and the error about {worst.error:.2g}; raise products, or "
                "the tolerance"
            )
        if missed is not None and self.missed > missed:
            return (
                "eigenvalues, or copies of repeated ones, may be missing: after "
                f"{self.products} products the probability is only known to be below "
                f"{self.missed:.2g}, not missed={missed:g}; raise products or memory, or pass "
                "missed=None"
            )
        return ""
