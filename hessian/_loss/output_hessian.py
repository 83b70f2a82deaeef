"""The Hessian of the loss with respect to the model's outputs.

Where the loss is a sum over samples, it is block-diagonal. Cross-entropy of C classes has the block
diag(p) - ppᵀ, singular along the vector of ones; a sum of functions of one entry each is diagonal.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hessian._loss.quadratic import Quadratic
from hessian._runtime.lanes import pulled_back
from hessian._tape.certificate import jointly_linear
from hessian._tape.graph import Edge, Node, Tape, complex_valued, operation, shape
from hessian._tape.layouts import Layout
from hessian._tape.operations import keeps_flat_order

# Past this size a dense factorisation of one block costs more than it can save.
LARGEST_BLOCK = 2048
# Products taken at once: enough to hide the cost of a call, few enough to stay small.
UNITS = 64


class Products:
    """The map v → Hv on the output leaves, `gradients` being dL/d(leaf) with their graph."""

    def __init__(self, gradients: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
        self.leaves = list(leaves)
        self.index = [i for i, g in enumerate(gradients) if g.requires_grad]
        self.live = [gradients[i] for i in self.index]

    def __call__(self, vectors: Sequence[Tensor], many: bool = False) -> list[Tensor]:
        if not self.live:
            return [torch.zeros_like(v) for v in vectors]
        adjoints = [vectors[i] for i in self.index]
        products: Sequence[Tensor | None] = (
            pulled_back(self.live, self.leaves, adjoints) if many
            else torch.autograd.grad(
                self.live, self.leaves, adjoints, retain_graph=True, allow_unused=True
            )
        )  # fmt: skip
        return [
            torch.zeros_like(v) if g is None else g for g, v in zip(products, vectors, strict=True)
        ]

    def batch(self, vectors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Products with several vectors, stacked along a leading axis."""
        try:
            products = self(vectors, many=True)
        except (RuntimeError, NotImplementedError):  # an operation without a batching rule
            for row in range(len(vectors[0])):
                yield self([v[row] for v in vectors])
            return
        for row in range(len(vectors[0])):
            yield [g[row] for g in products]


def by_sample(tensor: Tensor, layout: Layout, n: int) -> Tensor:
    """Samples first: ``[n, positions, ...]`` with positions the outer·inner places of `layout`."""
    axis, outer, inner = layout
    parts: Tensor = tensor.unflatten(axis, (outer, n, inner))
    return parts.movedim((axis + 1, axis, axis + 2), (0, 1, 2)).flatten(1, 2)


def from_samples(values: Tensor, layout: Layout, n: int, like: Sequence[int]) -> Tensor:
    """The inverse of `by_sample`, for a tensor of shape `like`."""
    axis, outer, inner = layout
    rest = [s for a, s in enumerate(like) if a != axis]
    parts = values.reshape(n, outer, inner, *rest)
    return parts.movedim((0, 1, 2), (axis + 1, axis, axis + 2)).reshape(tuple(like))


