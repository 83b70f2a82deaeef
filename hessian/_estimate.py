"""Cheap substitutes for the exact diagonal, each with a standard error for every entry."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hessian._batch.analysis import Analysis
from hessian._batch.pieces import Division, Extra, gathered, is_first, of_all
from hessian._call import data as _data
from hessian._call.batches import Batch, scale, walk
from hessian._call.data import lasting
from hessian._call.lending import lend
from hessian._call.objective import Objective
from hessian._call.thaw import whole
from hessian._estimators import becker_lecun as _becker_lecun
from hessian._estimators.probe import (
    Noise,
    blocks_bytes,
    factored,
    hutchinson,
    output_form,
    preactivation,
    rademacher,
    spectrum,
)
from hessian._loss import output_hessian as _loss
from hessian._loss.factor import Factor
from hessian._loss.output_hessian import by_sample
from hessian._results.mapping import ByName, tensor_row
from hessian._results.storage import storable
from hessian._routes import affine as _affine
from hessian._runtime.ledger import Guard
from hessian._runtime.progress import ticker
from hessian._spectrum.trace import Trace

KINDS = (
    "hutchinson",
    "preactivation",
    "gauss-newton",
    "gauss-newton-mc",
    "empirical-fisher",
    "becker-lecun",
)
_PROBING = ("hutchinson", "preactivation", "gauss-newton-mc")


@storable
class Estimate(ByName[Tensor]):
    """Mapping from parameter name to an estimate of d²L/dw² in the parameter's shape.

    Tables, pictures, files and devices as for `Diagonal`.

    Attributes:
        kind: which estimator.
        probes: how many probes were taken.
        standard_error: name → standard error of each entry over probes; zero for kinds without
            probes, NaN after a single probe.
        parts: the most parts of its samples that a batch was taken in.
        held: why a batch that needs more than the memory given was held whole, or empty.
    """

    kind: str
    probes: int
    standard_error: dict[str, Tensor]
    parts: int
    held: str

    def trace(self) -> Trace:
        """The sum of all entries.

        Errors of entries go together, so that of the sum is not known from theirs: NaN where there
        are probes; `hessian.operator(…).trace()` has one.
        """
        total = sum(float(h.sum(dtype=torch.float64)) for h in self.values())
        error = math.nan if self.kind in _PROBING else 0.0
        return Trace(total, error, self.probes, self.kind)

    def _sizes(self) -> dict[str, Tensor]:
        return dict(self)

    _what = "|estimate of h|"

    def _facts(self) -> list[str]:
        if self.kind not in _PROBING:
            return [self.kind]
        return [self.kind, f"{self.probes:,} probes", f"relative error {self.relative_error():.2g}"]

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for name, h in self.items():
            error = self.standard_error[name].double()
            rms = float(error.square().mean().sqrt()) if error.numel() else math.nan
            rows.append({**tensor_row(name, h), "rms_standard_error": rms})
        return rows

    def relative_error(self) -> float:
        """Norm of all standard errors over the norm of the estimate."""
        noise = sum(float(e.double().square().sum()) for e in self.standard_error.values())
        signal = sum(float(h.double().square().sum()) for h in self.values())
        return (noise / signal) ** 0.5 if signal > 0 else float("inf") if noise > 0 else 0.0


@partial(whole, listed=True)
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
    * ``"preactivation"``: probes at the outputs of the layers, per sample: with J_n the layer's
      own derivative, Σ_n (J_nᵀ ε_n) ⊙ (J_nᵀ Hε_n). Unbiased for diag H; J_n enters exactly. The
      two leading columns S_c of every sample are pulled back, taken exactly and kept out of the
      probes, and a last layer is exact, at the price of one more product for each pass over the
      data. Removes nearly all noise where a sample has one position and little where a curved
      layer sees many (docs/estimators.md has numbers). Parameters that do not meet the data at
      one place of their own get Hutchinson's estimate.
    * ``"gauss-newton"``: the exact diagonal of the generalised Gauss-Newton matrix (Schraudolph
      2002), no probes. Equal to diag H exactly where `plan` says affine, wrong elsewhere.
    * ``"gauss-newton-mc"``: the same with Σ_c S_c replaced by random signs (BackPACK's
      DiagGGNMC); unbiased for the Gauss-Newton diagonal, negative curvature of the loss included.
    * ``"empirical-fisher"``: squares of per-sample gradients, n Σ_n (∇L_n)² where L is a mean over
      samples, Σ_n (∇L_n)² with ``weight="sum"``. Not an estimate of the Hessian away from a
      well-specified optimum.
    * ``"becker-lecun"``: diagonal back-propagation (Becker & LeCun 1989): from layer to layer only
      the diagonal is carried, h_a = (W²)ᵀh_z and h_z = φ'²h_a + φ''∂L/∂a, which leaves out how
      entries interact. One pass, no probes, not unbiased for anything; exact for the last layer
      of a network on vectors, and where nothing interacts. For linear and convolution layers,
      elementwise functions, pooling, sums, products and views.

    Args:
        model, loss, data, forward, names, memory, dtype, weight, progress: as for `diagonal`.
            Data that can be read only once is kept in memory.
        kind: one of the above.
        probes: how many probes, at most; kinds without probes ignore it. Up to eight share a
            pass over the data, where memory allows.
        generator: source of the probes (CPU); seeded with 0 by default.
        relative_error: stop as soon as the norm of the standard errors falls below this part of
            the norm of the estimate (looked at from the fourth probe on).

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
    if relative_error is not None and not (
        isinstance(relative_error, int | float) and 0 < relative_error < float("inf")
    ):
        raise ValueError(
            f"relative_error must be a positive number, got {relative_error!r}; "
            "e.g. 0.1 to stop at a tenth of the norm of the estimate"
        )
    _data.check_generator(generator)
    generator = generator or torch.Generator("cpu").manual_seed(0)
    batches = lasting(data)
    mean: dict[str, Tensor] = {}
    spread: dict[str, Tensor] = {}
    result = Estimate()
    count = 0
    division = Division()
    with (
        Guard(),
        # "parameter" keeps the analysis of a batch from factoring what is not needed.
        lend(model, loss, "parameter", forward, names, memory, dtype) as objective,
        ticker(progress) as bar,
    ):
        wanted = probes if kind in _PROBING else 1
        bar.expect(wanted, 0)
        done = False
        while count < wanted and not done:
            together = _together(
                objective, wanted - count, None if relative_error is None else count
            )
            seeds = [
                int(torch.randint(2**62, (), generator=generator, device="cpu"))
                for _ in range(together)
            ]
            for one in _pass(objective, batches, dtype, weight, kind, seeds, division):
                count += 1
                for name, value in one.items():  # Welford's update
                    if name not in mean:
                        mean[name], spread[name] = torch.zeros_like(value), torch.zeros_like(value)
                    step = value - mean[name]
                    mean[name] += step / count
                    spread[name] += step * (value - mean[name])
                bar.tick(1)
                if relative_error is not None and count >= _LEAST:
                    result.update(mean)
                    result.standard_error = _errors(spread, count, kind)
                    done = result.relative_error() <= relative_error
                if done:
                    break
        result.update(objective.returned(mean, "estimate"))
        errors = _errors(spread, count, kind)
        result.standard_error = objective.returned(errors, "standard error")
    result.kind, result.probes = kind, count
    result.parts, result.held = division.parts, division.held
    return result


def _errors(spread: dict[str, Tensor], count: int, kind: str) -> dict[str, Tensor]:
    if kind not in _PROBING:
        return {name: torch.zeros_like(s) for name, s in spread.items()}
    if count == 1:
        return {name: torch.full_like(s, float("nan")) for name, s in spread.items()}
    return {name: (s / (count * (count - 1))).sqrt() for name, s in spread.items()}


# Probes before a stop: two that are alike by chance say little about their mean.
_LEAST = 4
# Probes that share a batch's tapes, and so its forward and first backward pass.
_AT_ONCE = 8


def _together(objective: Objective, left: int, taken: int | None) -> int:
    """How many probes to take in one pass over the data; few at first where it may stop soon."""
    size = sum(p.numel() * p.element_size() for p in objective.parameters.values())
    most = _AT_ONCE if taken is None else min(_AT_ONCE, max(2, taken))
    # Of every probe: itself, what a part and what all parts give, and the sum over batches.
    return max(1, min(left, most, objective.memory // (4 * size)))


def _pass(
    objective: Objective,
    data: Any,
    dtype: torch.dtype | None,
    weight: _data.Weight,
    kind: str,
    seeds: list[int],
    division: Division,
) -> list[dict[str, Tensor]]:
    """One pass over the data: an estimate from every probe."""
    total: list[dict[str, Tensor]] = [{} for _ in seeds]
    weights: list[float] = []
    noise = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    fixed = [
        {name: rademacher(p.shape, one, p) for name, p in objective.parameters.items()}
        for one in noise
        if kind in ("hutchinson", "preactivation")
    ]
    start = None
    for batch in walk(objective, data, dtype, weight):
        start = start or batch.start  # every pass meets the same dropout draw
        if kind == "hutchinson":
            parts = hutchinson(batch, fixed, division)
        elif kind == "preactivation":
            parts = preactivation(batch, fixed, noise, division)
        else:
            parts = _by_columns(batch, kind, noise, weight, division)
        for into, part in zip(total, parts, strict=True):
            for name, value in part.items():
                into[name] = into[name] + batch.a * value if name in into else batch.a * value
        weights.append(batch.a)
    if start is not None:
        start.rewind()
    factor = scale(weights, weight)
    return [{name: value * factor for name, value in one.items()} for one in total]


def _by_columns(
    batch: Batch,
    kind: str,
    generators: list[torch.Generator],
    weight: _data.Weight,
    division: Division,
) -> list[dict[str, Tensor]]:
    noise = [Noise(generator) for generator in generators]

    def take(analysis: Analysis) -> list[dict[str, Tensor]]:
        if is_first(analysis):
            for one in noise:
                one.rewind()
        return _of_columns(analysis, kind, noise, weight)

    extra: Extra = blocks_bytes if kind != "empirical-fisher" else lambda _: 0.0
    estimates, loss_diagonal = gathered(batch, take, division, extra)
    if kind != "empirical-fisher":
        for one in estimates:
            for name, term in loss_diagonal.items():
                one[name] = one[name] + term
    return estimates


def _of_columns(
    analysis: Analysis, kind: str, noise: list[Noise], weight: _data.Weight
) -> list[dict[str, Tensor]]:
    objective = analysis.task.objective
    parameters = objective.parameters
    reading, proof = analysis.reading, analysis.proof
    used = reading.used
    if reading.hidden and kind == "empirical-fisher":
        raise ValueError(
            f"kind={kind!r} knows the loss through the model's outputs, but it reads more of the "
            f"network than these ({reading.hidden} is older than the call of the loss); return "
            'what the loss reads as a tensor of the output, or use kind="hutchinson"'
        )
    sites = proof.sites
    if kind == "becker-lecun":
        missing = "" if analysis.layouts else next(iter(proof.leaf_nodes), "")
    else:
        missing = next((name for name in proof.leaf_nodes if name not in sites), "")
    if missing:
        raise ValueError(
            f"kind={kind!r} takes each sample's own part of the derivative, which is not proved "
            f"to be separable for parameter {missing!r} "
            f"({proof.obstacle.get(missing, 'the loss couples samples')}); "
            'use kind="hutchinson", or leave the parameter out with names='
        )
    coupled = [name for name in reading.direct if name not in reading.separable]
    if coupled and kind != "empirical-fisher":
        raise ValueError(
            f"kind={kind!r} knows the loss through the model's outputs, but it reads parameter "
            f"{coupled[0]!r} in a way that is not a sum over its entries; "
            'use kind="hutchinson", or leave the parameter out with names='
        )
    if not used:
        loss_diagonal = {} if kind == "empirical-fisher" else analysis.separable_terms()
        return [_zeros(parameters) | loss_diagonal for _ in noise]
    n = analysis.samples
    outputs = [output.tensor for output in used]
    if kind == "empirical-fisher":
        gradients = analysis.slopes
        count = 1.0 if weight == "sum" else float(of_all(analysis))
        ones = gradients[0].new_full((1, n), count)
        factors = [Factor([g.unsqueeze(0) for g in gradients], ones)]
        loss_diagonal = {}
    else:
        form, mc = output_form(analysis), kind == "gauss-newton-mc"
        exact = spectrum(analysis, form) if mc else factored(analysis, form)
        factors = [_random(exact, analysis, one) for one in noise] if mc else [exact]
        loss_diagonal = analysis.separable_terms()
    estimates = []
    for factor in factors:
        if kind == "becker-lecun":
            result = _becker_lecun.diagonal(analysis, factor)
        else:
            result = _zeros(parameters)
            targets = [
                _affine.Target(parameters[name], sites[name], result[name])
                for name in proof.leaf_nodes
            ]
            with torch.no_grad():
                _affine.by_sites(
                    outputs, factor, targets, proof.chain, objective.memory, lambda _: None
                )
        for name, term in loss_diagonal.items():
            result[name] += term
        estimates.append(result)
    return estimates


def _zeros(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}


def _random(exact: Factor, analysis: Analysis, noise: Noise) -> Factor:
    """Two random columns v with E[v vᵀ] the positive and the negative part of H, per sample."""
    n, rank = analysis.samples, exact.rank
    # As many for every sample however the batch is cut: a part's rank may be less.
    width = sum(output.cut.numel() for output in analysis.reading.used) // n
    drawn = noise.draw(0, n, width, exact.weights)[:, :rank].T
    if rank == 0:
        return exact
    columns: list[list[Tensor]] = [[] for _ in exact.columns]
    weights = []
    for sign in (1.0, -1.0):
        size = (sign * exact.weights).clamp_min(0).sqrt() * drawn  # [r, n]
        if not bool(size.any()):
            continue
        for place, (cols, layout) in enumerate(zip(exact.columns, analysis.layouts, strict=True)):
            total = torch.zeros_like(cols[0])
            for c in range(rank):
                parts = by_sample(cols[c], layout, n)
                scaled = parts * size[c].view(-1, *[1] * (parts.dim() - 1))
                total += _loss.from_samples(scaled, layout, n, cols[c].shape)
            columns[place].append(total)
        weights.append(exact.weights.new_full((n,), sign))
    if not weights:
        return Factor([c[:0] for c in exact.columns], exact.weights[:0])
    return Factor([torch.stack(c) for c in columns], torch.stack(weights))
