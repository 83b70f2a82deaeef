"""Ways from the loss into the network that do not lead through the model's outputs.

A loss may read what `forward` left behind: an attribute of the model, an activation that a hook
stored, a tensor in a closure, an object that is not known to hold tensors. On the loss's tape such
a tensor shows as a node that is older than the call of the loss. torch numbers nodes as they are
made, thread by thread.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hessian import torch_private, trees
from hessian._tape.graph import Node, Tape, is_leaf
from hessian.devices import SAME_ORDER


def now() -> int:
    """The number of the next node that this thread makes."""
    if torch_private.sequence_number is not None:
        return int(torch_private.sequence_number())
    with torch.enable_grad():
        node: Any = torch.zeros((), requires_grad=True, device="cpu").clone().grad_fn
    number = getattr(node, "_sequence_nr", None)
    return 0 if number is None else int(number()) + 1


def older(
    tape: Tape, start: int, parameters: Iterable[Tensor], outputs: Iterable[Tensor] = ()
) -> list[Node]:
    """Nodes between the tape's roots and the parameters, made before the number was `start`.

    Those that made one of the `outputs` count too, whoever numbered them.
    """
    wanted, made = {id(p) for p in parameters}, {t.grad_fn for t in outputs} - {None}
    leads: set[Node] = set()
    nodes = []
    for node in reversed(tape.order):
        if is_leaf(node):
            if id(node.variable) in wanted:
                leads.add(node)
            continue
        if not any(child in leads for child, _ in node.next_functions):
            continue
        leads.add(node)
        number = getattr(node, "_sequence_nr", None)
        if node in made or (number is not None and number() < start):
            nodes.append(node)
    return nodes


def equal(value: Tensor, other: Tensor) -> bool:
    """Whether two losses are the same to rounding: that of one sum taken twice.

    On a CPU the same operations give the same bits; a GPU adds in any order.
    """
    eps = torch.finfo(value.dtype).eps
    loose = 64 * eps if value.device.type in SAME_ORDER else eps**0.5
    a, b = float(value.detach()), float(other.detach())
    return abs(a - b) <= loose * max(abs(a), abs(b))


class Firsts:
    """The losses of batches at the first pass, which later passes over the same data must meet."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Tensor]] = {}

    def meets(self, index: int, inputs: Any, value: Tensor) -> bool:
        """Whether a batch's loss is what it was, if these inputs were there before."""
        first = next((leaf for leaf in trees.leaves(inputs) if isinstance(leaf, Tensor)), None)
        if first is None:
            return True
        known = self._known.get(index)
        if known is None or known[0]() is not first or known[1].dtype != value.dtype:
            self._known[index] = weakref.ref(first), value.detach()
            return True
        return equal(value, known[1])
