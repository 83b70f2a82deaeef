"""A source of curvature on its way down the tape, and what it makes of the tensors it reaches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hessian._loss import pairs
from hessian._loss.dry_run import evaluated
from hessian._loss.local_rows import LocalRows, written_out
from hessian._loss.quadratic import Quadratic
from hessian._loss.rows import Cost, JacobianRows
from hessian._tape.graph import Edge

Rows = JacobianRows | LocalRows
Columns = dict[Edge, Rows]


@dataclass
class Source:
    """A quadratic form above, and its Jacobian rows at the tensors reached so far.

    Without a `form` it is a sum of products Σ_i x_i y_i: `columns` are the rows of x, `others`
    those of y. `symmetric` says that Aᵀ B of the two is symmetric, and the whole: y = Q x for a
    form ½ xᵀ Q x whose product with the rows is carried along.
    """

    form: Quadratic | None
    columns: Columns
    others: Columns | None = None
    symmetric: bool = False

    def families(self) -> tuple[Columns, ...]:
        """The rows of x, and those of y where there are two."""
        return (self.columns,) if self.others is None else (self.columns, self.others)

    # A small network's sweep asks these a few hundred times.

    @property
    def alive(self) -> bool:
        """Whether anything below can still get curvature from it."""
        return bool(self.columns) and (self.others is None or bool(self.others))

    def reaches(self, edge: Edge) -> bool:
        """Whether it has rows at a tensor."""
        return edge in self.columns or (self.others is not None and edge in self.others)

    def meets(self, edge: Edge) -> bool:
        """Whether it gives the tensor curvature by itself."""
        return edge in self.columns and (self.others is None or edge in self.others)

    def only(self, edge: Edge) -> bool:
        """Whether everything below it goes through `edge`."""
        if len(self.columns) != 1 or edge not in self.columns:
            return False
        return self.others is None or (len(self.others) == 1 and edge in self.others)

    def local(self, edge: Edge) -> LocalRows | None:
        """Its rows at a tensor where they reach a window each."""
        rows = self.columns.get(edge)
        return rows if isinstance(rows, LocalRows) else None

    def written_out(self, edge: Edge, like: Tensor, n: int) -> Source:
        """The same with rows of the whole tensor there."""
        families = [
            {**family, edge: written_out(family[edge], like, n)} if edge in family else family
            for family in self.families()
        ]
        return Source(self.form, families[0], families[1] if families[1:] else None, self.symmetric)

    def rows(self, edge: Edge) -> JacobianRows:
        """Its rows at a tensor that they reach as a whole."""
        return _whole(self.columns[edge])

    def both(self, edge: Edge) -> tuple[JacobianRows, JacobianRows]:
        """The rows of x and those of y, where there are two."""
        assert self.others is not None
        return _whole(self.columns[edge]), _whole(self.others[edge])

    def plain(self, edge: Edge) -> bool:
        """Whether its rows at a tensor are the identity, up to factors."""
        families = self.both(edge) if self.others is not None else (self.rows(edge),)
        return all(rows.base is None for rows in families)

    def size(self) -> int:
        """Values held per sample."""
        values = sum(rows.size() for family in self.families() for rows in family.values())
        return values + (0 if self.form is None else self.form.size())

    def common(self) -> int:
        """Values held once for all samples."""
        return sum(rows.common() for family in self.families() for rows in family.values())

    def diagonal(self, edge: Edge, like: Tensor, n: int, meter: Cost) -> Tensor:
        """The diagonal of the curvature at a tensor, ``[n, d]``."""
        if self.others is not None:
            a, b = self.both(edge)
            values = pairs.diagonal(a, b, like, n, meter)
            return values if self.symmetric else evaluated(like, values.shape, lambda: 2 * values)
        assert self.form is not None
        rows = self.rows(edge)
        if rows.blocks == 1 and self.form.parts == 1:
            return self.form.diagonal(rows, meter)
        form, rows, parts = self._cut(edge, like, n, meter)
        if form is None:
            return self._carried(edge, like, n, meter).diagonal(edge, like, n, meter)
        values = _counted(parts, meter, lambda each: form.diagonal(rows, each))
        shape = (n, rows.d * parts)
        return evaluated(like, shape, lambda: values.reshape(shape))

    def blocks(self, edge: Edge, place: Tensor, like: Tensor, n: int, meter: Cost) -> Tensor:
        """The curvature between entries `place` ``[c, p]`` of the same c: ``[n, c, p, p]``."""
        if self.others is not None:
            a, b = self.both(edge)
            values = pairs.blocks(a, b, place, like, n, meter)
            return values if self.symmetric else _and_transposed(values)
        form, rows, parts = self._cut(edge, like, n, meter)
        if form is None:
            return self._carried(edge, like, n, meter).blocks(edge, place, like, n, meter)
        if parts > 1 and _all_apart(place, rows.d):
            values = self.diagonal(edge, like, n, meter)
            shape = (n, *place.shape, place.shape[1])
            return evaluated(like, shape, lambda: torch.diag_embed(values[:, place]))
        assert self.form is not None
        whole = self.rows(edge)
        if whole.base is not None:
            whole = replace(whole, base=whole.cut(1, like, n), blocks=1)
        return self.form.cut(1, n).blocks(whole, place, meter)

    def gram(self, edge: Edge, like: Tensor, n: int, meter: Cost) -> Quadratic:
        """The curvature at a tensor as a form in its entries."""
        if self.others is not None:
            return self._product(edge, like, n, meter)
        form, rows, parts = self._cut(edge, like, n, meter)
        if form is None:
            return self._carried(edge, like, n, meter).gram(edge, like, n, meter)
        if rows.identity and form.kind == "diagonal":
            return Quadratic("diagonal", self.diagonal(edge, like, n, meter))
        values = _counted(parts, meter, lambda each: form.gram(rows, each))
        return Quadratic("full", values, parts=parts)

    def _product(self, edge: Edge, like: Tensor, n: int, meter: Cost) -> Quadratic:
        a, b = self.both(edge)
        if a.identity and b.identity:
            return Quadratic("diagonal", self.diagonal(edge, like, n, meter))
        values, blocks = pairs.gram(a, b, like, n, meter)
        if not self.symmetric:
            values = _and_transposed(values)
        return Quadratic("full", values, parts=blocks)

    def _cut(
        self, edge: Edge, like: Tensor, n: int, meter: Cost
    ) -> tuple[Quadratic | None, JacobianRows, int]:
        """Form and rows of every part that meets itself only, a sample each, and their number.

        No form where the rows have more blocks than the form has parts.
        """
        assert self.form is not None
        rows = self.rows(edge)
        parts = math.gcd(rows.grain, self.form.grain) or 1
        if parts == 1 and rows.blocks == 1 and self.form.grain <= 1:
            return self.form, rows, 1
        if not rows.identity and rows.blocks > parts:
            return None, rows, parts
        base = None if rows.base is None else rows.cut(parts, like, n)
        of_part = JacobianRows(rows.m // parts, rows.d // parts, base)
        scale = rows.scale
        if scale is not None:
            shape = (n * parts, of_part.d)
            of_part.scale = evaluated(like, shape, lambda: scale.reshape(shape))
        return self.form.cut(parts, n), of_part, parts

    def _carried(self, edge: Edge, like: Tensor, n: int, meter: Cost) -> Source:
        """The same with the product of form and rows for the second rows."""
        assert self.form is not None
        form, rows = self.form, self.rows(edge)
        parts = math.gcd(rows.blocks, form.grain)
        m, d, each = rows.m // parts, rows.d // parts, rows.blocks // parts
        meter.work += form.parts * m * m * d / each

        def product() -> Tensor:
            q = form.cut(parts, n).matrix().unflatten(-1, (each, -1))  # [.., m, each, m']
            own = rows.cut(rows.blocks, like, n)  # [.., m', d'] of each block
            if own.dim() == 3:
                own = own.unflatten(0, (-1, each))
            carried: Tensor = q.transpose(1, 2) @ own
            return carried.transpose(1, 2).flatten(2)

        base = evaluated(like, (n * parts, m, d), product)
        left = JacobianRows(rows.m, rows.d, base, rows.scale, blocks=parts)
        return Source(None, {edge: rows}, {edge: left}, True)


def carrying(form: Quadratic, edge: Edge, like: Tensor, n: int) -> Source:
    """A form in a tensor's entries as rows and their product with it, both to be carried along."""
    values = form.values
    m = form.parts * values.shape[1] if form.kind == "full" else values.shape[1]
    if form.kind == "diagonal":
        left = JacobianRows(m, m, None, values)
    else:
        left = JacobianRows(m, m, values, blocks=form.parts)
    return Source(None, {edge: JacobianRows(m, m)}, {edge: left}, True)


def _and_transposed(values: Tensor) -> Tensor:
    return evaluated(values, values.shape, lambda: values + values.mT)


def _whole(rows: Rows) -> JacobianRows:
    assert isinstance(rows, JacobianRows)
    return rows


def _all_apart(place: Tensor, width: int) -> bool:
    """Whether entries of the same row of `place` all lie in different parts of that width."""
    if place.shape[1] == 1:
        return True
    parts = (place // width).sort(1).values
    return bool((parts.diff(dim=1) > 0).all())


def _counted(parts: int, meter: Cost, take: Callable[[Cost], Tensor]) -> Tensor:
    """What `take` gives for every part of a sample, counted for the sample."""
    of_part = Cost()
    values = take(of_part)
    meter.work += parts * of_part.work
    meter.peak = max(meter.peak, parts * of_part.peak)
    return values
