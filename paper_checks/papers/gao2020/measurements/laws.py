"""Theory's law of E|g| averaged over a layer whose entries each have their own μ and σ."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LayerLines:
    """The four lines of figure 3 at each batch size, and the moments they came from."""

    lines: dict[str, list[float]]
    moments: dict[str, float]


def layer_lines(
    mean: Any,
    deviation: Any,
    sizes: list[int],
    population: int,
    entries: int,
    *,
    mask_deviation: Any = None,
    passes: int = 1,
    seed: int = 0,
) -> LayerLines:
    """The printed, the corrected, the mean-aware and the finite-population line of a layer.

    `mean` and `deviation` hold one value per entry. The first two lines use all entries' mean σ;
    the last two average the law over at most `entries` random entries, scaled by the mean of σ
    over all entries to that over the chosen ones, which takes out most of the sampling error.

    Dropout's part of σ, `mask_deviation`, is drawn anew for each sample and pass, so a finite
    training set does not exhaust it, and a mean over `passes` passes still carries some of it,
    which is taken off the variance again.

    >>> layer = layer_lines(np.zeros(4), np.ones(4), [1, 4], 5, 4)
    >>> [round(x, 4) for x in layer.lines["printed"] + layer.lines["corrected"]]
    [1.1284, 0.5642, 0.7979, 0.3989]
    >>> [round(x, 4) for x in layer.lines["finite"]]
    [0.7979, 0.1995]
    """
    from theory import EQUATIONS, expected_abs_gradient, numeric
    from theory.symbols import mu, n, sigma

    means, deviations = (np.asarray(x, dtype=np.float64).ravel() for x in (mean, deviation))
    masks = np.zeros_like(means)
    if mask_deviation is not None:
        masks = np.minimum(np.asarray(mask_deviation, dtype=np.float64).ravel(), deviations)
    everything = float(deviations.mean())
    printed = numeric(EQUATIONS["4"].printed, n, sigma)
    corrected = numeric(expected_abs_gradient(n, sigma), n, sigma)
    # E|N(μ, s)|: the law for a batch of one.
    folded = numeric(expected_abs_gradient(1, sigma, mu), sigma, mu)
    chosen = np.arange(means.size)
    if means.size > entries:
        chosen = np.random.default_rng(seed).choice(means.size, entries, replace=False)
    m, s, mask = means[chosen], deviations[chosen], masks[chosen]
    scale = everything / s.mean() if s.mean() > 0 else 1.0
    between = s**2 - mask**2
    known = mask**2 / (passes * population)

    def average(batch: int, total: Any) -> float:
        spread = between * _variance(batch, total) + mask**2 * _variance(batch) - known
        values = np.abs(m)
        # A dead unit's gradient is zero, and a whole training set leaves nothing to chance.
        alive = spread > 0
        values[alive] = folded(np.sqrt(spread[alive]), m[alive])
        return float(values.mean() * scale)

    return LayerLines(
        {
            "printed": [float(printed(size, everything)) for size in sizes],
            "corrected": [float(corrected(size, everything)) for size in sizes],
            "means": [average(size, None) for size in sizes],
            "finite": [average(size, population) for size in sizes],
        },
        {
            "sigma_mean": everything,
            # Entries and samples together: their variances, and that of their means.
            "sigma_layer": float(np.sqrt((deviations**2).mean() + means.var())),
            "mask_sigma_mean": float(masks.mean()),
            "abs_mu_mean": float(np.abs(means).mean()),
            "entries": float(means.size),
            "entries_used": float(m.size),
            "dead_share": float((deviations == 0).mean()),
        },
    )


def _variance(batch: int, population: int | None = None) -> float:
    """The variance of a batch mean of unit gradients, from the law itself: E|g| = √(2/π)·s."""
    from sympy import oo, pi

    from theory import expected_abs_gradient

    law = expected_abs_gradient(batch, 1, 0, oo if population is None else population)
    return float(law**2 * pi / 2)
