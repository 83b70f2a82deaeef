"""What an exact computation changes and owes back, and the order of computations in threads.

A computation changes settings of the process (math modes, the random state) and of the model that
is lent to it. Every change is written down before it is made (`owe`) and undone in reverse order
(`settled`). An interrupt may strike between any two instructions, also inside a context manager on
its way in or out, so a second one stands around the first (`Guard`): whatever the inner one did not
come to is done by the outer one.

Which settings are whose, in torch 2.13. Of a thread: gradient and inference mode, autocast, the
stacks of function modes, dispatch modes and transforms, hooks on saved tensors, the default device,
and whether the processor takes the smallest numbers for zero.
Of the process: the attention fast path and its kernels, `fp32_precision`, deterministic algorithms,
anomaly mode, the default dtype, the number of threads, warning filters, and the random states of
torch, Python and NumPy. Two computations that save and restore the latter while they overlap
restore each other's values; so they come one after the other (`alone`).
"""

from __future__ import annotations

import contextlib
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from hessian import torch_private
from hessian.devices import AUTOCAST

Undo = Callable[[], object]
# How often undoing is begun again after an interrupt.
ATTEMPTS = 100


class _Ledger(threading.local):
    def __init__(self) -> None:
        self.entries: list[Any] = []


_LEDGER = _Ledger()
_LOCK: Any = threading.RLock()


def _fresh_lock() -> None:
    """In a forked process the thread that held the lock does not exist."""
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fresh_lock)


def owe(undo: Undo) -> None:
    """Write down how to undo a change, before it is made; undoing twice must do no harm."""
    _LEDGER.entries.append(undo)


class _Mark:
    """The place in the ledger where a block begins."""


@contextmanager
def settled() -> Iterator[None]:
    """Undo what is owed inside, the last first, also after an error or an interrupt."""
    mark = _Mark()
    _LEDGER.entries.append(mark)
    try:
        yield
    finally:
        _settle(mark)


def _settle(mark: _Mark) -> None:
    """Undo down to a mark, unless that was done already."""
    entries = _LEDGER.entries
    if entries and entries[-1] is mark:  # nothing is owed
        entries.pop()
        return
    if mark not in entries:
        return
    failure: Exception | None = None
    # A mode that an interrupt left on the stack must not take part.
    with torch_private.DisableTorchFunction():
        while entries[-1] is not mark:
            undo = entries[-1]
            if not isinstance(undo, _Mark):
                try:
                    undo()
                except Exception as error:
                    if failure is None:  # an alarm of the user's, perhaps: once more
                        failure = error
                        continue
            if entries[-1] is undo:
                entries.pop()
    entries.pop()
    if failure is not None:
        raise failure


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other thread computes; a computation inside another one goes on at once."""
    if _LOCK._is_owned():
        yield
        return
    with settled():
        owe(_release)
        _LOCK.acquire()
        yield


def _release() -> None:
    if _LOCK._is_owned():
        _LOCK.release()


class Guard:
    """Stands around all else: what an interrupt kept the blocks inside from undoing is undone."""

    def __enter__(self) -> None:
        self.mark = _Mark()
        self.thread = _Thread()
        _LEDGER.entries.append(self.mark)

    def __exit__(self, *error: object) -> None:
        first: BaseException | None = None
        for _ in range(ATTEMPTS):
            try:
                if error[1] is not None:
                    _end(error[1])
                    self.thread.restore()
                _settle(self.mark)
                self.thread.restore()
                break
            except BaseException as interrupt:  # whatever a signal's handler raises
                first = first or interrupt
        if first is not None:
            raise first


def _end(error: object) -> None:
    """End the generators of context managers that an interrupt struck on their way in.

    They would end when the traceback is dropped, and put back then what is no longer to be.
    """
    frames = []
    while isinstance(error, BaseException):
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == contextlib.__file__:
                frames.append(trace.tb_frame)
            trace = trace.tb_next
        error = error.__context__
    for frame in reversed(frames):
        generator = getattr(frame.f_locals.get("self"), "gen", None)
        if (
            inspect.isgenerator(generator)
            and inspect.getgeneratorstate(generator) == "GEN_SUSPENDED"
        ):
            with contextlib.suppress(Exception):
                generator.close()


class _Thread:
    """The modes of this thread, as they are."""

    def __init__(self) -> None:
        self.grad = torch.is_grad_enabled()
        self.state = _function_state()
        self.functions = _functions()
        self.dispatchers = torch_private.dispatch_depth()
        self.transforms = _transforms()
        self.hooks = _hooks()
        self.autocast = [
            (torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in AUTOCAST
        ]

    def restore(self) -> None:
        """Put back what differs."""
        if _function_state() != self.state:
            torch_private.set_function_state(self.state)
        if _functions() != self.functions:
            _stack(self.functions)
        if _transforms() > self.transforms:
            torch_private.pop_transforms(self.transforms)
        while torch_private.dispatch_depth() > self.dispatchers:
            torch_private.pop_dispatch_mode(None)
        while (top := _hooks()) is not None and top != self.hooks:
            torch_private.pop_saved_tensor_hooks()
        for device, (enabled, dtype) in zip(AUTOCAST, self.autocast, strict=True):
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)
        torch_private.set_grad_enabled(self.grad)


def set_aside() -> list[Any]:
    """Take the function modes of the caller (a default device) off the stack until it is settled.

    They are meant for the caller's code, not for what is computed around it.
    """
    modes = _functions()
    if modes:
        owe(lambda: _stack(modes))
        _stack([])
    return modes


def _stack(modes: list[Any]) -> None:
    while torch_private.function_depth():
        torch_private.pop_function_mode()
    for mode in modes:
        torch_private.push_function_mode(mode)


class Among:
    """Runs code under function modes that were set aside."""

    def __init__(self, modes: list[Any], inner: AbstractContextManager[Any]) -> None:
        self.modes, self.inner = modes, inner

    def __enter__(self) -> None:
        self.before = _functions()
        _stack([*self.before, *self.modes])
        self.inner.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.inner.__exit__(*error)
        _stack(self.before)


def _functions() -> list[Any]:
    return [torch_private.function_mode(i) for i in range(torch_private.function_depth())]


def _function_state() -> Any:
    """Whether function modes and subclasses take part at all."""
    return torch_private.function_state()


def _transforms() -> int:
    return int(torch_private.transform_depth())


def _hooks() -> Any:
    return torch_private.saved_tensor_hooks(True)
