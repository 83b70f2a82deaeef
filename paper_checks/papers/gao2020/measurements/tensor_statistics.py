"""What the checks need of one parameter tensor beyond `sim.compare_radii`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def tensor_statistics(
    weight: Array, gradient: Array, curvature: Array, beta: float
) -> dict[str, Any]:
    """Statistics over the entries that have what they need; a statistic without any is `None`.

    `ratio_finite` holds the quartiles of |w/g| where g ≠ 0; `log_radius_mean` and
    `log_radius_variance` are of log10 R where h ≠ 0, `entry_error` is the median of
    |log10(|w/g| / R)| where w, g and h are non-zero. Where w and h are non-zero, `fit_entries`
    counts, `fit_weight` is the median of |w| and `fit_distance` that of |w - b| = |g/h|;
    `fit_distance_decayed` is the latter with weight decay `beta`: |(g + βw)/(h + β)|.

    >>> one = np.ones(3)
    >>> statistics = tensor_statistics(2 * one, one, 4 * one, beta=0.0)
    >>> statistics["ratio_finite"], statistics["fit_weight"], statistics["fit_distance"]
    ([2.0, 2.0, 2.0], 2.0, 0.25)
    """
    w, g, h = (np.asarray(x, dtype=np.float64).ravel() for x in (weight, gradient, curvature))
    sloped, curved, fit = g != 0, h != 0, (h != 0) & (w != 0)
    usable = fit & sloped
    radius = _log_radius(g[curved], h[curved])
    error = np.abs(np.log10(np.abs(w[usable] / g[usable])) - _log_radius(g[usable], h[usable]))
    quartiles = (
        np.quantile(np.abs(w[sloped] / g[sloped]), (0.25, 0.5, 0.75)) if sloped.any() else None
    )
    moved = (g[fit] + beta * w[fit]) / np.where(h[fit] + beta == 0, np.inf, h[fit] + beta)
    return {
        "ratio_finite": None if quartiles is None else quartiles.tolist(),
        "log_radius_mean": float(radius.mean()) if radius.size else None,
        "log_radius_variance": float(radius.var()) if radius.size else None,
        "entry_error": _median(error),
        "fit_entries": int(fit.sum()),
        "fit_weight": _median(np.abs(w[fit])),
        "fit_distance": _median(np.abs(g[fit] / h[fit])),
        "fit_distance_decayed": _median(np.abs(moved)),
    }


def mean_growth(ratio: Array, blocks: int = 32, seed: int = 0) -> dict[str, list[float]]:
    """The typical mean of `ratio` over k random entries, over the median of all, as k grows.

    k runs over powers of four and ends with all entries; typical is the median over up to
    `blocks` disjoint groups. Where the mean exists the values settle; where not, they go on
    growing.

    >>> mean_growth(np.ones(16))
    {'sizes': [4, 16], 'means': [1.0, 1.0]}
    """
    shuffled = np.random.default_rng(seed).permutation(ratio)
    median = float(np.median(shuffled))
    sizes = [4**power for power in range(1, 20) if 4**power < shuffled.size] + [shuffled.size]
    means = []
    for k in sizes:
        groups = min(blocks, shuffled.size // k)
        means.append(float(np.median(shuffled[: groups * k].reshape(groups, k).mean(1))) / median)
    return {"sizes": sizes, "means": means}


def growth_of_independent_gaussians(entries: int = 4**11, seed: int = 0) -> dict[str, list[float]]:
    """`mean_growth` where w and g are independent and Gaussian, for comparison.

    >>> growth = growth_of_independent_gaussians(4**6)
    >>> growth["means"][-1] > growth["means"][0]
    True
    """
    w, g = np.random.default_rng(seed).standard_normal((2, entries))
    return mean_growth(np.abs(w / g), seed=seed)


def _log_radius(g: Array, h: Array) -> Array:
    return np.asarray(1.5 * np.log10(1 + g**2) - np.log10(np.abs(h)))


def _median(values: Array) -> float | None:
    return float(np.median(values)) if values.size else None
