"""Cheap substitutes for the exact diagonal, each with a standard error for every entry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from hessian import _affine, _data, _loss
from hessian._batch import Batch
from hessian._loss import Factor, by_sample
from hessian._operator import product
from hessian._problem import Item, lend, scale, ticker, walk
from hessian._site import Site
from hessian._tape import Edge, refuse_undifferentiable

KINDS = ("hutchinson", "preactivation", "gauss-newton", "gauss-newton-mc", "empirical-fisher")
_PROBING = ("hutchinson", "preactivation", "gauss-newton-mc")


class Estimate(dict[str, Tensor]):
    """Mapping from parameter name to an estimate of d²L/dw² in the parameter's shape.

    Attributes:
        kind: which estimator.
        probes: how many probes were taken.
        standard_error: name → standard error of each entry over probes; zero for kinds without
            probes, NaN after a single probe.
    """

    kind: str
    probes: int
    standard_error: dict[str, Tensor]

    def relative_error(self) -> float:
        """Norm of all standard errors over the norm of the estimate."""
        noise = sum(float(e.double().square().sum()) for e in self.standard_error.values())
        signal = sum(float(h.double().square().sum()) for h in self.values())
        return (noise / signal) ** 0.5 if signal > 0 else float("inf") if noise > 0 else 0.0


def estimate(
    model: nn.Module,
    loss: _data.Loss,
    data: Any,
    kind: str,
    probes: int = 1,
    generator: torch.Generator | None = None,
    *,
    relative_error: float | None = None,
    forward: _data.Forward | None = None,
    names: Iterable[str] | None = None,
    memory: int | None = None,
    dtype: torch.dtype | None = None,
    weight: _data.Weight = None,
    progress: bool = False,
) -> Estimate:
    """An estimate of the Hessian's diagonal, with its standard error per entry.

    With z, ε independent ±1, and the affine route's columns S of the loss's second derivative:

    * ``"hutchinson"``: the mean of z ⊙ Hz over all parameters at once (Hutchinson 1990; Bekas,
      Kokiopoulou & Saad 2007). Unbiased for diag H.
    * ``"preactivation"``: probes at the outputs of linear and convolution layers, per sample:
      Σ_n (Σ_p U ε)(Σ_p U (Hε)). Unbiased for diag H at the same cost; the input U enters exactly,
      which removes most of the noise where a sample has one position and little where it has
      many. Parameters that do not meet the data at one such site get Hutchinson's estimate.
    * ``"gauss-newton"``: the exact diagonal of the generalised Gauss-Newton matrix (Schraudolph
      2002), no probes. Equal to diag H exactly where `plan` says affine, wrong elsewhere.
    * ``"gauss-newton-mc"``: the same with Σ_c S_c replaced by random signs (BackPACK's
      DiagGGNMC); unbiased for the Gauss-Newton diagonal, negative curvature of the loss included.
    * ``"empirical-fisher"``: squares of per-sample gradients, n Σ_n (∇L_n)² where L is a mean over
      samples, Σ_n (∇L_n)² with ``weight="sum"``. Not an estimate of the Hessian away from a
      well-specified optimum.

    Args:
        model, loss, data, forward, names, memory, dtype, weight, progress: as for `diagonal`.
            Data that can be read only once is kept in memory.
        kind: one of the above.
        probes: how many probes, at most; kinds without probes ignore it.
        generator: source of the probes (CPU); seeded with 0 by default.
        relative_error: stop as soon as the norm of the standard errors falls below this part of
            the norm of the estimate (looked at from the second probe on).

    Returns:
        An `Estimate`: name → tensor, with ``.standard_error`` and ``.probes``.

    Raises:
        TypeError, ValueError: as `diagonal`; unknown `kind`; `probes` below 1; a kind that needs
            samples kept apart on a network or loss that is not proved to.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> x, y = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]])
        >>> estimate(model, nn.functional.mse_loss, (x, y), "gauss-newton")["weight"]
        tensor([[8., 2.]])
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if not isinstance(probes, int) or probes < 1:
        raise ValueError(f"probes must be an integer >= 1, got {probes!r}")
    generator = generator or torch.Generator().manual_seed(0)
    kept = list(data) if isinstance(data, Iterator) else data
    mean: dict[str, Tensor] = {}
    spread: dict[str, Tensor] = {}
    result = Estimate()
    count = 0
    with (
        # "parameter" keeps the analysis of a batch from factoring what is not needed.
        lend(model, loss, "parameter", forward, names, memory, dtype) as problem,
        ticker(progress) as bar,
    ):
        bar.expect(probes if kind in _PROBING else 1, 0)
        while count < (probes if kind in _PROBING else 1):
            seed = int(torch.randint(2**62, (), generator=generator))
            one = _once(problem, kept, dtype, weight, kind, seed)
            count += 1
            for name, value in one.items():  # Welford's update
                if name not in mean:
                    mean[name], spread[name] = torch.zeros_like(value), torch.zeros_like(value)
                step = value - mean[name]
                mean[name] += step / count
                spread[name] += step * (value - mean[name])
            bar.tick(1)
            result.update(mean)
            result.standard_error = _errors(spread, count, kind)
            if (
                relative_error is not None
                and count > 1
                and result.relative_error() <= relative_error
            ):
                break
    result.kind, result.probes = kind, count
    return result


