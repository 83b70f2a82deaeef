"""Batches that are one mapping, targets inside, as Hugging Face's collators yield them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from hessian import trees

# Under which such a mapping holds its targets; the first that is there counts.
TARGETS = ("labels", "label", "label_ids", "targets", "target")


@dataclass(frozen=True)
class Labelled:
    """The targets of a batch in one mapping: its labels, and all of it."""

    labels: Any
    batch: Any


trees.register(
    Labelled, lambda both: ([both.labels, both.batch], None), lambda values, _: Labelled(*values)
)


def called(loss: Callable[[Any, Any], Any], output: Any, targets: Any) -> Any:
    """The loss of an output: of labels in a mapping, or of the mapping if it asks for entries."""
    if not isinstance(targets, Labelled):
        return loss(output, targets)
    try:
        return loss(output, targets.labels)
    except (IndexError, TypeError, KeyError, AttributeError) as error:
        try:
            return loss(output, targets.batch)
        except Exception:
            raise error from None


def separated(batch: Mapping[str, Any], model: nn.Module, called_by_user: bool) -> tuple[Any, Any]:
    """What the model is called with and what the loss is given, of a batch in one mapping.

    The loss is given the entry under the first of `TARGETS` that the mapping holds, and the mapping
    itself where it holds none or the loss asks for an entry by name. The model is called with all
    of it, as a training loop does, except targets that its ``forward`` has no argument for. With
    `called_by_user` (a ``forward=``) nothing is left out.
    """
    name = next((name for name in TARGETS if name in batch), None)
    if name is None:
        return batch, batch
    if called_by_user or accepts(model, name):
        return batch, Labelled(batch[name], dict(batch))
    rest = {key: value for key, value in batch.items() if key != name}
    return rest, Labelled(batch[name], dict(batch))


def paired(item: Any, model: nn.Module, called_by_user: bool) -> tuple[Any, Any]:
    """A batch as (inputs, targets), whichever of the two forms it has."""
    if isinstance(item, Mapping):
        return separated(item, model, called_by_user)
    return item[0], item[1]


def accepts(model: nn.Module, argument: str) -> bool:
    """Whether the network inside all wrappers may be called with such a keyword."""
    try:
        parameters = inspect.signature(network(model).forward).parameters
    except (TypeError, ValueError):  # no Python function
        return True
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def network(model: nn.Module) -> nn.Module:
    """The network inside of `DistributedDataParallel`, `DataParallel` and `torch.compile`."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner
