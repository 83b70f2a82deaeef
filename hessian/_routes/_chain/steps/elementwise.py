"""Steps that treat every entry by itself: views, sums, functions of one entry."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from hessian._loss.dry_run import evaluated
from hessian._loss.local_rows import LocalRows
from hessian._loss.quadratic import Quadratic
from hessian._loss.rows import Cost, JacobianRows
from hessian._routes._chain.steps.base import (
    Curvature,
    Pulled,
    PulledLocal,
    Step,
    Where,
    call,
    second_derivative,
)
from hessian._runtime.matrix_products import TRAFFIC
from hessian._tape.graph import Edge, Node, metadata, operation


class Same(Step):
    """Views, sums and differences: every input gets the rows, up to a factor."""

    lazy = True
    parts = 0

    def __init__(
        self, node: Node, edge: Edge, data: list[int], where: Where, factors: list[float]
    ) -> None:
        super().__init__(node, edge, data, where)
        self.factors = factors

    def cost(self) -> float:
        return 0.0

    def pull(
        self, edge: Edge, rows: JacobianRows, part: slice, like: Tensor, meter: Cost
    ) -> Pulled:
        return [
            (child, rows.shared_by(len(self.children)).times(factor, like, part.stop - part.start))
            for child, factor in zip(self.children, self.factors, strict=True)
        ]

    def takes(self, rows: LocalRows) -> bool:
        return True

    def pull_local(self, rows: LocalRows, part: slice, meter: Cost) -> PulledLocal:
        return [
            (child, rows.times(factor))
            for child, factor in zip(self.children, self.factors, strict=True)
        ]


class Elementwise(Step):
    """y_i = φ_i(x_i): a factor for every entry, and diagonal curvature."""

    lazy = True
    parts = 0

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where, curved: bool) -> None:
        super().__init__(node, edge, data, where)
        self.curved = curved
        self.factor: list[Tensor | None] = []
        self.second: Tensor | None = None

    def prepare(self, adjoint: Tensor | None) -> None:
        node, (_, index) = self.node, self.edge
        meta = metadata(node)[index]
        ones = torch.ones(tuple(meta.shape), dtype=meta.dtype, device=meta.device)
        with torch.no_grad():
            gradients = call(node, index, ones)
        # At the output's size, also where an input is smaller (`broadcast`).
        self.factor = [
            None
            if (g := gradients[slot]) is None
            else self.where.flat(g.detach().expand_as(ones), self.edge)
            for slot in self.data
        ]
        if self.curved and adjoint is not None:
            slot = self.data[0]
            second = second_derivative(node, self.edge, slot, adjoint)
            if second is not None:
                self.second = self.where.flat(second.detach(), self.children[0])

    def pull(
        self, edge: Edge, rows: JacobianRows, part: slice, like: Tensor, meter: Cost
    ) -> Pulled:
        meter.work += TRAFFIC * rows.size() * len(self.children)
        rows = rows.shared_by(len(self.children))
        return [(child, rows.scaled(factor)) for child, factor in self._factors(part, like)]

    def _factors(self, part: slice, like: Tensor) -> list[tuple[Edge, Tensor]]:
        """The derivative ``[n, d]`` in every input that has one."""
        shape = (part.stop - part.start, self.d)
        factors = [
            evaluated(like, shape, partial(self._factor, number, part))
            for number in range(len(self.children))
        ]
        return [
            (child, factor)
            for child, factor in zip(self.children, factors, strict=True)
            if factor is not None
        ]

    def _factor(self, number: int, part: slice) -> Tensor | None:
        factor = self.factor[number]
        return None if factor is None else factor[part]

    def takes(self, rows: LocalRows) -> bool:
        return True

    def pull_local(self, rows: LocalRows, part: slice, meter: Cost) -> PulledLocal:
        meter.work += TRAFFIC * rows.size() * len(self.children)
        meter.peak = max(meter.peak, 2 * rows.size() + rows.size() // rows.units)
        return [(child, rows.scaled(factor)) for child, factor in self._factors(part, rows.values)]

    def sources(self, part: slice, like: Tensor) -> list[Curvature]:
        if not self.curved:
            return []
        width = self.widths[0]
        shape = (part.stop - part.start, width)
        values = evaluated(like, shape, lambda: None if self.second is None else self.second[part])
        if values is None:
            return []
        identity = [(self.children[0], JacobianRows(width, width))]
        return [Curvature(Quadratic("diagonal", values), identity)]


class Saturating(Elementwise):
    """tanh or the logistic function, whose derivatives are polynomials of their own output y.

    dy = 1 - y² and d²y = -2y dy, or dy = y(1 - y) and d²y = (1 - 2y) dy.
    """

    def prepare(self, adjoint: Tensor | None) -> None:
        y = self.where.flat(self.node._saved_result.detach(), self.edge)
        tanh = operation(self.node) == "Tanh"
        first = 1 - y.square() if tanh else y * (1 - y)
        self.factor = [first]
        if adjoint is not None:
            up = self.where.flat(adjoint, self.edge)
            self.second = (-2 * y if tanh else 1 - 2 * y).mul_(first).mul_(up)


class Rectified(Elementwise):
    """y = max(0, x), read off its own saved output a part at a time: no factor is kept."""

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where, False)
        self.result: Tensor

    def prepare(self, adjoint: Tensor | None) -> None:
        self.result = self.where.flat(self.node._saved_result.detach(), self.edge)

    def _factor(self, number: int, part: slice) -> Tensor:
        return (self.result[part] > 0).to(self.result.dtype)
