"""A tensor without values: what the chain route runs on to learn its own cost beforehand.

Torch's meta device would do, at ten to a hundred microseconds an operation: more than a small
network's whole diagonal takes.
"""

from __future__ import annotations

import math

Shape = tuple[int, ...]


class ShapeOnly:
    """A shape that takes the place of a tensor of one sample."""

    is_meta = True

    def __init__(self, *shape: int) -> None:
        self.shape: Shape = shape

    def dim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def new_empty(self, shape: Shape) -> ShapeOnly:
        """Another one."""
        return ShapeOnly(*shape)

    new_zeros = new_empty
