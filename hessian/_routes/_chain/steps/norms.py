"""The step of a layer norm."""

from __future__ import annotations

import math

from torch import Tensor

from hessian._loss.quadratic import Cost, JacobianRows, Quadratic
from hessian._routes._chain.steps.base import Pulled, Sources, Step, Where, block_diagonal
from hessian._runtime.matrix_products import TRAFFIC
from hessian._tape.graph import Edge, Node


class LayerNorm(Step):
    """y = x̂ w + b, with x̂ = r (x - mean) over the last v entries.

    Its Jacobian is r P, P = 1 - 11ᵀ/v - x̂ x̂ᵀ/v, and Σ_i u_i d²x̂_i for a fixed u is
    -(r²/v) [(P u) x̂ᵀ + x̂ (P u)ᵀ + (u·x̂) P]; both hold with the variance's ε inside r.
    """

    curved = True

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where)
        self.v = math.prod(node._saved_normalized_shape)
        weight = node._saved_weight
        self.weight = None if weight is None else weight.detach().reshape(-1)
        self.hat: Tensor
        self.rate: Tensor
        self.up: Tensor

    def prepare(self, adjoint: Tensor | None) -> None:
        node, child = self.node, self.children[0]
        mean, rate = node._saved_result1.detach(), node._saved_result2.detach()
        x = node._saved_input.detach()
        self.hat = self.where.flat((x - mean) * rate, child).view(self.where.n, -1, self.v)
        self.rate = self.where.flat(rate.expand_as(x), child).view_as(self.hat)[..., :1]
        if adjoint is not None:
            up = self.where.flat(adjoint, self.edge).view_as(self.hat)
            self.up = up if self.weight is None else up * self.weight

    def cost(self) -> float:
        return 4.0 * TRAFFIC * self.d

    def pull(
        self, edge: Edge, rows: JacobianRows, part: slice, like: Tensor, meter: Cost
    ) -> Pulled:
        count = part.stop - part.start
        meter.work += 4 * TRAFFIC * rows.m * self.d
        meter.peak = max(meter.peak, 3 * rows.m * self.d)
        if like.is_meta:
            return [(self.children[0], JacobianRows(rows.m, self.d, rows.dense(like, 1)))]
        base = rows.dense(like, count).reshape(count, rows.m, -1, self.v)
        if self.weight is not None:
            base = base * self.weight
        hat = self.hat[part].unsqueeze(1)
        share = (base * hat).mean(-1, keepdim=True)
        pulled = (base - base.mean(-1, keepdim=True)).sub_(hat * share)
        pulled.mul_(self.rate[part].unsqueeze(1))
        return [
            (self.children[0], JacobianRows(rows.m, self.d, pulled.reshape(count, rows.m, self.d)))
        ]

    def sources(self, part: slice, like: Tensor) -> Sources:
        d, v, child = self.d, self.v, self.children[0]
        if like.is_meta:
            return [(Quadratic("full", like.new_empty((1, d, d))), [(child, JacobianRows(d, d))])]
        hat, rate, up = self.hat[part], self.rate[part].unsqueeze(-1), self.up[part]
        share = (up * hat).sum(-1, keepdim=True)
        pu = up - up.mean(-1, keepdim=True) - hat * (share / v)
        outer = pu.unsqueeze(-1) * hat.unsqueeze(-2)
        p = hat.unsqueeze(-1) * hat.unsqueeze(-2) / -v - 1 / v
        p.diagonal(dim1=-2, dim2=-1).add_(1.0)
        block = (outer + outer.transpose(-1, -2) + share.unsqueeze(-1) * p) * (rate**2 / -v)
        return [(Quadratic("full", block_diagonal(block)), [(child, JacobianRows(d, d))])]
