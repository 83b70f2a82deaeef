"""Curvature of many samples at one tensor: quadratic forms and the Jacobian rows below them.

The chain route writes the Hessian of the loss in a tensor t, sample by sample, as a sum over
*sources*: Hₜ = Σ_s Bᵀ Q B, with Q the source's quadratic form (m x m) and B = ds/dt its m Jacobian
rows. Most of both have structure, and using it is what makes the route fast: rows are the identity
or the same for all samples before the first operation that differs between samples, and the
curvature of an elementwise function is diagonal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hessian._loss import softmax as _softmax
from hessian._loss.dry_run import evaluated, shape_only
from hessian._loss.rows import Cost, JacobianRows
from hessian._runtime.matrix_products import product
from hessian._runtime.workspace import scratch


@dataclass
class Quadratic:
    """A quadratic form in m values of every sample.

    `kind` is ``"diagonal"`` (`values` ``[n, m]``), ``"full"`` (`values` ``[n, m, m]``, symmetric),
    or ``"softmax"``, the second derivative of q functions t_s log softmax: Σ_s t_s ((Σ_{i in s} p_i
    x_i)² - Σ_{i in s} p_i x_i²) with t in `values` ``[n, q]``, p in `shares` ``[n, m]`` and the s
    of every i in `spots` ``[m]``.

    With `parts` b > 1 only values of the same part meet, the m being cut into b contiguous ones
    of one size: a full form has `values` ``[n·b, m/b, m/b]``, the q of a softmax are b such parts.
    """

    kind: str
    values: Tensor
    shares: Tensor | None = None
    spots: Tensor | None = None
    parts: int = 1

    @property
    def grain(self) -> int:
        """Into how many parts the form can be cut; 0 for a diagonal one, which any number cuts."""
        return 0 if self.kind == "diagonal" else self.parts

    def cut(self, blocks: int, n: int) -> Quadratic:
        """The form of each of as many parts, a sample each; `grain` must be a multiple of them."""
        if blocks == 1 and (self.parts == 1 or self.kind == "softmax"):
            return self
        v = self.values
        if self.kind == "diagonal":
            return Quadratic("diagonal", _in_rows(v, n * blocks))
        if self.kind == "softmax":
            shares, each = _in_rows(self._shares(), n * blocks), self.parts // blocks
            assert self.spots is not None
            spots = None if each == 1 else self.spots[: shares.shape[1]]
            return Quadratic("softmax", _in_rows(v, n * blocks), shares, spots, each)
        m = self.parts * v.shape[1]
        rows = JacobianRows(m, m, v, blocks=self.parts)
        return Quadratic("full", rows.cut(blocks, v, n))

    def of(self, part: slice) -> Quadratic:
        """That of some samples."""
        shares = None if self.shares is None else self.shares[part]
        return Quadratic(self.kind, self.values[part], shares, self.spots, self.parts)

    def emptied(self) -> Quadratic:
        """The same for one sample without values."""
        shares = None if self.shares is None else shape_only((1, *self.shares.shape[1:]))
        rows = self.parts if self.kind == "full" else 1
        values = shape_only((rows, *self.values.shape[1:]))
        return Quadratic(self.kind, values, shares, self.spots, self.parts)

    def size(self) -> int:
        """Values held per sample."""
        entries = self.values.numel() + (0 if self.shares is None else self.shares.numel())
        parts = self.parts if self.kind == "full" else 1
        return parts * entries // max(1, self.values.shape[0])

    def matrix(self) -> Tensor:
        """The form written out, ``[n, m, m]``."""
        v = self.values
        if self.kind == "diagonal":
            return torch.diag_embed(v)
        if self.kind == "full":
            return v
        shares, diagonal = self._shares(), self._own()
        full = diagonal.unsqueeze(2) * -shares.unsqueeze(1)
        if v.shape[1] > 1:
            assert self.spots is not None
            full *= self.spots.unsqueeze(1) == self.spots
        full.diagonal(dim1=1, dim2=2).copy_(diagonal * self._complements())
        return full

    def _shares(self) -> Tensor:
        assert self.shares is not None
        return self.shares

    def _own(self) -> Tensor:
        """-t p: the diagonal part of a softmax's form, ``[n, m]``."""
        t = self.values
        if t.shape[1] > 1:
            assert self.spots is not None
            t = t[:, self.spots]
        return -t * self._shares()

    def _complements(self) -> Tensor:
        """1 - p of a softmax's form, ``[n, m]``."""
        p, q = self._shares(), self.values.shape[1]
        if q == 1:
            return _softmax.complements(p)
        order = _softmax.order_of(self.spots, p.shape[1], q, p)
        complements = torch.empty_like(p)
        complements[:, order] = _softmax.complements(p[:, order])
        return complements

    @cached_property
    def _sharp(self) -> Tensor | None:
        """Samples of which a softmax's form is not to be taken as a difference, if any."""
        shares = self._shares()
        if not shares.numel() or float(shares.max()) <= _softmax.SHARP:
            return None
        return (shares > _softmax.SHARP).any(1).nonzero()[:, 0]

    def _contrasts(
        self, columns: JacobianRows, samples: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Samples, rows ``[n, r, d]`` without `scale` and weights ``[n, r]``, in float64.

        A softmax's form is the weighted sum of the rows' squares.
        """
        q, base = self.values.shape[1], columns.base
        assert base is not None
        order = _softmax.order_of(self.spots, columns.m, q, base)
        each = max(1, _softmax.CHUNK // max(1, columns.m * columns.d))
        for part in samples.split(each):
            p = self._shares()[part].to(torch.float64)[:, order]
            rows = (base if base.dim() == 2 else base[part]).to(torch.float64)
            later = _softmax.tails(p)
            rows = _softmax.contrasts(p, later, rows[..., order, :])
            weights = _softmax.weights(p, later) * -self.values[part].to(torch.float64).unsqueeze(2)
            yield part, rows.flatten(1, 2), weights.flatten(1)

    def _means(self, columns: JacobianRows) -> Tensor:
        """Σ_{i in s} p_i B_i of a softmax's form, without `scale`: ``[n, q, d]``."""
        shares, q = self._shares().unsqueeze(1), self.values.shape[1]
        if q > 1:
            assert self.spots is not None
            positions = torch.arange(q, device=shares.device)
            shares = shares * (self.spots == positions.unsqueeze(1))
        return columns.left(shares)

    def _work(self, columns: JacobianRows, each: int) -> float:
        """Multiplications before rows meet rows, and `each` for every one of them."""
        m, d = columns.m, columns.d
        if columns.identity:
            return 0.0
        if self.kind == "softmax":
            q = self.values.shape[1]
            return float(m * each + q * (m * d + each))
        return float(m * each + (m * m * d if self.kind == "full" else 0))

    def diagonal(self, columns: JacobianRows, meter: Cost) -> Tensor:
        """The diagonal of Bᵀ Q B, ``[n, d]``."""
        v, d = self.values, columns.d
        meter.work += self._work(columns, d)
        return evaluated(v, (v.shape[0], d), lambda: self._diagonal(columns))

    def _diagonal(self, columns: JacobianRows) -> Tensor:
        v = self.values
        if self.kind == "full":
            if columns.base is None:
                values = v.diagonal(dim1=1, dim2=2)
            else:
                values = columns.left(v).mul_(columns.base).sum(1)
        elif self.kind == "softmax":
            values = self._own()
            if columns.base is None:
                values = values * self._complements()
            else:
                values = _weighted_squares(values, columns.base)
                means = self._means(columns).square_()
                values = values + (means[:, 0] * v if v.shape[1] == 1 else
                             (v.unsqueeze(1) @ means)[:, 0])  # fmt: skip
                sharp = self._sharp
                for part, rows, w in () if sharp is None else self._contrasts(columns, sharp):
                    values[part] = (w.unsqueeze(1) @ rows.square_())[:, 0].to(values.dtype)
        else:
            values = v if columns.base is None else _weighted_squares(v, columns.base)
        return values if columns.scale is None else values * columns.scale.square()

    def blocks(self, columns: JacobianRows, place: Tensor, meter: Cost) -> Tensor:
        """Bᵀ Q B between entries `place` ``[c, p]`` of the same c: ``[n, c, p, p]``."""
        v, (c, p) = self.values, place.shape
        meter.work += self._work(columns, c * p * p)
        meter.peak = max(meter.peak, 3 * c * p * p + 4 * columns.size())
        return evaluated(v, (v.shape[0], c, p, p), lambda: self._blocks(columns, place))

    def _blocks(self, columns: JacobianRows, place: Tensor) -> Tensor:
        v = self.values
        n = v.shape[0]
        if columns.identity and self.kind == "full":
            values = v[:, place.unsqueeze(2), place.unsqueeze(1)]
        elif columns.identity and self.kind == "softmax":
            diagonal, shares = self._own()[:, place], self._shares()[:, place]
            values = diagonal.unsqueeze(3) * -shares.unsqueeze(2)
            if v.shape[1] > 1:
                assert self.spots is not None
                spots = self.spots[place]
                values *= spots.unsqueeze(2) == spots.unsqueeze(1)
            values.diagonal(dim1=2, dim2=3).copy_(diagonal * self._complements()[:, place])
        elif columns.identity and self.kind == "diagonal":
            values = torch.diag_embed(v[:, place])
        else:
            base = columns.matrix(v, n)
            picked = base[..., place].transpose(-3, -2)  # [.., c, m, p]
            if self.kind == "full":
                left = columns.left(v)[..., place].transpose(-3, -2)
                values = left.transpose(-1, -2) @ picked
            else:
                weights = self._own() if self.kind == "softmax" else v
                values = (picked * weights.view(n, 1, -1, 1)).transpose(-1, -2) @ picked
                if self.kind == "softmax":
                    means = self._means(columns)[..., place].transpose(-3, -2)  # [n, c, q, p]
                    values += (means * v.view(n, 1, -1, 1)).transpose(-1, -2) @ means
                    sharp = self._sharp
                    for part, rows, w in () if sharp is None else self._contrasts(columns, sharp):
                        x = rows[..., place].transpose(1, 2)  # [n, c, r, p]
                        square = (x * w.view(len(part), 1, -1, 1)).transpose(-1, -2) @ x
                        values[part] = square.to(values.dtype)
        if columns.scale is not None:
            scale = columns.scale[:, place]
            values = values.mul_(scale.unsqueeze(3)).mul_(scale.unsqueeze(2))
        return values

    def gram(self, columns: JacobianRows, meter: Cost) -> Tensor:
        """Bᵀ Q B, ``[n, d, d]``."""
        v, d = self.values, columns.d
        meter.work += self._work(columns, d * d)
        meter.peak = max(meter.peak, 2 * d * d + 2 * columns.size())
        return evaluated(v, (v.shape[0], d, d), lambda: self._gram(columns))

    def _gram(self, columns: JacobianRows) -> Tensor:
        v, d = self.values, columns.d
        n = v.shape[0]
        if self.kind == "full":
            product = v if columns.identity else _transposed_times(columns.left(v), columns)
        elif columns.base is None:
            product = self.matrix()
        elif self.kind == "softmax":
            product = _transposed_times(columns.base * self._own().unsqueeze(-1), columns)
            means = self._means(columns)
            product = product + (means * v.unsqueeze(2)).transpose(1, 2) @ means
            sharp = self._sharp
            for part, rows, w in () if sharp is None else self._contrasts(columns, sharp):
                product[part] = ((rows * w.unsqueeze(2)).transpose(1, 2) @ rows).to(product.dtype)
        else:
            product = _transposed_times(columns.base * v.unsqueeze(-1), columns)
        if columns.scale is not None:
            product = product * columns.scale.unsqueeze(2) * columns.scale.unsqueeze(1)
        return product.expand(n, d, d)


def _in_rows(values: Tensor, count: int) -> Tensor:
    """The same numbers in so many rows."""
    shape = (count, values.numel() // max(1, count))
    return evaluated(values, shape, lambda: values.reshape(shape))


def _weighted_squares(weights: Tensor, rows: Tensor) -> Tensor:
    """Σ_i w_i rows_i², weights ``[n, m]``, rows ``[m, d]`` or ``[n, m, d]``: ``[n, d]``."""
    square = torch.mul(rows, rows, out=scratch("squares", rows.shape, rows))
    return product(weights, square) if rows.dim() == 2 else (weights.unsqueeze(1) @ square)[:, 0]


def _transposed_times(left: Tensor, columns: JacobianRows) -> Tensor:
    """Lᵀ B for L ``[n, m, d]`` and the rows B without scale."""
    assert columns.base is not None
    turned = left.transpose(1, 2)
    if columns.base.dim() == 3:
        return turned @ columns.base
    # One large product instead of n small ones.
    n, d, m = turned.shape
    return (turned.reshape(n * d, m) @ columns.base).view(n, d, columns.d)
