"""The step of a pooling by the largest entry."""

from __future__ import annotations

import math

from torch import Tensor

from hessian._loss.dry_run import evaluated
from hessian._loss.rows import Cost, JacobianRows
from hessian._routes._chain.steps.base import Pulled, Step, Where
from hessian._runtime.matrix_products import TRAFFIC
from hessian._tape.graph import Edge, Node, operation, shape


class MaxPool(Step):
    """The largest entry of every window: rows go to the entries that were it."""

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where)
        kernel, stride = ([int(v) for v in values] for values in (
            node._saved_kernel_size, node._saved_stride or node._saved_kernel_size))  # fmt: skip
        # Windows that do not overlap send every row to a place of its own.
        self.apart = all(
            s >= k for k, s in zip(kernel, stride * (len(kernel) // len(stride)), strict=True)
        )
        # From the end: an image may come without its sample axis, samples then being channels.
        axes = 3 if operation(node).startswith("MaxPool3D") else 2
        self.space = math.prod((shape(self.children[0]) or ())[-axes:])
        self.spots = math.prod((shape(edge) or ())[-axes:])

    def cost(self) -> float:
        return TRAFFIC * (self.d + self.widths[0])

    def pull(
        self, edge: Edge, rows: JacobianRows, part: slice, like: Tensor, meter: Cost
    ) -> Pulled:
        width, count = self.widths[0], part.stop - part.start
        meter.work += TRAFFIC * rows.m * (self.d + width)
        meter.peak = max(meter.peak, rows.m * (self.d + width))
        shape = (count, rows.m, width)

        def values() -> Tensor:
            windows = rows.dense(like, count).reshape(count, rows.m, -1, self.spots)
            index = self.node._saved_result1[part].reshape(count, 1, -1, self.spots)
            pulled = windows.new_zeros((*windows.shape[:3], self.space))
            if self.apart:
                pulled.scatter_(3, index.expand_as(windows), windows)
            else:
                pulled.scatter_add_(3, index.expand_as(windows), windows)
            return pulled.view(shape)

        base = evaluated(like, shape, values)
        return [(self.children[0], JacobianRows(rows.m, width, base, None, True))]
