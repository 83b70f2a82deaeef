"""What modules keep beside parameters and buffers: attributes, and what is inside them.

A recurrent state, a counter, a cache that `forward` leaves in an attribute makes the next call of
the model another function. Before every call it is put back as it was: attributes by reference,
lists, dictionaries and sets by their content, tensors that were written to by their values, random
generators by their state. Objects of other kinds are not looked into; a model that keeps its state
in one shows that in its outputs (`Batch.repeated`).
"""

from __future__ import annotations

import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from hessian import torch_private
from hessian._runtime.ledger import owe

_INTERNAL = frozenset(vars(nn.Module())) | {"training"}
_ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device))
_DICTS, _LISTS = (dict, OrderedDict, defaultdict), (list, deque)
_DEEPEST = 3
# A container of more elements is copied, but these are not looked into.
_MANY = 1000
# A tensor of more bytes is not copied: it must not be written to.
_LARGE = 2**26

Undo = Callable[[], None]


def attribute_tensors(parts: Iterable[nn.Module]) -> list[tuple[nn.Module, str, Tensor]]:
    """Tensors that modules keep beside parameters and buffers, with their owners and names."""
    return [
        (part, name, value)
        for part in parts
        for name in vars(part).keys() - _INTERNAL
        if isinstance(value := vars(part)[name], Tensor)
    ]


class Attributes:
    """The attributes of modules, without those of modules inside, as they are."""

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        self._owners: list[tuple[nn.Module, type, dict[str, Any]]] = []
        self._undo: list[Undo] = []
        self._seen: set[int] = set()
        for owner in parts:
            if isinstance(owner, LazyModuleMixin):  # turns into another module
                continue
            attributes = vars(owner)
            self._owners.append((owner, type(owner), attributes.copy()))
            for name in attributes.keys() - _INTERNAL:
                value = attributes[name]
                if type(value) not in _ATOMS:
                    self._note(value, 0)

    def restore(self) -> None:
        """Put back what was there, and take away what was not."""
        for owner, kind, values in self._owners:
            if type(owner) is not kind:
                continue
            attributes = vars(owner)
            attributes.update(values)
            if len(attributes) != len(values):
                for name in attributes.keys() - values.keys():
                    del attributes[name]
        for undo in self._undo:
            undo()

    def _note(self, value: Any, depth: int) -> None:
        kind = type(value)
        if kind in _ATOMS or id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, Tensor):
            if not isinstance(value, nn.Parameter):
                self._undo.append(_tensor(value))
        elif kind in _DICTS:
            self._undo.append(_dictionary(value, dict(value)))
            self._inside(value.values(), depth)
        elif kind in _LISTS:
            self._undo.append(_list(value, list(value)))
            self._inside(value, depth)
        elif kind is set:
            self._undo.append(_set(value, set(value)))
        elif kind is tuple:
            self._inside(value, depth)
        elif isinstance(value, torch.Generator):
            state = value.get_state()
            self._undo.append(lambda: _nothing(value.set_state(state)))
        elif isinstance(value, random.Random):
            drawn = value.getstate()
            self._undo.append(lambda: value.setstate(drawn))
        elif isinstance(value, np.random.RandomState):
            legacy = value.get_state()
            self._undo.append(lambda: value.set_state(legacy))
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator.state
            self._undo.append(lambda: setattr(value.bit_generator, "state", bits))

    def _inside(self, values: Any, depth: int) -> None:
        if depth < _DEEPEST and len(values) <= _MANY:
            for value in values:
                self._note(value, depth + 1)


def _tensor(tensor: Tensor) -> Undo:
    if tensor.is_inference():  # whose writes are not counted
        values = tensor.clone()
        return lambda: _nothing(tensor.data.copy_(values))
    version, copy = torch_private.version(tensor), None
    if tensor.numel() * tensor.element_size() <= _LARGE:
        copy = tensor.detach().clone()

    def undo() -> None:
        if version is not None and torch_private.version(tensor) == version:
            return
        if copy is None:
            raise ValueError(
                f"model: a call writes to a tensor of shape {tuple(tensor.shape)} that a module "
                "keeps in an attribute; register it as a buffer (register_buffer), or let forward "
                "make a new one"
            )
        tensor.data.copy_(copy)

    return undo


def _dictionary(into: dict[Any, Any], values: dict[Any, Any]) -> Undo:
    def undo() -> None:
        if len(into) != len(values) or any(into.get(k, into) is not v for k, v in values.items()):
            into.clear()
            into.update(values)

    return undo


def _list(into: Any, values: list[Any]) -> Undo:
    def undo() -> None:
        if len(into) != len(values) or any(a is not b for a, b in zip(into, values, strict=True)):
            into.clear()
            into.extend(values)

    return undo


def _set(into: set[Any], values: set[Any]) -> Undo:
    def undo() -> None:
        if into != values:
            into.clear()
            into.update(values)

    return undo


def _nothing(value: object) -> None:
    """For its effect."""


def drop_caches() -> None:
    """Forget what `torch.nn.utils.parametrize.cached` keeps from call to call.

    Such values hang on the tape of the call that made them, or on none. They are back when what is
    owed is settled.

    Raises:
        ValueError: they are kept, and this torch does not tell where.
    """
    if not torch_private.HAS_CACHE and _is_cached():
        raise ValueError(
            "model: called inside parametrize.cached(), whose values this torch does not tell; "
            "leave that context first"
        )
    values = torch_private.parametrization_cache()
    if values.get("_cache_enabled"):
        owe(partial(torch_private.set_parametrization_cache, values))
        torch_private.set_parametrization_cache({"_cache": {}, "_cache_enabled": 0})


def _is_cached() -> bool:
    """Whether a parametrized weight is computed once only, as inside ``parametrize.cached``."""
    layer = nn.Module()
    layer.register_parameter("weight", nn.Parameter(torch.zeros((), device="cpu")))
    parametrize.register_parametrization(layer, "weight", _Twice())
    return layer.weight is layer.weight


class _Twice(nn.Module):
    """A parametrization whose values are other objects each time."""

    def forward(self, weight: Tensor) -> Tensor:
        """`weight`, doubled."""
        return 2 * weight
