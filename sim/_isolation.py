"""What stands around a computation, and must not reach into its numbers.

Of a thread are gradient and inference mode, autocast, the default device and whether its processor
takes the smallest numbers for zero: they are set here and put back. Of the whole process are
oneDNN's switch, the precision of float32 products and anomaly mode: the first of several
computations sets them, the last one puts them back. The default dtype is the process's, too, and
nobody's to change while others compute: what is computed here names its dtype. Random numbers come
from generators of the computation's own; where torch knows only its global one, it is taken under a
lock and given back as it was.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from hessian import devices, torch_private

_LOCK = threading.RLock()
CPU = torch.device("cpu")
_FULL = ("mkldnn", "mkldnn.matmul", "mkldnn.conv", "cuda.matmul", "cudnn", "cudnn.conv")


def _fresh() -> None:
    """In a forked process the thread that held the lock does not exist."""
    global _LOCK
    _LOCK = threading.RLock()
    _SETTINGS.reset()


class _Settings:
    """Settings of the process, as the computations that go on need them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Nothing goes on."""
        self._lock = threading.Lock()
        self._users = 0
        self._back: list[Callable[[], Any]] = []

    @contextmanager
    def full(self) -> Iterator[None]:
        """Float32 products in float32, by oneDNN where torch has it; no anomaly mode."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._set()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    while self._back:
                        self._back.pop()()

    def _set(self) -> None:
        if torch.is_anomaly_enabled():
            check = torch.is_anomaly_check_nan_enabled()
            self._back.append(partial(torch.set_anomaly_enabled, True, check))
            torch.set_anomaly_enabled(False)
        switch, onednn = torch_private.set_onednn, torch.backends.mkldnn
        if switch is not None and onednn.is_available() and not onednn.enabled:
            self._back.append(partial(switch, False))
            switch(True)
        owners = [owner for owner in map(_backend, _FULL) if hasattr(owner, "fp32_precision")]
        for owner in owners:
            precision = owner.fp32_precision
            if precision not in ("ieee", "none"):
                self._back.append(partial(setattr, owner, "fp32_precision", precision))
                owner.fp32_precision = "ieee"
        if not owners and torch.get_float32_matmul_precision() != "highest":
            # torch before 2.9
            before = torch.get_float32_matmul_precision()
            self._back.append(partial(torch.set_float32_matmul_precision, before))
            torch.set_float32_matmul_precision("highest")


_SETTINGS = _Settings()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fresh)


def _backend(path: str) -> Any:
    """A part of `torch.backends`; `None` where this build of torch has none."""
    if path.startswith("cud") and not torch.backends.cuda.is_built():
        return None
    owner: Any = torch.backends
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return owner


@contextmanager
def isolated(device: str | None = None) -> Iterator[None]:
    """Compute as in a fresh process, whatever the caller has set, and put that back at the end.

    Args:
        device: for a computation that is ours alone, its kind of device: tensors then come to be
            on the CPU, not on the caller's default device, on which his own code may rely.

    >>> with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), isolated():
    ...     torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    (True, False)
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in dict.fromkeys((*devices.AUTOCAST, device or "cpu")):
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if device is not None and torch.get_default_device() != CPU:
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_gradual())
        stack.enter_context(_SETTINGS.full())
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        yield


@contextmanager
def _gradual() -> Iterator[None]:
    """Numbers below the normal ones count, as in a fresh thread.

    `torch.set_flush_denormal` changes that, and so does a library built with -ffast-math when it is
    loaded. No function tells, so it is seen from a number.
    """
    flushed = sys.float_info.min / 2 == 0
    if flushed:
        torch.set_flush_denormal(False)
    try:
        yield
    finally:
        if flushed:
            torch.set_flush_denormal(True)


@contextmanager
def seeded(word: int, *others: torch.device) -> Iterator[None]:
    """torch's global random state from a seed, for this thread alone, and then as it was."""
    places = [CPU, *(place for place in others if place != CPU)]
    with _LOCK:
        restores = [devices.random_state(place) for place in places]
        try:
            for place in places:
                devices.seed(place, word)
            yield
        finally:
            for restore in restores:
                restore()


_DRAWING = {
    *("uniform_", "normal_", "trunc_normal_", "bernoulli_", "exponential_", "random_"),
    *("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "orthogonal_"),
    *("rand", "randn", "randint", "randperm", "normal", "bernoulli"),
}
_DEFAULT_DTYPE = {"empty", "zeros", "ones", "rand", "randn", "eye"}


class Drawing(TorchFunctionMode):
    """Random numbers come from one generator, and tensors are float32 unless it says otherwise.

    The numbers are those that torch's global generator would give from the same seed, but it is
    left alone, and so is the default dtype: another thread may use both meanwhile.

    >>> with Drawing(torch.Generator().manual_seed(0)):
    ...     layer = nn.Linear(2, 1)
    >>> with seeded(0):
    ...     torch.equal(layer.weight, nn.Linear(2, 1).weight)
    True
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Add the generator and the dtype."""
        arguments, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name in _DRAWING and arguments.get("generator") is None:
            arguments["generator"] = self._generator
        if name in _DEFAULT_DTYPE and arguments.get("dtype") is None:
            arguments["dtype"] = torch.float32
        return func(*args, **arguments)


class Masked(nn.Dropout):
    """Dropout with masks from a generator of its own, the same as the global one would draw."""

    generator: torch.Generator

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As `torch.nn.functional.dropout`, which cannot be given a generator."""
        if not self.training or not self.p or not input.numel():
            return input
        mask = torch.empty_like(input).bernoulli_(1 - self.p, generator=self.generator)
        return input * mask.div_(1 - self.p)


def mask(model: nn.Module, generator: torch.Generator) -> bool:
    """Let the model's dropout draw from the generator; whether all of it can."""
    dropouts = [m for m in model.modules() if isinstance(m, torch_private.Dropout)]
    if any(type(module) is not nn.Dropout or module.inplace for module in dropouts):
        return False
    for module in dropouts:
        module.__class__ = Masked
        module.generator = generator
    return True
