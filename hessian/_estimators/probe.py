"""Random probes of the Hessian's diagonal: over the parameters, and at the layers' outputs.

A parameter that meets the data at one site z, linearly and with samples apart, has

    diag(d²L/dw²) = Σ_n diag(J_nᵀ H_n J_n),    J_n = dz_n/dw,  H_n = d²L/dz_n²,

so signs ε at z, drawn for every sample, give the unbiased (J_nᵀ ε_n) ⊙ (J_nᵀ H_n ε_n): J_n enters
exactly and the noise of the samples averages out. What is known of H_n need not be probed. The
loss's second derivative in the outputs is known, and its leading eigenvectors S_c, pulled back to
a_c = (df/dz)ᵀ S_c by one backward pass each, hold most of H_n. They are taken exactly, and only
the remainder H - Σ λ_c a_c a_cᵀ meets the probe. Where z is the output itself, all of H_n is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from hessian._batch.analysis import Analysis
from hessian._batch.curvature import BLOCKS
from hessian._batch.parts import Part, part_of
from hessian._batch.pieces import Division, Sum, added, gathered, is_first
from hessian._call.batches import Batch
from hessian._loss import factor as _factor
from hessian._loss import output_hessian as _loss
from hessian._loss.factor import Factor
from hessian._loss.output_hessian import by_sample, from_samples
from hessian._loss.quadratic import Quadratic
from hessian._site.site import Site
from hessian._tape.graph import Edge, Tape, refuse_undifferentiable

# Columns that are taken exactly. Each costs a backward pass, two as much as one more product.
LEADING = 2
# Wider blocks of the loss's second derivative cost more to factor than a probe or two.
WIDEST = 512


def rademacher(shape: Any, generator: torch.Generator, like: Tensor) -> Tensor:
    """Independent ±1 with probability one half each."""
    bits = torch.randint(0, 2, tuple(shape), generator=generator, device="cpu")
    return (2 * bits - 1).to(device=like.device, dtype=like.dtype)


Probe = dict[str, Tensor]


def hutchinson(batch: Batch, probes: Sequence[Probe], division: Division) -> list[Probe]:
    """z ⊙ Hz for every z, over all parameters at once."""
    parameters = batch.objective.parameters

    def take(value: Tensor) -> Sum:
        multiply = _Product(value, list(parameters.values()))
        return [
            None if h is None else z[name] * h
            for z in probes
            for name, h in zip(parameters, multiply(list(z.values())), strict=True)
        ]

    every, loss_diagonal = added(batch, take, division)
    estimates = []
    for k in range(len(probes)):
        products = every[k * len(parameters) : (k + 1) * len(parameters)]
        estimates.append(
            {
                name: torch.zeros_like(p, requires_grad=False) if h is None else h
                for (name, p), h in zip(parameters.items(), products, strict=True)
            }
        )
        for name, term in loss_diagonal.items():  # z ⊙ (diagonal ⊙ z)
            estimates[-1][name] = estimates[-1][name] + term
    return estimates


class _Product:
    """v → Hv in `wanted` (tensors or gradient edges), the gradient's tape being kept."""

    def __init__(self, value: Tensor, wanted: list[Any]) -> None:
        self.wanted = wanted
        self.gradients: Sequence[Tensor | None] = [None] * len(wanted)
        if wanted and value.requires_grad:
            self.gradients = torch.autograd.grad(
                value, wanted, create_graph=True, allow_unused=True
            )
        refuse_undifferentiable(self.gradients)
        self._at = [i for i, g in enumerate(self.gradients) if g is not None and g.requires_grad]

    def __call__(self, vector: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """Parts of the product; `None` where it is zero because nothing depends on the part."""
        live = [(g, v) for i in self._at if (g := self.gradients[i]) is not None
                and (v := vector[i]) is not None]  # fmt: skip
        if not live:
            return [None] * len(self.wanted)
        return torch.autograd.grad(
            [g for g, _ in live], self.wanted, [v for _, v in live],
            retain_graph=True, allow_unused=True,
        )  # fmt: skip


@dataclass
class _Places:
    """Where each parameter is probed, on the tape that a product will run along."""

    top: dict[str, tuple[Site, int]]  # at an output (its number), where all is known
    inner: dict[str, Site]
    rest: list[str]  # probed in the parameter itself
    outputs: list[Tensor]


class Noise:
    """Signs for the samples of a batch, in their order: a stream for each place and probe.

    However the batch is cut, a sample gets the same.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
        self.rewind()

    def rewind(self) -> None:
        """Back to the first sample."""
        self._source = torch.Generator("cpu").manual_seed(self._seed)
        self._streams: list[torch.Generator] = []

    def draw(self, place: int, n: int, width: int, like: Tensor) -> Tensor:
        """Signs of the next n samples, ``[n, width]``."""
        while len(self._streams) <= place:
            seed = int(torch.randint(2**62, (), generator=self._source, device="cpu"))
            self._streams.append(torch.Generator("cpu").manual_seed(seed))
        return rademacher((n, width), self._streams[place], like)


def preactivation(
    batch: Batch, fixed: Sequence[Probe], generators: Sequence[torch.Generator], division: Division
) -> list[Probe]:
    """Probes at the outputs of all layers; `fixed` where a parameter has no site of its own."""
    noise = [Noise(generator) for generator in generators]

    def extra(analysis: Analysis) -> float:  # the tape of the analysis, columns and probes
        return analysis.need() / 3 + blocks_bytes(analysis)

    estimates, loss_diagonal = gathered(
        batch, lambda b: _preactivation(b, fixed, noise), division, extra
    )
    for one in estimates:
        for name, term in loss_diagonal.items():
            one[name] = one[name] + term
    return estimates


def blocks_bytes(analysis: Analysis) -> float:
    """Bytes that a sample's block of the loss's second derivative takes, columns included."""
    width = sum(output.cut.numel() for output in analysis.reading.used) // analysis.samples
    return float(BLOCKS * width**2) if width <= WIDEST else 0.0


def _preactivation(
    analysis: Analysis, fixed: Sequence[Probe], noise: Sequence[Noise]
) -> list[Probe]:
    objective, parameters = analysis.task.objective, analysis.task.objective.parameters
    if is_first(analysis):
        for one in noise:
            one.rewind()
    n, memory = analysis.samples, objective.memory
    width = sum(output.cut.numel() for output in analysis.reading.used) // n
    form = output_form(analysis) if analysis.layouts and 0 < width <= WIDEST else None
    factor = None if form is None else factored(analysis, form)
    leaves = [output.cut for output in analysis.reading.used]
    most = None if form is None else _factor.leading(form, leaves, analysis.layouts, LEADING)
    loss_diagonal = analysis.separable_terms()
    output, value = analysis.repeated()
    # What needs no probe, and then what every probe adds to it.
    base = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    if not value.requires_grad:
        return [base for _ in fixed]
    places = _places(analysis, output, factor is not None)
    edges: list[Edge] = list({site.edge: None for site in places.inner.values()})
    layouts = {site.edge: site.layout for site in places.inner.values()}
    known = _pulled_back(places, most, edges, layouts, n)
    with torch.no_grad():
        _exactly(places, known, factor, n, memory, base)
        for name, term in loss_diagonal.items():
            if name not in places.rest:
                base[name] += term
    inner: list[Any] = [GradientEdge(*edge) for edge in edges]
    multiply = _Product(value, [*inner, *(parameters[name] for name in places.rest)])
    estimates = []
    for signs_of, generator in zip(fixed, noise, strict=True):
        probe: list[Tensor | None] = [
            None
            if g is None
            else from_samples(
                generator.draw(k, n, g.numel() // n, g), layouts[edges[k]], n, g.shape
            )
            for k, g in enumerate(multiply.gradients[: len(edges)])
        ]
        products = multiply([*probe, *(signs_of[name] for name in places.rest)])
        result = {name: b.clone() for name, b in base.items()}
        with torch.no_grad():
            probed = {
                edge: (by_sample(v, layouts[edge], n), by_sample(h, layouts[edge], n))
                for edge, v, h in zip(edges, probe, products, strict=False)
                if v is not None and h is not None
            }
            _remainder(probed, known)
            for name, site in places.inner.items():
                if site.edge in probed:
                    _contract(site, *probed[site.edge], None, n, memory, result[name])
            for name, h in zip(places.rest, products[len(edges) :], strict=True):
                if h is not None:
                    result[name] = signs_of[name] * h
        estimates.append(result)
    return estimates


def _exactly(
    places: _Places, known: Known, factor: Factor | None, n: int, memory: int, into: Probe
) -> None:
    """Add what needs no probe: the leading columns inside, and all of them at outputs."""
    for name, site in places.inner.items():
        for adjoints, weights in known:
            if site.edge in adjoints:
                a = adjoints[site.edge]
                _contract(site, a, a, weights, n, memory, into[name])
    for name, (site, leaf) in places.top.items():
        assert factor is not None
        for c in range(factor.rank):
            a = by_sample(factor.columns[leaf][c], site.layout, n)
            _contract(site, a, a, factor.weights[c], n, memory, into[name])


def factored(analysis: Analysis, form: Quadratic | None = None) -> Factor:
    """The loss's second derivative in the outputs, sample by sample, as columns."""
    leaves = [output.cut for output in analysis.reading.used]
    form = output_form(analysis) if form is None else form
    return _factor.factored(form, leaves, analysis.layouts, every=True)


def spectrum(analysis: Analysis, form: Quadratic) -> Factor:
    """The same as orthogonal columns: what is positive and what is negative of it."""
    leaves = [output.cut for output in analysis.reading.used]
    width = sum(leaf.numel() for leaf in leaves) // analysis.samples
    return _factor.leading(form, leaves, analysis.layouts, width)


def output_form(analysis: Analysis) -> Quadratic:
    """The loss's second derivative in the outputs, sample by sample."""
    n = analysis.samples
    leaves = [output.cut for output in analysis.reading.used]
    if (part := part_of(analysis)) is not None:
        return _of_part(analysis, part)
    if analysis.reading.softmax is not None:
        edge, adjoint = analysis.reading.softmax
        return _loss.softmax_form(edge[0], adjoint.detach(), leaves[0], analysis.layouts[0], n)
    slopes = [output.slope for output in analysis.reading.used]
    return Quadratic("full", _loss.blocks_by_sample(slopes, leaves, analysis.layouts, n).detach())


def _of_part(analysis: Analysis, part: Part) -> Quadratic:
    """The whole's at a part's samples, the entries that the loss is linear in being zero."""
    whole, used = part.whole, analysis.reading.used
    curved = {output.place for output in whole.curvature.outputs}
    if whole.short is not None and all(output.place in curved for output in used):
        return whole.short.of(part.samples)
    sizes = [output.cut.numel() // analysis.samples for output in used]
    is_curved = [
        output.place in curved
        for output, size in zip(used, sizes, strict=True)
        for _ in range(size)
    ]
    like = used[0].cut
    entries = torch.tensor(is_curved, device=like.device).nonzero().squeeze(1)
    blocks = like.new_zeros((analysis.samples, sum(sizes), sum(sizes)))
    if len(entries):
        blocks[:, entries.unsqueeze(1), entries] = whole.blocks(part.samples).detach()
    return Quadratic("full", blocks)


def _places(analysis: Analysis, output: Any, known: bool) -> _Places:
    parameters = analysis.task.objective.parameters
    coupled = {name for name in analysis.reading.direct if name not in analysis.reading.separable}
    sites = analysis.relocated(output) if analysis.proof.sites else {}
    single = {k: s[0] for k, s in sites.items() if len(s) == 1 and k not in coupled}
    outputs = analysis.reading.used_of(output)
    roots = [(e.node, e.output_nr) for e in map(get_gradient_edge, outputs)]
    used = Tape.of(outputs).consumers  # an output that other outputs are made of is not an end
    ends = {edge: i for i, edge in enumerate(roots) if roots.count(edge) == 1 and not used[edge[0]]}
    top = {k: (s, ends[s.edge]) for k, s in single.items() if known and s.edge in ends}
    inner = {k: s for k, s in single.items() if k not in top}
    return _Places(top, inner, [k for k in parameters if k not in single], outputs)


Known = list[tuple[dict[Edge, Tensor], Tensor]]


def _pulled_back(
    places: _Places, factor: Factor | None, edges: list[Edge], layouts: dict[Edge, Any], n: int
) -> Known:
    """Adjoints of the leading columns at the probed sites, samples first, and their λ."""
    known: Known = []
    for c in range(factor.rank if factor is not None and edges else 0):
        assert factor is not None
        gradients = torch.autograd.grad(
            places.outputs, [GradientEdge(*edge) for edge in edges],
            [columns[c] for columns in factor.columns], retain_graph=True, allow_unused=True,
        )  # fmt: skip
        adjoints = {
            edge: by_sample(g, layouts[edge], n)
            for edge, g in zip(edges, gradients, strict=True)
            if g is not None
        }
        known.append((adjoints, factor.weights[c]))
    return known


def _remainder(probed: dict[Edge, tuple[Tensor, Tensor]], known: Known) -> None:
    """Take Σ_c λ_c a_c (a_c·ε) from every product Hε, a_c and ε over all sites of a sample."""
    for adjoints, weights in known:
        both = [edge for edge in probed if edge in adjoints]
        dot = sum((adjoints[edge] * probed[edge][0]).flatten(1).sum(1) for edge in both)
        for edge in both:
            a, (probe, h) = adjoints[edge], probed[edge]
            # Not in place: autograd may return one tensor for two sites in a row.
            probed[edge] = probe, h - a * (weights * dot).view(-1, *[1] * (a.dim() - 1))


def _contract(
    site: Site,
    left: Tensor,
    right: Tensor,
    weights: Tensor | None,
    n: int,
    memory: int,
    into: Tensor,
) -> None:
    """Add Σ_n λ_n (J_nᵀ left_n) ⊙ (J_nᵀ right_n)."""
    if site.outer is not None:  # one position: Σ_n λ (left ⊙ right) U²
        a, b = left[:, 0] * right[:, 0], site.outer.square()
        a = a if weights is None else a * weights.unsqueeze(1)
        pair = (b.T, a) if site.transposed else (a.T, b)
        into.addmm_(*pair, alpha=site.scale**2)
        return
    if site.tokens is not None:  # an embedding: only the rows that were read
        count, width = site.tokens.shape[1], into.shape[1]
        one, two = left.reshape(n, count, width), right.reshape(n, count, width)
        same = site.tokens.unsqueeze(2) == site.tokens.unsqueeze(1)
        same &= (site.tokens >= 0).unsqueeze(2)
        rows = (same.to(one.dtype) @ one) * two
        rows = rows if weights is None else rows * weights.view(n, 1, 1)
        into.index_add_(0, site.tokens.clamp_min(0).reshape(-1), rows.reshape(-1, width))
        return
    each = 2 * into.numel() * into.element_size() * (1 + site.extra)
    chunk = max(1, min(n, memory // max(1, each)))
    for start in range(0, n, chunk):
        part = slice(start, min(n, start + chunk))
        one = site.gradient(left[part], part)
        two = one if right is left else site.gradient(right[part], part)
        scale = one.new_ones(one.shape[0]) if weights is None else weights[part]
        into += torch.tensordot(scale, one * two, 1)
