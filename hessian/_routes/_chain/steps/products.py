"""Steps that multiply two values of the same sample."""

from __future__ import annotations

from torch import Tensor

from hessian._loss.quadratic import Cost, JacobianRows, Quadratic
from hessian._routes._chain.steps.base import Pulled, Sources, Step, Where
from hessian._runtime.matrix_products import TRAFFIC
from hessian._tape.graph import Edge, Node, shape


class Product(Step):
    """y = a ∘ b, both laid out by samples."""

    lazy = True

    curved = True

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

    def rows(self) -> int:
        return 2 * self.d

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

    def sources(self, part: slice, like: Tensor) -> Sources:
        values = like.new_empty((1, self.d)) if like.is_meta else self.up[part]
        a, b = self.children
        rows = [
            (a, _halves(self.d, self.d, True, like)),
            (b, _halves(self.d, self.d, False, like)),
        ]
        return [(Quadratic("pair", values), rows)]


class Batched(Step):
    """y = a @ b, matrix by matrix, both laid out by samples."""

    curved = True

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where)
        (_, self.i, self.k), (_, _, self.j) = (
            shape(self.children[0]) or (0, 0, 0),
            shape(self.children[1]) or (0, 0, 0),
        )
        self.h = self.d // (self.i * self.j)
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
        return sum(self.widths)

    def pull(
        self, edge: Edge, rows: JacobianRows, part: slice, like: Tensor, meter: Cost
    ) -> Pulled:
        count, m = part.stop - part.start, rows.m
        wa, wb = self.widths
        meter.work += 2 * m * self.h * self.i * self.j * self.k
        meter.peak = max(meter.peak, m * (self.d + wa + wb))
        if like.is_meta:
            left, right = like.new_empty((1, m, wa)), like.new_empty((1, m, wb))
        else:
            base = rows.dense(like, count).reshape(count, m, self.h, self.i, self.j)
            left = base @ self.b[part].unsqueeze(1).transpose(-1, -2)
            left = left.reshape(count, m, wa)
            right = (self.a[part].unsqueeze(1).transpose(-1, -2) @ base).reshape(count, m, wb)
        return [
            (self.children[0], JacobianRows(m, wa, left)),
            (self.children[1], JacobianRows(m, wb, right)),
        ]

    def sources(self, part: slice, like: Tensor) -> Sources:
        wa, wb = self.widths
        count = part.stop - part.start
        full = like.new_zeros((count, wa + wb, wa + wb))
        if not like.is_meta:
            up, h = self.up[part], self.h
            cross = full.new_zeros((count, h, self.i, self.k, h, self.k, self.j))
            for head in range(h):
                for k in range(self.k):
                    cross[:, head, :, k, head, k, :] = up[:, head]
            cross = cross.view(count, wa, wb)
            full[:, :wa, wa:] = cross
            full[:, wa:, :wa] = cross.transpose(1, 2)
        rows = [
            (self.children[0], _halves(wa, wb, True, like)),
            (self.children[1], _halves(wb, wa, False, like)),
        ]
        return [(Quadratic("full", full), rows)]


def _halves(d: int, other: int, first: bool, like: Tensor) -> JacobianRows:
    """Rows of a source that reads two tensors: the identity on one of them, zero elsewhere."""
    base = like.new_zeros((d + other, d))
    start = 0 if first else other
    if not like.is_meta:
        base[start : start + d].fill_diagonal_(1.0)
    return JacobianRows(d + other, d, base)
