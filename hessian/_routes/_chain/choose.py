"""Which step of the chain route an operation is, and what stands against it where there is none."""

from __future__ import annotations

from hessian._routes._chain.steps.base import Step, Where
from hessian._routes._chain.steps.broadcast import UNREDUCED, Broadcast, summed_axes
from hessian._routes._chain.steps.by_node import ByNode
from hessian._routes._chain.steps.elementwise import Elementwise, Rectified, Same, Saturating
from hessian._routes._chain.steps.linear import Convolution, Linear
from hessian._routes._chain.steps.norms import LayerNorm
from hessian._routes._chain.steps.pooling import MaxPool
from hessian._routes._chain.steps.products import Batched, Product
from hessian._routes._chain.steps.softmax import Softmax
from hessian._tape.graph import Node, complex_valued, is_custom, operation, shape, title
from hessian._tape.operations import BATCH_NORMS, Mark, dependence, elementwise, keeps_flat_order


def step(node: Node, indices: list[int], where: Where) -> Step | str:
    """The step of an operation whose outputs `indices` are in use, or why there is none."""
    name = operation(node)
    if is_custom(type(node)):
        return f"{title(node)} has no known step"
    slots = [
        i for i, (child, nr) in enumerate(node.next_functions)
        if child is not None and where.layout((child, nr)) is not None
    ]  # fmt: skip
    edges = [(node, i) for i in indices]
    edge = edges[0]
    if slots and not any(where.width(e) for e in edges):
        return Same(node, edge, [], where, [])  # a layer without outputs
    wide = [i for i in slots if where.width(node.next_functions[i])]
    if slots and not wide:
        return Same(node, edge, [], where, [])
    if any(where.layout(e) is None for e in edges) or any(
        where.labels.get(child) is Mark.CONFLICT for child in node.next_functions
    ):
        return f"{node.name()} mixes samples"
    slots = wide
    if any(complex_valued(e) for e in (*edges, *(node.next_functions[i] for i in slots))):
        return f"{node.name()} is complex"
    out = shape(edge)
    layout = where.layout(edge)
    alike = all(
        shape(node.next_functions[i]) == out and where.layout(node.next_functions[i]) == layout
        for i in slots
    )
    axes = [] if alike else [summed_axes(edge, node.next_functions[i], where) for i in slots]
    known = [a for a in axes if a is not None]
    smaller = name in UNREDUCED and bool(axes) and len(known) == len(axes)

    def sized(found: Step) -> Step:
        return Broadcast(found, known) if smaller else found

    rule = dependence(node)
    bent = rule is None or any(i in rule.nonlinear for i in slots)
    crossed = rule is not None and any(i in slots and j in slots for i, j in rule.products)
    if (
        slots
        and keeps_flat_order(node)
        and where.first(edge)
        and where.first(node.next_functions[slots[0]])
    ):
        return Same(node, edge, slots, where, [1.0])
    if name in ("Add", "Sub", "Expand") and (alike or smaller):
        alpha = float(getattr(node, "_saved_alpha", 1.0)) * (-1.0 if name == "Sub" else 1.0)
        return sized(Same(node, edge, slots, where, [1.0 if i == 0 else alpha for i in slots]))
    flat = elementwise(node) or (name in BATCH_NORMS and not getattr(node, "_saved_training", True))
    if crossed:
        if name == "Mul" and (alike or smaller) and len(slots) == 2:
            return sized(Product(node, edge, slots, where))
        if name == "Bmm" and all(where.first(node.next_functions[i]) for i in slots):
            return Batched(node, edge, slots, where)
        return f"{node.name()} multiplies two values of the same sample"
    if bent and len(slots) > 1:
        return f"{node.name()} is curved in several inputs"
    if name == "Relu" and alike and where.first(edge):  # flat rows are then a view
        return Rectified(node, edge, slots, where)
    if name in ("Tanh", "Sigmoid") and alike:
        return Saturating(node, edge, slots, where, bent)
    if flat and (alike or smaller):
        return sized(Elementwise(node, edge, slots, where, bent))
    led = where.first(edge) and all(where.first(node.next_functions[i]) for i in slots)
    if name == "Addmm" and slots == [1] and led:
        return Linear(node, edge, slots, where)
    if name == "Mm" and slots == [0] and led:
        return Linear(node, edge, slots, where)
    if name == "Convolution" and slots == [0] and led:
        first = where.layout(node.next_functions[0])
        if first is not None and first.inner == 1:
            return Convolution(node, edge, slots, where)
    if name in ("MaxPool2DWithIndices", "MaxPool3DWithIndices") and led and indices == [0]:
        first = where.layout(node.next_functions[0])
        if first is not None and first.inner == 1 and len(out or ()) == len(shape(edge) or ()):
            return MaxPool(node, edge, slots, where)
    if name == "NativeLayerNorm" and slots == [0] and indices == [0]:
        return LayerNorm(node, edge, slots, where)
    if name == "Softmax" and len(out or ()) - 1 == _last(node, out) and layout is not None and (
        layout.axis < len(out or ()) - 1
    ):  # fmt: skip
        return Softmax(node, edge, slots, where)
    if bent and indices != [0]:
        return f"{node.name()} is curved in several outputs"
    return ByNode(node, edge, slots, where, bent)


def _last(node: Node, out: tuple[int, ...] | None) -> int:
    axis = int(node._saved_dim)
    axis = axis - 2**64 if axis >= 2**63 else axis
    return axis % len(out or (1,))
