"""One small experiment for each equation that a number can try, none of which knows its formula.

Each draws random gradients, takes steps on real loss curves, or puts a circle through three points
of one, and measures the quantity on the equation's left-hand side. What is printed and what is
derived are then evaluated at the same point, by `paper_checks.equations.checks`.
"""

from collections.abc import Callable, Mapping
from math import exp, log, pi, sqrt
from typing import Any

import numpy as np

from paper_checks.equations.evidence import Array, Evidence, Z, mean_evidence, median_evidence

_BATCH, _SIGMA, _A, _B, _C, _LR = 16, 1.5, 1.5, 0.5, 2.0, 0.1
# Memory: a batch of 16 for each of so many means is 26 MB.
_MOST_MEANS = 200_000
# A thousand layers of 2000 entries, for their typical rate.
_LAYER_ENTRIES = 2_000_000


def means(draws: int, generator: np.random.Generator) -> Array:
    """Means of batches of 16 gradients drawn from N(0, 1.5)."""
    count = min(draws, _MOST_MEANS)
    averages: Array = generator.normal(0, _SIGMA, (count, _BATCH)).mean(1)
    return averages


def circle_radius(loss: Callable[[float], float], w: float, apart: float = 1e-3) -> float:
    """The radius of the circle through three near points of the loss curve.

    >>> round(circle_radius(lambda x: -sqrt(4 - x * x), 0.3), 4)
    2.0
    """
    x = np.array([w - apart, w, w + apart])
    y = np.array([loss(float(value)) for value in x])
    sides = [float(np.hypot(x[i] - x[j], y[i] - y[j])) for i, j in ((0, 1), (1, 2), (0, 2))]
    area = 0.5 * abs((x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0]))
    return sides[0] * sides[1] * sides[2] / (4 * float(area))


def _parabola(w: float) -> float:
    return _A * (w - _B) ** 2 + _C


def _spread_of_sum(statement: Any) -> Any:
    """The standard deviation that a printed sum has: as many terms as its limits say."""
    from sympy import Sum, sqrt

    from theory.symbols import n, sigma

    (total,) = statement[0].rhs.atoms(Sum)
    _, first, last = total.limits[0]
    return sigma * sqrt(last - first + 1) / n


