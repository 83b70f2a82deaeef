"""Products of one matrix with vectors, over all batches, on tapes that are kept between them.

A product with the Hessian walks a tape of the forward pass and of the gradient. The tape is the
same for every vector, so it is built once and kept as long as all that is kept fits into the
memory; batches whose tapes do not fit are run again for every pass over the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hessian._batch.analysis import Analysis
from hessian._batch.pieces import Division, added, gathered
from hessian._call import data as _data
from hessian._call.batches import Batch, scale, walk
from hessian._call.objective import Objective
from hessian._call.precision import current, highest
from hessian._call.state import Randomness
from hessian._runtime.progress import Ticker
from hessian._spectrum.convolution import Convolutions
from hessian._spectrum.gauss_newton import gauss_newton
from hessian._spectrum.terms import HessianTerm, Sum, Term, Vector

KINDS = ("hessian", "gauss-newton", "fisher", "empirical-fisher")
# Vectors that go through one batch together, each with its product and that of a part.
TOGETHER = 16


@dataclass
class Kept:
    """A batch whose tapes are kept: the terms that its matrix is the sum of, and its weight."""

    terms: list[Term]
    a: float
    samples: int
    diagonal: dict[str, Tensor]  # of what the loss adds by itself
    division: Division
    end: Randomness | None


@dataclass
class _Pass:
    """One pass over the data."""

    weights: list[float] = field(default_factory=list)
    samples: int = 0
    division: Division = field(default_factory=Division)

    def note(self, a: float, samples: int, division: Division) -> None:
        self.weights.append(a)
        self.samples += samples
        self.division.note(division.parts, division.held)


class _Store:
    """The batches whose tapes are kept, as far as they fit into the memory."""

    def __init__(self, memory: int) -> None:
        self.memory, self.bytes = memory, 0
        self.by_index: dict[int, Kept] = {}
        self.batches = -1  # how many there are, once that is known

    @property
    def complete(self) -> bool:
        """Whether every batch is here."""
        return len(self.by_index) == self.batches

    def fits(self, term: Term, pending: Sequence[Term | None]) -> bool:
        """Whether a term can be kept beside the others, with what a product takes meanwhile."""
        if None in pending:
            return False
        taken = self.bytes + sum(t.bytes for t in pending if t is not None)
        return taken + 2 * term.bytes <= self.memory

    def put(self, index: int, kept: Kept) -> None:
        """Keep a batch."""
        self.by_index[index] = kept
        self.bytes += sum(term.bytes for term in kept.terms)

    def clear(self) -> None:
        """Let go of all of them."""
        self.by_index.clear()
        self.bytes = 0


class Products:
    """Products with one of the `KINDS` of matrices; `count` is how many were taken.

    Attributes:
        samples, division: of the last pass over the data.
    """

    def __init__(
        self,
        objective: Objective,
        data: Any,
        dtype: torch.dtype | None,
        weight: _data.Weight,
        kind: str,
        start: Randomness,
        bar: Ticker,
        keep: bool,
    ) -> None:
        self.objective, self.data, self.dtype, self.weight = objective, data, dtype, weight
        self.kind, self.start, self.bar, self.keep = kind, start, bar, keep
        self.count, self.samples, self.division = 0, 0, Division()
        self._store = _Store(objective.memory)

    def __call__(self, block: Tensor) -> Tensor:
        """The matrix times the rows of ``[m, P]``, as rows.

        Raises:
            ValueError: a product is not finite.
        """
        result = torch.empty_like(block)
        each = 4 * block.shape[1] * block.element_size()
        few = max(1, min(TOGETHER, self.objective.memory // max(1, each)))
        for rows, into in zip(block.split(few), result.split(few), strict=True):
            into.copy_(self._pass(rows))
        self.count += len(block)
        if bool(torch.isfinite(block).all()) and not bool(torch.isfinite(result).all()):
            raise ValueError(
                "loss: a product of its second derivative with a vector is not finite; check the "
                "loss and the model at these weights (a square root or logarithm at zero, an "
                "overflow), or pass dtype=torch.float64"
            )
        return result

    @property
    def bound(self) -> int:
        """Bytes of working set."""
        return self.objective.bound

    def prepare(self) -> None:
        """Build the tapes and keep those that fit."""
        self._pass(self.like.new_zeros((0, self.like.numel())))

    @property
    def like(self) -> Tensor:
        """A vector of the length, dtype and device that products are taken in."""
        parameters = list(self.objective.parameters.values())
        wide = highest([self.dtype] if self.dtype is not None else [p.dtype for p in parameters])
        size = sum(p.numel() for p in parameters)
        device = parameters[0].device
        return torch.zeros((), dtype=wide, device=device).expand(size)

    def _pass(self, block: Tensor) -> Tensor:
        vectors = [self._shaped(row) for row in block]
        total = torch.zeros_like(block)
        into = [self._shaped(row, view=True) for row in total]
        done = _Pass()
        for kept in self._over(vectors, into, done):
            for term in kept.terms:
                self._add(into, term.products(vectors, True), kept.a)
            self._add_diagonal(into, vectors, kept)
            done.note(kept.a, kept.samples, kept.division)
        self._store.batches = len(done.weights)
        self.samples, self.division = done.samples, done.division
        return total.mul_(scale(done.weights, self.weight))

    def _over(self, vectors: list[Vector], into: list[Vector], done: _Pass) -> Iterator[Kept]:
        """The batches that are kept; all others are dealt with on the way."""
        if self._store.complete:
            yield from self._store.by_index.values()
            return
        self.start.restore()
        precision = self._precision()
        for batch in self.bar.over(walk(self.objective, self.data, self.dtype, self.weight)):
            kept = self._store.by_index.get(batch.index)
            if kept is not None:
                batch.end = kept.end
                yield kept
                continue
            division = Division()
            self._run(batch, vectors, into, division)
            if self._precision() != precision:  # what was kept before is of another one
                self._store.clear()
                precision = self._precision()
            done.note(batch.a, batch.samples, division)

    def _run(
        self,
        batch: Batch,
        vectors: list[Vector],
        into: list[Vector],
        division: Division,
    ) -> None:
        """Add a batch's products; its tapes are kept where they fit."""
        wanted, names = list(self.objective.parameters.values()), list(self.objective.parameters)
        pending: list[Term | None] = []

        def products(term: Term) -> list[Sum]:
            fits = self.keep and self._store.fits(term, pending)
            pending.append(term if fits else None)
            return term.products(vectors, fits)

        if self.kind == "hessian":
            sums, diagonal = added(
                batch,
                lambda value: [h for one in products(HessianTerm(value, wanted)) for h in one],
                division,
                around=Convolutions,
            )
            found = [sums[i : i + len(wanted)] for i in range(0, len(sums), len(wanted))]
        else:
            # Zeros are written out: parts are added by name.
            def take(analysis: Analysis) -> list[dict[str, Tensor]]:
                term = gauss_newton(analysis, self.kind, self.weight)
                return [
                    {
                        name: torch.zeros_like(p, requires_grad=False) if h is None else h
                        for name, p, h in zip(names, wanted, one, strict=True)
                    }
                    for one in products(term)
                ]

            rows, diagonal = gathered(batch, take, division, lambda _: 0.0)
            found = [[row[name] for name in names] for row in rows]
            if self.kind != "gauss-newton":
                diagonal = {}
        self._add(into, found, batch.a)
        terms = pending[-1:] if division.parts == 1 else pending
        kept = Kept(
            [term for term in terms if term is not None],
            batch.a, batch.samples, diagonal, division, batch.end,
        )  # fmt: skip
        self._add_diagonal(into, vectors, kept)
        if terms and None not in terms:
            self._store.put(batch.index, kept)

    def _precision(self) -> torch.dtype | None:
        precision = current()
        return None if precision is None else precision.dtype

    def _add(self, into: list[Vector], sums: Sequence[Sequence[Any]], a: float) -> None:
        for row, one in zip(into, sums, strict=True):
            for target, h in zip(row, one, strict=True):
                if h is not None:
                    target.add_(h.to(target.device), alpha=a)

    def _add_diagonal(self, into: list[Vector], vectors: list[Vector], kept: Kept) -> None:
        if not kept.diagonal:
            return
        for row, vector in zip(into, vectors, strict=True):
            for target, v, name in zip(row, vector, self.objective.parameters, strict=True):
                if name in kept.diagonal:
                    target.add_((kept.diagonal[name] * v).to(target.device), alpha=kept.a)

    def _shaped(self, row: Tensor, view: bool = False) -> Vector:
        """A flat vector as tensors of the parameters' shapes, on their devices unless a `view`."""
        parameters = list(self.objective.parameters.values())
        pieces = row.split([p.numel() for p in parameters])
        return [
            piece.view(p.shape) if view else piece.view(p.shape).to(p)
            for piece, p in zip(pieces, parameters, strict=True)
        ]