def blocks_by_sample(
    gradients: Sequence[Tensor], leaves: Sequence[Tensor], layouts: Sequence[Layout], n: int
) -> Tensor:
    """An H that is proved to be block-diagonal over samples, ``[n, w, w]``.

    w counts a sample's entries in all leaves. One product per entry of *one* sample gives all
    blocks, since all samples share it.
    """
    hvp = Products(gradients, leaves)
    sizes = [leaf.numel() // n for leaf in leaves]
    width = sum(sizes)
    blocks = leaves[0].new_zeros((n, width, width))
    start = 0
    for i, size in enumerate(sizes):
        units = torch.eye(size, dtype=leaves[i].dtype, device=leaves[i].device)
        for first in range(0, size, UNITS):
            portion = units[first : first + UNITS]
            vectors = [leaf.new_zeros((len(portion), *leaf.shape)) for leaf in leaves]
            spread = portion.unsqueeze(1).expand(len(portion), n, size)
            for row in range(len(portion)):
                vectors[i][row] = from_samples(spread[row], layouts[i], n, leaves[i].shape)
            for row, product in enumerate(hvp.batch(vectors)):
                parts = [
                    by_sample(g, lay, n).reshape(n, -1)
                    for g, lay in zip(product, layouts, strict=True)
                ]
                blocks[:, :, start + first + row] = torch.cat(parts, 1)
        start += size
    return blocks


def log_softmax(tape: Tape, linear: Callable[[Edge], bool], leaf: Node) -> Edge | None:
    """The log-softmax that is all the loss reads of a leaf and affine in, if there is one.

    As in cross-entropy with class weights, ignored targets, smoothing or soft targets.
    """
    node = leaf
    while len(tape.consumers[node]) == 1:
        node = tape.consumers[node][0][0]
        if operation(node) == "LogSoftmax":
            axis = _signed(node._saved_dim)
            out, leaf_shape = shape((node, 0)), shape((leaf, 0))
            last = (
                out and leaf_shape and axis % len(out) == len(out) - 1 and out[-1] == leaf_shape[-1]
            )
            same = (out == leaf_shape or last) and not complex_valued((node, 0))
            return (node, 0) if same and linear((node, 0)) else None
        if operation(node) != "Clone" and not keeps_flat_order(node):
            return None
    return None


def logsumexp(tape: Tape, curved: Container[Node], leaf: Node) -> Edge | None:
    """The one log-sum-exp that the loss is curved in, if it reads the leaf by affine ways beside.

    As in a cross-entropy written by hand: what the target picks is taken from the normaliser. In
    the outputs of all nodes but the `curved` ones the loss is affine, jointly.
    """
    normaliser: Node | None = None
    stack, seen = [leaf], {leaf}
    while stack:
        for node, _ in tape.consumers[stack.pop()]:
            if node in seen:
                continue
            seen.add(node)
            if operation(node) == "Logsumexp" and normaliser is None and node not in curved:
                normaliser = node
            elif operation(node) == "Clone" or keeps_flat_order(node):
                stack.append(node)
            elif node in curved or not jointly_linear(node):
                return None
    if normaliser is None or len(normaliser._saved_dim) != 1:
        return None
    into, leaf_shape = shape(normaliser.next_functions[0]), shape((leaf, 0))
    if not into or not leaf_shape or complex_valued((leaf, 0)):
        return None
    axis = _signed(normaliser._saved_dim[0]) % len(into)
    last = axis == len(into) - 1 and into[-1] == leaf_shape[-1]
    return (normaliser, 0) if into == leaf_shape or last else None


def _signed(axis: Any) -> int:
    """A saved axis; autograd keeps negative ones as unsigned."""
    return int(axis) - 2**64 if int(axis) >= 2**63 else int(axis)


def scaled_softmax(node: Node, adjoint: Tensor) -> tuple[Tensor, Tensor]:
    """p, and the total of its weights: Σ u of a log-softmax, -u of a log-sum-exp."""
    if operation(node) == "LogSoftmax":
        axis = _signed(node._saved_dim)
        return node._saved_result.detach().exp(), adjoint.sum(axis, keepdim=True)
    values, result = node._saved_self.detach(), node._saved_result.detach()
    axis = _signed(node._saved_dim[0]) % values.dim()
    if not node._saved_keepdim:
        result, adjoint = result.unsqueeze(axis), adjoint.unsqueeze(axis)
    return (values - result).exp(), -adjoint


def softmax_form(node: Node, adjoint: Tensor, leaf: Tensor, lay: Layout, n: int) -> Quadratic:
    """Second derivative of Σ u·log softmax(z) in z: Σu (ppᵀ - diag p) at every position.

    `adjoint` is u, or that of a log-sum-exp.
    """
    p, total = scaled_softmax(node, adjoint)
    shares = by_sample(p.reshape(leaf.shape), lay, n).reshape(n, -1)
    if total.numel() == n:
        values = by_sample(total.expand_as(p).reshape(leaf.shape), lay, n).reshape(n, -1)
        return Quadratic("softmax", values[:, :1], shares)
    number = torch.arange(total.numel(), device=total.device).view(total.shape).expand_as(p)
    spots = by_sample(number.reshape(leaf.shape), lay, n).reshape(n, -1)
    # Every sample has its positions in the same order, under numbers of its own.
    first, place = spots[0].unique(return_inverse=True)
    ranks = torch.zeros_like(first).scatter_(
        0, place, torch.arange(len(place), device=place.device)
    )
    values, q = total.reshape(-1)[spots[:, ranks]], len(first)
    in_order = torch.arange(q, device=place.device).repeat_interleave(len(place) // q)
    parts = q if torch.equal(place, in_order) else 1
    return Quadratic("softmax", values, shares, place, parts)


def rows(gradients: Sequence[Tensor], leaves: Sequence[Tensor]) -> Iterator[Tensor]:
    """H over all output entries, row by row.

    The first is computed by itself, since many a caller has seen enough then.
    """
    hvp = Products(gradients, leaves)
    for i, leaf in enumerate(leaves):
        start = 0
        while start < leaf.numel():
            count = min(UNITS, leaf.numel() - start) if start else 1
            vectors = [other.new_zeros((count, *other.shape)) for other in leaves]
            vectors[i].view(count, -1)[:, start : start + count].fill_diagonal_(1.0)
            products = hvp.batch(vectors) if count > 1 else [hvp([v[0] for v in vectors])]
            for product in products:
                yield torch.cat([g.reshape(-1) for g in product])
            start += count


def dense(gradients: Sequence[Tensor], leaves: Sequence[Tensor]) -> Tensor:
    """H over all output entries, ``[D, D]`` in float64, D the number of output entries."""
    width = sum(leaf.numel() for leaf in leaves)
    matrix = leaves[0].new_zeros((width, width), dtype=torch.float64)
    for number, row in enumerate(rows(gradients, leaves)):
        matrix[number] = row
    return matrix
