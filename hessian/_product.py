"""Matrix products by whichever library is faster here, and how fast this machine does what.

On some processors the library behind ``torch.mm`` runs at half the speed that oneDNN, which torch
uses for convolutions, reaches on the same float32 product. Which one to take, and which of two
equal formulas costs less, is therefore measured: once a process for each device, dtype and number
of threads, in a few milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

# Below this many multiplications the choice costs as much as it can save.
SMALL = 2**18


@dataclass(frozen=True)
class Rates:
    """Multiplications or values a second.

    `product`: of large matrix products; `small`: of many small ones in one call; `square`: values
    squared and added where they are in the cache; `move`: values gathered or copied.
    `onednn` says which library does large products.
    """

    product: float
    small: float
    square: float
    move: float
    onednn: bool


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` for matrices in any strides, not differentiable."""
    if (
        a.dtype == torch.float32
        and a.device.type == "cpu"
        and a.shape[0] * a.shape[1] * b.shape[1] >= SMALL
        and rates(a).onednn
    ):
        return _onednn(a, b)
    return a @ b


def rates(like: Tensor) -> Rates:
    """What was measured for tensors on the device and in the dtype of `like`."""
    return _measured(like.device.type, like.device.index, like.dtype, torch.get_num_threads())


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


def _agrees(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN is there, takes any strides, and gives what ``torch.mm`` gives."""
    if a.dtype != torch.float32 or a.device.type != "cpu":
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        got, want = _onednn(a.t().contiguous().t(), b), a @ b
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    # Rounding of sums of k products grows as √k·eps, with room for another order of summation.
    slack = 16 * torch.finfo(a.dtype).eps * a.shape[1] ** 0.5
    return bool((got - want).abs().max() <= slack * want.abs().max())


@lru_cache(maxsize=64)
def _measured(kind: str, index: int | None, dtype: torch.dtype, threads: int) -> Rates:
    device = torch.device(kind) if index is None else torch.device(kind, index)
    # Sine waves: values of ordinary size without touching the random state.
    a = torch.arange(256 * 768, device=device).sin().to(dtype).view(256, 768)
    b = torch.arange(768 * 384, device=device).cos().to(dtype).view(768, 384)
    work = 256 * 768 * 384
    with torch.inference_mode(False), torch.no_grad():
        plain = work / _seconds(lambda: a @ b, device)
        other = work / _seconds(lambda: _onednn(a, b), device) if _agrees(a, b) else 0.0
        s = a[:, :144].reshape(-1, 9, 16)
        small = s.shape[0] * 9 * 16 * 16 / _seconds(lambda: s.transpose(1, 2) @ s, device)
        into = torch.zeros_like(b)
        square = b.numel() / _seconds(lambda: into.addcmul_(b, b), device)
        order = torch.arange(b.shape[0], device=device).flip(0)
        move = b.numel() / _seconds(lambda: b.index_select(0, order), device)
    # A tenth apart is within the noise of so short a measurement.
    return Rates(max(plain, other), small, square, move, other > 1.1 * plain)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """The fastest of a few runs: what else the machine does can only add."""
    best = float("inf")
    for _ in range(4):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return max(best, 1e-9)
