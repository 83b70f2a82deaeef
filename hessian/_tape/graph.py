"""The autograd tape of a computation, read as a graph.

The derivative of what the user wrote *is* what the tape says (custom autograd functions, detached
tensors and in-place operations included), so every proof about derivatives is read off the tape
and not off the module tree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from hessian import torch_private

# torch.autograd.graph.Node is abstract and lacks the attributes of the concrete nodes.
Node = Any
Edge = tuple[Node, int]

_SUFFIX = re.compile(r"Backwards?\d*$")
# Starts the name of what is not torch's own; no list of operations holds such a name.
UNKNOWN = "custom function"
_NAMES: dict[type, str] = {}  # of torch's own types of nodes


def _accumulator() -> type:
    """The type of a leaf tensor's gradient accumulator."""
    with torch.inference_mode(False), torch.enable_grad():
        return type(get_gradient_edge(torch.zeros((), device="cpu", requires_grad=True)).node)


_LEAF = _accumulator()


def operation(node: Node) -> str:
    """The operation's name without autograd's suffix, e.g. ``"Addmm"`` for ``AddmmBackward0``.

    Only nodes that torch itself made have the name of an operation: a custom function may be
    called anything, and may have a method or an attribute of any name.
    """
    kind = type(node)
    name = _NAMES.get(kind)
    if name is None:
        if is_custom(kind):
            return f"{UNKNOWN} {kind.__name__}"
        name = _NAMES[kind] = bare(kind)
    return name


def bare(kind: type) -> str:
    """The name of a type of nodes without autograd's suffix."""
    return _SUFFIX.sub("", kind.__name__)


def is_custom(kind: type) -> bool:
    """Whether nodes of a type are not torch's own: custom functions in Python or in C++."""
    return kind not in _NAMES and getattr(torch_private.NODES, kind.__name__, None) is not kind


def title(node: Node) -> str:
    """The node's name for a message."""
    kind = type(node)
    if not is_custom(kind):
        return str(node.name())
    if kind.__mro__ == (kind, object):  # one type for all that C++ extensions bring
        return f"the C++ function {node.name()}"
    return f"the custom function {kind.__name__.removesuffix('Backward')}"


def is_leaf(node: Node) -> bool:
    """Whether the node is a leaf tensor's gradient accumulator."""
    return type(node) is _LEAF


def metadata(node: Node) -> Sequence[Any]:
    """Shapes, dtypes and devices of a node's outputs; empty where torch does not tell them."""
    return node._input_metadata if torch_private.HAS_METADATA else ()


def shape(edge: Edge) -> tuple[int, ...] | None:
    """Shape of the tensor an edge stands for; ``None`` where the tape does not say."""
    node, index = edge
    if is_leaf(node):
        return tuple(node.variable.shape)
    try:
        return tuple(map(int, metadata(node)[index].shape))
    except (AttributeError, IndexError, RuntimeError, TypeError):
        return None


def is_transpose(node: Node) -> bool:
    """Whether the node swaps the two axes of a matrix; ``w.transpose(0, 0)`` swaps none."""
    name = operation(node)
    if name not in ("T", "Transpose", "Permute"):
        return False
    dims = shape((node, 0))
    if dims is None or len(dims) != 2:
        return False
    if name == "Transpose":  # negative axes are kept as unsigned: only their parity is asked for
        return (int(node._saved_dim0) - int(node._saved_dim1)) % 2 == 1
    return name == "T" or int(node._saved_dims[0]) % 2 == 1


def size(node: Node) -> int:
    """Bytes of a node's first output; 0 where the tape does not say."""
    try:
        output = metadata(node)[0]
        return math.prod(map(int, output.shape)) * int(output.dtype.itemsize)
    except (AttributeError, IndexError, RuntimeError, TypeError):
        return 0


def complex_valued(edge: Edge) -> bool:
    """Whether the tensor an edge stands for is complex (where the tape says so)."""
    node, index = edge
    if is_leaf(node):
        return bool(node.variable.is_complex())
    try:
        return bool(metadata(node)[index].dtype.is_complex)
    except (AttributeError, IndexError, RuntimeError, TypeError):
        return False


@dataclass
class Tape:
    """The nodes that lead from leaf tensors to `roots`, consumers before their inputs."""

    roots: list[Edge]
    order: list[Node] = field(default_factory=list)
    consumers: dict[Node, list[tuple[Node, int]]] = field(default_factory=dict)

    @classmethod
    def of(cls, tensors: Iterable[Tensor]) -> Tape:
        """The tape of `tensors`, which must require gradients."""
        edges = (get_gradient_edge(t) for t in tensors)
        return cls._walk([(e.node, e.output_nr) for e in edges])

    @classmethod
    def _walk(cls, roots: Sequence[Edge]) -> Tape:
        tape = cls(list(roots))
        postorder: list[Node] = []
        state: set[Node] = set()
        for root, _ in tape.roots:
            stack: list[tuple[Node, bool]] = [(root, False)]
            while stack:
                node, done = stack.pop()
                if done:
                    postorder.append(node)
                    continue
                if node in state:
                    continue
                state.add(node)
                tape.consumers.setdefault(node, [])
                stack.append((node, True))
                for child, _ in node.next_functions:
                    if child is not None and child not in state:
                        stack.append((child, False))
        tape.order = postorder[::-1]
        for node in tape.order:
            for index, (child, _) in enumerate(node.next_functions):
                if child is not None:
                    tape.consumers[child].append((node, index))
        return tape

    def leaves(self) -> dict[int, Node]:
        """Gradient accumulators by the ``id`` of their leaf tensor."""
        return {id(node.variable): node for node in self.order if is_leaf(node)}

    def bytes(self) -> int:
        """Size of all tensors on the tape: what one more set of adjoints would take."""
        return sum(size(node) for node in self.order if not is_leaf(node))


def fresh_gradient(tape: Tape, leaf: Node) -> bool:
    """Whether a leaf's gradient is a tensor of its own, which nothing else can hold.

    True of a weight used once, in a matrix product or a convolution. Elsewhere autograd may hand
    out one tensor twice, or one that the caller passed in.
    """
    if len(tape.consumers[leaf]) != 1:
        return False
    node, argument = tape.consumers[leaf][0]
    if is_transpose(node):
        if len(tape.consumers[node]) != 1:
            return False
        node, argument = tape.consumers[node][0]
    name = operation(node)
    return (name, argument) in (("Addmm", 1), ("Addmm", 2), ("Convolution", 1)) or name == "Mm"


def refuse_undifferentiable(gradients: Iterable[Tensor | None]) -> None:
    """Raise where a gradient's own tape was cut.

    A custom function marked ``once_differentiable`` leaves an error node there that asking for
    derivatives of leaves steps around in silence: the result would be zero, not an error.

    Raises:
        NotImplementedError: such a node was found.
    """
    live = [g for g in gradients if g is not None and g.requires_grad]
    if any(operation(node) == "Error" for node in Tape.of(live).order):
        raise NotImplementedError(
            "model or loss: a custom autograd function is marked once_differentiable, so torch has "
            "no second derivative for it; write its backward with differentiable operations, or "
            "pass names= without the parameters below it"
        )
