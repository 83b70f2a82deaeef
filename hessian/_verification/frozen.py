"""The loss with every number held that the tape takes for a constant.

What ``detach``, ``.data``, ``.item()``, a block without gradients or the row of an embedding's
``padding_idx`` hands on has no derivative by
the user's own definition, though the loss's value depends on it. Here such numbers are noted at
the point itself and handed out again wherever an entry is displaced; then values of the loss have
the derivative that the tape means. Inside a custom function's ``forward``, which torch calls
without gradients, nothing is a constant: its ``backward`` says what the derivative is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from hessian import torch_private
from hessian._verification.values import Values

# What hands on numbers without their derivative, wherever it stands.
CUTS = frozenset({"detach", "detach_", "item", "tolist", "numpy", "__float__", "__int__",
                  "__bool__", "__array__"})  # fmt: skip
DATA = Tensor.data.__get__  # type: ignore[attr-defined]
APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]


class _Replay(TorchFunctionMode):
    """Notes constants in their order, or hands them out again."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[Any, Any]] = []
        self.at: int | None = None
        # Whether the user's code asked for gradients, outside custom functions.
        self.wanted = True

    def start(self) -> None:
        """A new call begins."""
        self.wanted = torch.is_grad_enabled()
        self.at = None if self.at is None else 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        switch, padded = func is torch_private.set_grad_enabled, func is F.embedding
        constant = func == DATA or name in CUTS
        if not torch.is_grad_enabled() and isinstance(result, Tensor) and name != "__get__":
            constant = True
        if not (constant or switch or padded):
            return result
        inside = _in_function()
        if switch and not inside:
            self.wanted = torch.is_grad_enabled()
        if switch or (inside and self.wanted and not torch.is_inference_mode_enabled()):
            return result
        if padded:
            return self._padded(result, *args, **(kwargs or {}))
        return self._constant(func, args, result)

    def _padded(
        self, result: Tensor, input: Tensor, weight: Tensor, padding_idx: int | None = None,
        *_: Any, **__: Any,
    ) -> Tensor:  # fmt: skip
        """Rows looked up, those of the padding index held: they get no gradient."""
        if padding_idx is None:
            return result
        rows = self._constant(F.embedding, (), result.detach())
        with torch_private.DisableTorchFunction():
            padding = (input == padding_idx % len(weight)).unsqueeze(-1)
            return torch.where(padding, rows, result)

    def _constant(self, func: Any, args: tuple[Any, ...], result: Any) -> Any:
        with torch_private.DisableTorchFunction():
            if self.at is None:
                copy = result.detach().clone() if isinstance(result, Tensor) else result
                self.notes.append((func, copy))
                return result
            if self.at >= len(self.notes) or self.notes[self.at][0] != func:
                raise RuntimeError("another course of the call")
            noted = self.notes[self.at][1]
            self.at += 1
            if isinstance(result, Tensor) and any(result is a for a in args):  # in place
                with torch.no_grad():
                    return result.copy_(noted)
            return noted.clone() if isinstance(noted, Tensor) else noted


class _Constant(Values):
    """Values of the loss with its constants held."""

    def __init__(self, values: Values) -> None:
        self.batch, self.inputs, self.targets = values.batch, values.inputs, values.targets
        self.objective, self.originals, self.sigma = (
            values.objective,
            values.originals,
            values.sigma,
        )
        self.evaluations, self.taped = 0, True
        self.replay = _Replay()
        self.here = self._value()

    def _call(self) -> Tensor:
        self.replay.start()
        with self.replay, saved_tensors_hooks(lambda _: None, _dropped):
            value = super()._call()
        self.replay.at = 0
        return value


def _in_function() -> bool:
    """Whether the call comes from a custom function's ``forward``."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code is APPLY:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _dropped(_: Any) -> Tensor:
    raise RuntimeError("the tape holds no tensors")


@contextmanager
def frozen(values: Values) -> Iterator[Values | None]:
    """The same loss with its constants held; None where it has none, or differentiates inside."""
    try:
        constant = _Constant(values)
    except RuntimeError:
        yield None
        return
    yield constant if constant.replay.notes else None
