"""Data of the reader's own, like the sets that have a name here."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sim import _own
from sim.data._dataset import Dataset

SPLITS = ("train", "test")
CONTRACT = (
    "name a function of split ('train' or 'test') that returns a pair of tensors (inputs, labels), "
    "or a mapping from 'train' and 'test' to such pairs"
)


def own(
    name: str, root: Any, split: str, options: Mapping[str, Any]
) -> tuple[Tensor, Tensor, int, Mapping[str, Any]]:
    """Inputs, targets, classes and provenance of `package.module:object`.

    The object is a function that is given `split`, `root` if it has that argument, and the options,
    and returns a pair `(inputs, targets)` or a `Dataset`; or a mapping with a pair for each split.
    Inputs are `[N, …]` of floating numbers, targets `[N]` labels from 0 on.

    Raises:
        ValueError: it is none of these, or raised something.
    """
    pairs = [_pair(name, root, each, options) for each in SPLITS]
    classes = 1 + max(int(y.max()) for _, y in pairs)
    parts = pairs if split == "all" else [pairs[SPLITS.index(split)]]
    inputs, targets = (torch.cat([pair[k] for pair in parts]) for k in (0, 1))
    digest = hashlib.sha256()
    for x, y in parts:
        digest.update(x.contiguous().numpy().tobytes())
        digest.update(y.contiguous().numpy().tobytes())
    provenance = {
        "source": name,
        "module_sha256": _own.sources([name])[name],
        "sha256": digest.hexdigest(),
        "sizes": {s: len(y) for s, (_, y) in zip(SPLITS, pairs, strict=True)},
        "normalisation": None,
        "options": dict(options),
    }
    return inputs, targets, classes, provenance


def shape(name: str, options: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape of one input, which takes loading it; kept, since a grid asks often.

    `None` where it takes a `root`, too, which no configuration knows.
    """
    value = _own.named(name)
    if not isinstance(value, Mapping) and _own.takes(value, "root"):
        return None
    return _shape(name, tuple(sorted(options.items())))


@lru_cache(maxsize=32)
def _shape(name: str, options: tuple[tuple[str, Any], ...]) -> tuple[int, ...]:
    return tuple(_pair(name, None, "train", dict(options))[0].shape[1:])


def check(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the object does not have, and one that has no splits."""
    value = _own.named(name)
    if isinstance(value, Mapping):
        if options or not set(SPLITS) <= set(value):
            raise ValueError(f"got {name!r}; it holds {', '.join(map(str, value))}; {CONTRACT}")
        return
    if not callable(value) or not _own.takes(value, "split"):
        raise ValueError(f"got {name!r}; {CONTRACT}")
    _own.check_options(f"the data set {name!r}", value, options)


def _pair(name: str, root: Any, split: str, options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    check(name, options)
    value = _own.named(name)
    if isinstance(value, Mapping):
        value = value[split]
    else:
        folder = {"root": root} if _own.takes(value, "root") and root is not None else {}
        value = _own.made(name, value, split=split, **folder, **options)
    if isinstance(value, Dataset):
        value = value.pair
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"got {name!r}; for {split!r} it gave {type(value).__name__}; {CONTRACT}")
    inputs, targets = (torch.as_tensor(each, device="cpu").detach() for each in value)
    labels = targets.dim() == 1 and not targets.is_floating_point() and len(targets) > 0
    if not inputs.is_floating_point() or not labels or len(inputs) != len(targets):
        raise ValueError(
            f"got {name!r}; for {split!r} it gave inputs of {inputs.dtype} {tuple(inputs.shape)} "
            f"and targets of {targets.dtype} {tuple(targets.shape)}; give floating inputs [N, …] "
            "and integer labels [N]"
        )
    if int(targets.min()) < 0:
        raise ValueError(f"got {name!r}; a label is {int(targets.min())}; give labels from 0 on")
    return inputs, targets.long()
