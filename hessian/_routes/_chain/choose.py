"""Which step of the chain route an operation is, and what stands against it where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from hessian._routes._chain.steps.base import Step, Where
from hessian._routes._chain.steps.broadcast import Broadcast, summed_axes
from hessian._routes._chain.steps.by_node import ByNode
from hessian._routes._chain.steps.elementwise import Elementwise, Rectified, Same, Saturating
from hessian._routes._chain.steps.linear import Convolution, Linear
from hessian._routes._chain.steps.moved import moved
from hessian._routes._chain.steps.norms import LayerNorm
from hessian._routes._chain.steps.pooling import MaxPool
from hessian._routes._chain.steps.products import Batched, Product
from hessian._routes._chain.steps.softmax import Softmax
from hessian._tape.graph import Edge, Node, complex_valued, is_custom, operation, shape, title
from hessian._tape.layouts import Mark
from hessian._tape.operations import (
    AFFINE,
    BATCH_NORMS,
    OPERATIONS,
    dependence,
    elementwise,
    keeps_flat_order,
)


@dataclass
class Use:
    """An operation of the tape with data in its inputs `slots`, its outputs `indices` in use."""

    node: Node
    indices: list[int]
    slots: list[int]
    where: Where

    @property
    def edge(self) -> Edge:
        """The first output in use."""
        return self.node, self.indices[0]

    def child(self, slot: int) -> Edge:
        """The edge of an input."""
        edge: Edge = self.node.next_functions[slot]
        return edge

    @cached_property
    def alike(self) -> bool:
        """Whether all inputs of data have the output's shape and layout."""
        out, layout = shape(self.edge), self.where.layout(self.edge)
        return all(
            shape(self.child(i)) == out and self.where.layout(self.child(i)) == layout
            for i in self.slots
        )

    @cached_property
    def axes(self) -> list[tuple[int, ...]] | None:
        """Axes that inputs smaller than the output are broadcast along; ``None``: not only that."""
        row = OPERATIONS.get(operation(self.node))
        if self.alike or row is None or not row.unreduced or not self.slots:
            return None
        axes = [summed_axes(self.edge, self.child(i), self.where) for i in self.slots]
        known = [a for a in axes if a is not None]
        return known if len(known) == len(axes) else None

    @property
    def sized(self) -> bool:
        """Whether inputs have the output's size, but for broadcasting."""
        return self.alike or self.axes is not None

    @cached_property
    def led(self) -> bool:
        """Whether samples lead in the output and all inputs of data."""
        edges = [self.edge, *map(self.child, self.slots)]
        return all(map(self.where.first, edges))

    @property
    def curved(self) -> bool:
        """Whether the output is not affine in an input of data by itself."""
        rule = dependence(self.node)
        return rule is None or any(i in rule.nonlinear for i in self.slots)

    @property
    def crossed(self) -> bool:
        """Whether two inputs of data are multiplied."""
        rule = dependence(self.node) or AFFINE
        return any(i in self.slots and j in self.slots for i, j in rule.products)

    def broadcast(self, step: Step) -> Step:
        """The step, at inputs that may be smaller than the output."""
        return step if self.axes is None else Broadcast(step, self.axes)


def step(node: Node, indices: list[int], where: Where) -> Step | str:
    """The step of an operation whose outputs `indices` are in use, or why there is none."""
    if is_custom(type(node)):
        return f"{title(node)} has no known step"
    slots = [
        i for i, (child, nr) in enumerate(node.next_functions)
        if child is not None and where.layout((child, nr)) is not None
    ]  # fmt: skip
    edges = [(node, i) for i in indices]
    wide = [i for i in slots if where.width(node.next_functions[i])]
    if slots and not (wide and any(map(where.width, edges))):
        return Same(node, edges[0], [], where, [])  # a layer without outputs, or inputs
    conflict = any(where.labels.get(child) is Mark.CONFLICT for child in node.next_functions)
    if conflict or any(where.layout(e) is None for e in edges):
        return f"{node.name()} mixes samples"
    if any(complex_valued(e) for e in (*edges, *(node.next_functions[i] for i in wide))):
        return f"{node.name()} is complex"
    return _known(Use(node, indices, wide, where))


