"""What the curvature at a site's output makes of the parameters that are met there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from hessian._loss.dry_run import evaluated
from hessian._loss.local_rows import LocalRows
from hessian._loss.quadratic import Quadratic
from hessian._loss.rows import Cost
from hessian._routes._chain.source import Rows, Source
from hessian._site.local import has_entries, price, second_of_entries, second_of_windows, serves
from hessian._site.site import Site, each_apart
from hessian._site.sums import second
from hessian._tape.graph import Edge


class SiteCurvature:
    """The curvature at one site's output, and what it makes of the parameters met there."""

    def __init__(
        self, sources: list[Source], edge: Edge, n: int, d: int, like: Tensor, meter: Cost
    ) -> None:
        self.sources, self.edge, self.n, self.d = sources, edge, n, d
        self.like, self.meter = like, meter
        self.known: list[tuple[list[Source], Tensor, Tensor]] = []
        self.whole: dict[int, Source] = {}  # sources whose rows were written out

    def add(self, site: Site, part: slice, into: Tensor, memory: int) -> None:
        """Add a parameter's diagonal from the samples in `part` to `into`."""
        near, rest = self._divided(site)
        for form, rows in near:
            if isinstance(rows, LocalRows):
                second_of_windows(site, rows, form.values, part, into)
            else:
                values = form.values
                values = values if rows.scale is None else values * rows.scale.square()
                second_of_entries(site, values, part, into)
        if rest or not near:
            second(site, self._between(site.place, rest), part, into, memory)

    def price(self, site: Site, entries: int) -> bool:
        """Count what that takes for a parameter of so many; whether nothing else is to be added."""
        near, rest = self._divided(site)
        for _, rows in near:
            if isinstance(rows, LocalRows):
                price(rows, entries, self.meter)
            else:
                self.meter.work += self.d * max(1, entries // len(site.place))
        if rest or not near:
            self._between(site.place, rest)
        return not rest

    def _divided(self, site: Site) -> tuple[list[tuple[Quadratic, Rows]], list[Source]]:
        """Sources that need no pairs of all positions, and the others."""
        near, rest = [], []
        for source in self.sources:
            rows, form = source.columns[self.edge], source.form
            diagonal = source.others is None and form is not None and form.kind == "diagonal"
            if isinstance(rows, LocalRows):
                fits = diagonal and serves(site, rows)
            else:
                fits = diagonal and rows.identity and has_entries(site)
            if fits and form is not None:
                near.append((form, rows))
            elif isinstance(rows, LocalRows):
                if id(source) not in self.whole:
                    self.whole[id(source)] = source.written_out(self.edge, self.like, self.n)
                rest.append(self.whole[id(source)])
            else:
                rest.append(source)
        return near, rest

    def _between(self, place: Tensor, sources: list[Source]) -> Tensor:
        """The curvature between entries `place` ``[c, p]`` of the same c: ``[n, c, p, p]``."""
        for those, seen, value in self.known:
            same = seen is place or (seen.shape == place.shape and torch.equal(seen, place))
            if same and len(those) == len(sources) and all(map(_is, those, sources)):
                return value
        channels, count = place.shape
        shape = (self.n, channels, count, count)
        if count == 1:
            parts = (s.diagonal(self.edge, self.like, self.n, self.meter) for s in sources)
            diagonal = self._total(parts, (self.n, self.d))
            values = evaluated(self.like, shape, lambda: _picked(diagonal, place).view(shape))
        else:
            parts = (s.blocks(self.edge, place, self.like, self.n, self.meter) for s in sources)
            values = self._total(parts, shape)
        self.known.append((sources, place, values))
        return values

    def _total(self, parts: Iterator[Tensor], shape: tuple[int, ...]) -> Tensor:
        total: Tensor | None = None
        for part in parts:  # one at a time: they are large
            total = (
                part
                if total is None
                else evaluated(self.like, shape, partial(torch.add, total, part))
            )
        if total is None:
            return evaluated(self.like, shape, lambda: self.like.new_zeros(shape))
        return total


def _picked(diagonal: Tensor, place: Tensor) -> Tensor:
    """Entries `place` ``[c, 1]`` of ``[n, d]``."""
    return diagonal if _in_order(place, diagonal.shape[1]) else diagonal[:, place[:, 0]]


def _is(first: Source, second: Source) -> bool:
    return first is second


def _in_order(place: Tensor, d: int) -> bool:
    """Whether places ``[c, 1]`` are 0, 1, … d-1."""
    if place is each_apart(d):
        return True
    return len(place) == d and torch.equal(place[:, 0], torch.arange(d, device=place.device))
