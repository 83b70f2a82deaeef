"""Random entries of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor


def entries(numel: int, wanted: int, generator: torch.Generator | None) -> Tensor:
    """`wanted` different numbers below `numel`, ascending."""
    if wanted >= numel:
        return torch.arange(numel, device="cpu")
    if numel <= 2**20:
        order = torch.randperm(numel, generator=generator, device="cpu")
        numbers: Tensor = order[:wanted].sort().values
        return numbers
    numbers = torch.randint(numel, (wanted,), generator=generator, device="cpu").unique()
    while len(numbers) < wanted:
        more = torch.randint(numel, (wanted - len(numbers),), generator=generator, device="cpu")
        numbers = torch.cat([numbers, more]).unique()
    return numbers