def batch_spread(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 2: the standard deviation of batch means."""
    values = means(draws, generator)
    spread = float(values.std())
    return Evidence(
        "standard deviation of the mean of 16 gradients, σ = 1.5",
        spread,
        Z * spread / sqrt(2 * values.size),
        {"n": _BATCH, "sigma": _SIGMA},
        _spread_of_sum,
    )


def density_mass(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 3: the share of batch means within σ/√n, against the density's integral."""
    from sympy import Integral, sqrt

    from theory.symbols import g, n, sigma

    values = means(draws, generator)
    inside = float((np.abs(values) < _SIGMA / _BATCH**0.5).mean())
    edge = sigma / sqrt(n)
    return Evidence(
        "probability that |g| is below σ/√n, n = 16, σ = 1.5",
        inside,
        Z * (inside * (1 - inside) / values.size) ** 0.5,
        {"n": _BATCH, "sigma": _SIGMA},
        lambda density: Integral(density, (g, -edge, edge)),
    )


def mean_abs(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 4: the mean absolute batch gradient."""
    return mean_evidence(
        "E|g| of batches of 16 gradients, σ = 1.5",
        np.abs(means(draws, generator)),
        {"n": _BATCH, "sigma": _SIGMA},
    )


def descent_step(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 5: the change of a parameter by one step of torch's own SGD."""
    import torch

    w = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    (w - 2.0).square().sum().backward()
    torch.optim.SGD([w], lr=_LR).step()
    return Evidence(
        "new w less old w after one step of torch.optim.SGD, g = 2, lr = 0.1",
        float(w.item()) - 3.0,
        1e-12,
        {"lr": _LR, "g": 2.0},
    )


def mean_abs_step(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 6: the mean absolute step."""
    return mean_evidence(
        "E|Δw| for batches of 16, σ = 1.5, lr = 0.1",
        np.abs(_LR * means(draws, generator)),
        {"n": _BATCH, "sigma": _SIGMA, "lr": _LR},
    )


def small_step_decrease(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 7, reconstructed: the decrease of log cosh by one small step."""
    w, lr = 0.5, 1e-4
    slope = float(np.tanh(w))
    decrease = float(np.log(np.cosh(w)) - np.log(np.cosh(w - lr * slope)))
    # The curvature, at most 1, adds a share of lr/2.
    return Evidence(
        "decrease of log cosh w by one step at w = 0.5, lr = 0.0001",
        decrease,
        lr * decrease,
        {"lr": lr, "g": slope},
    )


def mean_loss_decrease(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 8: the mean decrease of the batch's own loss, a parabola of curvature 2."""
    curvature = 2.0
    slopes = means(draws, generator)
    moved = -_LR * slopes
    evidence = mean_evidence(
        "mean decrease of the batch's loss, n = 16, σ = 1.5, lr = 0.1, h = 2",
        -(slopes * moved + curvature / 2 * moved**2),
        {"n": _BATCH, "sigma": _SIGMA, "lr": _LR, "h": curvature},
    )
    # The population's own slope is zero: only the curvature's term is left.
    population = float(-(curvature / 2 * moved**2).mean())
    return Evidence(
        evidence.quantity,
        evidence.measured,
        evidence.half,
        evidence.point,
        others=(("the same steps on the population's loss, whose slope is 0", population),),
    )


def touching_circle(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 9: a circle through three points of w⁴/4 + w²."""
    w = 0.7
    radius = circle_radius(lambda x: x**4 / 4 + x**2, w)
    return Evidence(
        "radius of the circle through three near points of w⁴/4 + w² at w = 0.7",
        radius,
        1e-4 * radius,
        {"g": w**3 + 2 * w, "h": 3 * w**2 + 2},
        others=(
            ("the same for ten times the loss", circle_radius(lambda x: 2.5 * x**4 + 10 * x**2, w)),
        ),
    )


def descending_step(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 11: of the two steps of length ηg, the one that lowers a parabola."""
    w, slope, rate = 2.0, 2 * _A * 1.5, 0.1
    lower = min((rate * slope, -rate * slope), key=lambda step: _parabola(w + step))
    return Evidence(
        "of the steps ±ηg, the one that lowers a parabola, g = 4.5, η = 0.1",
        lower,
        1e-12,
        {"eta": rate, "g": slope},
    )


def near_minimum(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 12: a loss that is no parabola, near its minimum."""
    w = 0.1
    # The first term left out of the derived form is w⁴/24.
    return Evidence(
        "exp(w) - w at w = 0.1; its minimum is at 0, with a = 1/2 and third derivative 1",
        exp(w) - w,
        w**4 / 20,
        {"a": 0.5, "b": 0.0, "c": 1.0, "t": 1.0, "w": w},
    )


def slope_by_difference(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 13: the slope of a parabola by a central difference."""
    w, apart = 2.0, 1e-4
    slope = (_parabola(w + apart) - _parabola(w - apart)) / (2 * apart)
    return Evidence(
        "central difference of 1.5(w - 0.5)² + 2 at w = 2",
        slope,
        1e-7,
        {"a": _A, "b": _B, "w": w},
    )


def _second_difference(w: float, apart: float = 1e-3) -> float:
    return (_parabola(w + apart) - 2 * _parabola(w) + _parabola(w - apart)) / apart**2


def second_difference(draws: int, generator: np.random.Generator) -> Evidence:
    """Equations 14 and 15: the second derivative of a parabola by a second difference."""
    w = 2.0
    return Evidence(
        "second difference of 1.5(w - 0.5)² + 2 at w = 2, where its slope is 4.5",
        _second_difference(w),
        1e-6,
        {"a": _A, "b": _B, "w": w, "g": 4.5},
    )


def parabola_circle(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 16: a circle through three points of a parabola."""
    radius = circle_radius(_parabola, 2.0)
    return Evidence(
        "radius of the circle through three near points of 1.5(w - 0.5)² + 2 at w = 2",
        radius,
        1e-4 * radius,
        {"w": 2.0, "b": _B, "g": 4.5},
    )


def flat_circle(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 17: the same on a flat parabola whose minimum is near zero."""
    a, w, b = 0.01, 2.0, 0.1
    radius = circle_radius(lambda x: a * (x - b) ** 2, w, apart=0.01)
    return Evidence(
        "radius of the circle through three near points of 0.01(w - 0.1)² at w = 2",
        radius,
        1e-4 * radius,
        {"w": w, "b": b, "g": 2 * a * (w - b)},
    )


def _estimate_over_radius(w: float, b: float) -> float:
    return abs(w / (2 * (w - b))) / circle_radius(lambda x: (x - b) ** 2, w)


def small_weight(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 18: |w/g| over the radius, next to w = 0."""
    return Evidence(
        "|w/g| over the circle's radius on (w - 1)² at w = 10⁻⁶, where equation 17 should fail",
        _estimate_over_radius(1e-6, 1.0),
        1e-6,
        limit=0.0,
        others=(("the same on w², through the origin", _estimate_over_radius(1e-6, 0.0)),),
    )


def small_gradient(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 19: the radius over |w/g|, next to g = 0."""
    return Evidence(
        "the circle's radius over |w/g| on (w - 1)² at w = 1 + 10⁻⁶, where equation 17 should fail",
        1 / _estimate_over_radius(1 + 1e-6, 1.0),
        1e-5,
        limit=0.0,
        others=(("the same on w², through the origin", 1 / _estimate_over_radius(1e-6, 0.0)),),
    )


_S_W, _S_G, _BETA = 2.0, 0.5, 0.3


def _layer(draws: int, generator: np.random.Generator) -> tuple[Array, Array]:
    w, g = generator.standard_normal((2, draws))
    return _S_W * w, _S_G * g


def layer_median(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 20: three readings of the median radius on a Gaussian layer."""
    w, g = _layer(draws, generator)
    parts = np.array_split(np.arange(draws), 3)
    signed = tuple(
        (f"signed medians, layer part {k}", abs(float(np.median(w[part]) / np.median(g[part]))))
        for k, part in enumerate(parts, 1)
    )
    absolute = float(np.median(np.abs(w)) / np.median(np.abs(g)))
    return median_evidence(
        "median |w/g| of independent Gaussian weights (2) and gradients (0.5)",
        np.abs(w / g),
        {"s_w": _S_W, "s_g": _S_G},
        others=(("absolute medians", absolute), *signed),
    )


def decayed_median(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 22: the same with weight decay."""
    w, g = _layer(draws, generator)
    absolute = float(np.median(np.abs(w)) / (np.median(np.abs(g)) + _BETA * np.median(np.abs(w))))
    return median_evidence(
        "median |w/(g + βw)| of independent Gaussian weights (2) and gradients (0.5), β = 0.3",
        np.abs(w / (g + _BETA * w)),
        {"s_w": _S_W, "s_g": _S_G, "beta": _BETA},
        others=(("absolute medians", absolute),),
    )


def norm_ratio(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 23: LARS's rate on a Gaussian layer, against its limit s_w/s_g."""
    w, g = _layer(draws, generator)
    ratio = float(np.linalg.norm(w) / np.linalg.norm(g))
    return Evidence(
        "‖w‖/‖g‖ of independent Gaussian weights (2) and gradients (0.5)",
        ratio,
        Z * ratio / sqrt(draws),
        limit=_S_W / _S_G,
    )


def harmonic_mean(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 24: how PercentDelta's rate falls as a Gaussian layer grows.

    One over the rate, the mean of P values |g/w|, has no limit: |g/w| is the absolute value of a
    Cauchy variable of scale c = s_g/s_w, and the typical mean of P of those grows by (2c/π)·ln P.
    """
    small, large = 50, 2000
    w, g = _layer(_LAYER_ENTRIES, generator)
    inverse = np.abs(g / w)
    before, after = (
        median_evidence("", inverse[: inverse.size // p * p].reshape(-1, p).mean(1), {})
        for p in (small, large)
    )
    unit = log(large / small)
    return Evidence(
        "growth of 1/rate per unit of ln P, Gaussian layers of P = 50 and 2000 entries",
        (after.measured - before.measured) / unit,
        (before.half + after.half) / unit,
        limit=2 * _S_G / (pi * _S_W),
        others=(
            ("the rate at P = 50", 1 / before.measured),
            ("the rate at P = 2000", 1 / after.measured),
        ),
    )


def distance_to_minimum(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 26: the distance to the minimum that a minimiser finds."""
    from scipy.optimize import minimize_scalar

    return Evidence(
        "w less the minimum that scipy finds of 1.5(w - 0.5)² + 2, at w = 2",
        2.0 - float(minimize_scalar(_parabola).x),
        1e-6,
        {"g": 4.5, "a": _A},
    )


def _distances(draws: int, generator: np.random.Generator) -> Array:
    """w less the minimum of the batch's loss, a mean of parabolas with minima of their own."""
    minima = generator.normal(0, _SIGMA / (2 * _A), (min(draws, _MOST_MEANS), _BATCH))
    distances: Array = -minima.mean(1)
    return distances


def distance_spread(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 27: the scatter of the batches' minima around the parameter."""
    values = _distances(draws, generator)
    spread = float(values.std())
    return Evidence(
        "standard deviation of w - b, b each batch's minimum, n = 16, σ = 1.5, a = 1.5",
        spread,
        Z * spread / sqrt(2 * values.size),
        {"n": _BATCH, "sigma": _SIGMA, "a": _A},
        lambda statement: statement.args[1].args[1],
        others=(("distance to the minimum of the loss on all data", 0.0),),
    )


def mean_abs_distance(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 28: the mean absolute distance to the batch's minimum."""
    return mean_evidence(
        "E|w - b|, b each batch's minimum, n = 16, σ = 1.5, a = 1.5",
        np.abs(_distances(draws, generator)),
        {"n": _BATCH, "sigma": _SIGMA, "a": _A},
    )


# Equations 1, 10, 21 and 25 are an assumption and definitions: nothing to try.
EXPERIMENTS: Mapping[str, Callable[[int, np.random.Generator], Evidence]] = {
    "2": batch_spread,
    "3": density_mass,
    "4": mean_abs,
    "5": descent_step,
    "6": mean_abs_step,
    "7": small_step_decrease,
    "8": mean_loss_decrease,
    "9": touching_circle,
    "11": descending_step,
    "12": near_minimum,
    "13": slope_by_difference,
    "14": second_difference,
    "15": second_difference,
    "16": parabola_circle,
    "17": flat_circle,
    "18": small_weight,
    "19": small_gradient,
    "20": layer_median,
    "22": decayed_median,
    "23": norm_ratio,
    "24": harmonic_mean,
    "26": distance_to_minimum,
    "27": distance_spread,
    "28": mean_abs_distance,
}