def _known(use: Use) -> Step | str:
    """The step of an operation that keeps samples apart, all of its data being real."""
    node, slots, where = use.node, use.slots, use.where
    name = operation(node)
    both_first = bool(slots) and where.first(use.edge) and where.first(use.child(slots[0]))
    if both_first and keeps_flat_order(node):
        return Same(node, use.edge, slots, where, [1.0])
    row = OPERATIONS.get(name)
    make = _STEPS.get(row.step) if row is not None else None
    special = None if make is None else make(use)
    if special is not None:
        return special
    if use.crossed:
        return f"{node.name()} multiplies two values of the same sample"
    if use.curved and len(slots) > 1:
        return f"{node.name()} is curved in several inputs"
    by_entry = elementwise(node) or (
        name in BATCH_NORMS and not getattr(node, "_saved_training", True)
    )
    if by_entry and use.sized:
        return use.broadcast(Elementwise(node, use.edge, slots, where, use.curved))
    if use.curved and use.indices != [0]:
        return f"{node.name()} is curved in several outputs"
    if slots and row is not None and row.dependence == AFFINE:
        move = moved(node, use.indices, slots, where)
        if move is not None:
            return move
    return ByNode(node, use.edge, slots, where, use.curved)


# ------------------------------------------------------- steps of their own, where they apply


def _sum(use: Use) -> Step | None:
    if not use.sized:
        return None
    sign = -1.0 if operation(use.node) == "Sub" else 1.0
    alpha = float(getattr(use.node, "_saved_alpha", 1.0)) * sign
    factors = [1.0 if i == 0 else alpha for i in use.slots]
    return use.broadcast(Same(use.node, use.edge, use.slots, use.where, factors))


def _product(use: Use) -> Step | None:
    if not use.crossed or not use.sized or len(use.slots) != 2:
        return None
    return use.broadcast(Product(use.node, use.edge, use.slots, use.where))


def _batched_product(use: Use) -> Step | None:
    if not use.crossed or not all(use.where.first(use.child(i)) for i in use.slots):
        return None
    return Batched(use.node, use.edge, use.slots, use.where)


def _rectified(use: Use) -> Step | None:
    if not use.alike or not use.where.first(use.edge):  # flat rows are then a view
        return None
    return Rectified(use.node, use.edge, use.slots, use.where)


def _saturating(use: Use) -> Step | None:
    return Saturating(use.node, use.edge, use.slots, use.where, use.curved) if use.alike else None


def _linear(use: Use) -> Step | None:
    if use.slots != [1 if operation(use.node) == "Addmm" else 0] or not use.led:
        return None
    return Linear(use.node, use.edge, use.slots, use.where)


def _one_row_each(use: Use) -> bool:
    """Whether an entry of the sample axis is one sample's, as operations on images want it."""
    layout = use.where.layout(use.child(0))
    return use.led and layout is not None and layout.inner == 1


def _convolution(use: Use) -> Step | None:
    if use.slots != [0] or not _one_row_each(use):
        return None
    return Convolution(use.node, use.edge, use.slots, use.where)


def _max_pool(use: Use) -> Step | None:
    if use.indices != [0] or not _one_row_each(use):
        return None
    return MaxPool(use.node, use.edge, use.slots, use.where)


def _layer_norm(use: Use) -> Step | None:
    if use.slots != [0] or use.indices != [0]:
        return None
    return LayerNorm(use.node, use.edge, use.slots, use.where)


def _softmax(use: Use) -> Step | None:
    last = len(shape(use.edge) or ()) - 1
    layout = use.where.layout(use.edge)
    axis = int(use.node._saved_dim)
    axis = (axis - 2**64 if axis >= 2**63 else axis) % max(1, last + 1)
    if axis != last or layout is None or layout.axis >= last:
        return None
    return Softmax(use.node, use.edge, use.slots, use.where)


# By the step that an operation's row names.
_STEPS: dict[str, Callable[[Use], Step | None]] = {
    "sum": _sum,
    "product": _product,
    "batched product": _batched_product,
    "rectified": _rectified,
    "saturating": _saturating,
    "linear": _linear,
    "convolution": _convolution,
    "max pool": _max_pool,
    "layer norm": _layer_norm,
    "softmax": _softmax,
}