def _errors(spread: dict[str, Tensor], count: int, kind: str) -> dict[str, Tensor]:
    if kind not in _PROBING:
        return {name: torch.zeros_like(s) for name, s in spread.items()}
    if count == 1:
        return {name: torch.full_like(s, float("nan")) for name, s in spread.items()}
    return {name: (s / (count * (count - 1))).sqrt() for name, s in spread.items()}


def _once(
    problem: Any, data: Any, dtype: torch.dtype | None, weight: _data.Weight, kind: str, seed: int
) -> dict[str, Tensor]:
    """One pass over the data with one probe."""
    total: dict[str, Tensor] = {}
    weights: list[float] = []
    noise = torch.Generator().manual_seed(seed)
    fixed = {
        name: _signs(p.shape, noise, p)
        for name, p in problem.parameters.items()
        if kind in ("hutchinson", "preactivation")
    }
    start = None
    for item in walk(problem, data, dtype, weight):
        start = start or item.start  # every probe meets the same dropout draw
        if kind == "hutchinson":
            part = _hutchinson(item, fixed)
        elif kind == "preactivation":
            part = _preactivation(item, fixed, noise)
        else:
            part = _gauss_newton(item, kind, noise, weight)
        for name, value in part.items():
            total[name] = total[name] + item.a * value if name in total else item.a * value
        weights.append(item.a)
    if start is not None:
        start.rewind()
    return {name: value * scale(weights, weight) for name, value in total.items()}


def _signs(shape: Any, generator: torch.Generator, like: Tensor) -> Tensor:
    """Independent ±1 with probability one half each."""
    bits = torch.randint(0, 2, tuple(shape), generator=generator)
    return (2 * bits - 1).to(device=like.device, dtype=like.dtype)


def _hutchinson(item: Item, probe: dict[str, Tensor]) -> dict[str, Tensor]:
    parameters = item.problem.parameters
    value = item.value()
    got = product(value, list(parameters.values()), list(probe.values()))
    return {
        name: torch.zeros_like(p, requires_grad=False) if h is None else probe[name] * h
        for (name, p), h in zip(parameters.items(), got, strict=True)
    }


