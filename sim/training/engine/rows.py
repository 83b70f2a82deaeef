"""Numbers of steps in a buffer on the device, which come over in blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Rows that stay on the device before they come over.
CAPACITY = 256


class Rows:
    """A row of numbers for each of the last steps.

    Attributes:
        steps: their numbers.
        values: `[capacity, …]`; the first `len(steps)` rows are theirs, the others nan.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.steps: list[int] = []
        self.values = torch.full((CAPACITY, *shape), math.nan, dtype=dtype, device=device)

    @property
    def full(self) -> bool:
        """Whether there is no room for another step."""
        return len(self.steps) == len(self.values)

    def bring(self) -> tuple[list[int], Tensor]:
        """The steps and their rows on the CPU, for which the device is waited for; then none."""
        steps = list(self.steps)
        block = self.values[: len(steps)].to("cpu", copy=True)
        self.values[: len(steps)] = math.nan
        self.steps.clear()
        return steps, block
