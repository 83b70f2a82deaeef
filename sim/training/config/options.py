"""Immutable mappings of plain values, and dataclasses read from them."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

from sim import _arguments

T = TypeVar("T")


class Options(Mapping[str, Any]):
    """A mapping from names to plain values that cannot change and can be hashed.

    Raises:
        TypeError: a value is not a number, a string, a boolean, `None` or a sequence of these.

    >>> options = Options(momentum=0.9, hidden=[8, 8])
    >>> options["hidden"], options == {"hidden": (8, 8), "momentum": 0.9}
    ((8, 8), True)
    """

    def __init__(self, given: Mapping[str, Any] | None = None, **more: Any) -> None:
        values = {**(given or {}), **more}
        self._values = {str(key): _frozen(str(key), values[key]) for key in sorted(values)}

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __repr__(self) -> str:
        return f"Options({', '.join(f'{k}={v!r}' for k, v in self._values.items())})"


def _frozen(name: str, value: Any) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, list | tuple | range):
        return tuple(_frozen(name, item) for item in value)
    raise TypeError(
        f"{name}: got {type(value).__name__}; give a number, a string, a boolean or a list of these"
    )


def read(kind: type[T], argument: str, value: Any) -> T:
    """A dataclass from a mapping (or one already made), with its own unknown names refused."""
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"{argument}: got {value!r}; give {kind.__name__} or a mapping")
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    names = [field.name for field in fields]
    for name in value:
        if name not in names:
            raise ValueError(
                f"{argument}.{name}: no such option; its options are: {', '.join(names)}"
                f"{_arguments.did_you_mean(name, names)}"
            )
    for field in fields:
        if field.name not in value and field.default is dataclasses.MISSING:
            raise TypeError(f"{argument}.{field.name}: not given; it has no default, so give it")
    with _arguments.under(argument):
        return kind(**value)


def put(values: dict[str, Any], name: str, value: Any) -> None:
    """Set a field of nested dictionaries by its dotted name.

    Raises:
        ValueError: what the name reaches into is not a dictionary.

    >>> values = {"lr": 0.1, "measure": {"held_out": 3}, "warmup": None}
    >>> put(values, "measure.test_every", 2)
    >>> put(values, "warmup.steps", 5)
    >>> values
    {'lr': 0.1, 'measure': {'held_out': 3, 'test_every': 2}, 'warmup': {'steps': 5}}
    """
    *outer, last = name.split(".")
    inside = values
    for part in outer:
        if inside.get(part) is None:
            inside[part] = {}
        inside = inside[part]
        if not isinstance(inside, dict):
            raise ValueError(f"{name}: {part} holds no fields of its own; give {part} as a whole")
    inside[last] = value


def plain(value: Any) -> Any:
    """The value as JSON has it: dataclasses and mappings as dictionaries, tuples as lists.

    >>> plain(Options(hidden=(8, 8)))
    {'hidden': [8, 8]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def canonical(value: Any) -> Any:
    """The plain value with whole floats as integers, so that 1 and 1.0 are one configuration."""
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    return value


def differences(value: Any, other: Any, prefix: str = "") -> list[str]:
    """The names under which two plain values differ, dotted.

    >>> differences({"lr": 1, "measure": {"every": 1}}, {"lr": 2, "measure": {"every": 3}})
    ['lr', 'measure.every']
    """
    if isinstance(value, dict) and isinstance(other, dict):
        names = []
        for key in dict.fromkeys([*value, *other]):
            name = f"{prefix}.{key}" if prefix else str(key)
            names += differences(value.get(key), other.get(key), name)
        return names
    return [] if value == other else [prefix]
