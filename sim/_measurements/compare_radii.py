"""The exact curvature radius beside everything that is meant to replace it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

import hessian
from sim import _arguments
from sim._isolation import isolated
from sim._measurements.statistics import median, quantiles, spearman
from sim.data import Dataset

LEVELS = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}


def compare_radii(
    model: nn.Module,
    loss: Callable[..., Any],
    data: Any,
    *,
    weight_decay: float = 0.0,
    curvature: Any = None,
    rank_sample: int = 100_000,
    seed: int = 0,
    memory: int | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """The exact curvature radius R and its substitutes, one row per parameter tensor.

    Every entry w has a gradient g = dL/dw and an exact second derivative h = d²L/dw² of the same
    L, the loss that `hessian.diagonal` describes, in the mode (training or evaluation) in which
    the model stands. Weight decay enters equation 22 and nothing else. All statistics are taken
    in float64 over the entries of one tensor; `q05 … q95` are quantiles, interpolated linearly,
    in which infinite values keep their place.

    Columns:

    - `parameter`, `layer`, `kind`, `size`: the name, its module, the last part of the name
      (`norm-weight` and `norm-bias` in a normalisation, `embedding` in an embedding), the entries.
    - `radius_q05 … radius_q95`: R = (1+g²)^{3/2}/|h| (equation 9) over all entries, infinite where
      h = 0; `radius_finite_q05 … radius_finite_q95` and `radius_finite_mean`: where h ≠ 0.
    - `ratio_q05 … ratio_q95` and `ratio_mean`: |w/g| (equation 17) over all entries except 0/0;
      infinite where g = 0. `ratio_finite_mean`: where g ≠ 0.
    - `log10_error_q05 … log10_error_q95`: log10(|w/g| / R), `within_factor_2`: the share of
      entries where the two are within a factor of two; both over the `error_count` entries where
      w, g and h are all nonzero.
    - `eq20_signed` |med w / med g|, `eq20_absolute` med|w| / med|g|, `eq20_ratio` med|w/g|:
      three readings of equation 20.
    - `eq22_signed` |med w / (med g + β med w)|, `eq22_absolute` med|w| / (med|g| + β med|w|),
      `eq22_ratio` med|w / (g + βw)|: equation 22 likewise, β = `weight_decay`.
    - `eq23`: ‖w‖₂/‖g‖₂ (LARS); `eq24`: size/‖g/w‖₁ (PercentDelta), an entry with g = 0 adding
      nothing to the norm, so 0 as soon as a single w is zero and its g is not; `eq24_nonzero`:
      the same over the entries with w ≠ 0 only. All three, like equations 20 and 22, without the
      factor γ, and otherwise as printed: a quotient by zero is infinite, 0/0 is nan.
    - `rank_correlation`, `rank_low`, `rank_high`, `rank_count`: Spearman's correlation of |w/g|
      with R over `rank_count` entries drawn without replacement from those where both are finite,
      with its 95% interval (Fisher's z, variance (1 + r²/2)/(n-3) of Bonett & Wright 2000), as if
      entries were independent. On the same entries, `rank_inverse_gradient` is that of 1/|g| with
      R (what is left of equation 17 when w is ignored), `rank_distance` that of |w| with |w - b|.
    - `share_zero_weight`, `share_zero_gradient`, `share_zero_curvature`,
      `share_negative_curvature`, and `share_dead` (g = h = 0), of all entries.
    - `gradient_squared_median`, `gradient_squared_q99`, `gradient_squared_max`: of g², which
      equation 17 drops against 1.
    - `weight_median`, `weight_abs_median`, `gradient_median`, `gradient_abs_median`,
      `curvature_abs_median`, `curvature_abs_mean`: over all entries.
    - `b_count`: the entries with h ≠ 0, over which the rest is taken. b = w - g/h is the
      stationary point of the parabola through w (equations 12 to 14), a minimum where h > 0,
      which it is for the share `b_share_minimum`. `b_q05 … b_q95` are its quantiles, with sign;
      `b_abs_median` med|b|; `b_relative_median` med|b/w| (without 0/0); `b_share_nearer` and
      `b_share_tenth` the shares with |b| < |w| and |b| < |w|/10, where the paper has b = 0;
      `distance_abs_median` med|w - b|.

    Args:
        model: any module; its frozen parameters are left out.
        loss: `loss(output, target)`, the scalar that is minimised.
        data: as for `hessian.diagonal`, mappings with the targets inside included, or a
            `sim.data.Dataset`.
        weight_decay: β of equation 22, at least 0.
        curvature: what `hessian.diagonal(model, loss, data)` returned, to reuse it; then `loss` and
            `data` are not used. `None` computes it.
        rank_sample: at most so many entries of a tensor are ranked.
        seed: of the draw of those entries.
        memory: bytes of working set for `hessian.diagonal`; the statistics themselves need about
            100 bytes per entry of the largest tensor.
        forward: as for `hessian.diagonal`.
        progress: show progress on standard error.

    Returns:
        The frame, in the order of `model.named_parameters()`. `frame.attrs` holds `loss` (the value
        of L), `samples`, `weight_decay`, `rank_sample` and `seed`.

    Raises:
        ValueError: a negative `weight_decay`, a `rank_sample` below 4, a model with nothing to
            differentiate, a `curvature` that is not this model's or is not finite, and whatever
            `hessian.diagonal` refuses.

    On L = (w - 1)², at w = 3: g = 4 and h = 2, so R = 17^{3/2}/2, |w/g| = 3/4 and b = 1.

    >>> line = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(line.weight, 3.0)
    >>> batch = torch.ones(1, 1), torch.ones(1, 1)
    >>> frame = compare_radii(line, nn.MSELoss(), batch)
    >>> frame.loc[0, ["radius_q50", "ratio_q50", "eq23", "b_q50"]].round(4).tolist()
    [35.0464, 0.75, 0.75, 1.0]
    """
    weight_decay = _arguments.number("weight_decay", weight_decay, 0.0)
    rank_sample = _arguments.integer("rank_sample", rank_sample, 4)
    seed = _arguments.integer("seed", seed, 0)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("model: it has no parameter that requires a gradient; unfreeze one")
    if curvature is None:
        pairs = data.pair if isinstance(data, Dataset) else data
        with isolated():
            curvature = hessian.diagonal(
                model, loss, pairs, memory=memory, forward=forward, progress=progress
            )
    _check(parameters, curvature)

    kinds = _kinds(model)
    rows = []
    console = Console(stderr=True)
    for number, name in enumerate(
        track(parameters, "radii", console=console, disable=not progress, transient=True)
    ):
        layer, _, last = name.rpartition(".")
        identity = {"parameter": name, "layer": layer, "kind": kinds.get(layer, {}).get(last, last)}
        values = _statistics(
            parameters[name].detach(),
            curvature.gradient[name],
            curvature[name],
            weight_decay,
            rank_sample,
            np.random.default_rng([seed, number]),
        )
        rows.append({**identity, **values})
    frame = pd.DataFrame(rows)
    frame.attrs = {
        "loss": float(curvature.loss),
        "samples": int(curvature.samples),
        "weight_decay": weight_decay,
        "rank_sample": rank_sample,
        "seed": seed,
    }
    return frame


def _check(parameters: Mapping[str, Tensor], curvature: Any) -> None:
    """Refuse a curvature that was not computed for these parameters."""
    gradient = getattr(curvature, "gradient", None)
    if not isinstance(curvature, Mapping) or not isinstance(gradient, Mapping):
        raise ValueError(
            f"curvature: got {type(curvature).__name__}; "
            "pass what hessian.diagonal(model, loss, data) returned"
        )
    remedy = "recompute it with hessian.diagonal for this model"
    for part, mapping in (("curvature", curvature), ("curvature.gradient", gradient)):
        for name, parameter in parameters.items():
            if name not in mapping:
                raise ValueError(f"{part}: the parameter {name!r} is missing; {remedy}")
            if mapping[name].shape != parameter.shape:
                raise ValueError(
                    f"{part}: {name!r} has shape {tuple(mapping[name].shape)} where the model has "
                    f"{tuple(parameter.shape)}; {remedy}"
                )
            if not bool(torch.isfinite(mapping[name]).all()):
                raise ValueError(
                    f"{part}: {name!r} holds a value that is not finite; "
                    "check the data and the weights for nan and overflow"
                )
        for name in mapping:
            if name not in parameters:
                raise ValueError(f"{part}: the model has no parameter {name!r}; {remedy}")


def _kinds(model: nn.Module) -> dict[str, dict[str, str]]:
    """Layers whose weights are not weights in the sense of a matrix."""
    kinds = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            kinds[name] = {"weight": "embedding"}
        elif "Norm" in type(module).__name__:
            kinds[name] = {"weight": "norm-weight", "bias": "norm-bias"}
    return kinds


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).to(device="cpu", dtype=torch.float64)


def _summary(prefix: str, values: np.ndarray) -> dict[str, float]:
    quantile_values = quantiles(values, tuple(LEVELS.values()))
    return {f"{prefix}_{key}": value for key, value in zip(LEVELS, quantile_values, strict=True)}


def _share(mask: np.ndarray) -> float:
    return float(np.count_nonzero(mask) / mask.size) if mask.size else math.nan


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan


def _divide(numerator: float, denominator: float) -> float:
    """The absolute quotient as it is printed: infinite for x/0, nan for 0/0."""
    return float(np.abs(np.float64(numerator) / np.float64(denominator)))


# Quotients by zero and overflow mean what the docstring says: infinite, and nan for 0/0.
@np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore")
def _statistics(
    weight: Tensor,
    gradient: Tensor,
    curvature: Tensor,
    weight_decay: float,
    rank_sample: int,
    generator: np.random.Generator,
) -> dict[str, float]:
    """The statistics of one parameter tensor, by the names of their columns."""
    gradient, curvature = _flat(gradient), _flat(curvature)
    radius = hessian.radius(gradient, curvature).numpy()
    w, g, h = _flat(weight).numpy(), gradient.numpy(), curvature.numpy()
    abs_w, abs_g = np.abs(w), np.abs(g)
    no_w, no_g, no_h = w == 0, g == 0, h == 0
    row: dict[str, float] = {"size": w.size}

    row |= _summary("radius", radius)
    finite = radius[~no_h]
    row |= _summary("radius_finite", finite) | {"radius_finite_mean": _mean(finite)}

    ratio = abs_w / abs_g
    defined = ratio[~(no_w & no_g)]
    row |= _summary("ratio", defined) | {"ratio_mean": _mean(defined)}
    row["ratio_finite_mean"] = _mean(ratio[~no_g])
    row["eq20_ratio"] = row["ratio_q50"]

    both = ~(no_w | no_g | no_h)
    error = np.log10(ratio[both] / radius[both])
    row |= _summary("log10_error", error)
    row["within_factor_2"] = _share(np.abs(error) <= math.log10(2))
    row["error_count"] = error.size
    del defined, finite, error

    w_median, g_median = median(w), median(g)
    w_abs, g_abs = median(abs_w), median(abs_g)
    row["eq20_signed"] = _divide(w_median, g_median)
    row["eq20_absolute"] = _divide(w_abs, g_abs)
    row["eq22_signed"] = _divide(w_median, g_median + weight_decay * w_median)
    row["eq22_absolute"] = _divide(w_abs, g_abs + weight_decay * w_abs)
    decayed = np.abs(g + weight_decay * w)
    decayed = abs_w / decayed
    relative = abs_g / abs_w
    row["eq22_ratio"] = median(decayed[~np.isnan(decayed)])
    row["eq23"] = _divide(float(np.linalg.norm(w)), float(np.linalg.norm(g)))
    relative[no_g] = 0.0
    row["eq24"] = _divide(w.size, float(relative.sum()))
    row["eq24_nonzero"] = _divide(int(np.count_nonzero(~no_w)), float(relative[~no_w].sum()))
    del decayed, relative

    ranked = np.flatnonzero(~(no_g | no_h))
    if ranked.size > rank_sample:
        ranked = ranked[generator.choice(ranked.size, rank_sample, replace=False, shuffle=False)]
    correlation = spearman(ratio[ranked], radius[ranked])
    row["rank_correlation"] = correlation.value
    row["rank_low"], row["rank_high"] = correlation.low, correlation.high
    row["rank_count"] = ranked.size
    row["rank_inverse_gradient"] = spearman(1 / abs_g[ranked], radius[ranked]).value
    row["rank_distance"] = spearman(abs_w[ranked], np.abs(g[ranked] / h[ranked])).value
    del ratio, radius

    row["share_zero_weight"] = _share(no_w)
    row["share_zero_gradient"] = _share(no_g)
    row["share_zero_curvature"] = _share(no_h)
    row["share_negative_curvature"] = _share(h < 0)
    row["share_dead"] = _share(no_g & no_h)

    squared = g * g
    row["gradient_squared_median"], row["gradient_squared_q99"], row["gradient_squared_max"] = (
        quantiles(squared, (0.5, 0.99, 1.0))
    )
    row["weight_median"], row["weight_abs_median"] = w_median, w_abs
    row["gradient_median"], row["gradient_abs_median"] = g_median, g_abs
    row["curvature_abs_median"] = median(np.abs(h))
    row["curvature_abs_mean"] = _mean(np.abs(h))
    del squared, abs_g

    curved = ~no_h
    distance = g[curved] / h[curved]
    b, abs_w = w[curved] - distance, abs_w[curved]
    row["b_count"] = b.size
    row["b_share_minimum"] = _share(h[curved] > 0)
    row |= _summary("b", b)
    abs_b = np.abs(b)
    row["b_abs_median"] = median(abs_b)
    relative = abs_b / abs_w
    row["b_relative_median"] = median(relative[~np.isnan(relative)])
    row["b_share_nearer"] = _share(abs_b < abs_w)
    row["b_share_tenth"] = _share(abs_b < abs_w / 10)
    row["distance_abs_median"] = median(np.abs(distance))
    return row
