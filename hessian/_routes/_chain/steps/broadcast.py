"""An operation whose inputs are smaller than its output: broadcast along axes within a sample.

At the output's size the operation is a step like any other. Entries that broadcasting spreads over
several places are one entry: the rows that belong to them are summed.
"""

from __future__ import annotations

import math

from torch import Tensor

from hessian._loss.dry_run import evaluated
from hessian._loss.rows import Cost, JacobianRows
from hessian._routes._chain.steps.base import Curvature, Pulled, Step, Where
from hessian._tape.graph import Edge, shape
from hessian._tape.layouts import Layout


def summed_axes(edge: Edge, child: Edge, where: Where) -> tuple[int, ...] | None:
    """Axes of a sample's output, positions first, along which an input is broadcast.

    ``None`` where the input is not the output's own samples, broadcast.
    """
    out, input_shape = shape(edge), shape(child)
    layout, input_layout = where.layout(edge), where.layout(child)
    if (
        out is None
        or input_shape is None
        or layout is None
        or input_layout is None
        or len(input_shape) > len(out)
    ):
        return None
    lead = len(out) - len(input_shape)
    if input_layout != Layout(layout.axis - lead, layout.outer, layout.inner):
        return None
    padded = (1,) * lead + input_shape
    if any(g not in (1, o) for g, o in zip(padded, out, strict=True)):
        return None
    rest = [a for a in range(len(out)) if a != layout.axis]
    return tuple(i + 1 for i, a in enumerate(rest) if padded[a] != out[a])


class Broadcast(Step):
    """`whole`, the step at the output's size, with the inputs' rows summed to their own size."""

    def __init__(self, whole: Step, axes: list[tuple[int, ...]]) -> None:
        super().__init__(whole.node, whole.edge, whole.data, whole.where)
        self.whole, self.curved = whole, whole.curved
        self.axes: dict[Edge, tuple[int, ...]] = dict(zip(self.children, axes, strict=True))
        layout, out = whole.where.layout(whole.edge), shape(whole.edge)
        assert layout is not None
        assert out is not None
        rest = [s for a, s in enumerate(out) if a != layout.axis]
        dims = (layout.outer * layout.inner, *rest)
        # What lies before the first axis summed over stays apart: one axis for all of it.
        self.first = min((a for summed in axes for a in summed), default=0)
        self.dims = (math.prod(dims[: self.first]), *dims[self.first :])
        self.parts = math.gcd(whole.parts, self.dims[0])

    def cost(self) -> float:
        return max(self.whole.cost(), super().cost())

    def rows(self) -> int:
        return self.whole.rows()

    def prepare(self, adjoint: Tensor | None) -> None:
        self.whole.prepare(adjoint)

    def pull(
        self, edge: Edge, rows: JacobianRows, part: slice, like: Tensor, meter: Cost
    ) -> Pulled:
        meter.work += super().cost() * rows.m / max(1, rows.grain)
        pulled = self.whole.pull(edge, rows, part, like, meter)
        return [(child, self._summed(child, r, part, like)) for child, r in pulled]

    def sources(self, part: slice, like: Tensor) -> list[Curvature]:
        def summed(pulled: Pulled) -> Pulled:
            return [(child, self._summed(child, rows, part, like)) for child, rows in pulled]

        return [
            Curvature(form, summed(rows), None if others is None else summed(others))
            for form, rows, others in self.whole.sources(part, like)
        ]

    def _summed(self, child: Edge, rows: JacobianRows, part: slice, like: Tensor) -> JacobianRows:
        axes, width = self.axes[child], self.where.width(child)
        if not axes or rows.d != self.d:  # nothing to sum, or the node did so
            return rows
        blocks, shared, count = (
            math.gcd(rows.grain, self.parts),
            rows.shared,
            part.stop - part.start,
        )
        of_block = (rows.m // blocks, width // blocks)
        shape = of_block if shared else (count * blocks, *of_block)

        def values() -> Tensor:
            base = rows.cut(blocks, like, count) if shared else rows.written(blocks, like, count)
            lead, before = base.shape[:-1], self.dims[0] // blocks
            spread = base.reshape(*lead, before, *self.dims[1:])
            total = spread.sum([len(lead) + 1 + axis - self.first for axis in axes])
            return total.reshape(shape)

        return JacobianRows(rows.m, width, evaluated(like, shape, values), None, True, blocks)
