"""One operation of the tape as a step of the chain route.

Going back through an operation y = f(x), the chain route needs two things per sample: Jacobian
rows of something above, taken from y to x (`Step.pull`), and the operation's own curvature
Σ_i λ_i d²y_i with λ = dL/dy (`Step.sources`). Both are read off autograd's own node wherever no
cheaper form is known, so nothing here is a second definition of an operation's derivative; the
closed forms below are those of linear maps, pooling, tanh and the logistic function, layer norm,
softmax and products.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from hessian import torch_private
from hessian._loss.local_rows import LocalRows
from hessian._loss.output_hessian import by_sample, from_samples
from hessian._loss.quadratic import Quadratic
from hessian._loss.rows import Cost, JacobianRows
from hessian._runtime.lanes import pulled_back
from hessian._runtime.matrix_products import TRAFFIC
from hessian._tape.graph import Edge, Node, metadata, shape
from hessian._tape.layouts import Label, Layout

Pulled = list[tuple[Edge, JacobianRows]]
PulledLocal = list[tuple[Edge, LocalRows]]


class Curvature(NamedTuple):
    """An operation's own curvature: that of a form, or of Σ_i x_i y_i where there are `others`."""

    form: Quadratic | None
    rows: Pulled
    others: Pulled | None = None


class Step:
    """An operation between its outputs and the inputs that are laid out by samples.

    `curved` says whether `sources` may yield anything. On a dry run tensors have a shape only and
    hold one sample, and `prepare` is not called: a step asks `dry_run.evaluated` for what it
    computes, and says its shape. The operation acts on contiguous parts of a sample one by one,
    `parts` of them, each input cut alike: 0 where each entry is one.
    """

    parts = 1

    curved = False
    dense = False  # a matrix product, the same for all samples
    lazy = False  # rows that all samples share stay so, up to a factor for each entry

    def __init__(self, node: Node, edge: Edge, data: list[int], where: Where) -> None:
        self.node, self.edge, self.where = node, edge, where
        self.children: list[Edge] = [node.next_functions[i] for i in data]
        self.data = data
        self.d = where.width(edge)
        self.widths = [where.width(child) for child in self.children]

    def cost(self) -> float:
        """Multiplications per sample and row of a pull."""
        return TRAFFIC * self.d

    def loads(self) -> int:
        """Values of a weight that every pull reads."""
        return 0

    def rows(self) -> int:
        """Rows of the sources that the operation adds."""
        return self.d if self.curved else 0

    def prepare(self, adjoint: Tensor | None) -> None:
        """Read what is needed off the tape; `adjoint` is dL/dy where the operation is curved."""

    def pull(
        self, edge: Edge, rows: JacobianRows, part: slice, like: Tensor, meter: Cost
    ) -> Pulled:
        """Rows at an output edge, carried to the inputs."""
        raise NotImplementedError

    def takes(self, rows: LocalRows) -> bool:
        """Whether such rows can be pulled through."""
        return False

    def pull_local(self, rows: LocalRows, part: slice, meter: Cost) -> PulledLocal:
        """Local rows at the output that the step takes, carried to the inputs."""
        raise NotImplementedError

    def begins(self) -> tuple[int, ...]:
        """The output's image ``[channels, *sizes]`` where its own rows should become local."""
        return ()

    def sources(self, part: slice, like: Tensor) -> list[Curvature]:
        """The operation's own curvature in its inputs."""
        return []


class Where:
    """Where samples lie in every tensor of the tape."""

    def __init__(self, labels: dict[Edge, Label], n: int) -> None:
        self.labels, self.n = labels, n

    def layout(self, edge: Edge) -> Layout | None:
        label = self.labels.get(edge)
        return label if isinstance(label, Layout) else None

    def width(self, edge: Edge) -> int:
        """Entries per sample."""
        return math.prod(shape(edge) or (0,)) // self.n

    def first(self, edge: Edge) -> bool:
        """Whether samples lead, so that row-major order is sample by sample."""
        layout = self.layout(edge)
        return layout is not None and layout.axis == 0 and layout.outer == 1

    def flat(self, tensor: Tensor, edge: Edge) -> Tensor:
        """``[n, d]``."""
        layout = self.layout(edge)
        assert layout is not None
        if torch_private.is_zero_tensor(tensor):  # forward mode's, which has no memory
            tensor = tensor.clone()
        return by_sample(tensor, layout, self.n).reshape(self.n, -1)

    def restored(self, values: Tensor, edge: Edge) -> Tensor:
        """The inverse of `flat`."""
        layout, dims = self.layout(edge), shape(edge)
        assert layout is not None
        assert dims is not None
        return from_samples(values, layout, self.n, dims)


def call(node: Node, index: int, adjoint: Tensor) -> list[Tensor | None]:
    """The node's own vector-Jacobian product, for one of its outputs."""
    outputs = len(metadata(node)) or index + 1
    adjoints: list[Any] = [None] * outputs
    adjoints[index] = adjoint
    gradients = node(*adjoints)
    return list(gradients) if isinstance(gradients, tuple) else [gradients]


def summed_to(gradient: Tensor, child: Edge) -> Tensor:
    """A node's gradient for an input, summed to its shape as autograd's engine does."""
    dims = shape(child)
    if dims is None or tuple(gradient.shape) == dims:
        return gradient
    lead = gradient.dim() - len(dims)
    axes = [*range(lead), *(lead + a for a, s in enumerate(dims) if gradient.shape[lead + a] != s)]
    return gradient.sum(axes, keepdim=True).reshape(dims)


def second_derivative(node: Node, edge: Edge, slot: int, adjoint: Tensor) -> Tensor | None:
    """d/dx of (λᵀ dy/dx) applied to ones, for the input in `slot`, by autograd."""
    first, child = _sloped(node, edge, slot, adjoint)
    if first is None:
        return None
    (second,) = torch.autograd.grad(
        first, [child], torch.ones_like(first), retain_graph=True, allow_unused=True
    )
    return second


def second_derivatives(
    node: Node, edge: Edge, slot: int, adjoint: Tensor, along: Tensor
) -> Tensor | None:
    """The same applied to each of `along` ``[lanes, *shape of x]``."""
    first, child = _sloped(node, edge, slot, adjoint)
    if first is None:
        return None
    try:
        (rows,) = pulled_back([first], [child], [along])
    except (RuntimeError, NotImplementedError):  # an operation without a batching rule
        singles = [
            torch.autograd.grad(first, [child], v, retain_graph=True, allow_unused=True)[0]
            for v in along
        ]
        rows = None if any(s is None for s in singles) else torch.stack(singles)
    return rows


def _sloped(
    node: Node, edge: Edge, slot: int, adjoint: Tensor
) -> tuple[Tensor | None, GradientEdge]:
    """λᵀ dy/dx on its tape, ``None`` where it does not depend on x, and where x is."""
    child = GradientEdge(*node.next_functions[slot])
    with torch.enable_grad():
        first = call(node, edge[1], adjoint)[slot]
        if first is None or not first.requires_grad:
            return None, child
        return summed_to(first, node.next_functions[slot]), child
