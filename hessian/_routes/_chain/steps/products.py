"""Steps that multiply two values of the same sample."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from hessian._loss.dry_run import evaluated
from hessian._loss.rows import Cost, JacobianRows
from hessian._routes._chain.steps.base import Curvature, Pulled, Step, Where
from hessian._runtime.matrix_products import TRAFFIC
from hessian._tape.graph import Edge, Node, shape


class Product(Step):
    """y = a ∘ b, both laid out by samples."""

    lazy = True
    curved = True
    parts = 0

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where)
        self.factors: list[Tensor] = []
        self.up: Tensor

    def prepare(self, adjoint: Tensor | None) -> None:
        out = shape(self.edge) or ()
        self.factors = [
            self.where.flat(factor.detach().expand(out), self.edge)
            for factor in (self.node._saved_other, self.node._saved_self)
        ]
        if adjoint is not None:
            self.up = self.where.flat(adjoint, self.edge)

    def pull(
        self, edge: Edge, rows: JacobianRows, part: slice, like: Tensor, meter: Cost
    ) -> Pulled:
        meter.work += 2 * TRAFFIC * rows.size()
        shape = (part.stop - part.start, self.d)
        rows = rows.shared_by(len(self.children))
        return [
            (child, rows.scaled(evaluated(like, shape, partial(self._factor, number, part))))
            for number, child in enumerate(self.children)
        ]

    def _factor(self, number: int, part: slice) -> Tensor:
        return self.factors[number][part]

    def sources(self, part: slice, like: Tensor) -> list[Curvature]:
        shape = (part.stop - part.start, self.d)
        values = evaluated(like, shape, lambda: self.up[part])
        a, b = self.children
        return [
            Curvature(
                None,
                [(a, JacobianRows(self.d, self.d))],
                [(b, JacobianRows(self.d, self.d, None, values))],
            )
        ]


class Batched(Step):
    """y = a @ b, matrix by matrix, both laid out by samples."""

    curved = True

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where)
        (_, self.i, self.k), (_, _, self.j) = (
            shape(self.children[0]) or (0, 0, 0),
            shape(self.children[1]) or (0, 0, 0),
        )
        self.h = self.parts = self.d // max(1, self.i * self.j)
        self.a: Tensor
        self.b: Tensor
        self.up: Tensor

    def prepare(self, adjoint: Tensor | None) -> None:
        n, h = self.where.n, self.h
        self.a = self.where.flat(self.node._saved_self.detach(), self.children[0])
        self.a = self.a.view(n, h, self.i, self.k)
        self.b = self.where.flat(self.node._saved_mat2.detach(), self.children[1])
        self.b = self.b.view(n, h, self.k, self.j)
        if adjoint is not None:
            self.up = self.where.flat(adjoint, self.edge).view(n, h, self.i, self.j)

    def cost(self) -> float:
        return 2.0 * self.h * self.i * self.j * self.k

    def rows(self) -> int:
        return min(self.widths)

    def pull(
        self, edge: Edge, rows: JacobianRows, part: slice, like: Tensor, meter: Cost
    ) -> Pulled:
        count, m = part.stop - part.start, rows.m
        wa, wb = self.widths
        blocks = math.gcd(rows.grain, self.h)
        meter.work += 2 * m * (self.h // blocks) * self.i * self.j * self.k
        meter.peak = max(meter.peak, m * (self.d + wa + wb) / blocks)
        lead, heads = (count * blocks, m // blocks), self.h // blocks
        base = rows.passing(blocks, like, count)

        def left_values() -> Tensor:
            b = self.b[part].reshape(lead[0], 1, heads, self.k, self.j)
            return (base.reshape(*lead, heads, self.i, self.j) @ b.mT).reshape(*lead, -1)

        def right_values() -> Tensor:
            a = self.a[part].reshape(lead[0], 1, heads, self.i, self.k)
            return (a.mT @ base.reshape(*lead, heads, self.i, self.j)).reshape(*lead, -1)

        left = evaluated(like, (*lead, wa // blocks), left_values)
        right = evaluated(like, (*lead, wb // blocks), right_values)
        return [
            (self.children[0], JacobianRows(m, wa, left, None, True, blocks)),
            (self.children[1], JacobianRows(m, wb, right, None, True, blocks)),
        ]

    def sources(self, part: slice, like: Tensor) -> list[Curvature]:
        """Σ λ_ij a_ik b_kj: the smaller factor times the other's rows, all heads apart."""
        (small, large), h = sorted(self.widths), self.h
        first = self.widths[0] == small
        edges = self.children if first else self.children[::-1]
        shape = ((part.stop - part.start) * h, small // h, large // h)
        base = evaluated(like, shape, lambda: self._crossed(part, first).view(shape))
        rows = JacobianRows(small, large, base, blocks=h)
        return [Curvature(None, [(edges[0], JacobianRows(small, small))], [(edges[1], rows)])]

    def _crossed(self, part: slice, first: bool) -> Tensor:
        """Rows from one factor's entries to the other's, λ between them, of every head."""
        up = self.up[part].flatten(0, 1)  # [n·h, i, j]
        i, j, k = self.i, self.j, self.k
        if first:  # from a_ik to λ_ij at b_kj
            rows = up.new_zeros((len(up), i, k, k, j))
            rows.diagonal(dim1=2, dim2=3).copy_(up.unsqueeze(-1).expand(-1, i, j, k))
        else:  # from b_kj to λ_ij at a_ik
            rows = up.new_zeros((len(up), k, j, i, k))
            rows.diagonal(dim1=1, dim2=4).copy_(up.mT.unsqueeze(-1).expand(-1, j, i, k))
        return rows
