"""The step of a softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from hessian._loss.quadratic import Cost, JacobianRows, Quadratic
from hessian._routes._chain.steps.base import Pulled, Sources, Step, Where, block_diagonal
from hessian._runtime.matrix_products import TRAFFIC
from hessian._tape.graph import Edge, Node, shape


class Softmax(Step):
    """y = softmax(x) along the last axis, k entries: J = diag(y) - y yᵀ."""

    curved = True

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where)
        self.k = (shape(edge) or (1,))[-1]
        self.y: Tensor
        self.up: Tensor

    def prepare(self, adjoint: Tensor | None) -> None:
        n = self.where.n
        y = self.where.flat(self.node._saved_result.detach(), self.edge)
        self.y = y.view(n, -1, self.k)
        if adjoint is not None:
            self.up = self.where.flat(adjoint, self.edge).view_as(self.y)

    def cost(self) -> float:
        return 3.0 * TRAFFIC * self.d

    def pull(
        self, edge: Edge, rows: JacobianRows, part: slice, like: Tensor, meter: Cost
    ) -> Pulled:
        count = part.stop - part.start
        meter.work += 3 * TRAFFIC * rows.m * self.d
        meter.peak = max(meter.peak, 3 * rows.m * self.d)
        if like.is_meta:
            return [(self.children[0], JacobianRows(rows.m, self.d, rows.dense(like, 1)))]
        y = self.y[part].unsqueeze(1)
        weighted = rows.dense(like, count).reshape(count, rows.m, -1, self.k) * y
        base = weighted - y * weighted.sum(-1, keepdim=True)
        base = base.reshape(count, rows.m, self.d)
        return [(self.children[0], JacobianRows(rows.m, self.d, base))]

    def sources(self, part: slice, like: Tensor) -> Sources:
        d, child = self.d, self.children[0]
        if like.is_meta:
            return [(Quadratic("full", like.new_empty((1, d, d))), [(child, JacobianRows(d, d))])]
        y, up = self.y[part], self.up[part]
        # Σ_i u_i y_i: gradient y∘c with c = u - y·u, Hessian diag(y∘c) - y (y∘c)ᵀ - (y∘c) yᵀ.
        g = y * (up - (y * up).sum(-1, keepdim=True))
        outer = y.unsqueeze(-1) * g.unsqueeze(-2)
        block = torch.diag_embed(g) - outer - outer.transpose(-1, -2)
        return [(Quadratic("full", block_diagonal(block)), [(child, JacobianRows(d, d))])]
