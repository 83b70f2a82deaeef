"""The step of any other operation with one input of data, by autograd's own node."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hessian._loss.dry_run import evaluated, evaluated_each
from hessian._loss.quadratic import Quadratic
from hessian._loss.rows import Cost, JacobianRows
from hessian._routes._chain.steps.base import (
    Curvature,
    Pulled,
    Step,
    Where,
    call,
    second_derivatives,
    summed_to,
)
from hessian._runtime.matrix_products import TRAFFIC
from hessian._tape.graph import Edge, Node

# Columns of a curvature computed at once: enough to hide the cost of a call.
UNITS = 64


class ByNode(Step):
    """Any operation with one input of data, by autograd's own node under `vmap`."""

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where, curved: bool) -> None:
        super().__init__(node, edge, data, where)
        self.curved = curved
        self.up: Tensor | None = None

    def prepare(self, adjoint: Tensor | None) -> None:
        self.up = adjoint

    def _adjoints(self, edge: Edge) -> Callable[[Tensor], tuple[Tensor, ...]]:
        where = self.where

        def one(row: Tensor) -> tuple[Tensor, ...]:
            gradients = call(self.node, edge[1], where.restored(row, edge))
            adjoints = []
            for slot, child, width in zip(self.data, self.children, self.widths, strict=True):
                g = gradients[slot]
                adjoints.append(
                    row.new_zeros((where.n, width)) if g is None
                    else where.flat(summed_to(g, child), child)
                )  # fmt: skip
            return tuple(adjoints)

        return one

    def cost(self) -> float:
        return 4.0 * TRAFFIC * (self.d + sum(self.widths))

    def pull(
        self, edge: Edge, rows: JacobianRows, part: slice, like: Tensor, meter: Cost
    ) -> Pulled:
        count, n, m = part.stop - part.start, self.where.n, rows.m
        d = self.where.width(edge)
        # The node knows all samples only: those outside the part ride along as zeros.
        meter.work += 4 * TRAFFIC * m * (d + sum(self.widths))
        meter.peak = max(meter.peak, m * (d + sum(self.widths)) * 2)

        def values() -> tuple[Tensor, ...]:
            written = rows.dense(like, count).transpose(0, 1)
            if count != n:
                full = written.new_zeros((m, n, d))
                full[:, part] = written
                written = full
            with torch.no_grad():
                pulled = self._every(edge, written)
            return tuple(
                g[:, part].transpose(0, 1).reshape(count, m, w)
                for g, w in zip(pulled, self.widths, strict=True)
            )

        bases = evaluated_each(like, [(count, m, w) for w in self.widths], values)
        return [
            (child, JacobianRows(m, w, base))
            for child, w, base in zip(self.children, self.widths, bases, strict=True)
        ]

    def _every(self, edge: Edge, rows: Tensor) -> tuple[Tensor, ...]:
        """Adjoints of all rows, ``[m, n, d]``, at each input."""
        one = self._adjoints(edge)
        try:
            return tuple(torch.func.vmap(one)(rows))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError):  # an operation without a batching rule
            return tuple(map(torch.stack, zip(*(one(row) for row in rows), strict=True)))

    def sources(self, part: slice, like: Tensor) -> list[Curvature]:
        if not self.curved:
            return []
        d, child = self.widths[0], self.children[0]
        full = evaluated(like, (part.stop - part.start, d, d), lambda: self._second(part, like))
        return [Curvature(Quadratic("full", full), [(child, JacobianRows(d, d))])]

    def _second(self, part: slice, like: Tensor) -> Tensor:
        """The operation's own curvature, ``[n, d, d]``."""
        d, child = self.widths[0], self.children[0]
        assert self.up is not None
        full = like.new_zeros((part.stop - part.start, d, d))
        for start in range(0, d, UNITS):
            count = min(UNITS, d - start)
            units = like.new_zeros((count, self.where.n, d))
            units[:, :, start : start + count] = torch.eye(
                count, dtype=like.dtype, device=like.device
            ).unsqueeze(1)
            along = torch.stack([self.where.restored(unit, child) for unit in units])
            second = second_derivatives(self.node, self.edge, self.data[0], self.up, along)
            if second is None:
                break
            for j, column in enumerate(second.detach(), start):
                full[:, j] = self.where.flat(column, child)[part]
        return full
