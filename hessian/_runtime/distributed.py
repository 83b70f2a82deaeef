"""One diagonal by several processes: who does what, what they must agree on, and the sum.

Processes agree on the memory, by which a batch is taken apart, do their shares without talking,
then meet: each says how it went and what it holds.
One that failed says why, and all others stop with its message; one that died breaks the connection
or runs into the process group's timeout, and all others stop with that. Only then are the tensors
added up, which gives every process the same result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hessian import devices
from hessian._runtime.share import ALL, Share

SPLITS = ("work", "data")


@dataclass
class Totals:
    """What a process found: Σ a_b, Σ a_b loss_b, its samples, and Σ|w| of the parameters."""

    weight: float
    value: float
    samples: int
    parameters: float


class Team:
    """This process alone; `Processes` for more of them."""

    share = ALL
    splits_data = False

    def least(self, memory: int) -> int:
        """The memory of the process that has least, by which all cut alike."""
        return memory

    def meet(self, facts: Totals) -> Totals:
        """What all processes found together."""
        return facts

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Add up over processes, in place."""

    def same(self, tensors: Iterable[Tensor]) -> None:
        """Give every process what the first one has, in place."""


class Processes(Team):
    """The processes of a group of ``torch.distributed``."""

    def __init__(self, group: dist.ProcessGroup, split: str) -> None:
        self.group, self.splits_data = group, split == "data"
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if not self.splits_data:
            self.share = Share(self.rank, self.size)
        self.met = False

    def least(self, memory: int) -> int:
        numbers = [f for f in self._heard(memory) if isinstance(f, int)]
        self.met = False  # all are well, and will meet again
        return min(numbers)

    def _heard(self, message: Totals | int) -> list[Totals | int]:
        """What all say, if none has failed."""
        messages = self._exchange(message)
        for rank, other in enumerate(messages):
            if isinstance(other, str):
                raise RuntimeError(
                    f"group: process {rank} of {self.size} failed, so there is no result: {other}"
                )
        return [f for f in messages if not isinstance(f, str)]

    def meet(self, mine: Totals) -> Totals:
        facts = [f for f in self._heard(mine) if isinstance(f, Totals)]
        first = facts[0]
        for rank, other in enumerate(facts):  # all processes find the same, and stop together
            if not _close(other.parameters, first.parameters):
                raise ValueError(
                    f"group: the parameters differ between processes (Σ|w| is "
                    f"{other.parameters:.9g} on process {rank}, {first.parameters:.9g} on process "
                    "0); give all processes the same model, e.g. by broadcasting its state_dict"
                )
            same = _close(other.value, first.value) and _close(other.weight, first.weight)
            if not self.splits_data and not (same and other.samples == first.samples):
                raise ValueError(
                    f"group: processes hold different data (Σ a·loss is {other.value:.9g} over "
                    f"{other.samples} samples on process {rank}, {first.value:.9g} over "
                    f"{first.samples} on process 0); give all of them the same data and the same "
                    "random seed, or pass split='data' if each holds its own part"
                )
        if not self.splits_data:
            return first
        return Totals(
            math.fsum(f.weight for f in facts), math.fsum(f.value for f in facts),
            sum(f.samples for f in facts), first.parameters,
        )  # fmt: skip

    def tell(self, error: BaseException) -> None:
        """Let the others know, who are waiting in `meet` or will be."""
        if not self.met:
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._exchange(f"{type(error).__name__}: {text}")

    def _exchange(self, message: Totals | int | str) -> list[Totals | int | str]:
        self.met = True
        messages: list[Any] = [None] * self.size
        with self._alive():
            dist.all_gather_object(messages, message, group=self.group)
        return messages

    def sum(self, tensors: Iterable[Tensor]) -> None:
        with self._alive():
            for tensor in tensors:
                moved = self._reachable(tensor)
                dist.all_reduce(moved, group=self.group)
                if moved is not tensor:
                    tensor.copy_(moved)

    def same(self, tensors: Iterable[Tensor]) -> None:
        source = dist.get_global_rank(self.group, 0)
        with self._alive():
            for tensor in tensors:
                moved = self._reachable(tensor)
                dist.broadcast(moved, source, group=self.group)
                if moved is not tensor:
                    tensor.copy_(moved)

    def _reachable(self, tensor: Tensor) -> Tensor:
        """NCCL reaches tensors on this process's GPU only."""
        return devices.reached(dist.get_backend(self.group), tensor)

    @contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # a closed connection, a timeout
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RuntimeError(
                f"group: another process ended or stopped answering before the result was "
                f"complete (seen by process {self.rank} of {self.size}: {first}); look for the "
                "first error in the other processes' output"
            ) from error


@contextmanager
def joined(group: Any, split: str) -> Iterator[Team]:
    """The team that computes together; what goes wrong inside is told to all of it."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if group is None:
        yield Team()
        return
    team = Processes(_checked(group), split)
    try:
        yield team
    except BaseException as error:
        team.tell(error)
        raise


def _checked(group: Any) -> dist.ProcessGroup:
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError(
            "group: torch.distributed is not initialised; call "
            "torch.distributed.init_process_group() first, and start the script with torchrun"
        )
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"group must be a torch.distributed.ProcessGroup, got {type(group).__name__}; "
            "torch.distributed.group.WORLD holds all processes"
        )
    if dist.get_rank(group) < 0:
        raise ValueError("group: this process is not in it; call on the group's processes only")
    return group


def size_of(parameters: Mapping[str, Tensor]) -> float:
    """Σ|w|, by which processes see whether they hold the same parameters."""
    sums = [p.detach().abs().sum(dtype=torch.float64) for p in parameters.values()]
    return math.fsum(float(s) for s in sums)


def _close(a: float, b: float) -> bool:
    # Sums in float32 on other hardware, not another model or another draw.
    return a == b or abs(a - b) <= 1e-5 * max(abs(a), abs(b))
