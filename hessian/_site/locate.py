"""Which uses of a parameter are sites of a known kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hessian._site.convolution import convolution
from hessian._site.dense import dense
from hessian._site.embedding import embedding
from hessian._site.shared import broadcast, channel, normalised
from hessian._site.site import Site
from hessian._tape.graph import Edge, Node, Tape, is_transpose, operation
from hessian._tape.layouts import Label, Layout, Mark
from hessian._tape.operations import BATCH_NORMS


class Use(NamedTuple):
    """A parameter as an argument of an operation; `transposed` where it comes as its transpose."""

    node: Node
    argument: int
    layout: Layout
    weight: tuple[int, ...]
    n: int
    transposed: bool


def sites(tape: Tape, labels: dict[Edge, Label], leaf: Node, n: int) -> list[Site] | None:
    """All uses of a leaf, or ``None`` where one of them is of a kind not known here."""
    uses = []
    for consumer, index in tape.consumers[leaf]:
        transposed = is_transpose(consumer)
        pairs = tape.consumers[consumer] if transposed else [(consumer, index)]
        for node, argument in pairs:
            # An operation that reads the parameter twice is not a site of single use per edge.
            layout, weight = labels.get((node, 0)), tuple(leaf.variable.shape)
            if layout == Mark.SHARED and operation(node) == "Embedding":
                sums = _shared_rows(tape, labels, node, weight, n)
                if sums is None:
                    return None
                uses += sums
                continue
            if not isinstance(layout, Layout):
                return None
            site = _site(Use(node, argument, layout, weight, n, transposed))
            if site is None:
                return None
            uses.append(site)
    return uses


def _shared_rows(
    tape: Tape, labels: dict[Edge, Label], lookup: Node, weight: tuple[int, ...], n: int
) -> list[Site] | None:
    """Where rows that all samples share are added to what they have: embeddings of positions."""
    sums = []
    for node, argument in tape.consumers[lookup]:
        layout, adds = labels.get((node, 0)), operation(node) in ("Add", "Sub")
        plain = argument == 0 or (operation(node) == "Add" and float(node._saved_alpha) == 1.0)
        if not adds or not plain or not isinstance(layout, Layout):
            return None
        site = embedding(lookup, layout, weight, n, (node, 0))
        if site is None:
            return None
        sums.append(site)
    return sums


def _site(use: Use) -> Site | None:
    """The site of a use, ``None`` where its kind is not known."""
    name = operation(use.node)
    kind = _KINDS.get((name, use.argument))
    if kind is None or (use.transposed and kind is not _product):
        return None
    return kind(use)


def _product(use: Use) -> Site | None:
    if use.layout.axis != 0:
        return None
    return dense(use.node, use.layout, use.n, use.transposed)


def _convolution(use: Use) -> Site | None:
    if use.layout.axis != 0:
        return None
    return convolution(use.node, use.layout, use.weight, use.n)


def _channel(use: Use) -> Site | None:
    """A shift of every channel."""
    return channel(use.node, use.layout, None, use.n) if use.layout.axis == 0 else None


def _channel_scale(use: Use) -> Site | None:
    """A scale of every channel of a batch or group norm."""
    if use.layout.axis != 0:
        return None
    return channel(use.node, use.layout, normalised(use.node), use.n)


def _shift(use: Use) -> Site | None:
    return broadcast(use.node, use.layout, use.weight, 1.0, None, use.n)


def _product_shift(use: Use) -> Site | None:
    beta = float(use.node._saved_beta)
    return broadcast(use.node, use.layout, use.weight, beta, None, use.n)


def _norm_scale(use: Use) -> Site | None:
    mean, rstd = use.node._saved_result1, use.node._saved_result2
    factor = (use.node._saved_input - mean) * rstd
    return broadcast(use.node, use.layout, use.weight, 1.0, factor, use.n)


def _summand(use: Use) -> Site | None:
    """b in a + alpha·b, or in a - alpha·b."""
    alpha = float(getattr(use.node, "_saved_alpha", 1.0))
    scale = -alpha if operation(use.node) == "Sub" else alpha
    return broadcast(use.node, use.layout, use.weight, scale, None, use.n)


def _factor(use: Use) -> Site | None:
    if len(use.node.next_functions) != 2:
        return None
    other = use.node._saved_other if use.argument == 0 else use.node._saved_self
    return broadcast(use.node, use.layout, use.weight, 1.0, other, use.n)


def _rows(use: Use) -> Site | None:
    return embedding(use.node, use.layout, use.weight, use.n)


# By operation and argument.
_KINDS: dict[tuple[str, int], Callable[[Use], Site | None]] = {
    ("Addmm", 2): _product,
    ("Mm", 1): _product,
    ("Addmm", 0): _product_shift,
    ("Linear", 2): _shift,
    ("Convolution", 1): _convolution,
    ("Convolution", 2): _channel,
    **{(name, 1): _channel_scale for name in (*BATCH_NORMS, "NativeGroupNorm")},
    **{(name, 2): _channel for name in (*BATCH_NORMS, "NativeGroupNorm")},
    ("NativeLayerNorm", 1): _norm_scale,
    ("NativeLayerNorm", 2): _shift,
    ("Embedding", 0): _rows,
    ("Add", 0): _shift,
    ("Expand", 0): _shift,
    ("Add", 1): _summand,
    ("Sub", 0): _shift,
    ("Sub", 1): _summand,
    ("Mul", 0): _factor,
    ("Mul", 1): _factor,
}
