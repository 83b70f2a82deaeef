"""The samples that a measurement goes through, and what stands around it meanwhile."""

from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hessian import batches, torch_private, trees
from sim._extras import extra
from sim._isolation import isolated, seeded
from sim.data import Dataset

Forward = Callable[[nn.Module, Any], Any]
# So many labels are looked for one by one.
LABELS = 256


def all_samples(data: Any, model: nn.Module, forward: Forward | None = None) -> tuple[Any, Any]:
    """All samples as one pair of inputs and targets, each a tensor or a nest of tensors."""
    if isinstance(data, Dataset):
        return data.pair
    try:
        pairs = list(batches.pairs(batches.lasting(data), model, forward))
    except ValueError as error:
        if isinstance(data, Sized) and not len(data):
            raise ValueError("data: it holds no batch; give a pair, or batches") from None
        raise ValueError(f"data: {error}") from None
    if len(pairs) == 1:
        inputs, targets = pairs[0]
    else:
        with isolated():
            inputs, targets = (_joined([pair[k] for pair in pairs]) for k in (0, 1))
    sizes = {len(leaf) for leaf in _leaves(inputs)[:1] + _leaves(targets)[:1]}
    if len(sizes) > 1 or 0 in sizes or not _leaves(inputs):
        lengths = [len(leaf) for leaf in _leaves(inputs)[:1] + _leaves(targets)[:1]]
        raise ValueError(
            f"data: {lengths[0] if lengths else 0} inputs and {lengths[-1] if lengths else 0} "
            "targets; give as many targets as inputs, and at least one"
        )
    return inputs, targets


def _plain(values: Any) -> Any:
    """A mapping that torch does not open, such as a tokenizer's batch, as a dictionary."""
    closed = isinstance(values, Mapping) and any(v is values for v in trees.leaves(values))
    return dict(values) if closed else values


def _leaves(values: Any) -> list[Tensor]:
    """The tensors of a nest that hold samples."""
    leaves = trees.leaves(_plain(values))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() > 0]


def _joined(batches_of_it: list[Any]) -> Any:
    """Batches one after another; what is no tensor is the first one's."""
    plain = [_plain(each) for each in batches_of_it]

    def join(*leaves: Any) -> Any:
        rows = isinstance(leaves[0], Tensor) and leaves[0].dim() > 0
        return torch.cat(leaves) if rows else leaves[0]

    try:
        return trees.mapped(join, *plain)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            "data: its batches cannot be put together "
            f"({str(error).splitlines()[0]}); pad them to one shape"
        ) from None


def count(inputs: Any) -> int:
    """The number of samples."""
    return batches.size(inputs)


def rows(values: Any, index: Any, total: int, device: torch.device | None = None) -> Any:
    """Some samples of a nest of tensors, on a device; what has no row for each sample is whole."""

    def cut(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.dim() > 0 and len(leaf) == total:
            leaf = leaf[index.to(leaf.device) if isinstance(index, Tensor) else index]
        return leaf if device is None else leaf.to(device)

    return trees.mapped(cut, _plain(values))


def chunks(inputs: Any, targets: Any, size: int, device: torch.device) -> Iterator[tuple[Any, Any]]:
    """Samples in their order, `size` at a time."""
    total = count(inputs)
    for start in range(0, total, size):
        part = slice(start, start + size)
        yield rows(inputs, part, total, device), rows(targets, part, total, device)


def spread(inputs: Any, targets: Any, most: int, device: torch.device) -> tuple[Any, Any]:
    """A few samples from all over the data, which may be sorted by class."""
    total = count(inputs)
    index = torch.linspace(0, total - 1, min(most, total), device="cpu").long()
    return rows(inputs, index, total, device), rows(targets, index, total, device)


def varied(inputs: Any, targets: Any, most: int, device: torch.device) -> tuple[Any, Any]:
    """The same with samples of the rarest labels beside them, which may count otherwise."""
    total = count(inputs)
    index = torch.linspace(0, total - 1, min(most, total), device="cpu").long()
    for leaf in _leaves(targets):
        if len(leaf) == total and leaf.numel() and not leaf.is_floating_point():
            index = torch.cat([index, _of_each_label(leaf.cpu())])
    index = index.unique()
    return rows(inputs, index, total, device), rows(targets, index, total, device)


def _of_each_label(labels: Tensor) -> Tensor:
    """The first sample with each of the labels that are fewest, `LABELS` of them at most."""
    rows_of_labels = labels.reshape(len(labels), -1)
    values, counts = rows_of_labels.unique(return_counts=True)
    rarest = values[counts.argsort()[:LABELS]]
    return torch.stack([(rows_of_labels == label).any(1).nonzero()[0, 0] for label in rarest])


def singles(inputs: Any, targets: Any) -> Iterator[tuple[Any, Any]]:
    """Each sample as a batch of its own."""
    total = count(inputs)
    for i in range(total):
        yield rows(inputs, slice(i, i + 1), total), rows(targets, slice(i, i + 1), total)


def dropouts(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, torch_private.Dropout)]


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
