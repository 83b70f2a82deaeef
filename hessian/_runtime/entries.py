"""Random entries of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor


def entries(numel: int, wanted: int, generator: torch.Generator | None) -> Tensor:
    """`wanted` different numbers below `numel`, ascending."""
    if wanted >= numel:
        return torch.arange(numel, device="cpu")
    if numel <= 2**20:
        return torch.randperm(numel, generator=generator, device="cpu")[:wanted].sort().values
    found = torch.randint(numel, (wanted,), generator=generator, device="cpu").unique()
    while len(found) < wanted:
        more = torch.randint(numel, (wanted - len(found),), generator=generator, device="cpu")
        found = torch.cat([found, more]).unique()
    return found
