"""The step of a softmax."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hessian._loss.dry_run import evaluated
from hessian._loss.quadratic import Quadratic
from hessian._loss.rows import Cost, JacobianRows
from hessian._routes._chain.steps.base import Curvature, Pulled, Step, Where
from hessian._runtime.matrix_products import TRAFFIC
from hessian._tape.graph import Edge, Node, shape


class Softmax(Step):
    """y = softmax(x) along the last axis, k entries: J = diag(y) - y yᵀ."""

    curved = True

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where)
        self.k = (shape(edge) or (1,))[-1]
        self.parts = self.d // max(1, self.k)
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
        blocks = math.gcd(rows.grain, self.parts)
        numel = rows.m * self.d // blocks
        meter.work += 3 * TRAFFIC * numel
        meter.peak = max(meter.peak, 3 * numel)
        written = rows.passing(blocks, like, count)

        def values() -> Tensor:
            y = self.y[part].reshape(len(written), 1, -1, self.k)
            weighted = written.reshape(*written.shape[:2], -1, self.k) * y
            weighted.addcmul_(y, weighted.sum(-1, keepdim=True), value=-1.0)
            return weighted.reshape(written.shape)

        base = evaluated(like, written.shape, values)
        return [(self.children[0], JacobianRows(rows.m, self.d, base, None, True, blocks))]

    def sources(self, part: slice, like: Tensor) -> list[Curvature]:
        d, k, p = self.d, self.k, self.parts
        identity = [(self.children[0], JacobianRows(d, d))]
        shape = ((part.stop - part.start) * p, k, k)
        block = evaluated(like, shape, lambda: self._second(part).reshape(shape))
        return [Curvature(Quadratic("full", block, parts=p), identity)]

    def _second(self, part: slice) -> Tensor:
        y, up = self.y[part], self.up[part]
        # Σ_i u_i y_i: gradient y∘c with c = u - y·u, Hessian diag(y∘c) - y (y∘c)ᵀ - (y∘c) yᵀ.
        g = y * (up - (y * up).sum(-1, keepdim=True))
        outer = y.unsqueeze(-1) * g.unsqueeze(-2)
        return torch.diag_embed(g) - outer - outer.transpose(-1, -2)
