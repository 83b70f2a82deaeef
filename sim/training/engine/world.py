"""The processes that share one run: this one alone, or those that torchrun started."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from hessian import devices


def torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@dataclass(frozen=True)
class World:
    """How many processes there are, and which one this is.

    >>> World().share(10), World(rank=1, size=3).share(10)
    (slice(0, 10, None), slice(3, 6, None))
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls, device: str = "cpu") -> "World":
        """The world of the process group, which is made here if torchrun asks for one."""
        if not dist.is_available():
            return cls()
        if not dist.is_initialized() and torchrun():
            dist.init_process_group(devices.BACKENDS.get(torch.device(device).type, "gloo"))
        if not dist.is_initialized():
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process measures and writes for all."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This process's part of n samples; the parts differ by at most one."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Add up in place over all processes, in one message."""
        parts = list(tensors)
        if self.size == 1 or not parts:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in parts])
        dist.all_reduce(flat)
        for tensor, part in zip(parts, flat.split([t.numel() for t in parts]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, share: Tensor, n: int) -> Tensor:
        """`[…, n]` from every process's own part of the last dimension."""
        if self.size == 1:
            return share
        whole = share.new_zeros(*share.shape[:-1], n)
        whole[..., self.share(n)] = share
        dist.all_reduce(whole)
        return whole

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether it is so in any process."""
        if self.size == 1:
            return flag
        total = torch.tensor(float(flag), device=device)
        dist.all_reduce(total)
        return bool(total > 0)
