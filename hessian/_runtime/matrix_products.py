"""Matrix products by whichever library is faster here, and how fast a machine does what.

On AMD's processors the library behind ``torch.mm`` (MKL) runs at half the speed that oneDNN, which
torch uses for convolutions, reaches on the same float32 product. Which one to take, and which of
two equal formulas costs less, is decided on a CPU without measuring anything while running: two
processes on one machine then give the same bits. A GPU is measured, once a process for each dtype.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from hessian import devices, torch_private

# Below this many multiplications oneDNN's call costs more than it saves.
SMALL = 2**18


@dataclass(frozen=True)
class Rates:
    """Multiplications or values a second; only their ratios matter.

    `product`: of large matrix products; `small`: of many small ones in one call; `square`: values
    squared and added where they are in the cache; `move`: values gathered or copied.
    """

    product: float
    small: float
    square: float
    move: float


# Measured on one and on two cores of a Zen 5 server (float32; all are about half in float64, and
# all grow with the cores alike). Where two formulas are near each other these may pick the slower
# one on another processor; the large differences, of 3 to 100 times, do not depend on it.
CPU = Rates(product=2.2e11, small=3.0e10, square=1.9e10, move=1.9e10)


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` by whichever library is faster here: on a CPU MKL, or oneDNN on AMD's processors.

    Args:
        a, b: matrices ``[n, k]`` and ``[k, m]``, in any strides.

    Returns:
        ``[n, m]``, equal to ``a @ b`` to rounding; where it is to be differentiated, that itself.

    Raises:
        ValueError: they are not matrices, or their shapes do not fit.

    >>> product(torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[1., 2.],
            [3., 4.]])
    """
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(
            f"a, b: got {list(a.shape)} and {list(b.shape)}; give matrices [n, k] and [k, m]"
        )
    differentiated = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    if (
        a.dtype == torch.float32
        and b.dtype == torch.float32
        and not differentiated
        and a.device.type in devices.MEASURED
        and a.shape[0] * a.shape[1] * b.shape[1] >= SMALL
        and prefers_onednn()
    ):
        return _onednn(a, b)
    return a @ b


def rates(like: Tensor) -> Rates:
    """How fast the device of `like` is, in its dtype."""
    return CPU if like.device.type in devices.MEASURED else _measured(like.device, like.dtype)


@lru_cache(maxsize=1)
def prefers_onednn() -> bool:
    """Whether float32 products on this CPU are oneDNN's."""
    return torch.backends.mkl.is_available() and _vendor() == "AuthenticAMD" and _agrees()


def _vendor() -> str:
    """The maker of the processor, as it names itself; empty where the system does not say."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.split(":")[1].strip() for line in file if "vendor_id" in line), "")
    except OSError:  # Windows has it at the end of the processor's name
        return platform.processor().split(",")[-1].strip()


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    product: Tensor = torch_private.linear_pointwise(a, b.t(), None, "none", [], "")
    return product


def _agrees() -> bool:
    """Whether oneDNN is there, takes any strides, and gives what ``torch.mm`` gives."""
    if torch_private.linear_pointwise is None or not torch.backends.mkldnn.is_available():
        return False
    # Sine waves: values of ordinary size without touching the random state; and nothing that the
    # first caller has set may decide for all.
    with torch.inference_mode(False), torch.no_grad(), devices.no_autocast():
        a = torch.arange(64 * 96, device="cpu", dtype=torch.float32).sin().view(64, 96)
        b = torch.arange(96 * 48, device="cpu", dtype=torch.float32).cos().view(96, 48)
        try:
            product_here, want = _onednn(a.t().contiguous().t(), b), a @ b
        except (AttributeError, RuntimeError, TypeError, NotImplementedError):
            return False
        # Rounding of sums of k products grows as √k·eps, with room for another order of summation.
        slack = 16 * torch.finfo(a.dtype).eps * a.shape[1] ** 0.5
        return bool((product_here - want).abs().max() <= slack * want.abs().max())


@lru_cache(maxsize=64)
def _measured(device: torch.device, dtype: torch.dtype) -> Rates:
    a = torch.arange(256 * 768, device=device).sin().to(dtype).view(256, 768)
    b = torch.arange(768 * 384, device=device).cos().to(dtype).view(768, 384)
    with torch.inference_mode(False), torch.no_grad():
        large = 256 * 768 * 384 / _seconds(lambda: a @ b, device)
        s = a[:, :144].reshape(-1, 9, 16)
        small = s.shape[0] * 9 * 16 * 16 / _seconds(lambda: s.transpose(1, 2) @ s, device)
        into = torch.zeros_like(b)
        square = b.numel() / _seconds(lambda: into.addcmul_(b, b), device)
        order = torch.arange(b.shape[0], device=device).flip(0)
        move = b.numel() / _seconds(lambda: b.index_select(0, order), device)
    return Rates(large, small, square, move)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """The fastest of a few runs after a first one: what else the machine does can only add."""
    run()
    best = float("inf")
    for _ in range(6):
        devices.synchronize(device)
        start = time.perf_counter()
        run()
        devices.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return max(best, 1e-9)


# Measured on two CPU cores: products of this shape run at some 20 billion multiplications a
# second, while writing, squaring and reading a value back runs at well under a billion.
TRAFFIC = 30
