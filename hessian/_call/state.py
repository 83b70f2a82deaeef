"""What an exact computation borrows and gives back: buffers, random state, math modes."""

from __future__ import annotations

import ctypes
import random
import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from hessian import devices, torch_private
from hessian._call.attributes import Attributes
from hessian._call.precision import cast as cast
from hessian._runtime.ledger import owe


class Randomness:
    """The random state of torch (CPU and the given devices), Python and NumPy."""

    def __init__(self, places: Iterable[torch.device] = ()) -> None:
        self._others = [devices.random_state(d) for d in places if d.type != "cpu"]
        self._cpu = torch.get_rng_state()
        self._python = random.getstate()
        self._numpy = NumpyState()

    def restore(self) -> None:
        """Put the state back as it was found."""
        torch.set_rng_state(self._cpu)
        for restore in self._others:
            restore()
        random.setstate(self._python)
        self._numpy.restore()


# What a Mersenne twister's numbers lie in: 624 words and a position.
_WORDS = 625 * 4


class NumpyState:
    """NumPy's random state, which takes a tenth of a millisecond to read, or as long to set.

    It is compared in its own memory first. Beside that it holds a second normal number, or none;
    to get one the twister must turn. So where none was held and the memory is as it was, all is.
    """

    last: NumpyState | None = None

    def __init__(self) -> None:
        self._words = _words()
        self._state: Any = None
        last = NumpyState.last
        if last is not None and last._same(self._words):
            self._state = last._state
        else:
            self._state = np.random.get_state(legacy=False)
            if self._words != _words():  # another thread draws
                self._words = None
            NumpyState.last = self

    def _same(self, words: bytes | None) -> bool:
        return words is not None and words == self._words and not self._state["has_gauss"]

    def restore(self) -> None:
        """Put the state back as it was found."""
        if not self._same(_words()):
            np.random.set_state(self._state)


def _words() -> bytes | None:
    """The memory of NumPy's generator; `None` where it is of another kind."""
    generator = getattr(np.random.mtrand, "_rand", None)
    source = getattr(generator, "_bit_generator", None)
    if type(source) is not np.random.MT19937:
        return None
    return ctypes.string_at(source.ctypes.state_address, _WORDS)


class Buffers:
    """The buffers of modules, without those inside: which tensors they are and what they hold."""

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        self._kept = [
            (owner, name, buffer, buffer.detach().clone())
            for owner in parts
            for name, buffer in owner._buffers.items()
            if buffer is not None
        ]
        for _, name, buffer, _ in self._kept:
            if buffer.is_inference():
                raise ValueError(
                    f"buffer {name!r} was made under torch.inference_mode(), and autograd cannot "
                    "use it; build the model outside, or pass copy.deepcopy(model)"
                )

    def restore(self) -> None:
        """Put names, tensors and values back; values without marking them as modified."""
        for owner, name, buffer, value in self._kept:
            owner._buffers[name] = buffer
            buffer.data.copy_(value)  # in another dtype where the computation is


def note_state(parts: list[nn.Module], places: set[torch.device]) -> None:
    """Buffers, attributes and the random state will be as they are when what is owed is settled."""
    owe(Randomness(places).restore)
    owe(Buffers(parts).restore)
    owe(Attributes(parts).restore)


def compute_exactly(places: Iterable[torch.device] = ()) -> None:
    """Switch off what has no second derivative or computes in reduced precision.

    Settings of the process are the caller's again when what is owed is settled; nothing but `alone`
    keeps two threads from mixing them up.
    """
    _gradients()
    _switch(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
    cuda = torch.backends.cuda
    _switch(cuda.enable_math_sdp, cuda.math_sdp_enabled(), True)
    _switch(cuda.enable_flash_sdp, cuda.flash_sdp_enabled())
    _switch(cuda.enable_mem_efficient_sdp, cuda.mem_efficient_sdp_enabled())
    _switch(cuda.enable_cudnn_sdp, cuda.cudnn_sdp_enabled())
    _full_float32()
    # A library built with -ffast-math leaves the processor so. No function tells.
    _switch(torch.set_flush_denormal, sys.float_info.min / 2 == 0)
    for kind in devices.AUTOCAST:
        _switch(partial(torch.set_autocast_enabled, kind), torch.is_autocast_enabled(kind))
    for place in places:
        kind = place.type
        if kind not in devices.AUTOCAST and torch.amp.is_autocast_available(kind):
            _switch(partial(torch.set_autocast_enabled, kind), torch.is_autocast_enabled(kind))
    filters = warnings.catch_warnings()
    owe(lambda: _leave(filters))
    filters.__enter__()
    # Batched backward falls back to a loop for operations without a batching rule.
    warnings.filterwarnings("ignore", message=".*performance drop.*")


def _switch(setting: Callable[[bool], object], now: bool, wanted: bool = False) -> None:
    """Set a switch that must be put back."""
    if now != wanted:
        owe(partial(setting, now))
        setting(wanted)


def _leave(filters: warnings.catch_warnings[Any]) -> None:
    # Not entered yet, or not entirely: then nothing was changed.
    with suppress(RuntimeError, AttributeError):
        filters.__exit__(None, None, None)


def _gradients() -> None:
    """Gradients are recorded, whatever the caller has switched off."""
    if torch.is_inference_mode_enabled():
        mode: Any = torch.inference_mode(False)

        def back() -> None:
            if not torch.is_inference_mode_enabled():
                mode.__exit__(None, None, None)

        owe(back)
        mode.__enter__()
    _switch(torch_private.set_grad_enabled, torch.is_grad_enabled(), True)


_FLOAT32 = (
    "", "cuda.matmul", "cudnn", "cudnn.conv", "cudnn.rnn",
    "mkldnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn",
)  # fmt: skip


@lru_cache(maxsize=1)
def _float32_settings() -> list[Any]:
    """The owners of `fp32_precision` in this build of torch; none before 2.9."""
    owners = []
    for path in _FLOAT32:
        owner: Any = torch.backends
        for name in path.split(".") if path else ():
            owner = getattr(owner, name, None)
        owners.append(owner)
    return [owner for owner in owners if hasattr(owner, "fp32_precision")]


def _full_float32() -> None:
    """Float32 products in float32: no TF32 on a GPU, no bfloat16 on a CPU.

    torch has two sets of switches for it, and refuses to read the older one once the newer one
    was used; the newer one restores both.
    """
    owners = _float32_settings()
    if not owners:
        precision, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        if precision != "highest":
            owe(lambda: torch.set_float32_matmul_precision(precision))
            torch.set_float32_matmul_precision("highest")
        if tf32:
            owe(partial(_set_flag, torch.backends.cudnn, "allow_tf32", tf32))
            _set_flag(torch.backends.cudnn, "allow_tf32", False)
        return
    # "none" takes what stands above it: one that inherits is read after what it inherits from was
    # changed, and stays as it is.
    for owner in owners:
        precision = owner.fp32_precision
        if precision != "ieee":
            owe(partial(_set_flag, owner, "fp32_precision", precision))
            _set_flag(owner, "fp32_precision", "ieee")


def _set_flag(owner: Any, name: str, value: object) -> None:
    """Set a flag of a backend, also after ``torch.backends.disable_global_flags``."""
    allowed: Any = getattr(torch.backends, "__allow_nonbracketed_mutation", nullcontext)
    with allowed():
        setattr(owner, name, value)
