"""A fused kernel for the squares of a convolution's per-sample gradients on a GPU.

`batched_squares` in `_site.contraction` writes [samples, columns, entries] to memory, by parts,
squares it there and reads it again. Here a program keeps one tile of entries in registers: it forms
the product over positions for one sample and column after another, and adds up the squares. Which
of the two is faster depends on the shape; `squares` measures that on the first call for a shape.

Triton is optional. The portable form is the kernel's oracle, and what runs without it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from hessian import devices

# Entries of a tile (o, k) and positions taken at once: the least that Triton's product takes.
TILE_O, TILE_K, TILE_P = 32, 32, 16
# Programs that share one tile's samples, so that small layers fill the GPU too.
SPLITS = 16

Shape = tuple[int, ...]
_faster: dict[tuple[Shape, torch.dtype, str], bool] = {}


@lru_cache(maxsize=1)
def _kernel() -> Any:
    """The compiled kernel, ``None`` where there is no Triton."""
    try:
        import triton
        import triton.language as tl
    except ImportError:
        return None

    @triton.jit
    def kernel(  # type: ignore[no-untyped-def]
        s, u, weights, partial, samples, columns, groups, o, k, p, each,
        TILE_O: tl.constexpr, TILE_K: tl.constexpr, TILE_P: tl.constexpr,
    ):  # fmt: skip
        """partial[split, g, o, k] = Σ_n Σ_c λ[n,c] (Σ_p s[n,c,g,o,p] u[n,g,k,p])²."""
        blocks = (k + TILE_K - 1) // TILE_K
        row = (tl.program_id(0) // blocks) * TILE_O + tl.arange(0, TILE_O)
        col = (tl.program_id(0) % blocks) * TILE_K + tl.arange(0, TILE_K)
        group, split = tl.program_id(1), tl.program_id(2)
        spot = tl.arange(0, TILE_P)
        total = tl.full((TILE_O, TILE_K), 0.0, tl.float32)
        first = split * each
        left = s + (first.to(tl.int64) * columns * groups + group) * o * p
        right = u + (first.to(tl.int64) * groups + group) * k * p
        weight = weights + first * columns
        for _ in range(first, tl.minimum(first + each, samples)):
            for _ in range(columns):
                product = tl.full((TILE_O, TILE_K), 0.0, tl.float32)
                for start in range(0, p, TILE_P):
                    at = start + spot
                    a = tl.load(
                        left + row[:, None] * p + at[None, :],
                        mask=(row[:, None] < o) & (at[None, :] < p), other=0.0,
                    )  # fmt: skip
                    b = tl.load(
                        right + col[None, :] * p + at[:, None],
                        mask=(col[None, :] < k) & (at[:, None] < p), other=0.0,
                    )  # fmt: skip
                    # No TF32: the result is to be exact in float32.
                    product = tl.dot(a, b, product, input_precision="ieee")
                total += tl.load(weight) * product * product
                left += groups * o * p
                weight += 1
            right += groups * k * p
        base = partial + (split * groups + group).to(tl.int64) * o * k
        tl.store(
            base + row[:, None] * k + col[None, :], total,
            mask=(row[:, None] < o) & (col[None, :] < k),
        )  # fmt: skip

    return kernel


def available(into: Tensor) -> bool:
    """Whether the kernel can serve results like `into`: float32, Triton at hand."""
    return into.dtype == torch.float32 and _kernel() is not None


def fused_squares(s: Tensor, u: Tensor, weights: Tensor, into: Tensor) -> None:
    """Add the squares to `into` ``[g, o, k]``: S ``[m, c, g, o, p]``, U ``[m, g, k, p]``."""
    m, c, g, o, p = s.shape
    k = u.shape[2]
    splits = min(SPLITS, m)
    each = -(-m // splits)
    # Partial sums, not atomic additions: the same result at every run.
    partial = into.new_empty((splits, g, o, k))
    tiles = -(-o // TILE_O) * -(-k // TILE_K)
    _kernel()[(tiles, g, splits)](
        s.contiguous(), u.contiguous(), weights.contiguous(), partial, m, c, g, o, k, p, each,
        TILE_O=TILE_O, TILE_K=TILE_K, TILE_P=TILE_P,
    )  # fmt: skip
    into.add_(partial.sum(0))


def beats(s: Tensor, u: Tensor, weights: Tensor, into: Tensor, portable: Any) -> bool:
    """Whether the kernel is faster than `portable` on this shape, measured the first time."""
    key = (tuple(s.shape[1:]) + tuple(u.shape[2:]), s.dtype, str(devices.name(s.device)))
    if key not in _faster:
        portion = min(len(s), 64)
        arguments = s[:portion], u[:portion], weights[:portion], torch.zeros_like(into)
        _faster[key] = _milliseconds(fused_squares, arguments) < _milliseconds(portable, arguments)
    return _faster[key]


def _milliseconds(run: Any, arguments: tuple[Tensor, ...]) -> float:
    run(*arguments)  # compiles
    return devices.milliseconds(arguments[0].device, lambda: run(*arguments), 3)
