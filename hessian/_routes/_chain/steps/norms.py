"""The step of a layer norm."""

from __future__ import annotations

import math

from torch import Tensor

from hessian._loss.dry_run import evaluated
from hessian._loss.quadratic import Quadratic
from hessian._loss.rows import Cost, JacobianRows
from hessian._routes._chain.steps.base import Curvature, Pulled, Step, Where
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
        self.parts = self.d // max(1, self.v)
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
        blocks = math.gcd(rows.grain, self.parts)
        values = rows.m * self.d // blocks
        meter.work += 4 * TRAFFIC * values
        meter.peak = max(meter.peak, 3 * values)
        written = rows.passing(blocks, like, count)
        base = evaluated(like, written.shape, lambda: self._projected(written, part))
        return [(self.children[0], JacobianRows(rows.m, self.d, base, None, True, blocks))]

    def _projected(self, rows: Tensor, part: slice) -> Tensor:
        """Rows ``[n·b, m, d]`` times the Jacobian."""
        base = rows.reshape(*rows.shape[:2], -1, self.v)
        if self.weight is not None:
            base = base * self.weight
        hat = self.hat[part].reshape(len(base), 1, -1, self.v)
        share = (base * hat).mean(-1, keepdim=True)
        base = (base - base.mean(-1, keepdim=True)).sub_(hat * share)
        base.mul_(self.rate[part].reshape(len(base), 1, -1, 1))
        return base.reshape(rows.shape)

    def sources(self, part: slice, like: Tensor) -> list[Curvature]:
        d, v, p = self.d, self.v, self.parts
        identity = [(self.children[0], JacobianRows(d, d))]
        shape = ((part.stop - part.start) * p, v, v)
        block = evaluated(like, shape, lambda: self._second(part).reshape(shape))
        return [Curvature(Quadratic("full", block, parts=p), identity)]

    def _second(self, part: slice) -> Tensor:
        v = self.v
        hat, rate, up = self.hat[part], self.rate[part].unsqueeze(-1), self.up[part]
        share = (up * hat).sum(-1, keepdim=True)
        pu = up - up.mean(-1, keepdim=True) - hat * (share / v)
        outer = pu.unsqueeze(-1) * hat.unsqueeze(-2)
        projection = hat.unsqueeze(-1) * hat.unsqueeze(-2) / -v - 1 / v
        projection.diagonal(dim1=-2, dim2=-1).add_(1.0)
        block = outer + outer.transpose(-1, -2) + share.unsqueeze(-1) * projection
        weighted: Tensor = block * (rate**2 / -v)
        return weighted
