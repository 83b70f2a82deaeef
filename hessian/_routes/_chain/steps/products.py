"""Steps that multiply two values of the same sample."""

from __future__ import annotations

import math

from torch import Tensor

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
        if like.is_meta:
            factor = like.new_empty((1, self.d))
            return [(child, rows.scaled(factor)) for child in self.children]
        return [
            (child, rows.shared_by(len(self.children)).scaled(factor[part]))
            for child, factor in zip(self.children, self.factors, strict=True)
        ]

    def sources(self, part: slice, like: Tensor) -> list[Curvature]:
        values = like.new_empty((1, self.d)) if like.is_meta else self.up[part]
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
        if like.is_meta:
            left, right = (like.new_empty((blocks, m // blocks, w // blocks)) for w in (wa, wb))
        else:
            base = rows.passing(blocks, like, count)
            lead, heads = base.shape[:2], self.h // blocks
            base = base.reshape(*lead, heads, self.i, self.j)
            a, b = (
                factor[part].reshape(lead[0], 1, heads, *factor.shape[2:])
                for factor in (self.a, self.b)
            )
            left = (base @ b.mT).reshape(*lead, -1)
            right = (a.mT @ base).reshape(*lead, -1)
        return [
            (self.children[0], JacobianRows(m, wa, left, None, True, blocks)),
            (self.children[1], JacobianRows(m, wb, right, None, True, blocks)),
        ]

    def sources(self, part: slice, like: Tensor) -> list[Curvature]:
        """Σ λ_ij a_ik b_kj: the smaller factor times the other's rows, all heads apart."""
        (small, large), h = sorted(self.widths), self.h
        first = self.widths[0] == small
        edges = self.children if first else self.children[::-1]
        if like.is_meta:
            base = like.new_empty((h, small // h, large // h))
        else:
            up = self.up[part].flatten(0, 1)  # [n·h, i, j]
            i, j, k = self.i, self.j, self.k
            if first:  # from a_ik to λ_ij at b_kj
                base = up.new_zeros((len(up), i, k, k, j))
                base.diagonal(dim1=2, dim2=3).copy_(up.unsqueeze(-1).expand(-1, i, j, k))
            else:  # from b_kj to λ_ij at a_ik
                base = up.new_zeros((len(up), k, j, i, k))
                base.diagonal(dim1=1, dim2=4).copy_(up.mT.unsqueeze(-1).expand(-1, j, i, k))
            base = base.view(len(up), small // h, large // h)
        rows = JacobianRows(small, large, base, blocks=h)
        return [Curvature(None, [(edges[0], JacobianRows(small, small))], [(edges[1], rows)])]
