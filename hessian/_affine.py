"""Affine route: h = Σ_n Σ_c λ_c (J_nᵀ S_c)², exact where d²f/dw² = 0.

With f the network's outputs, L(f(w)) has d²L/dw² = (df/dw)ᵀ H (df/dw) + Σ dL/df · d²f/dw². The last
term vanishes for a parameter whose single entries the outputs are affine in, and H = Σ λ_c S_c S_cᵀ
turns the first into squares of pulled-back columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from hessian._loss import Factor, by_sample
from hessian._site import Gram, Site, sum_of_squares
from hessian._tape import Edge

Tick = Callable[[int], None]


@dataclass
class Target:
    """A parameter on this route: its uses and the tensor its diagonal is added to."""

    parameter: Tensor
    sites: list[Site]
    into: Tensor


def by_sites(
    outputs: Sequence[Tensor],
    factor: Factor,
    targets: Sequence[Target],
    memory: int,
    tick: Tick,
) -> None:
    """All samples in one pass per column: r backward passes, whatever the number of parameters.

    Valid where the loss and the way from the parameter to the outputs keep samples apart: then
    the adjoint at a site holds each sample's own, and squares are taken sample by sample.
    """
    if not factor.rank or not targets:
        return
    layouts = {site.edge: site.layout for target in targets for site in target.sites}
    edges = list(layouts)
    n = int(factor.weights.shape[1])
    squares: dict[Edge, Tensor] = {}
    grams = {
        i: Gram(target.sites[0], n, target.into)
        for i, target in enumerate(targets)
        if len(target.sites) == 1
        and Gram.pays(target.sites[0], target.into, n, factor.rank, memory)
    }
    for c in range(factor.rank):
        got = torch.autograd.grad(
            list(outputs),
            [GradientEdge(*edge) for edge in edges],
            [columns[c] for columns in factor.columns],
            retain_graph=True,
            allow_unused=True,
        )
        adjoints = {
            edge: by_sample(g, layouts[edge], n)
            for edge, g in zip(edges, got, strict=True)
            if g is not None
        }
        weights = factor.weights[c]
        squared: set[Edge] = set()
        for i, target in enumerate(targets):
            used = [site for site in target.sites if site.edge in adjoints]
            if not used:
                continue
            if len(used) == 1 and used[0].outer is not None:
                # One position: Σ_c commutes with the product, so only adjoints are squared here.
                edge = used[0].edge
                if edge not in squared:
                    squared.add(edge)
                    a = adjoints[edge][:, 0]
                    weighted = a.square() * weights.unsqueeze(1)
                    squares[edge] = squares[edge] + weighted if edge in squares else weighted
                continue
            if i in grams:
                grams[i].add(adjoints[used[0].edge], weights)
                continue
            sum_of_squares(
                used, [adjoints[s.edge] for s in used], weights, target.parameter.shape, memory,
                target.into,
            )  # fmt: skip
        tick(1)
    for i, gram in grams.items():
        gram.finish(memory, targets[i].into)
    for target in targets:
        site = target.sites[0]
        if len(target.sites) == 1 and site.outer is not None and site.edge in squares:
            s2, u2 = squares[site.edge], site.outer.square()
            pair = (u2.T, s2) if site.transposed else (s2.T, u2)
            target.into.addmm_(*pair, alpha=site.scale**2)


def by_columns(
    outputs: Sequence[Tensor],
    factor: Factor,
    parameters: Sequence[Tensor],
    into: Sequence[Tensor],
    tape_bytes: int,
    memory: int,
    tick: Tick,
    split: Callable[[Tensor, int, int], Tensor] | None,
) -> None:
    """One backward pass per column *and sample*: h = Σ λ_c (Jᵀ S_c)² for whatever use.

    Needs affinity only: parameters used in ways `by_sites` does not know, and networks that
    couple samples above the parameter. `split(columns, c, sample)` masks a column of leaf l to
    one sample; ``None`` where the factor couples samples already.
    """
    n = 1 if split is None else int(factor.weights.shape[1])
    total = factor.rank * n
    each = 2 * tape_bytes + sum(p.numel() * p.element_size() for p in parameters)
    chunk = max(1, min(total, memory // max(1, each)))
    for start in range(0, total, chunk):
        jobs = [(k // n, k % n) for k in range(start, min(total, start + chunk))]
        if split is None:
            cotangents = [torch.stack([cols[c] for c, _ in jobs]) for cols in factor.columns]
            weights = torch.stack([factor.weights[c] for c, _ in jobs])
        else:
            cotangents = [
                torch.stack([split(cols[c], leaf, s) for c, s in jobs])
                for leaf, cols in enumerate(factor.columns)
            ]
            weights = torch.stack([factor.weights[c, s] for c, s in jobs])
        for got, scale in _pull_back(outputs, parameters, cotangents, weights):
            for tensor, g in zip(into, got, strict=True):
                if g is not None:
                    tensor.add_(torch.tensordot(scale, g.square(), 1))
        tick(len(jobs))


def _pull_back(
    outputs: Sequence[Tensor],
    parameters: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    weights: Tensor,
) -> list[tuple[tuple[Tensor | None, ...], Tensor]]:
    """Gradients for a stack of cotangents: in one batched pass, else one by one."""
    rows = int(weights.shape[0])
    if rows > 1:
        try:
            got = torch.autograd.grad(
                list(outputs), list(parameters), list(cotangents),
                retain_graph=True, allow_unused=True, is_grads_batched=True,
            )  # fmt: skip
            return [(got, weights)]
        except (RuntimeError, NotImplementedError):
            pass  # an operation without a batching rule
    result: list[tuple[tuple[Tensor | None, ...], Tensor]] = []
    for row in range(rows):
        single = torch.autograd.grad(
            list(outputs), list(parameters), [c[row] for c in cotangents],
            retain_graph=True, allow_unused=True,
        )  # fmt: skip
        result.append(
            (tuple(None if g is None else g.unsqueeze(0) for g in single), weights[row : row + 1])
        )
    return result
