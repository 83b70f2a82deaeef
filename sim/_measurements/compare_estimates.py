"""The exact diagonal beside every cheap estimate of it."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor, nn

import hessian
from sim import _arguments
from sim._extras import extra
from sim._isolation import isolated
from sim._measurements.estimates import catalogue
from sim._measurements.estimates.catalogue import ESTIMATES, RANDOM, Setting, clocked
from sim._measurements.samples import Forward, all_samples, count
from sim._measurements.statistics import spearman

Draws = tuple[list[dict[str, Tensor]], float]
LEVEL = 0.95
# Of the least salient entries, those that pruning takes first.
PRUNED = 0.1


def compare_estimates(
    model: nn.Module,
    loss: Callable[..., Any],
    data: Any,
    *,
    kinds: Iterable[str] | None = None,
    probes: int = 8,
    draws: int = 3,
    steps: int = 10,
    batch_size: int | None = None,
    decay: float = 0.999,
    curvature: Any = None,
    whole: bool = False,
    rank_sample: int = 20_000,
    seed: int = 0,
    forward: Forward | None = None,
    memory: int | None = None,
    progress: bool = False,
) -> Any:
    """How far every cheap estimate of d²L/dw² is from the exact one: a row per tensor and estimate.

    | estimate | what it is |
    |---|---|
    | `hutchinson` … `becker-lecun` | those of `hessian.estimate` with `probes` probes; `gauss-newton-mc` is Sophia's, with the model's own targets replaced by signs; `becker-lecun`, whose last layer is exact, is HesScale |
    | `hutch++`, `xdiag` | `probes` products with H, their range taken exactly |
    | `k-fac`, `ek-fac` | the Kronecker-factored diagonals of linear and convolution layers |
    | `input-moment` | 2 Σ u², of the layer-wise pruning of OBS and GPTQ |
    | `adam` | n times Adam's second moment after `steps` batches of n = `batch_size` |
    | `ratio`, `mclr`, `lars`, `percent-delta` | abs(g/w), and the inverse of each rule's rate, one number for all entries of the tensor |

    Columns, with e the estimate and h the exact diagonal of the tensor:

    - `parameter`, `layer`, `size`, `estimate`, `probes` (0 where there are none), `draws`.
    - `relative_error`: ‖e - h‖/‖h‖, the mean over draws, `relative_error_low` and `_high` its 95%
      interval (Student's; nan for one draw). `bias`: (Σe - Σh)/Σ|h|, of the tensor's trace, with
      `bias_low`, `bias_high`; `trace_error`: the mean over draws of its size.
    - `scaled_error`: ‖ce - h‖/‖h‖ for the best c, `scale`: estimates of another unit (Adam's, the
      input moment, abs(g/w)) can only be right in this sense.
    - `rank_correlation`, `rank_low`, `rank_high`: Spearman's of e with h over at most
      `rank_sample` entries, its interval as if they were independent; nan for constant ones.
    - `within_factor_2`: the share of entries with h ≠ 0 where e has the sign of h and is within a
      factor of two (a Laplace posterior). `pruning_overlap`: of the tenth of entries with the
      least w²|h|, the share that w²|e| finds. `largest_ratio`: max e/max h (a bound on sharpness).
      These, like the correlations, are of the first draw.
    - `seconds`: of the processor, for one draw; `gradients`: over those of one gradient of the same
      data; `error_per_gradient`: relative_error·√gradients, what probing as long as one gradient
      takes would leave, since errors of probes fall as the root of their number.

    Args:
        model: any module; frozen parameters are left out.
        loss: `loss(output, target)`.
        data: as for `hessian.diagonal`, or a `sim.data.Dataset`; taken as one batch.
        kinds: which estimates; all by default.
        probes: of each that probes; products of `hutch++` and `xdiag`.
        draws: how often each random one is drawn, for the intervals.
        steps, batch_size, decay: of Adam; a quarter of the samples by default.
        curvature: what `hessian.diagonal(model, loss, data)` returned, to reuse it.
        whole: add, per estimate, a row of all its tensors together, whose `parameter` is `*`.
        rank_sample, seed, forward, memory, progress: as for `compare_radii`.

    Returns:
        A pandas frame. An estimate that does not serve a tensor (K-FAC a norm) has no row for it,
        and one of `hessian.estimate` that cannot serve all has the layers' alone; one that does not serve the network is in `frame.attrs["refused"]`, with the reason.
        `frame.attrs["gradient_seconds"]` is the time of one gradient.

    Raises:
        ValueError: an unknown kind, a count below 1, no trained parameter, and whatever
            `hessian.diagonal` refuses.

    On L = ((w₁ + w₂)² + w₂²)/2 the Gauss-Newton diagonal is exact.

    >>> line = nn.Linear(2, 1, bias=False)
    >>> pair = torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.zeros(2, 1)
    >>> frame = compare_estimates(line, nn.MSELoss(), pair, kinds=["gauss-newton", "k-fac"])
    >>> frame.set_index("estimate").relative_error.round(4).to_dict()
    {'gauss-newton': 0.0, 'k-fac': 0.0}
    """  # noqa: E501
    chosen = _kinds(kinds)
    setting = Setting(
        model,
        loss,
        all_samples(data, model, forward),
        _arguments.integer("probes", probes, 1),
        _arguments.integer("steps", steps, 1),
        0,
        _arguments.number("decay", decay, 0.0, 1.0),
        forward,
        memory,
    )
    samples = count(setting.pair[0])
    size = max(1, samples // 4) if batch_size is None else batch_size
    setting = Setting(
        **{**vars(setting), "batch_size": _arguments.integer("batch_size", size, 1, samples)}
    )
    draws = _arguments.integer("draws", draws, 1)
    rank_sample = _arguments.integer("rank_sample", rank_sample, 4)
    seed = _arguments.integer("seed", seed, 0)
    if not setting.trained():
        raise ValueError("model: it has no parameter that requires a gradient; unfreeze one")
    with extra("sim.compare_estimates"):
        import pandas as pd
    with isolated():
        if curvature is None:
            curvature = hessian.diagonal(
                model, loss, setting.pair, forward=forward, memory=memory, progress=progress
            )
        exact = {name: _flat(h) for name, h in curvature.items()}
        weights = {name: _flat(p) for name, p in setting.trained().items()}
        gradient, unit = _gradient(setting)
        records: list[dict[str, Any]] = []
        refused: dict[str, str] = {}
        for name, made in _estimated(setting, chosen, draws, seed, gradient, unit):
            if isinstance(made, str):
                refused[name] = made
                continue
            rng = np.random.default_rng([seed, len(records)])
            for key, tensors, h, w in _by_tensor(made[0], exact, weights, whole):
                row = _statistics(tensors, h, w, rank_sample, rng)
                gradients = made[1] / unit
                records.append({
                    "parameter": key, "layer": key.rpartition(".")[0], "size": h.size,
                    "estimate": name, "probes": setting.probes if _probing(name) else 0,
                    "draws": len(tensors), **row, "seconds": made[1], "gradients": gradients,
                    "error_per_gradient": row["relative_error"] * math.sqrt(gradients),
                })  # fmt: skip
    frame = pd.DataFrame(records)
    frame.attrs = {
        "refused": refused,
        "gradient_seconds": unit,
        "loss": float(curvature.loss),
        "samples": samples,
        "batch_size": setting.batch_size,
        "seed": seed,
    }
    return frame


def _kinds(kinds: Iterable[str] | None) -> tuple[str, ...]:
    if kinds is None:
        return ESTIMATES
    names = [kinds] if isinstance(kinds, str) else list(kinds)
    for name in names:
        _arguments.choice("kinds", name, ESTIMATES)
    return tuple(name for name in ESTIMATES if name in names)


def _probing(name: str) -> bool:
    return name in RANDOM and name != "adam"


def _flat(tensor: Tensor) -> np.ndarray:
    flat: np.ndarray = tensor.detach().reshape(-1).to("cpu", torch.float64).numpy()
    return flat


def _gradient(setting: Setting) -> tuple[dict[str, Tensor], float]:
    """The gradient, and the processor's seconds for it: the least of five."""
    setting.gradient()
    timed = [clocked(setting.gradient) for _ in range(5)]
    return timed[0][0], max(min(seconds for _, seconds in timed), 1e-9)


def _estimated(
    setting: Setting,
    names: tuple[str, ...],
    draws: int,
    seed: int,
    gradient: Mapping[str, Tensor],
    unit: float,
) -> Iterator[tuple[str, Draws | str]]:
    """Each estimate's draws with the seconds of one, or the reason why there are none."""
    factored = [name for name in names if name in catalogue.FACTORED]
    layers: list[Any] = []
    shared, reason = 0.0, ""
    if factored:
        try:
            layers, shared = clocked(lambda: catalogue.factored_layers(setting, seed))
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
    for name in names:
        if name in catalogue.FACTORED:
            yield name, reason or _of_layers(name, layers, shared)
        elif name in catalogue.FROM_GRADIENT:
            yield name, ([catalogue.of_gradient(name, setting, gradient)], unit)
        else:
            yield name, _drawn(name, setting, draws if name in RANDOM else 1, seed)


def _of_layers(name: str, layers: list[Any], shared: float) -> Draws:
    def compute() -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        for layer in layers:
            parts |= catalogue.FACTORED[name](layer)
        return parts

    diagonal, seconds = clocked(compute)
    return [diagonal], shared + seconds


def _drawn(name: str, setting: Setting, draws: int, seed: int) -> Draws | str:
    diagonals, total = [], 0.0
    for number in range(draws):
        word = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        try:
            drawn, seconds = clocked(lambda: catalogue.draw(name, setting, word))  # noqa: B023
        except (ValueError, NotImplementedError, RuntimeError) as error:
            return str(error).splitlines()[0]
        diagonals.append(drawn)
        total += seconds
    return diagonals, total / draws


Tensors = Mapping[str, np.ndarray]


def _by_tensor(
    draws: list[dict[str, Tensor]], exact: Tensors, weights: Tensors, whole: bool
) -> Iterator[tuple[str, list[np.ndarray], np.ndarray, np.ndarray]]:
    """Name, draws, exact diagonal and weights of each tensor that an estimate serves."""
    served = [name for name in exact if name in draws[0]]
    groups = [(name, [name]) for name in served]
    for key, names in [*groups, ("*", served)] if whole and served else groups:
        parts = [np.concatenate([_flat(one[name]) for name in names]) for one in draws]
        h, w = (np.concatenate([part[name] for name in names]) for part in (exact, weights))
        yield key, parts, h, w


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def _statistics(
    draws: list[np.ndarray],
    exact: np.ndarray,
    weight: np.ndarray,
    rank_sample: int,
    rng: np.random.Generator,
) -> dict[str, float]:
    """The statistics of one tensor, by the names of their columns."""
    norm, size = float(np.linalg.norm(exact)), float(np.abs(exact).sum())
    errors = [float(np.linalg.norm(e - exact)) / norm if norm else math.nan for e in draws]
    biases = [float((e - exact).sum()) / size if size else math.nan for e in draws]
    row: dict[str, float] = {}
    for name, values in (("relative_error", errors), ("bias", biases)):
        row[name], row[f"{name}_low"], row[f"{name}_high"] = _interval(values)
    row["trace_error"] = float(np.mean(np.abs(biases)))
    e = draws[0]
    square = float(e @ e)
    c = float(e @ exact) / square if square and math.isfinite(square) else math.nan
    row["scale"] = c
    row["scaled_error"] = float(np.linalg.norm(c * e - exact)) / norm if norm else math.nan
    index = rng.choice(e.size, rank_sample, replace=False) if e.size > rank_sample else slice(None)
    # An infinite one, of a zero weight, keeps its place in the order; nan has none.
    ranked = e[index] if not np.isnan(e[index]).any() else np.zeros_like(e[index])
    correlation = spearman(ranked, exact[index])
    row["rank_correlation"] = correlation.value
    row["rank_low"], row["rank_high"] = correlation.low, correlation.high
    curved = exact != 0
    quotient = e[curved] / exact[curved]
    near = (quotient >= 0.5) & (quotient <= 2)
    row["within_factor_2"] = float(near.mean()) if near.size else math.nan
    row["pruning_overlap"] = _overlap(weight**2 * np.abs(e), weight**2 * np.abs(exact))
    top = float(exact.max())
    row["largest_ratio"] = float(e.max()) / top if top > 0 else math.nan
    return row


def _interval(values: list[float]) -> tuple[float, float, float]:
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * float(np.std(values, ddof=1))
    half /= math.sqrt(len(values))
    return mean, mean - half, mean + half


def _overlap(estimated: np.ndarray, exact: np.ndarray) -> float:
    """Of the least tenth by the one, the share that is among the least tenth by the other."""
    least = int(PRUNED * exact.size)
    if not least or not np.isfinite(estimated).all():
        return math.nan
    first, second = (np.argpartition(v, least - 1)[:least] for v in (estimated, exact))
    return float(np.isin(first, second).mean())
