"""How well a sample's second derivative stands for the population's.

Exact on a batch is not exact on the population. With ℓ_i the loss of sample i alone and
L = Σ α_i ℓ_i, h = Σ α_i h_i is a weighted mean (times A = Σ α_i) of independent h_i, and

    SE² = n/(n-1) Σ α_i² (h_i - h/A)²

estimates its variance: Σ (h_i - h)² / (n (n-1)) for a plain mean, and the linearised ratio
estimator (Cochran 1977, section 6.4) where samples weigh differently.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hessian import trees
from hessian._batch.analysis import Analysis, analysed
from hessian._batch.parts import Parts
from hessian._call import data as _data
from hessian._call.batches import Batch
from hessian._loss.output_hessian import by_sample

REMEDY = (
    "samples are coupled (batch norm in training mode, a loss over pairs), dropout is on, or the "
    "loss is no weighted mean or sum over samples; call model.eval(), change the loss, or leave "
    "standard_error out"
)


class Spread:
    """Second derivatives of samples one by one, as their weights and two moments."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0  # A
        self.mass = 0.0  # Σ α²
        self.mean: dict[str, Tensor] = {}  # of h_i, by α²
        self.moment: dict[str, Tensor] = {}  # Σ α² (h_i - mean)²
        self.sum: dict[str, Tensor] = {}  # Σ α h_i
        self.own: dict[str, Tensor] = {}  # what the loss adds of its own accord, in every sample

    def add(self, batch: Batch, whole: Analysis | Parts) -> None:
        """Take every sample of a batch, `whole` being the batch before it was run."""
        n = whole.samples
        shares = _gradients(whole, n, batch.index)
        largest = max(float(s.norm()) for s in shares)
        loose = 10 * torch.finfo(shares[0].dtype).eps ** 0.5
        later: list[dict[str, Tensor]] = []
        known: list[float] = []
        for i, share in enumerate(shares):
            batch.start.rewind()
            try:
                alone = analysed(
                    batch.objective,
                    part(batch.inputs, i, n),
                    part(batch.targets, i, n),
                    batch.index,
                )
            except ValueError as error:
                if "loss is nan" in str(error) and not bool(share.any()):
                    self.count += 1  # an ignored target: no weight, no share
                    continue
                raise ValueError(
                    f"standard_error: sample {i} of batch {batch.index} cannot be taken alone "
                    f"({error}); {REMEDY}"
                ) from error
            (gradient,) = _gradients(alone, 1, batch.index)
            loss_diagonal = {name: h.clone() for name, h in alone.separable_terms().items()}
            size = float(gradient.square().sum())
            a = float((share * gradient).sum()) / size if size else float("nan")
            if size and float((share - a * gradient).norm()) > loose * largest:
                raise ValueError(
                    f"standard_error: sample {i} of batch {batch.index} alone does not have the "
                    f"derivative that it has in the batch; {REMEDY}"
                )
            h, _ = alone.run(lambda _: None)
            for name, term in loss_diagonal.items():
                h[name] -= term
                self.own[name] = term
            if size:
                known.append(a)
                self._take(batch.a * a, h)
            else:  # no slope tells its weight: that of the others on average
                later.append(h)
        for h in later:
            self._take(batch.a * (sum(known) / len(known) if known else 1 / n), h)

    def _take(self, weight: float, h: dict[str, Tensor]) -> None:
        self.count += 1
        self.total += weight
        before, self.mass = self.mass, self.mass + weight**2
        for name, value in h.items():
            if name not in self.mean:
                self.mean[name], self.moment[name], self.sum[name] = (
                    torch.zeros_like(value) for _ in range(3)
                )
            self.sum[name] += weight * value
            step = value - self.mean[name]
            self.mean[name] += step * (weight**2 / self.mass)
            self.moment[name] += step.square() * (weight**2 * before / self.mass)

    def standard_error(self, h: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
        """The standard error of every entry of h, the batches' weights being scaled by `factor`."""
        if self.count < 2:
            raise ValueError(
                f"standard_error needs at least two samples, got {self.count}; pass more data"
            )
        errors = {}
        top = max((float(v.abs().max()) for v in h.values() if v.numel()), default=0.0)
        for name, value in h.items():
            if name not in self.sum:
                errors[name] = torch.zeros_like(value)
                continue
            rest = value - self.own[name] if name in self.own else value
            gap = float((factor * self.sum[name] - rest).abs().max()) if value.numel() else 0.0
            loose = 100 * torch.finfo(value.dtype).eps ** 0.5
            if gap > loose * max(float(value.abs().max()), 1e-3 * top):
                raise ValueError(
                    f"standard_error: the second derivatives of single samples do not add up to "
                    f"that of the loss in parameter {name!r}; {REMEDY}"
                )
            center = self.sum[name] / self.total
            square = self.moment[name] + self.mass * (self.mean[name] - center).square()
            errors[name] = factor * (square * (self.count / (self.count - 1))).sqrt()
        return errors


def _gradients(analysis: Analysis | Parts, n: int, index: int) -> list[Tensor]:
    """dL/d(output) of every sample, flat."""
    leaves = analysis.slopes
    layouts = analysis.layouts
    if n == 1:  # one sample needs no layout
        return (
            [torch.cat([g.reshape(-1) for g in leaves])]
            if leaves
            else [torch.zeros(1, device="cpu")]
        )
    if not layouts or len(layouts) != len(leaves):
        raise ValueError(f"standard_error: batch {index} cannot be taken apart; {REMEDY}")
    rows = [by_sample(g, lay, n).reshape(n, -1) for g, lay in zip(leaves, layouts, strict=True)]
    return list(torch.cat(rows, 1))


def part(values: Any, i: int, n: int) -> Any:
    """Sample i of n: its rows of every tensor whose first axis n divides."""

    def cut(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() == 0 or leaf.shape[0] % n:
            return leaf
        each = leaf.shape[0] // n
        return leaf[i * each : (i + 1) * each]

    return trees.mapped(cut, _data._plain(values))