def _preactivation(
    item: Item, fixed: dict[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    problem = item.problem
    parameters = problem.parameters
    batch = item.analysed()
    separable = batch.separable_terms()
    places = [n for n, s in batch.sites.items() if len(s) == 1 and s[0].positions is not None]
    item.start.rewind()
    output = problem.output(item.inputs, item.index)
    sites = batch.relocated(output) if places else {}
    value = problem.scalar(output, item.inputs, item.targets, item.index)
    result = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    if not value.requires_grad:
        return result
    at: dict[str, Site] = {name: sites[name][0] for name in places}
    edges: list[Edge] = list({site.edge: None for site in at.values()})
    rest = [name for name in parameters if name not in at]
    wanted: list[Any] = [GradientEdge(*edge) for edge in edges]
    wanted += [parameters[name] for name in rest]
    gradients = torch.autograd.grad(value, wanted, create_graph=True, allow_unused=True)
    refuse_undifferentiable(gradients)
    probes: list[Tensor | None] = [
        None if g is None else _signs(g.shape, generator, g) for g in gradients[: len(edges)]
    ]
    probes += [fixed[name] for name in rest]
    live = [
        (g, v)
        for g, v in zip(gradients, probes, strict=True)
        if g is not None and v is not None and g.requires_grad
    ]
    if not live:
        return result
    got = torch.autograd.grad([g for g, _ in live], wanted, [v for _, v in live], allow_unused=True)
    with torch.no_grad():
        pulled = {
            edge: (v, h)
            for edge, v, h in zip(edges, probes, got, strict=False)
            if h is not None and v is not None
        }
        for name, site in at.items():
            if site.edge in pulled:
                _pair(site, *pulled[site.edge], batch.samples, problem.memory, result[name])
            if name in separable:
                result[name] += separable[name]
        for name, h in zip(rest, got[len(edges) :], strict=True):
            if h is not None:
                result[name] = fixed[name] * h
    return result


def _pair(site: Site, probe: Tensor, product: Tensor, n: int, memory: int, into: Tensor) -> None:
    """Σ_n (per-sample gradient of the probe) ⊙ (that of its product)."""
    left, right = by_sample(probe, site.layout, n), by_sample(product, site.layout, n)
    if site.outer is not None:  # one position: Σ_n (ε ⊙ Hε) U²
        a, b = left[:, 0] * right[:, 0], site.outer.square()
        pair = (b.T, a) if site.transposed else (a.T, b)
        into.addmm_(*pair, alpha=site.scale**2)
        return
    each = 2 * into.numel() * into.element_size() * (1 + site.extra)
    chunk = max(1, min(n, memory // max(1, each)))
    for start in range(0, n, chunk):
        part = slice(start, min(n, start + chunk))
        into += (site.gradient(left[part], part) * site.gradient(right[part], part)).sum(0)


def _gauss_newton(
    item: Item, kind: str, generator: torch.Generator, weight: _data.Weight
) -> dict[str, Tensor]:
    problem = item.problem
    parameters = problem.parameters
    batch = item.analysed()
    result = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    used = batch.used
    if not used:
        return result
    sites = batch.sites
    missing = [n for n in batch.leaf_nodes if n not in sites]
    if missing:
        raise ValueError(
            f"kind={kind!r} takes each sample's own part of the gradient, which is not proved to "
            f"be separable for parameter {missing[0]!r} "
            f"({batch.obstacle.get(missing[0], 'the loss couples samples')}); "
            'use kind="hutchinson", or leave the parameter out with names='
        )
    n = batch.samples
    outputs = [batch.outputs[i] for i in used]
    if kind == "empirical-fisher":
        gradients = [g.detach() for i in used if (g := batch.gradient_out[i]) is not None]
        count = 1.0 if weight == "sum" else float(n)
        ones = gradients[0].new_full((1, n), count)
        factor = Factor([g.unsqueeze(0) for g in gradients], ones)
    else:
        leaves = [batch.detached[i] for i in used]
        live = [g for i in used if (g := batch.gradient_out[i]) is not None]
        exact = _loss.factor_by_sample(live, leaves, batch.layouts, n)
        factor = exact if kind == "gauss-newton" else _random(exact, batch, generator)
    targets = [
        _affine.Target(parameters[name], sites[name], result[name]) for name in batch.leaf_nodes
    ]
    with torch.no_grad():
        _affine.by_sites(outputs, factor, targets, problem.memory, lambda _: None)
    if kind != "empirical-fisher":
        for name, own in batch.separable_terms().items():
            result[name] += own
    return result


def _random(exact: Factor, batch: Batch, generator: torch.Generator) -> Factor:
    """Two random columns v with E[v vᵀ] the positive and the negative part of H, per sample."""
    n, rank = batch.samples, exact.rank
    if rank == 0:
        return exact
    signs = _signs((rank, n), generator, exact.weights)
    columns: list[list[Tensor]] = [[] for _ in exact.columns]
    weights = []
    for sign in (1.0, -1.0):
        size = (sign * exact.weights).clamp_min(0).sqrt() * signs  # [r, n]
        if not bool(size.any()):
            continue
        for place, (cols, layout) in enumerate(zip(exact.columns, batch.layouts, strict=True)):
            total = torch.zeros_like(cols[0])
            for c in range(rank):
                parts = by_sample(cols[c], layout, n)
                scaled = parts * size[c].view(-1, *[1] * (parts.dim() - 1))
                total += _loss.from_samples(scaled, layout, n, cols[c].shape)
            columns[place].append(total)
        weights.append(exact.weights.new_full((n,), sign))
    return Factor([torch.stack(c) for c in columns], torch.stack(weights))
