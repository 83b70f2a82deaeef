"""What can be proved about a network and a loss from their tapes.

Three questions decide which exact route a parameter may take:

* is the output affine in each single entry of the parameter? (`affinity`)
* do the parameter's effects stay within samples? (`sample_labels`)
* does the loss couple samples, and does it read the parameter itself? (`loss_labels`,
  `separable`)

Each answer defaults to *not proved*.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from typing import NamedTuple

from hessian._tape.graph import Edge, Node, Tape, operation, shape, title
from hessian._tape.layouts import Label, Layout, Mark, candidates
from hessian._tape.operations import (
    demand,
    dependence,
    elementwise,
    is_loss,
    keeps_flat_order,
    known,
)


class Affinity(NamedTuple):
    """For every leaf: does it reach a root, and which operation stands against affinity."""

    reaches: frozenset[Node]
    refusal: dict[Node, str]


def affinity(tape: Tape, leaves: list[Node]) -> Affinity:
    """Which leaves the roots are proved to be affine in, one entry at a time.

    Dependence is carried forward through the tape as one bit per leaf. An operation that is
    affine in its inputs keeps the property, a product keeps it where the factors share no leaf,
    everything else loses it for all leaves that reach it.
    """
    bit = {leaf: 1 << i for i, leaf in enumerate(leaves)}
    depends: dict[Node, int] = {}
    curved: dict[Node, int] = {}
    refusal: dict[Node, str] = {}

    def refuse(leafset: int, why: str) -> None:
        for leaf, mask in bit.items():
            if leafset & mask:
                refusal.setdefault(leaf, why)

    for node in reversed(tape.order):
        if node in bit:
            depends[node], curved[node] = bit[node], 0
            continue
        inputs = [child for child, _ in node.next_functions]
        dep = [depends.get(child, 0) if child is not None else 0 for child in inputs]
        total = bad = 0
        for child, d in zip(inputs, dep, strict=True):
            total |= d
            bad |= curved.get(child, 0) if child is not None else 0
        for leafset, why in _lost(node, dep):
            refuse(leafset & ~bad, why)
            bad |= leafset
        depends[node], curved[node] = total, bad

    reached = bad = 0
    for root in {node for node, _ in tape.roots}:
        reached |= depends.get(root, 0)
        bad |= curved.get(root, 0)
    return Affinity(
        frozenset(leaf for leaf, mask in bit.items() if reached & mask),
        {leaf: refusal[leaf] for leaf, mask in bit.items() if bad & mask},
    )


def _lost(node: Node, depends: list[int]) -> Iterator[tuple[int, str]]:
    """Leaves that an operation is not affine in, by what its inputs depend on, and why."""
    rule, name = dependence(node), title(node)
    if rule is None:
        everything = functools.reduce(operator.or_, depends, 0)
        if everything:
            why = "not affine" if known(node) is not None else "not a known operation"
            yield everything, f"{name} is {why}"
        return
    for i in rule.nonlinear:
        if i < len(depends) and depends[i]:
            yield depends[i], f"{name} is not affine in its input"
    for i, j in rule.products:
        both = depends[i] & depends[j] if max(i, j) < len(depends) else 0
        if both:
            yield both, f"{name} multiplies two values that both depend on it"


def _join(of: dict[Edge, Label], edge: Edge, label: Label) -> None:
    have = of.get(edge)
    of[edge] = label if have is None or have == label else Mark.CONFLICT


def sample_labels(tape: Tape, roots: dict[Edge, Layout], n: int) -> dict[Edge, Label]:
    """Carry the layout of the outputs back through the tape.

    A tensor is *shared* where every sample uses all of it (a parameter), and in *conflict* where
    its consumers disagree or mix samples; both are inherited by everything below it.
    """
    of: dict[Edge, Label] = dict(roots)
    outputs: dict[Node, set[int]] = {}
    for node, index in roots:
        outputs.setdefault(node, set()).add(index)
    for node in tape.order:
        for index in sorted(outputs.get(node, ())):
            label = of[(node, index)]
            if isinstance(label, Layout):
                wanted = demand(node, index, label, n)
            else:
                wanted = [label] * len(node.next_functions)
            for (child, nr), want in zip(node.next_functions, wanted, strict=True):
                if child is not None:
                    _join(of, (child, nr), want)
                    outputs.setdefault(child, set()).add(nr)
    return of


def uncoupled(tape: Tape, labels: dict[Edge, Label], leaves: list[Node]) -> set[Node]:
    """The leaves that are shared and whose way to the roots keeps samples apart throughout."""
    mixed = {node for (node, _), label in labels.items() if label is Mark.CONFLICT}
    labelled = {node for node, _ in labels}
    proved = set()
    for leaf in leaves:
        if labels.get((leaf, 0)) is not Mark.SHARED:
            continue
        seen, stack = {leaf}, [leaf]
        while stack:
            node = stack.pop()
            if node in mixed or node not in labelled:
                break
            for consumer, _ in tape.consumers[node]:
                if consumer not in seen:
                    seen.add(consumer)
                    stack.append(consumer)
        else:
            proved.add(leaf)
    return proved


# Label of a tensor that the loss is affine in, jointly with all others so labelled.
LINEAR = "linear"


def jointly_linear(node: Node) -> bool:
    """Whether the output is affine in all inputs that are on the tape, taken together."""
    rule = dependence(node)
    if rule is None or is_loss(node):
        return False
    on_tape = [child is not None for child, _ in node.next_functions]
    inputs = {i for i, present in enumerate(on_tape) if present}
    multiplied = any(i in inputs and j in inputs for i, j in rule.products)
    return not multiplied and not inputs & set(rule.nonlinear)


def loss_labels(tape: Tape, n: int) -> dict[Edge, Label | str]:
    """Labels on the tape of a scalar loss; `LINEAR` where the loss is affine in the tensor.

    From the scalar down, sums and constant factors keep the loss affine. The first curved
    operation on each path must then keep samples apart for the loss to be a sum over samples.
    """
    of: dict[Edge, Label | str] = dict.fromkeys(tape.roots, LINEAR)
    outputs: dict[Node, set[int]] = {}
    for node, index in tape.roots:
        outputs.setdefault(node, set()).add(index)
    for node in tape.order:
        for index in sorted(outputs.get(node, ())):
            label = of[(node, index)]
            wanted: list[Label | str]
            if label == LINEAR and jointly_linear(node):
                wanted = [LINEAR] * len(node.next_functions)
            elif label == LINEAR:
                wanted = list(_enter(node, index, n))
            elif isinstance(label, Layout):
                wanted = list(demand(node, index, label, n))
            else:
                wanted = [label] * len(node.next_functions)
            for (child, nr), want in zip(node.next_functions, wanted, strict=True):
                if child is None:
                    continue
                edge = (child, nr)
                have = of.get(edge, LINEAR)
                of[edge] = want if have == LINEAR else have if want == LINEAR else (
                    have if have == want else Mark.CONFLICT
                )  # fmt: skip
                outputs.setdefault(child, set()).add(nr)
    return of


def _enter(node: Node, index: int, n: int) -> list[Label]:
    """Labels of the inputs of a curved operation whose output the loss is affine in."""
    dims = shape((node, index)) or ()
    if is_loss(node):  # reduced inside: look at what goes in
        for child, nr in node.next_functions:
            if child is not None:
                dims = shape((child, nr)) or ()
                for layout in candidates(dims, n):
                    return [layout] * len(node.next_functions)
        return [Mark.CONFLICT] * len(node.next_functions)
    for layout in candidates(dims, n):
        wanted = demand(node, index, layout, n)
        on_tape = [w for (child, _), w in zip(node.next_functions, wanted, strict=True) if child]
        if Mark.CONFLICT not in on_tape:
            return wanted
    return [Mark.CONFLICT] * len(node.next_functions)


def separable(tape: Tape, labels: dict[Edge, Label | str], leaf: Node) -> bool:
    """Whether the scalar is a sum of functions of one entry of the leaf each, plus the rest.

    Then the leaf's Hessian is diagonal, free of cross terms with anything else, and one product
    with a vector of ones gives it. Holds for ``w.pow(2).sum()`` and its like.
    """
    token = 0
    state: dict[Node, tuple[str, int]] = {leaf: ("entries", token)}
    for node in reversed(tape.order):
        if node is leaf:
            continue
        states = [state[child] for child, _ in node.next_functions if child in state]
        if not states:
            continue
        others = [c for c, _ in node.next_functions if c is not None and c not in state]
        dims = shape((node, 0))
        first = next(c for c, _ in node.next_functions if c in state)
        same = dims is not None and all(
            shape((c, nr)) == dims for c, nr in node.next_functions if c in state
        )
        entries = all(kind == "entries" for kind, _ in states)
        aligned = len({token for _, token in states}) == 1
        linear = labels.get((node, 0)) == LINEAR and jointly_linear(node)
        if entries and aligned and not others and elementwise(node) and same:
            state[node] = states[0]
        elif (
            labels.get((node, 0)) == LINEAR
            and is_loss(node)
            and entries
            and aligned
            and not others
            and len({shape((c, nr)) for c, nr in node.next_functions if c in state}) == 1
        ):  # a pointwise loss, reduced or not
            state[node] = states[0] if same else ("sum", 0)
        elif entries and keeps_flat_order(node) and not others:
            state[node] = state[first]
        elif entries and operation(node) in ("T", "Transpose", "Permute"):
            token += 1
            state[node] = ("entries", token)
        elif linear or (
            labels.get((node, 0)) == LINEAR
            and operation(node) == "Dot"
            and entries
            and aligned
            and not others
        ):
            state[node] = ("sum", 0)
        else:
            return False
    return True
