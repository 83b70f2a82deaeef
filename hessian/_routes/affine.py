"""Affine route: h = Σ_n Σ_c λ_c (J_nᵀ S_c)², exact where d²f/dw² = 0.

With f the network's outputs, L(f(w)) has d²L/dw² = (df/dw)ᵀ H (df/dw) + Σ dL/df · d²f/dw². The last
term vanishes for a parameter whose single entries the outputs are affine in, and H = Σ λ_c S_c S_cᵀ
turns the first into squares of pulled-back columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from hessian._loss.factor import Factor
from hessian._loss.output_hessian import by_sample
from hessian._routes import sweep as _sweep
from hessian._routes._chain.chain import Chain
from hessian._runtime import workers as _workers
from hessian._runtime.lanes import pulled_back
from hessian._runtime.share import ALL, Share
from hessian._site.contraction import Contraction
from hessian._site.site import Site
from hessian._site.sums import sum_of_squares
from hessian._tape.graph import Edge, shape

Tick = Callable[[int], None]
# Multiplications from which on threads of our own pay for being started.
LARGE = 2**30


@dataclass
class Target:
    """A parameter on this route: its uses and the tensor its diagonal is added to.

    `fresh` says that nothing was written to `into` yet, not even zeros.
    """

    parameter: Tensor
    sites: list[Site]
    into: Tensor
    fresh: bool = False


def by_sites(
    outputs: Sequence[Tensor],
    factor: Factor,
    targets: Sequence[Target],
    chain: Chain | None,
    memory: int,
    tick: Tick,
    share: Share = ALL,
) -> None:
    """All samples in one pass per column: r backward passes, whatever the number of parameters.

    Valid where the loss and the way from the parameter to the outputs keep samples apart: then
    the adjoint at a site holds each sample's own, and squares are taken sample by sample. Where
    `chain` knows every operation on the way, all columns of a few samples are pulled back at once.
    """
    if not factor.rank or not targets:
        return
    weights = factor.weights.T.contiguous()  # [n, r]
    sites = [site for target in targets for site in target.sites]
    n = int(factor.weights.shape[1])
    if chain is not None and all(chain.obstacle(site) is None for site in sites):
        edges = [torch.autograd.graph.get_gradient_edge(t) for t in outputs]
        tops, needed = {}, chain.above([site.edge for site in sites])
        for edge, columns in zip(edges, factor.columns, strict=True):
            if edge.node not in needed:  # an output beside the way, which may mix samples
                continue
            flat = [chain.where.flat(c, (edge.node, edge.output_nr)) for c in columns]
            tops[edge.node, edge.output_nr] = torch.stack(flat, 1)
        _by_lanes(chain, sites, targets, tops, weights, memory, tick, share)
    else:
        every = sum(_numel(edge) for edge in {site.edge for site in sites})
        chunk = max(1, min(factor.rank, memory // max(1, 2 * every * weights.element_size())))
        squares = _Squares(targets, weights, chunk, memory)
        mine = share.of(factor.rank)
        for start in range(mine.start, mine.stop, chunk):
            portion = slice(start, min(mine.stop, start + chunk))
            _by_engine(outputs, factor, squares, portion)
            squares.close(slice(0, n), portion)
            tick(portion.stop - portion.start)
        squares.finish()


def _by_lanes(
    chain: Chain,
    sites: Sequence[Site],
    targets: Sequence[Target],
    tops: Mapping[Edge, Tensor],
    weights: Tensor,
    memory: int,
    tick: Tick,
    share: Share,
) -> None:
    """By the chain's steps; on a CPU the samples are shared out among threads."""
    # One position a sample: few large products, which the libraries' own threads do as well.
    several = any(site.positions is not None and site.positions.count > 1 for site in sites)
    large = weights.numel() * chain.pass_work() >= LARGE
    lanes = _workers.count(weights) if several and large else 1
    copies = sum(t.into.numel() for t in targets if not postponed(t.sites))
    copies *= weights.element_size()
    while lanes > 1 and copies * (lanes - 1) > memory // 4:
        lanes -= 1
    work = _sweep.Sweep(chain, [site.edge for site in sites], tops, memory, share, lanes)
    work.prepare()
    tiling = work.tiling
    sums = [_Squares(targets, weights, tiling.columns, memory // tiling.lanes)]
    for _ in range(1, tiling.lanes):
        lane_targets = [
            t if postponed(t.sites) else replace(t, into=torch.zeros_like(t.into)) for t in targets
        ]
        sums.append(_Squares(lane_targets, weights, tiling.columns, memory // tiling.lanes))
    done = [0] * tiling.lanes
    told = 0

    def job(lane: int) -> _workers.Job:
        squares = sums[lane]

        def run(check: _workers.Check) -> None:
            def meet(edge: Edge, rows: Tensor, part: slice, columns: slice) -> None:
                check()
                squares.meet(edge, rows, part, columns)

            def ended(part: slice, columns: slice) -> None:
                nonlocal told
                done[lane] += (part.stop - part.start) * (columns.stop - columns.start)
                if lane == 0:  # the calling thread speaks for all
                    now = sum(done) // work.n
                    tick(now - told)
                    told = now

            work.run(lane, meet, squares.close if squares.several else None, ended)

        return run

    _workers.run([job(lane) for lane in range(tiling.lanes)])
    tick(sum(done) // work.n - told)
    for other in sums[1:]:
        sums[0].join(other)
    sums[0].finish()


def postponed(sites: Sequence[Site]) -> bool:
    """Whether nothing is added before all parts were met (`Contraction.finish`)."""
    return len(sites) == 1 and sites[0].outer is not None


def _by_engine(outputs: Sequence[Tensor], factor: Factor, squares: _Squares, some: slice) -> None:
    """Some columns of all samples, by autograd's own backward pass, one at a time."""
    edges = list(squares.layouts)
    n = int(factor.weights.shape[1])
    adjoints: dict[Edge, list[Tensor]] = {}
    for c in range(some.start, some.stop):
        gradients = torch.autograd.grad(
            list(outputs), [GradientEdge(*edge) for edge in edges],
            [columns[c] for columns in factor.columns], retain_graph=True, allow_unused=True,
        )  # fmt: skip
        for edge, g in zip(edges, gradients, strict=True):
            if g is not None:
                adjoints.setdefault(edge, []).append(by_sample(g, squares.layouts[edge], n))
    for edge, rows in adjoints.items():
        squares.meet(edge, torch.stack(rows, 1), slice(0, n), some)


class _Squares:
    """What happens where columns reach a site: every parameter met there takes its squares.

    `weights` are the eigenvalues, ``[n, r]``; `rank` columns come at a time.
    """

    def __init__(self, targets: Sequence[Target], weights: Tensor, rank: int, memory: int) -> None:
        self.weights, self.memory = weights, memory
        self.layouts = {site.edge: site.layout for t in targets for site in t.sites}
        self.alone: dict[Edge, list[Contraction]] = {}
        self.several = [t for t in targets if len(t.sites) > 1]
        for target in targets:
            if len(target.sites) == 1:
                site = target.sites[0]
                contraction = Contraction(site, target.into, rank, memory, target.fresh)
                self.alone.setdefault(site.edge, []).append(contraction)
        self.awaited = {site.edge for t in self.several for site in t.sites}
        self.kept: dict[Edge, Tensor] = {}

    def meet(self, edge: Edge, rows: Tensor, part: slice, columns: slice) -> None:
        """These columns of the samples in `part` at a site, ``[m, c, ...]``."""
        layout, dims = self.layouts[edge], shape(edge)
        assert dims is not None
        rest = [s for a, s in enumerate(dims) if a != layout.axis]
        rows = rows.reshape(*rows.shape[:2], layout.outer * layout.inner, *rest)
        for contraction in self.alone.get(edge, ()):
            contraction.add(rows, self.weights[part, columns], part)
        if edge in self.awaited:
            self.kept[edge] = rows

    def close(self, part: slice, columns: slice) -> None:
        """All sites were met: sum the uses of one parameter inside its square."""
        weights = self.weights[part, columns]
        for target in self.several:
            used = [site for site in target.sites if site.edge in self.kept]
            for c in range(weights.shape[1] if used else 0):
                sum_of_squares(
                    used, [self.kept[site.edge][:, c] for site in used], weights[:, c], part,
                    self.memory, target.into,
                )  # fmt: skip
        self.kept = {}

    def join(self, other: _Squares) -> None:
        """Take over what another one, with tensors of its own, has collected."""
        for ours, theirs in zip(self.every, other.every, strict=True):
            if theirs.into is not ours.into:
                theirs.finish()
                ours.into += theirs.into
            ours.kept += theirs.kept
        for target, its_target in zip(self.several, other.several, strict=True):
            target.into.add_(its_target.into)

    @property
    def every(self) -> list[Contraction]:
        """The contractions of all parameters with one use."""
        return [contraction for several in self.alone.values() for contraction in several]

    def finish(self) -> None:
        """Complete what the contractions put off."""
        for contraction in self.every:
            contraction.finish()


def _numel(edge: Edge) -> int:
    return math.prod(shape(edge) or (0,))


def by_columns(
    outputs: Sequence[Tensor],
    factor: Factor,
    parameters: Sequence[Tensor],
    into: Sequence[Tensor],
    tape_bytes: int,
    memory: int,
    tick: Tick,
    split: Callable[[Tensor, int, int], Tensor] | None,
    share: Share = ALL,
) -> None:
    """One backward pass per column *and sample*: h = Σ λ_c (Jᵀ S_c)² for whatever use.

    Needs affinity only: parameters used in ways `by_sites` does not know, and networks that
    couple samples above the parameter. `split(columns, c, sample)` masks a column of leaf l to
    one sample; ``None`` where the factor couples samples already.
    """
    n = 1 if split is None else int(factor.weights.shape[1])
    numbers = share.of(factor.rank * n)
    each = 2 * tape_bytes + sum(p.numel() * p.element_size() for p in parameters)
    chunk = max(1, min(factor.rank * n, memory // max(1, each)))
    for start in range(numbers.start, numbers.stop, chunk):
        jobs = [(k // n, k % n) for k in range(start, min(numbers.stop, start + chunk))]
        if split is None:
            cotangents = [torch.stack([cols[c] for c, _ in jobs]) for cols in factor.columns]
            weights = torch.stack([factor.weights[c] for c, _ in jobs])
        else:
            cotangents = [
                torch.stack([split(cols[c], leaf, s) for c, s in jobs])
                for leaf, cols in enumerate(factor.columns)
            ]
            weights = torch.stack([factor.weights[c, s] for c, s in jobs])
        for gradients, scale in _pull_back(outputs, parameters, cotangents, weights):
            for tensor, g in zip(into, gradients, strict=True):
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
            gradients = pulled_back(outputs, parameters, cotangents)
            return [(tuple(gradients), weights)]
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
