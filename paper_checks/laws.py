"""Theory's law of E|g| averaged over a layer whose entries each have their own μ and σ."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class LayerLines:
    """The four lines of figure 3 at each batch size, and the moments they came from."""

    lines: dict[str, list[float]]
    moments: dict[str, float]


def layer_lines(
    mean: Any, deviation: Any, sizes: list[int], population: int, entries: int, seed: int = 0
) -> LayerLines:
    """The printed, the corrected, the mean-aware and the finite-population line of a layer.

    `mean` and `deviation` are tensors or arrays with one value per entry. The first two lines use
    all entries' mean σ; the last two average the law over at most `entries` random entries, and
    are scaled by the mean of σ over all entries to that over the chosen ones, which takes out
    most of the sampling error.

    >>> found = layer_lines(np.zeros(4), np.ones(4), [1, 4], 5, 4)
    >>> [round(x, 4) for x in found.lines["printed"] + found.lines["corrected"]]
    [1.1284, 0.5642, 0.7979, 0.3989]
    >>> [round(x, 4) for x in found.lines["finite"]]
    [0.7979, 0.1995]
    """
    from theory import EQUATIONS, expected_abs_gradient, numeric
    from theory.symbols import N as training_set
    from theory.symbols import mu, n, sigma

    means, deviations = (np.asarray(x, dtype=np.float64).ravel() for x in (mean, deviation))
    everything = float(deviations.mean())
    printed = numeric(EQUATIONS["4"].printed, n, sigma)
    corrected = numeric(expected_abs_gradient(n, sigma), n, sigma)
    chosen = np.arange(means.size)
    if means.size > entries:
        chosen = np.random.default_rng(seed).choice(means.size, entries, replace=False)
    m, s = means[chosen], deviations[chosen]
    scale = everything / s.mean() if s.mean() > 0 else 1.0
    with_means = numeric(expected_abs_gradient(n, sigma, mu), n, sigma, mu)
    finite = numeric(expected_abs_gradient(n, sigma, mu, training_set), n, sigma, mu, training_set)
    # A dead unit's gradient is always zero, and a whole training set leaves nothing to chance:
    # both are |μ|, and need no limit taken numerically.
    alive = s > 0

    def average(law: Any, size: int, *more: float) -> float:
        values = np.abs(m)
        if not (more and size == population):
            values[alive] = law(float(size), s[alive], m[alive], *more)
        return float(values.mean()) * scale

    return LayerLines(
        {
            "printed": [float(printed(size, everything)) for size in sizes],
            "corrected": [float(corrected(size, everything)) for size in sizes],
            "means": [average(with_means, size) for size in sizes],
            "finite": [average(finite, size, float(population)) for size in sizes],
        },
        {
            "sigma_mean": everything,
            "abs_mu_mean": float(np.abs(means).mean()),
            "entries": float(means.size),
            "entries_used": float(m.size),
            "dead_share": float((deviations == 0).mean()),
        },
    )
