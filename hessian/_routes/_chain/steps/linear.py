"""Steps that multiply by a weight that all samples share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hessian._loss.dry_run import evaluated
from hessian._loss.local_rows import LocalRows
from hessian._loss.rows import Cost, JacobianRows
from hessian._routes._chain.steps.base import Pulled, PulledLocal, Step, Where
from hessian._routes._chain.steps.local import through_convolution
from hessian._runtime.matrix_products import product
from hessian._tape.graph import Edge, Node, operation, shape


class Linear(Step):
    """y = x Wᵀ at every position, W ``[o, k]`` the same for all samples."""

    dense = True

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where)
        alpha = float(node._saved_alpha) if operation(node) == "Addmm" else 1.0
        weight = node._saved_mat2.detach().T
        self.weight: Tensor = weight if alpha == 1.0 else alpha * weight
        self.o, self.k = self.weight.shape
        self.positions = self.parts = self.d // max(1, self.o)

    def cost(self) -> float:
        return float(self.d * self.k)

    def loads(self) -> int:
        return self.weight.numel()

    def pull(
        self, edge: Edge, rows: JacobianRows, part: slice, like: Tensor, meter: Cost
    ) -> Pulled:
        m, width, count = rows.m, self.positions * self.k, part.stop - part.start
        blocks = math.gcd(rows.grain, self.positions)
        each = self.positions // blocks
        shared = rows.shared
        if not rows.identity and not shared:
            meter.work += m * each * self.o * self.k
            meter.peak = max(meter.peak, m * (self.d + width) / blocks)
        of_block = (m // blocks, width // blocks)
        shape = of_block if shared else (count * blocks, *of_block)

        def values() -> Tensor:
            if rows.identity:
                scale = rows.scale
                return self.weight if scale is None else self.weight * scale.reshape(-1, self.o, 1)
            written = rows.cut(blocks, like, count) if shared else rows.passing(blocks, like, count)
            return product(written.reshape(-1, self.o), self.weight).view(shape)

        base = evaluated(like, shape, values)
        fresh = not shared and not rows.identity
        return [(self.children[0], JacobianRows(m, width, base, None, fresh, blocks))]


# Windows of a smaller share of an image are worth a place of their own.
LOCAL = 1 / 8


class Convolution(Step):
    """A convolution (or a transposed one) with weights that all samples share."""

    dense = True

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        super().__init__(node, edge, data, where)
        self.weight: Tensor = node._saved_weight.detach()
        self.space = tuple(shape(self.children[0]) or ())[1:]
        self.out = tuple(shape(edge) or ())[1:]

    def cost(self) -> float:
        return float(self.d * math.prod(self.weight.shape[1:]))

    def begins(self) -> tuple[int, ...]:
        wide = self.out if bool(self.node._saved_transposed) else self.space
        small = math.prod(self.weight.shape[2:]) <= LOCAL * math.prod(wide[1:])
        return self.out if small else ()

    def takes(self, rows: LocalRows) -> bool:
        return (rows.channels, *rows.sizes) == self.out

    def pull_local(self, rows: LocalRows, part: slice, meter: Cost) -> PulledLocal:
        pulled = through_convolution(self.node, self.weight, self.space[1:], rows, meter)
        return [(self.children[0], pulled)]

    def loads(self) -> int:
        return self.weight.numel()

    def pull(
        self, edge: Edge, rows: JacobianRows, part: slice, like: Tensor, meter: Cost
    ) -> Pulled:
        node, count = self.node, part.stop - part.start
        shared = rows.shared
        width = self.widths[0]
        if not shared:
            meter.work += rows.m * self.cost()
            meter.peak = max(meter.peak, rows.m * (self.d + width))
        shape = (rows.m, width) if shared else (count, rows.m, width)

        def values() -> Tensor:
            dense = rows.matrix(like, count) if shared else rows.passing(1, like, count)
            images = dense.reshape(-1, *self.out)
            pulled: Tensor
            pulled, _, _ = torch.ops.aten.convolution_backward(
                images, images.new_empty(()).expand(images.shape[0], *self.space), self.weight,
                None, list(node._saved_stride), list(node._saved_padding),
                list(node._saved_dilation), bool(node._saved_transposed),
                list(node._saved_output_padding), int(node._saved_groups), [True, False, False],
            )  # fmt: skip
            return pulled.reshape(shape)

        base = evaluated(like, shape, values)
        return [(self.children[0], JacobianRows(rows.m, width, base, None, True))]
