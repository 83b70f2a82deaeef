"""Parameters that `names` leaves out: frozen meanwhile, without the user's code noticing.

Freezing takes a parameter off the tape, which is then smaller. A model or a loss that asks for
`requires_grad` is answered as if nothing had been frozen; where it differentiates by such a
parameter itself, the computation starts again without freezing any (`Thaw`).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from hessian._call.data import lasting
from hessian._runtime.ledger import owe, settled

P = ParamSpec("P")
T = TypeVar("T")

# By identity, of the one computation that runs.
_FROZEN: dict[int, Tensor] = {}


class Thaw(BaseException):
    """A call differentiates by a frozen parameter. Not an Exception: no user code catches it."""


class _Thread(threading.local):
    thawed = False


_THREAD = _Thread()


def is_frozen(tensor: Any) -> bool:
    """Whether a tensor is a parameter that requires gradients outside of the computation."""
    return id(tensor) in _FROZEN


def any_frozen() -> bool:
    """Whether there is one."""
    return bool(_FROZEN)


def freeze(parameters: Iterable[Tensor], wanted: set[int]) -> None:
    """Freeze the parameters whose ``id`` is not wanted: the tape then leaves them out.

    When what is owed is settled, all of them are as they were, whatever a call has set them to.
    """
    before = [(p, p.requires_grad) for p in parameters]
    frozen = [p for p, on in before if on and id(p) not in wanted]
    owe(lambda: _reset(before, frozen))
    for p in frozen:
        _FROZEN[id(p)] = p
        p.requires_grad_(False)


@contextmanager
def only(parameters: Iterable[Tensor], wanted: set[int]) -> Iterator[None]:
    """The same inside a block."""
    with settled():
        freeze(parameters, wanted)
        yield


def _reset(before: list[tuple[Tensor, bool]], frozen: list[Tensor]) -> None:
    for p in frozen:
        _FROZEN.pop(id(p), None)
    for p, on in before:
        if p.requires_grad != on:
            p.requires_grad_(on)


@contextmanager
def thawed() -> Iterator[None]:
    """The user's parameters as they are outside."""
    frozen = dict(_FROZEN)
    try:
        _FROZEN.clear()
        for p in frozen.values():
            p.requires_grad_(True)
        yield
    finally:
        for p in frozen.values():
            p.requires_grad_(False)
        _FROZEN.update(frozen)


def may_freeze() -> bool:
    """Whether this computation has not been found to need all parameters."""
    return not _THREAD.thawed


@contextmanager
def unfrozen(is_thawed: bool) -> Iterator[None]:
    """A block in which no parameter may be frozen, if `is_thawed`."""
    before = _THREAD.thawed
    try:
        _THREAD.thawed = before or is_thawed
        yield
    finally:
        _THREAD.thawed = before


def again(compute: Callable[[], T], rewind: Callable[[], object] = lambda: None) -> T:
    """The result of a computation, started again without frozen parameters if it needs that."""
    try:
        return compute()
    except Thaw:
        pass  # beyond this block nothing holds the tape that was begun
    rewind()
    with unfrozen(True):
        return compute()


class _Replay:
    """An iterator whose first item can be had again while there has been no second one."""

    def __init__(self, source: Iterator[Any]) -> None:
        self.source, self.first = source, list[Any]()
        self.count = 0

    def __iter__(self) -> Iterator[Any]:
        yield from self.first
        for item in self.source:
            self.first = [item] if self.count == 0 else []
            self.count += 1
            yield item


def whole(function: Callable[P, T], listed: bool = False) -> Callable[P, T]:
    """A public function of (model, loss, data, …, names=…), started `again` where need be.

    `listed` says that it keeps a list of data that can be read only once.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if kwargs.get("names") is None:  # nothing is frozen then
            return function(*args, **kwargs)
        values: list[Any] = list(args)
        options: dict[str, Any] = dict(kwargs)
        data = values[2] if len(values) > 2 else options.get("data")
        if isinstance(data, Iterator):
            data = lasting(data) if listed else _Replay(data)
            if len(values) > 2:
                values[2] = data
            else:
                options["data"] = data
        drawn = [torch.default_generator]
        drawn += [v for v in (*values, *options.values()) if isinstance(v, torch.Generator)]
        states = [generator.get_state() for generator in drawn]

        def rewind() -> None:
            for generator, state in zip(drawn, states, strict=True):
                generator.set_state(state)

        compute: Callable[..., T] = function
        return again(lambda: compute(*values, **options), rewind)

    return call
