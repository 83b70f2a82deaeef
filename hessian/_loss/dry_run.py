"""The dry run: the chain route on shapes alone, to learn its own cost beforehand.

Every value that the route computes is asked for by its shape and by the function that gives it
(`evaluated`). On a dry run the shape alone is made: rows, forms and steps are the same there and
in the run itself, and nowhere else is it asked which of the two is under way.

Torch's meta device would do, at ten to a hundred microseconds an operation: more than a small
network's whole diagonal takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from torch import Tensor

Shape = tuple[int, ...]
Value = TypeVar("Value", bound=Tensor | None)


class ShapeOnly:
    """A shape that takes the place of a tensor of one sample."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def dim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def shape_only(shape: Shape = ()) -> Tensor:
    """A shape, where a tensor is asked for."""
    return cast(Tensor, ShapeOnly(shape))


def evaluated(like: Tensor, shape: Shape, values: Callable[[], Value]) -> Value:
    """What `values` returns, a tensor of that shape; on a dry run, as `like` says, the shape.

    >>> import torch
    >>> evaluated(torch.ones(()), (2,), lambda: torch.zeros(2))
    tensor([0., 0.])
    >>> evaluated(shape_only(), (2,), lambda: torch.zeros(2)).shape
    (2,)
    """
    if isinstance(like, ShapeOnly):
        return cast(Value, ShapeOnly(tuple(shape)))
    return values()


def evaluated_each(
    like: Tensor, shapes: Sequence[Shape], values: Callable[[], Sequence[Value]]
) -> Sequence[Value]:
    """The same for several tensors that come together."""
    if isinstance(like, ShapeOnly):
        return [cast(Value, ShapeOnly(shape)) for shape in shapes]
    return values()
