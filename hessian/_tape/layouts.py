"""Where samples lie in the inputs of an operation, given where they lie in its output.

One rule a kind of operation; `hessian._tape.operations` says which operation has which. A rule
gives the label that each input must carry for the operation not to mix samples: `Mark.CONFLICT`
where it does not know.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from hessian._tape.graph import Node, operation


class Layout(NamedTuple):
    """Where `n` samples lie: index along `axis` = (a·n + sample)·inner + b, with a < outer."""

    axis: int
    outer: int = 1
    inner: int = 1


class Mark(enum.Enum):
    """What a tensor can be instead of laid out by samples."""

    SHARED = "shared by all samples"
    CONFLICT = "mixes samples, or not known not to"


Label = Layout | Mark
Shape = tuple[int, ...]

# (node, layout of the output, its shape, shapes of the inputs, samples) → labels of the inputs
Rule = Callable[[Node, Layout, Shape, list[Shape], int], list[Label]]


def candidates(dims: Shape, n: int) -> list[Layout]:
    """Layouts a tensor of this shape can have, axis 0 and exact sizes first."""
    layouts = [Layout(a, 1, s // n) for a, s in enumerate(dims) if s and s % n == 0]
    return sorted(layouts, key=lambda lay: (lay.axis != 0, lay.inner != 1))


def fits(label: Label, dims: Shape, n: int) -> bool:
    """Whether a tensor of this shape can carry the label."""
    if not isinstance(label, Layout):
        return True
    return label.axis < len(dims) and dims[label.axis] == label.outer * n * label.inner


def _axes(value: Any, ndim: int) -> set[int]:
    """Saved dimensions as non-negative integers; autograd keeps negative ones as unsigned."""
    items = value if isinstance(value, list | tuple) else [value]
    axes = set()
    for item in items:
        axis = int(item)
        axis = axis - 2**64 if axis >= 2**63 else axis
        axes.add(axis % ndim if ndim else 0)
    return axes


def _broadcast(layout: Layout, out: Shape, input_shape: Shape) -> Label:
    axis = layout.axis - (len(out) - len(input_shape))
    if axis < 0:
        return Mark.SHARED
    if input_shape[axis] == out[layout.axis]:
        return layout._replace(axis=axis)
    return Mark.SHARED if input_shape[axis] == 1 else Mark.CONFLICT


def _reshape(layout: Layout, out: Shape, input_shape: Shape, n: int) -> Label:
    if not math.prod(input_shape):  # nothing lies anywhere
        return next(iter(candidates(input_shape, n)), Mark.CONFLICT)
    # In both shapes sample = (flat index // stride) % n; a view keeps the flat index.
    stride = layout.inner * math.prod(out[layout.axis + 1 :])
    for axis, size in enumerate(input_shape):
        later = math.prod(input_shape[axis + 1 :])
        if later and stride % later == 0 and size % (n * (stride // later)) == 0 and size >= n:
            inner = stride // later
            return Layout(axis, size // (n * inner), inner)
    return Mark.CONFLICT


def broadcast(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    return [_broadcast(lay, out, d) for d in dims]


def reshape(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    return [_reshape(lay, out, d, n) for d in dims]


def permute(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    if operation(node) == "Permute":
        order = [int(d) for d in node._saved_dims]
        source = _axes(order[lay.axis], len(out)).pop()
        return [lay._replace(axis=source)]
    if operation(node) == "T":
        a, b = 0, len(out) - 1
    else:
        a = _axes(node._saved_dim0, len(out)).pop()
        b = _axes(node._saved_dim1, len(out)).pop()
    axis = {a: b, b: a}.get(lay.axis, lay.axis)
    return [lay._replace(axis=axis)]


def along_axis(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    axis = _axes(node._saved_dim, len(out)).pop()
    whole = operation(node) == "Slice" and dims[0] == out
    return [Mark.CONFLICT if axis == lay.axis and not whole else lay] * len(dims)


def without_axis(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    axis = _axes(node._saved_dim, len(dims[0])).pop()
    return [lay._replace(axis=lay.axis + (lay.axis >= axis))]


def with_axis(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    axis = _axes(node._saved_dim, len(out)).pop()
    if axis == lay.axis:
        return [Mark.CONFLICT] * len(dims)
    return [lay._replace(axis=lay.axis - (lay.axis > axis))] * len(dims)


def reduced(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    gone = getattr(node, "_saved_dim", None)
    input_shape = dims[0]
    if gone is None or gone == []:
        return [Mark.CONFLICT]
    axes = _axes(gone, len(input_shape))
    if getattr(node, "_saved_keepdim", False):
        axis = lay.axis
    else:
        axis = [a for a in range(len(input_shape)) if a not in axes][lay.axis]
    return [Mark.CONFLICT if axis in axes else lay._replace(axis=axis)]


def padded(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    # Two numbers for each axis, the last one first; what is added before may be cut off behind.
    place = 2 * (len(out) - 1 - lay.axis)
    moved = any(int(size) for size in node._saved_pad[place : place + 2])
    return [Mark.CONFLICT if moved else lay]


def spatial(axes: int) -> Rule:
    """The rule of an operation on images, whose last `axes` axes belong to one."""

    def rule(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
        return [lay if lay.axis < len(out) - axes else Mark.CONFLICT] * len(dims)

    return rule


def led(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    return [lay if lay.axis == 0 else Mark.CONFLICT] * len(dims)


def repeated(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    axis = lay.axis - (len(out) - len(dims[0]))
    if axis < 0:
        return [Mark.SHARED]
    if dims[0][axis] == out[lay.axis]:
        return [lay._replace(axis=axis)]
    # Copies follow each other: where a sample's entries are whole copies, all share the one.
    return [Mark.SHARED if lay.inner % dims[0][axis] == 0 else Mark.CONFLICT]


def channels(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    return [lay if lay.axis == 0 else Mark.CONFLICT, Mark.SHARED, Mark.SHARED][: len(dims)]


def normalised(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    if operation(node) == "NativeGroupNorm":
        stays = lay.axis == 0
    else:
        stays = lay.axis < len(out) - len(node._saved_normalized_shape)
    label: Label = lay if stays else Mark.CONFLICT
    return [label, Mark.SHARED, Mark.SHARED][: len(dims)]


def looked_up(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    return [Mark.SHARED if lay.axis < len(out) - 1 else Mark.CONFLICT]


def _product(lay: Layout, rank: int) -> list[Label]:
    """Labels of A and B in A @ B with matrices in the last two of `rank` axes."""
    if lay.axis < rank - 2:
        return [lay, lay]
    return [lay, Mark.SHARED] if lay.axis == rank - 2 else [Mark.SHARED, lay]


def matrices(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    pair = _product(lay, len(out))
    return pair if len(dims) == 2 else [_broadcast(lay, out, dims[0]), *pair]


def classes(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    # Without a reduction the class axis 1 is gone and the others keep their order.
    stays = len(out) == len(dims[0]) - 1
    return [lay._replace(axis=lay.axis + (lay.axis >= 1)) if stays else Mark.CONFLICT]


def last_axis(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    stays = lay.axis < len(out) - 1
    label: Label = lay if stays else Mark.CONFLICT
    return [label, Mark.SHARED, Mark.SHARED][: len(dims)]


def batch_normalised(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    """A batch norm mixes samples by its statistics, unless each sample has channels of its own."""
    if lay.axis == 1:  # instance norm
        channels: Label = lay._replace(axis=0)
        return [lay, channels, channels][: len(dims)]
    mixed = getattr(node, "_saved_training", True)
    return [Mark.CONFLICT if mixed else lay, Mark.SHARED, Mark.SHARED][: len(dims)]


def among_axes(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    """Entries that move along some axes: a flip, a roll, a quarter turn."""
    axes = _axes(node._saved_dims, len(out))  # none: through the whole tensor
    return [lay if axes and lay.axis not in axes else Mark.CONFLICT]


def indexed(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    """``x[:, i]`` and the like: axes that are not indexed stay as they are.

    The axes of the index come where the indexed ones were, or first where these are not neighbours.
    ``x[arange(n), i]`` takes every sample to itself, which its numbers show.
    """
    indices = node._saved_indices
    if any(index is not None and index.dtype == torch.bool for index in indices):
        return [Mark.CONFLICT]  # a mask takes several axes
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    new = max(indices[axis].dim() for axis in axes)
    left = [axis for axis in range(len(dims[0])) if axis not in axes]
    together = axes[-1] - axes[0] + 1 == len(axes)
    start = sum(axis < axes[0] for axis in left) if together else 0
    places: list[int | None] = [*left[:start], *[None] * new, *left[start:]]
    source = places[lay.axis]
    if source is not None:
        return [lay._replace(axis=source)]
    numbers = torch.arange(out[lay.axis], device=indices[axes[0]].device) // lay.inner % n
    sample = numbers.view(-1, *[1] * (start + new - 1 - lay.axis))
    for axis in axes:
        size = dims[0][axis]
        if size % n or indices[axis].is_meta:
            continue
        below = lay.inner if size == out[lay.axis] else size // n
        # Samples are numbered from the front, so that -1 is of the last one.
        if torch.equal(*torch.broadcast_tensors(indices[axis] % size // below % n, sample)):
            return [Layout(axis, size // (n * below), below)]
    return [Mark.CONFLICT]


def on_diagonal(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    """The diagonal of two axes comes last, and they are gone."""
    rank = len(dims[0])
    gone = _axes([node._saved_dim1, node._saved_dim2], rank)
    left = [axis for axis in range(rank) if axis not in gone]
    return [lay._replace(axis=left[lay.axis]) if lay.axis < len(left) else Mark.CONFLICT]


def windowed(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    """Windows along one axis, whose entries come last."""
    axis = _axes(node._saved_dimension, len(dims[0])).pop()
    return [lay if lay.axis not in (axis, len(out) - 1) else Mark.CONFLICT]


def matrix_vector(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    """A v, with or without a summand before it: samples are rows of A."""
    return [*(_broadcast(lay, out, d) for d in dims[:-2]), lay, Mark.SHARED]


def outer_product(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    """c + u vᵀ: samples are entries of u or of v."""
    pair: list[Label] = [lay, Mark.SHARED] if lay.axis == 0 else [Mark.SHARED, lay]
    pair = [label if isinstance(label, Mark) else label._replace(axis=0) for label in pair]
    return [_broadcast(lay, out, dims[0]), *pair]


def summed_products(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    """c + Σ_b A_b B_b: samples are rows of every A, or columns of every B."""
    axis = lay._replace(axis=lay.axis + 1)
    pair: list[Label] = [axis, Mark.SHARED] if lay.axis == 0 else [Mark.SHARED, axis]
    return [_broadcast(lay, out, dims[0]), *pair]


def trilinear(node: Node, lay: Layout, out: Shape, dims: list[Shape], n: int) -> list[Label]:
    """Σ a b c over some axes, each factor being expanded along others."""
    expanded = [set(map(int, getattr(node, f"_saved_expand{k}"))) for k in (1, 2, 3)]
    rank = max(len(d) + len(axes) for d, axes in zip(dims, expanded, strict=True))
    left = [axis for axis in range(rank) if axis not in _axes(node._saved_sumdim, rank)]
    axis = left[lay.axis]
    return [
        Mark.SHARED if axis in axes else lay._replace(axis=axis - sum(a < axis for a in axes))
        for axes in expanded
    ]
