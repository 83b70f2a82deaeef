"""Curvature of many samples at one tensor: quadratic forms and the Jacobian rows below them.

The chain route writes the Hessian of the loss in a tensor t, sample by sample, as a sum over
*sources*: Hₜ = Σ_s Bᵀ Q B, with Q the source's quadratic form (m x m) and B = ds/dt its m Jacobian
rows. Most of both have structure, and using it is what makes the route fast: rows are the identity
or the same for all samples before the first operation that differs between samples, and the
curvature of an elementwise function is diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hessian._product import product


@dataclass
class Meter:
    """Multiplications per sample, and the largest number of values per sample alive at once."""

    work: float = 0.0
    peak: float = 0.0


@dataclass
class Columns:
    """Jacobian rows ``[m, d]`` of every sample: `base` ∘ `scale`.

    `base` is ``None`` (the identity), ``[m, d]`` (the same for all samples) or ``[n, m, d]``;
    `scale` is ``None`` or ``[n, d]``. `fresh` says that nothing else holds `base`.
    """

    m: int
    d: int
    base: Tensor | None = None
    scale: Tensor | None = None
    fresh: bool = False

    @property
    def identity(self) -> bool:
        """Whether the rows are the identity, up to `scale`."""
        return self.base is None

    @property
    def shared(self) -> bool:
        """Whether all samples have the same rows."""
        return self.scale is None and (self.base is None or self.base.dim() == 2)

    def size(self) -> int:
        """Values held per sample; rows that all share are held once, like a weight."""
        return 0 if self.base is None or self.base.dim() == 2 else self.m * self.d

    def of(self, part: slice) -> Columns:
        """Those of some samples."""
        base = self.base if self.base is None or self.base.dim() == 2 else self.base[part]
        scale = None if self.scale is None else self.scale[part]
        return Columns(self.m, self.d, base, scale, self.fresh)

    def scaled(self, factor: Tensor) -> Columns:
        """With entry j of the tensor multiplied by `factor` ``[n, d]``."""
        scale = factor if self.scale is None or factor.is_meta else self.scale * factor
        return Columns(self.m, self.d, self.base, scale, self.fresh)

    def shared_by(self, users: int) -> Columns:
        """The same for one of several users."""
        return self if users == 1 else replace(self, fresh=False)

    def times(self, number: float, like: Tensor) -> Columns:
        """Multiplied by a number."""
        if number == 1.0:
            return self
        base = self.matrix(like)
        return Columns(self.m, self.d, base if like.is_meta else base * number, self.scale)

    def matrix(self, like: Tensor) -> Tensor:
        """The rows without `scale`, ``[m, d]`` or ``[n, m, d]``."""
        if self.base is None:
            if like.is_meta:
                return like.new_empty((self.m, self.d))
            return torch.eye(self.m, dtype=like.dtype, device=like.device)
        return self.base

    def dense(self, like: Tensor, n: int) -> Tensor:
        """The rows written out, ``[n, m, d]``."""
        if like.is_meta:
            return like.new_empty((1, self.m, self.d))
        base = self.matrix(like)
        if self.scale is not None:
            return base * self.scale.unsqueeze(1)
        return base.expand(n, self.m, self.d) if base.dim() == 2 else base

    def written(self, like: Tensor, n: int) -> Columns:
        """The same rows written out, in place where nothing else holds them."""
        if self.fresh and self.base is not None and self.base.dim() == 3:
            base = self.base
            if self.scale is not None:
                base *= self.scale.unsqueeze(1)
            return Columns(self.m, self.d, base, None, True)
        return Columns(self.m, self.d, self.dense(like, n))

    def plus(self, other: Columns, like: Tensor, n: int) -> Columns:
        """The sum of two sets of rows."""
        if like.is_meta:
            shared = self.shared and other.shared
            shape = (self.m, self.d) if shared else (1, self.m, self.d)
            return Columns(self.m, self.d, like.new_empty(shape))
        if self.shared and other.shared:
            return Columns(self.m, self.d, self.matrix(like) + other.matrix(like))
        return Columns(self.m, self.d, self.dense(like, n) + other.dense(like, n))

    def left(self, matrix: Tensor) -> Tensor:
        """`matrix` ``[n, a, m]`` times the rows without `scale`: ``[n, a, d]``."""
        if self.base is None:
            return matrix
        if self.base.dim() == 2:  # one large product instead of n small ones
            return product(matrix.flatten(0, 1), self.base).view(*matrix.shape[:2], self.d)
        return matrix @ self.base


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
        full = self.kind == "full"
        meter.work += (0 if columns.identity else m * d) * (m if full else 1)
        if v.is_meta:
            return v.new_empty((1, d))
        if full:
            if columns.base is None:
                got = v.diagonal(dim1=1, dim2=2)
            else:
                got = columns.left(v).mul_(columns.base).sum(1)
        elif self.kind == "pair":
            a, b = self._halves(columns)
            both = a * b
            got = 2 * (v @ both if both.dim() == 2 else (v.unsqueeze(1) @ both)[:, 0])
        elif columns.base is None:
            got = v
        else:
            square = columns.base.square()
            got = product(v, square) if square.dim() == 2 else (v.unsqueeze(1) @ square)[:, 0]
        return got if columns.scale is None else got * columns.scale.square()

    def blocks(self, columns: Columns, place: Tensor, meter: Meter) -> Tensor:
        """Bᵀ Q B between entries `place` ``[c, p]`` of the same c: ``[n, c, p, p]``."""
        v, m, (c, p) = self.values, columns.m, place.shape
        n, full = v.shape[0], self.kind == "full"
        if not columns.identity:
            meter.work += m * c * p * p + (m * m * columns.d if full else 0)
        meter.peak = max(meter.peak, 3 * c * p * p + 4 * columns.size())
        if v.is_meta:
            return v.new_empty((1, c, p, p))
        if columns.identity and full:
            got = v[:, place.unsqueeze(2), place.unsqueeze(1)]
        elif columns.identity and self.kind == "diagonal":
            got = torch.diag_embed(v[:, place])
        else:
            base = columns.matrix(v)
            picked = base[..., place].transpose(-3, -2)  # [.., c, m, p]
            if full:
                left = columns.left(v)[..., place].transpose(-3, -2)
                got = left.transpose(-1, -2) @ picked
            elif self.kind == "pair":
                half = m // 2
                a, b = picked[..., :half, :], picked[..., half:, :]
                got = (a * v.view(n, 1, half, 1)).transpose(-1, -2) @ b
                got = got + got.transpose(-1, -2)
            else:
                got = (picked * v.view(n, 1, -1, 1)).transpose(-1, -2) @ picked
        if columns.scale is not None:
            scale = columns.scale[:, place]
            got = got.mul_(scale.unsqueeze(3)).mul_(scale.unsqueeze(2))
        return got

    def gram(self, columns: Columns, meter: Meter) -> Tensor:
        """Bᵀ Q B, ``[n, d, d]``."""
        v, m, d = self.values, columns.m, columns.d
        n, full = v.shape[0], self.kind == "full"
        if not columns.identity:
            meter.work += m * d * (d + (m if full else 0))
        meter.peak = max(meter.peak, 2 * d * d + 2 * columns.size())
        if v.is_meta:
            return v.new_empty((1, d, d))
        if full:
            got = v if columns.identity else _transposed_times(columns.left(v), columns)
        elif self.kind == "pair":
            a, b = self._halves(columns)
            got = _transposed_times(self._weighted(a), Columns(m // 2, d, b))
            got = got + got.transpose(1, 2)
        elif columns.base is None:
            got = torch.diag_embed(v)
        else:
            got = _transposed_times(self._weighted(columns.base), columns)
        if columns.scale is not None:
            got = got * columns.scale.unsqueeze(2) * columns.scale.unsqueeze(1)
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
