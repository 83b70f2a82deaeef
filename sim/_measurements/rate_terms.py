"""What lies between a layer-wise rule's rate and the exact radius, factor by factor."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hessian
from sim import _arguments
from sim._extras import extra
from sim._isolation import isolated
from sim._measurements.gradient_moments import gradient_moments
from sim._measurements.per_sample import Objective
from sim._measurements.samples import Forward, all_samples, count, rows
from sim._measurements.statistics import median

# The cap of `sim.optimizers.CBLR` is in the unit of the weights and has no value for all networks.
TERMS = (
    "zeros", "cap", "square", "middle", "compression", "noise", "batch", "means", "chance",
    "weight", "spread", "rule_zeros",
)  # fmt: skip
RULES = ("mclr", "median", "lars", "percent-delta")


def rate_terms(
    model: nn.Module,
    loss: Callable[..., Any],
    data: Any,
    *,
    batch_size: int,
    cap: float,
    seed: int = 0,
    curvature: Any = None,
    forward: Forward | None = None,
    memory: int | None = None,
) -> Any:
    """The factors between each rule's rate and CBLR's median radius, a row per tensor and rule.

    The exact h is of all `data`, N samples; μ and σ are the moments of the gradients of single
    samples there, and g that of one batch of n = `batch_size` of them. With G the geometric mean
    over the entries of the tensor where w, g, h and σ are all nonzero, s = σ √((N - n)/(N - 1)/n)
    and R = (1 + g²)^{3/2}/|h|, the columns are

    - `parameter`, `size`, `rule` (`mclr` med|w|/med|g|, `median` med|w/g|, `lars` ‖w‖/‖g‖,
      `percent-delta` P/Σ|g/w|), `rate` and `cblr` = med min(R, cap) over all entries;
      `whole` = rate/cblr;
    - `zeros`: med min(R, cap) over those entries, over that of all; `cap`: med R over it;
      `square`: med 1/|h| over med R; `middle`: G(1/|h|) over med 1/|h|;
    - `compression`: G(1/√|h|)/G(1/|h|), since |w/g| follows √R; `noise`: G(√|h|/σ), 1 where σ² = h;
      `batch`: √(n (N - 1)/(N - n)); `means`: G(s/√(μ² + s²)), 1 below the noise scale; `chance`:
      G(√(μ² + s²)/|g|), what the batch drew; `weight`: G(|w|);
    - `spread`: the rule over those entries, over G(|w/g|); `rule_zeros`: over all, over that.

    The product of the twelve terms is `whole`, exactly but for rounding.

    Args:
        model, loss, data, seed, forward, memory: as for `gradient_moments`; the seed draws the
            batch.
        batch_size: n, below N.
        cap: R_max of CBLR, positive.
        curvature: what `hessian.diagonal(model, loss, data)` returned, to reuse it.

    Returns:
        A pandas frame; a tensor without such entries has no row.

    Raises:
        ValueError: a batch size that is not from 1 to N - 1, a cap that is not positive, and what
            `gradient_moments` and `hessian.diagonal` refuse.

    On L = mean (w x - y)²/2 at w = 2, with the gradients 2 and 6 of x = 1 and 2:

    >>> line = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(line.weight, 2.0)
    >>> batch = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [1.0]])
    >>> half = lambda output, y: (output - y).square().mean() / 2
    >>> frame = rate_terms(line, half, batch, batch_size=1, cap=1e6)
    >>> round(float(frame[list(TERMS)].iloc[0].prod() / frame.whole[0]), 12)
    1.0
    """
    inputs, targets = all_samples(data, model, forward)
    total = count(inputs)
    n = _arguments.integer("batch_size", batch_size, 1, total - 1)
    cap = _arguments.number("cap", cap, 0.0, open_=True)
    seed = _arguments.integer("seed", seed, 0)
    with extra("sim.rate_terms"):
        import pandas as pd
    pair = (inputs, targets)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    records = []
    with isolated():
        if curvature is None:
            curvature = hessian.diagonal(model, loss, pair, forward=forward, memory=memory)
        index = torch.from_numpy(np.random.default_rng(seed).permutation(total)[:n].copy())
        value = Objective(model, loss, forward).scalar(
            rows(inputs, index, total), rows(targets, index, total)
        )
        slopes = torch.autograd.grad(
            value, list(parameters.values()), allow_unused=True, materialize_grads=True
        )
    for (name, parameter), slope in zip(parameters.items(), slopes, strict=True):
        moments = gradient_moments(
            model, loss, pair, name, seed=seed, memory=memory, forward=forward
        )
        w, g, h, mu, sigma = map(
            _flat, (parameter, slope, curvature[name], moments.mean, moments.std)
        )
        radius = hessian.radius(torch.from_numpy(g), torch.from_numpy(h)).numpy()
        for row in _terms(w, g, h, mu, sigma, radius, n, total, cap):
            records.append({"parameter": name, "size": w.size, **row})
    return pd.DataFrame(records)


def _flat(tensor: Tensor) -> np.ndarray:
    flat: np.ndarray = tensor.detach().reshape(-1).to("cpu", torch.float64).numpy()
    return flat


def _geometric(values: np.ndarray) -> float:
    return float(np.exp(np.log(values).mean()))


@np.errstate(divide="ignore", invalid="ignore")
def _rule(name: str, w: np.ndarray, g: np.ndarray) -> float:
    if name == "mclr":
        return float(np.float64(median(w)) / median(g))
    if name == "median":
        ratio = w / g
        return median(ratio[~np.isnan(ratio)])
    if name == "lars":
        return float(np.linalg.norm(w) / np.linalg.norm(g))
    inverse = g / w
    inverse[g == 0] = 0.0
    return float(w.size / inverse.sum())


def _terms(
    w: np.ndarray,
    g: np.ndarray,
    h: np.ndarray,
    mu: np.ndarray,
    sigma: np.ndarray,
    radius: np.ndarray,
    n: int,
    total: int,
    cap: float,
) -> list[dict[str, Any]]:
    """The rows of one tensor, one a rule."""
    w, g, h = np.abs(w), np.abs(g), np.abs(h)
    alive = (w > 0) & (g > 0) & (h > 0) & (sigma > 0)
    if not alive.any():
        return []
    cblr = median(np.minimum(radius, cap))
    w_, g_, h_, mu, sigma, radius = (v[alive] for v in (w, g, h, mu, sigma, radius))
    batch = np.sqrt(n * (total - 1) / (total - n))
    s = sigma / batch
    size = np.sqrt(mu**2 + s**2)
    capped, middle = median(np.minimum(radius, cap)), median(1 / h_)
    inverse = _geometric(1 / h_)
    shared = {
        "zeros": capped / cblr,
        "cap": median(radius) / capped,
        "square": middle / median(radius),
        "middle": inverse / middle,
        "compression": _geometric(h_**-0.5) / inverse,
        "noise": _geometric(np.sqrt(h_) / sigma),
        "batch": float(batch),
        "means": _geometric(s / size),
        "chance": _geometric(size / g_),
        "weight": _geometric(w_),
    }
    records = []
    for name in RULES:
        rate, within = _rule(name, w, g), _rule(name, w_, g_)
        records.append({
            "rule": name, "rate": rate, "cblr": cblr, "whole": rate / cblr, **shared,
            "spread": within / _geometric(w_ / g_), "rule_zeros": rate / within,
        })  # fmt: skip
    return records
