"""Curvature of many samples at one tensor: quadratic forms and the Jacobian rows below them.

The chain route writes the Hessian of the loss in a tensor t, sample by sample, as a sum over
*sources*: Hₜ = Σ_s Bᵀ Q B, with Q the source's quadratic form (m x m) and B = ds/dt its m Jacobian
rows. Most of both have structure, and using it is what makes the route fast: rows are the identity
or the same for all samples before the first operation that differs between samples, and the
curvature of an elementwise function is diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Meter:
    """Multiplications per sample, and the largest number of values per sample alive at once."""

    work: float = 0.0
    peak: float = 0.0


@dataclass
class Columns:
    """Jacobian rows ``[m, d]`` of every sample: `base` ∘ `scale`.

    `base` is ``None`` (the identity), ``[m, d]`` (the same for all samples) or ``[n, m, d]``;
    `scale` is ``None`` or ``[n, d]``.
    """

    m: int
    d: int
    base: Tensor | None = None
    scale: Tensor | None = None

    @property
    def identity(self) -> bool:
        """Whether the rows are the identity, up to `scale`."""
        return self.base is None

    @property
    def shared(self) -> bool:
        """Whether all samples have the same rows."""
        return self.scale is None and (self.base is None or self.base.dim() == 2)

    def size(self) -> int:
        """Values held per sample (shared ones count once, as if there were one sample)."""
        return 0 if self.base is None else self.m * self.d

    def scaled(self, factor: Tensor) -> Columns:
        """With entry j of the tensor multiplied by `factor` ``[n, d]``."""
        scale = factor if self.scale is None else self.scale * factor
        return Columns(self.m, self.d, self.base, scale)

    def times(self, number: float) -> Columns:
        """Multiplied by a number."""
        if number == 1.0:
            return self
        if self.base is None:
            raise ValueError("an identity has no dtype to be scaled in")
        return Columns(self.m, self.d, self.base * number, self.scale)

    def matrix(self, like: Tensor) -> Tensor:
        """The rows without `scale`, ``[m, d]`` or ``[n, m, d]``."""
        if self.base is None:
            return torch.eye(self.m, dtype=like.dtype, device=like.device)
        return self.base

    def dense(self, like: Tensor, n: int) -> Tensor:
        """The rows written out, ``[n, m, d]``."""
        base = self.matrix(like)
        if self.scale is not None:
            return base * self.scale.unsqueeze(1)
        return base.expand(n, self.m, self.d) if base.dim() == 2 else base

    def plus(self, other: Columns, like: Tensor, n: int) -> Columns:
        """The sum of two sets of rows."""
        if self.shared and other.shared:
            return Columns(self.m, self.d, self.matrix(like) + other.matrix(like))
        return Columns(self.m, self.d, self.dense(like, n) + other.dense(like, n))

    def left(self, matrix: Tensor) -> Tensor:
        """`matrix` ``[n, a, m]`` times the rows without `scale`: ``[n, a, d]``."""
        if self.base is None:
            return matrix
        return matrix @ self.base

    def sliced(self, rows: slice) -> Columns:
        """Some of the rows."""
        if self.base is None:
            raise ValueError("the rows of an identity are not sliced")
        base = self.base[rows] if self.base.dim() == 2 else self.base[:, rows]
        return Columns(base.shape[-2], self.d, base, self.scale)


@dataclass
class Quadratic:
    """A quadratic form in m values of every sample.

    `kind` is ``"diagonal"`` (`values` ``[n, m]``), ``"pair"`` (2 Σ_i v_i x_i x_{i+m/2}, `values`
    ``[n, m/2]``) or ``"full"`` (`values` ``[n, m, m]``, symmetric).
    """

    kind: str
    values: Tensor

    def _halves(self, columns: Columns) -> tuple[Tensor, Tensor]:
        base = columns.matrix(self.values)
        half = columns.m // 2
        return base[..., :half, :], base[..., half:, :]

    def _weighted(self, base: Tensor) -> Tensor:
        return base * self.values.unsqueeze(-1)

    def diagonal(self, columns: Columns, meter: Meter) -> Tensor:
        """The diagonal of Bᵀ Q B, ``[n, d]``."""
        v, m, d = self.values, columns.m, columns.d
        if self.kind == "full":
            if columns.identity:
                got = v.diagonal(dim1=1, dim2=2)
            else:
                assert columns.base is not None
                got = (columns.left(v) * columns.base).sum(1)
                meter.work += m * m * d
        elif self.kind == "pair":
            a, b = self._halves(columns)
            both = a * b
            got = 2 * (v @ both if both.dim() == 2 else (v.unsqueeze(1) @ both)[:, 0])
            meter.work += m * d
        elif columns.base is None:
            got = v
        else:
            square = columns.base.square()
            got = v @ square if square.dim() == 2 else (v.unsqueeze(1) @ square)[:, 0]
            meter.work += m * d
        return got if columns.scale is None else got * columns.scale.square()

    def blocks(self, columns: Columns, place: Tensor, meter: Meter) -> Tensor:
        """Bᵀ Q B between entries `place` ``[c, p]`` of the same c: ``[n, c, p, p]``."""
        v, (c, p) = self.values, place.shape
        n = v.shape[0]
        if columns.identity and self.kind == "full":
            got = v[:, place.unsqueeze(2), place.unsqueeze(1)]
        elif columns.identity and self.kind == "diagonal":
            got = torch.diag_embed(v[:, place])
        else:
            meter.work += columns.m * c * p * p
            base = columns.matrix(v)
            picked = base[..., place].transpose(-3, -2)  # [.., c, m, p]
            if self.kind == "full":
                meter.work += columns.m**2 * columns.d
                left = columns.left(v)[..., place].transpose(-3, -2)
                got = left.transpose(-1, -2) @ picked
            elif self.kind == "pair":
                half = columns.m // 2
                a, b = picked[..., :half, :], picked[..., half:, :]
                got = (a * v.view(n, 1, half, 1)).transpose(-1, -2) @ b
                got = got + got.transpose(-1, -2)
            else:
                got = (picked * v.view(n, 1, -1, 1)).transpose(-1, -2) @ picked
        if columns.scale is not None:
            scale = columns.scale[:, place]
            got = got * scale.unsqueeze(3) * scale.unsqueeze(2)
        return got

    def gram(self, columns: Columns, meter: Meter) -> Tensor:
        """Bᵀ Q B, ``[n, d, d]``."""
        v, m, d = self.values, columns.m, columns.d
        n = v.shape[0]
        if self.kind == "full":
            got = v
            if not columns.identity:
                left = columns.left(v)  # [n, m, d] = Q B
                got = _transposed_times(left, columns)
                meter.work += m * m * d + m * d * d
        elif self.kind == "pair":
            a, b = self._halves(columns)
            got = _transposed_times(self._weighted(a), Columns(m // 2, d, b))
            got = got + got.transpose(1, 2)
            meter.work += m * d * d / 2
        elif columns.base is None:
            got = torch.diag_embed(v)
        else:
            got = _transposed_times(self._weighted(columns.base), columns)
            meter.work += m * d * d
        if columns.scale is not None:
            got = got * columns.scale.unsqueeze(2) * columns.scale.unsqueeze(1)
        meter.peak = max(meter.peak, 2 * d * d + m * d)
        return got.expand(n, d, d)


def _transposed_times(left: Tensor, columns: Columns) -> Tensor:
    """Lᵀ B for L ``[n, m, d]`` and the rows B without scale."""
    assert columns.base is not None
    turned = left.transpose(1, 2)
    if columns.base.dim() == 3:
        return turned @ columns.base
    # One large product instead of n small ones.
    n, d, m = turned.shape
    return (turned.reshape(n * d, m) @ columns.base).view(n, d, columns.d)
