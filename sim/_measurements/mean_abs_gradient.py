"""The size of a batch's gradient for every batch size (figure 3, equation 4)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sim import _arguments
from sim._measurements.per_sample import (
    Factors,
    Loss,
    Objective,
    gradient_sum,
    outer_product,
    trained_parameter,
)
from sim._measurements.samples import (
    Forward,
    all_samples,
    chunks,
    count,
    dropout_switched,
    progress_bar,
    rows,
    seeded_anew,
    spread,
)
from sim._measurements.separable import MODEL_TRIED, check_separable, is_random

# Samples that go through the network at a time, and cached ones that enter one matrix product.
CHUNK = 256
ROWS = 2048


def mean_abs_gradient(
    model: nn.Module,
    loss: Loss,
    data: Any,
    parameter: str,
    batch_sizes: Sequence[int],
    *,
    replacement: bool = False,
    repeats: int = 8,
    dropout: bool | None = None,
    seed: int = 0,
    memory: int | None = None,
    forward: Forward | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """The average size of a batch's gradient, E|g|, for every batch size (figure 3, equation 4).

    g is the gradient of the mean loss of n samples drawn at random, |g| is averaged over the
    entries of the parameter, and that over `repeats` independent draws. Within one repeat the
    batches are nested, each the beginning of one random sequence of samples, so all batch sizes
    together cost one pass over the largest; across repeats they are independent.

    Without dropout the outer-product factors of a linear layer's weight are computed once for all
    repeats (they take N (d_in + d_out) numbers). With dropout, and for any other parameter, each
    repeat runs forward and backward over its samples; every sample then has its own fresh mask.

    Args:
        model: as for `gradient_moments`.
        loss: as for `gradient_moments`.
        data: as for `gradient_moments`.
        parameter: as for `gradient_moments`.
        batch_sizes: the n; at most N without replacement.
        replacement: draw samples with replacement, else without.
        repeats: independent draws of each batch.
        dropout: as for `gradient_moments`.
        seed: of the draws and the masks; repeat r depends on `seed` and r only.
        memory: as for `gradient_moments`; the factors come on top.
        forward: as for `gradient_moments`.
        progress: show progress on standard error.

    Returns:
        A frame, one row per batch size in increasing order: `batch_size`, `mean_abs_gradient` (the
        mean over the repeats), `standard_error` (of that mean, from the repeats' spread with
        divisor repeats - 1; nan for one repeat), `repeats`, `replacement`, `dropout` (whether any
        was in effect), `population` (N), `parameter`, `size` (entries), `seed`.
        `frame.attrs["repeats"]` holds the single values: a list per repeat, in the order of the
        rows.

    Raises:
        ValueError: no batch size, or one below 1 or above N without replacement; and what
            `gradient_moments` refuses.

    Per-sample gradients 2 and -4: single samples average 3 over many draws, both together give 1.

    >>> line = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(line.weight, 1.0)
    >>> batch = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    >>> frame = mean_abs_gradient(line, nn.MSELoss(), batch, "weight", [1, 2], repeats=3)
    >>> frame.loc[1, ["mean_abs_gradient", "standard_error"]].tolist()
    [1.0, 0.0]
    >>> {abs(repeat[0]) for repeat in frame.attrs["repeats"]} <= {2.0, 4.0}
    True
    """
    repeats = _arguments.integer("repeats", repeats, 1)
    seed = _arguments.integer("seed", seed, 0)
    if memory is not None:
        _arguments.integer("memory", memory, 1)
    weight = trained_parameter(model, parameter)
    inputs, targets = all_samples(data, model, forward)
    total = count(inputs)
    objective = Objective(model, loss, forward)
    most = None if replacement else total
    sizes = sorted({_arguments.integer("batch_sizes", n, 1, most) for n in batch_sizes})
    if not sizes:
        raise ValueError("batch_sizes: got none; give at least one batch size")

    device = weight.device
    values = np.empty((repeats, len(sizes)))
    with dropout_switched(model, dropout), progress_bar(progress, f"|g| of {parameter}") as bar:
        with seeded_anew(seed, device):
            check_separable(objective, inputs, targets, device)
            random = is_random(objective, spread(inputs, targets, MODEL_TRIED, device)[0])
            factors = None if random else outer_product(objective, inputs, targets, parameter)
            advance = bar(repeats * sizes[-1] + (0 if factors is None else total))
            cached = None
            if factors is not None:
                cached = _cached(factors, inputs, targets, device, advance)
        for repeat in range(repeats):
            order = _draw(total, sizes[-1], replacement, [seed, repeat])
            with seeded_anew([seed, repeat, 1], device):
                batch_sum = torch.zeros_like(weight, requires_grad=False)
                before = 0
                for column, size in enumerate(sizes):
                    for part in order[before:size].split(CHUNK if cached is None else ROWS):
                        if cached is None:
                            x, y = (rows(v, part, total, device) for v in (inputs, targets))
                            batch_sum += gradient_sum(objective, x, y, weight)
                        else:
                            index = part.to(device)
                            batch_sum.addmm_(cached[0][index].T, cached[1][index])
                        advance(len(part))
                    before = size
                    values[repeat, column] = _mean_abs(batch_sum) / size
    deviations = values.std(axis=0, ddof=1) if repeats > 1 else np.full(len(sizes), math.nan)
    frame = pd.DataFrame(
        {
            "batch_size": sizes,
            "mean_abs_gradient": values.mean(axis=0),
            "standard_error": deviations / math.sqrt(repeats),
            "repeats": repeats,
            "replacement": replacement,
            "dropout": random,
            "population": total,
            "parameter": parameter,
            "size": weight.numel(),
            "seed": seed,
        }
    )
    frame.attrs = {"repeats": values.tolist()}
    return frame


def _draw(total: int, most: int, replacement: bool, seed: list[int]) -> Tensor:
    generator = np.random.default_rng(seed)
    if replacement:
        return torch.from_numpy(generator.integers(total, size=most))
    return torch.from_numpy(generator.permutation(total)[:most])


def _mean_abs(tensor: Tensor) -> float:
    # A sum in float64 without a float64 copy of the whole tensor.
    parts = tensor.reshape(-1).split(2**20)
    return math.fsum(float(p.abs().sum(dtype=torch.float64)) for p in parts) / tensor.numel()


def _cached(
    factors: Factors,
    inputs: Any,
    targets: Any,
    device: torch.device,
    advance: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    parts = []
    for x, y in chunks(inputs, targets, CHUNK, device):
        parts.append(factors(x, y))
        advance(count(x))
    return torch.cat([delta for delta, _ in parts]), torch.cat([a for _, a in parts])
