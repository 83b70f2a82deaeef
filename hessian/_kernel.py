"""A fused kernel for the squares of a convolution's per-sample gradients on a GPU."""

from __future__ import annotations

from torch import Tensor


def serves(into: Tensor) -> bool:
    return False


def squares(s: Tensor, u: Tensor, signs: Tensor, into: Tensor) -> None:
    raise NotImplementedError
