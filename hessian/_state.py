"""What an exact computation borrows and gives back: buffers, random state, dtypes, math modes."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map


class Randomness:
    """The random state of torch (CPU and the given devices), Python and NumPy."""

    def __init__(self, devices: Iterable[torch.device] = ()) -> None:
        self._cuda = {d: torch.cuda.get_rng_state(d) for d in devices if d.type == "cuda"}
        self._cpu = torch.get_rng_state()
        self._python = random.getstate()
        self._numpy = np.random.get_state()

    def restore(self) -> None:
        """Put the state back as it was found."""
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)
        random.setstate(self._python)
        np.random.set_state(self._numpy)


class Buffers:
    """The buffers of a module: which tensors they are and what they hold."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._kept = [
            (owner, name, buffer, buffer.detach().clone())
            for module in modules
            for owner in module.modules()
            for name, buffer in owner._buffers.items()
            if buffer is not None
        ]

    def restore(self) -> None:
        """Put names, tensors and values back; values without marking them as modified."""
        for owner, name, buffer, value in self._kept:
            owner._buffers[name] = buffer
            if buffer.dtype == value.dtype:
                buffer.data.copy_(value)


@contextmanager
def as_found(modules: list[nn.Module], devices: set[torch.device]) -> Iterator[None]:
    """Leave buffers and the random state as they were, also after an error or an interrupt."""
    randomness, buffers = Randomness(devices), Buffers(modules)
    try:
        yield
    finally:
        buffers.restore()
        randomness.restore()


@contextmanager
def only(parameters: Iterable[Tensor], wanted: set[int]) -> Iterator[None]:
    """Freeze the parameters whose ``id`` is not wanted: the tape then leaves them out."""
    frozen = [p for p in parameters if p.requires_grad and id(p) not in wanted]
    for p in frozen:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(True)


class _Promote(TorchFunctionMode):
    """Turn floating tensors of other dtypes to `dtype` on their way into any torch function.

    A loss may hold constants (class weights) that no module owns.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def _cast(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != self.dtype:
            return value.to(self.dtype)
        return value

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in _PROPERTIES:
            return func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            args, kwargs = tree_map(self._cast, (args, kwargs or {}))
        return func(*args, **kwargs)


_PROPERTIES = frozenset({"__get__", "__set__", "__delete__", "to", "is_floating_point", "type"})


@contextmanager
def cast(modules: list[nn.Module], dtype: torch.dtype | None) -> Iterator[None]:
    """Compute in `dtype`: the live parameters and buffers hold converted values meanwhile.

    The tensors themselves stay the same objects, so whatever else reads them (a loss with an L2
    term) sees the conversion too.
    """
    if dtype is None:
        yield
        return
    kept: list[tuple[Tensor, Tensor]] = []
    seen: set[int] = set()
    try:
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                if id(tensor) in seen or not tensor.is_floating_point():
                    continue
                seen.add(id(tensor))
                if tensor.dtype != dtype:
                    kept.append((tensor, tensor.data))
                    tensor.data = tensor.data.to(dtype)
        with _Promote(dtype):
            yield
    finally:
        for tensor, data in kept:
            tensor.data = data


@contextmanager
def exact_math() -> Iterator[None]:
    """Switch off what has no second derivative or computes in reduced precision."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(_full_float32())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(warnings.catch_warnings())
        # Batched backward falls back to a loop for operations without a batching rule.
        warnings.filterwarnings("ignore", message=".*performance drop.*")
        warnings.filterwarnings("ignore", message=".*CPU Autocast.*")
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)


_FLOAT32 = (
    "", "cuda.matmul", "cudnn", "cudnn.conv", "cudnn.rnn",
    "mkldnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn",
)  # fmt: skip


@contextmanager
def _full_float32() -> Iterator[None]:
    """Float32 products in float32: no TF32 on a GPU, no bfloat16 on a CPU.

    torch has two sets of switches for it, and refuses to read the older one once the newer one
    was used; the newer one restores both.
    """
    owners = [torch.backends]
    for path in _FLOAT32[1:]:
        owner: Any = torch.backends
        for name in path.split("."):
            owner = getattr(owner, name, None)
        owners.append(owner)
    kept = [(o, p) for o in owners if (p := getattr(o, "fp32_precision", None)) is not None]
    if not kept:  # torch before 2.9
        precision, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        try:
            torch.set_float32_matmul_precision("highest")
            torch.backends.cudnn.allow_tf32 = False
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
            torch.backends.cudnn.allow_tf32 = tf32
        return
    try:
        for owner, _ in kept:
            owner.fp32_precision = "ieee"
        yield
    finally:
        for owner, precision in kept:
            owner.fp32_precision = precision
