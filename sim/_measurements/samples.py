"""The samples that a measurement goes through, and what stands around it meanwhile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sim._extras import extra
from sim._isolation import isolated, seeded
from sim.data import Dataset


def all_samples(data: Any) -> tuple[Tensor, Tensor]:
    """All samples as one pair of tensors."""
    if isinstance(data, Dataset):
        return data.pair
    if isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], Tensor):
        inputs, targets = data
    else:
        pairs = list(data)
        if not pairs:
            raise ValueError("data: it holds no batch; give a pair or an iterable of pairs")
        with isolated():
            inputs = torch.cat([x for x, _ in pairs])
            targets = torch.cat([y for _, y in pairs])
    if len(inputs) == 0 or len(inputs) != len(targets):
        raise ValueError(
            f"data: {len(inputs)} inputs and {len(targets)} targets; "
            "give as many targets as inputs, and at least one"
        )
    return inputs, targets


def chunks(
    inputs: Tensor, targets: Tensor, size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    for x, y in zip(inputs.split(size), targets.split(size), strict=True):
        yield x.to(device), y.to(device)


def spread(
    inputs: Tensor, targets: Tensor, most: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A few samples from all over the data, which may be sorted by class."""
    index = torch.linspace(0, len(targets) - 1, min(most, len(targets)), device="cpu").long()
    index = index.to(targets.device)
    return inputs[index].to(device), targets[index].to(device)


def dropouts(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]


@contextmanager
def dropout_switched(model: nn.Module, on: bool | None) -> Iterator[None]:
    """Dropout modules switched on or off, and back."""
    before = [(module, module.training) for module in dropouts(model)]
    try:
        for module, training in before:
            module.training = training if on is None else on
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def seeded_anew(seed: int | list[int], device: torch.device) -> Iterator[None]:
    """The global random state set from a seed, and left as it was."""
    word = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) >> 1
    with isolated(), seeded(word, device):
        yield


@contextmanager
def progress_bar(shown: bool, title: str) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """A bar that starts once the number of samples is known."""
    if not shown:
        yield lambda total: lambda samples: None
        return
    with extra("progress=True"):
        from rich.console import Console
        from rich.progress import Progress
    with Progress(console=Console(stderr=True), transient=True) as bar:

        def start(total: int) -> Callable[[int], None]:
            task = bar.add_task(title, total=total)
            return lambda samples: bar.advance(task, samples)

        yield start
