"""What a model returns, as a list of leaves, and the same put together around other tensors.

torch's own containers are opened by torch. Beside them people return dataclasses, mappings of
their own, distributions and other objects that hold tensors: these are opened through their
attributes and items, and copied, never written to, when other tensors are put in. That a copy is
as good as the object is not assumed: whoever uses it compares the loss (`Analysis`).
"""

from __future__ import annotations

import types
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from hessian import trees

_ATOMS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
# Opening these would be opening a program.
_CLOSED = (nn.Module, Tensor, type, types.ModuleType, types.FunctionType, types.MethodType)
_DEEPEST = 8
_HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class that is not built in


@dataclass(frozen=True)
class _Object:
    """An object among the leaves that was opened: what it is, and the form of its contents."""

    place: int
    sample: Any
    kind: str
    names: tuple[Any, ...]
    form: Form

    def same(self, other: _Object) -> bool:
        """Whether the other one has the same type and contents, whatever its tensors."""
        ours, theirs = ((o.place, type(o.sample), o.names) for o in (self, other))
        return ours == theirs and self.form.same(other.form)


@dataclass(frozen=True)
class Form:
    """How an output is put together: torch's containers, and objects among their leaves."""

    spec: Any
    objects: tuple[_Object, ...] = ()

    def same(self, other: Form) -> bool:
        """Whether both are put together in the same way."""
        return (
            self.spec == other.spec
            and len(self.objects) == len(other.objects)
            and all(a.same(b) for a, b in zip(self.objects, other.objects, strict=True))
        )

    def rebuilt(self, leaves: Sequence[Any]) -> Any:
        """The output with these leaves in place of its own."""
        if not self.objects:
            return trees.unflatten(leaves, self.spec)
        rest, upper, position = list(leaves), [], 0
        opened = {o.place: o for o in self.objects}
        for place in range(self.spec.num_leaves):
            if place in opened:
                one = opened[place]
                count = _count(one.form)
                upper.append(_with(one, one.form.rebuilt(rest[position : position + count])))
                position += count
            else:
                upper.append(rest[position])
                position += 1
        return trees.unflatten(upper, self.spec)


def opened(output: Any) -> tuple[list[Any], Form]:
    """The leaves of an output, and how they are put together."""
    leaves, spec = trees.flatten(output)
    if all(isinstance(leaf, Tensor) or type(leaf) in _ATOMS for leaf in leaves):
        return leaves, Form(spec)
    return _opened(leaves, spec, ())


def _opened(leaves: list[Any], spec: Any, above: tuple[int, ...]) -> tuple[list[Any], Form]:
    every: list[Any] = []
    objects = []
    for place, leaf in enumerate(leaves):
        contents = None if id(leaf) in above else _contents(leaf)
        if contents is None or len(above) >= _DEEPEST:
            every.append(leaf)
            continue
        kind, names, values = contents
        inner, form = _opened(*trees.flatten(values), (*above, id(leaf)))
        one = _Object(place, leaf, kind, names, form)
        if any(isinstance(value, Tensor) for value in inner) and _copied(one, values):
            objects.append(one)
            every += inner
        else:
            every.append(leaf)
    return every, Form(spec, tuple(objects))


def _count(form: Form) -> int:
    inside = sum(_count(one.form) for one in form.objects)
    return int(form.spec.num_leaves) - len(form.objects) + inside


def _contents(leaf: Any) -> tuple[str, tuple[Any, ...], list[Any]] | None:
    """What an object holds: how to fill a copy, the names of its contents, and these."""
    if isinstance(leaf, (*_ATOMS, *_CLOSED)):
        return None
    attributes = _attributes(leaf)
    if isinstance(leaf, dict):
        return "items", (*leaf, *attributes), [*leaf.values(), *attributes.values()]
    if isinstance(leaf, list | tuple):
        return "sequence", (len(leaf), *attributes), [*leaf, *attributes.values()]
    if not attributes and isinstance(leaf, Mapping):
        return "mapping", tuple(leaf), list(leaf.values())
    return ("attributes", tuple(attributes), list(attributes.values())) if attributes else None


def _attributes(leaf: Any) -> dict[str, Any]:
    slots: list[str] = []
    for owner in type(leaf).__mro__:
        names = owner.__dict__.get("__slots__", ())
        slots += [names] if isinstance(names, str) else list(names)
    slots = [name for name in slots if name not in ("__dict__", "__weakref__")]
    fixed = {name: getattr(leaf, name) for name in slots if hasattr(leaf, name)}
    return {**fixed, **getattr(leaf, "__dict__", {})}


def _copied(one: _Object, values: list[Any]) -> bool:
    """Whether a copy can be made at all."""
    try:
        _with(one, values)
    except (TypeError, ValueError, AttributeError):
        return False
    return True


def _with(one: _Object, values: list[Any]) -> Any:
    """A copy of the object that holds these values."""
    kind, cls = one.kind, type(one.sample)
    if kind == "mapping":
        return cls(dict(zip(one.names, values, strict=True)))
    copy: Any
    if kind == "items":
        base: Any = OrderedDict if isinstance(one.sample, OrderedDict) else dict
        copy, count = base.__new__(cls), len(one.sample)
        for key, value in zip(one.names[:count], values, strict=False):
            base.__setitem__(copy, key, value)
        names = one.names[count:]
    elif kind == "sequence":
        count, names = one.names[0], one.names[1:]
        if isinstance(one.sample, tuple):
            copy = tuple.__new__(cls, values[:count])
        else:
            copy = list.__new__(cls)
            list.extend(copy, values[:count])
    else:
        # The nearest ancestor that is not written in Python knows how an object is laid out.
        base = next(c for c in cls.__mro__ if not c.__flags__ & _HEAP)
        copy, count, names = base.__new__(cls), 0, one.names
    for name, value in zip(names, values[count:], strict=True):
        object.__setattr__(copy, name, value)
    return copy


def distinct(leaves: Sequence[Any]) -> tuple[list[int], dict[int, int]]:
    """Which leaves are real tensors on the tape, and which of them are one of those again.

    One tensor may be returned in several places (the last layer's output, which is the last of all
    hidden states too). It is one output.
    """
    places: list[int] = []
    again: dict[int, int] = {}
    first: dict[tuple[Any, int], int] = {}
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor) and leaf.requires_grad and leaf.is_floating_point():
            edge = get_gradient_edge(leaf)
            have = first.setdefault((edge.node, edge.output_nr), i)
            if have == i:
                places.append(i)
            else:
                again[i] = have
    return places, again


def unseen(leaf: Any) -> bool:
    """Whether a leaf may hold a tape that is not looked at: an object, a complex tensor."""
    if isinstance(leaf, Tensor):
        return leaf.requires_grad
    return not isinstance(leaf, _ATOMS)
