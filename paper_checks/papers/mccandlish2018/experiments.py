"""An experiment for each equation that a number can try, none of which knows its formula.

All are on one quadratic loss with a finite population of sample gradients, of which a batch of two
has all its values counted out, so that most of them are exact but for rounding.
"""

from collections.abc import Callable, Mapping
from itertools import product
from math import comb, exp

import numpy as np
from scipy.optimize import minimize_scalar

from paper_checks.equations.evidence import Array, Evidence, mean_evidence
from paper_checks.papers.mccandlish2018 import equations
from theory import symbols

_BATCH, _SMALL, _BIG, _COUNT = 2, 4, 16, 24
_GENERATOR = np.random.default_rng(5)
_HESSIAN = np.diag([3.0, 1.0, 0.25])
_SAMPLES = np.array([1.0, -0.5, 2.0]) + _GENERATOR.normal(0, 1.5, (_COUNT, 3))
_EXACT = 1e-6
_MOST = 20_000


def _decrease(rate: float, batches: Array, hessian: Array = _HESSIAN) -> float:
    """The mean decrease of the quadratic loss by one step with each of some batch gradients."""
    full = _SAMPLES.mean(0)
    bend = np.einsum("ni,ij,nj->n", batches, hessian, batches)
    return float((rate * batches @ full - rate**2 * bend / 2).mean())


def _pairs(replacement: bool = True) -> Array:
    """The gradients of all batches of two."""
    places = [(i, j) for i, j in product(range(_COUNT), repeat=2) if replacement or i != j]
    pairs: Array = _SAMPLES[np.array(places)].mean(1)
    return pairs


def _best(batches: Array, hessian: Array = _HESSIAN) -> float:
    search = minimize_scalar(
        lambda rate: -_decrease(rate, batches, hessian),
        bounds=(0, 10),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return float(search.x)


def _point(**more: float) -> dict[str, float]:
    """The values of the symbols, by their names."""
    full, spread = _SAMPLES.mean(0), np.cov(_SAMPLES.T, bias=True)
    values = {
        equations.gradient: float(np.linalg.norm(full)),
        equations.curved: float(full @ _HESSIAN @ full),
        equations.noise: float(np.trace(spread)),
        equations.curved_noise: float(np.trace(_HESSIAN @ spread)),
        equations.covariance: float(spread[0, 0]),
        equations.loss: 0.0,
        equations.B: _BATCH,
        symbols.N: _COUNT,
    }
    return {symbol.name: value for symbol, value in values.items()} | more


def covariance(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 1: the variance of an entry over all batches of two."""
    return Evidence(
        "variance of the first entry over all batches of 2 of 24 samples",
        float(_pairs()[:, 0].var()),
        _EXACT,
        _point(),
    )


def parabola(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 2: exp(-x) after a small step, beside its derivatives at 0."""
    step = 1e-2
    return Evidence(
        "exp(-x) after a step of 0.01 from 0",
        exp(-step),
        step**4 / 20,
        {
            "L": 1.0,
            "varepsilon": step,
            r"{G^\top V}": 1.0,
            r"{V^\top HV}": 1.0,
            r"{D^3L[V,V,V]}": 1.0,
        },
    )


def mean_loss(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 3: the loss after one step, over all batches of two."""
    rate = 0.1
    return Evidence(
        "mean loss after a step of rate 0.1, all batches of 2, from 0",
        -_decrease(rate, _pairs()),
        _EXACT,
        _point(varepsilon=rate),
    )


def best_rate(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 4: the rate of the largest mean decrease, by search."""
    return Evidence("best rate by search, all batches of 2", _best(_pairs()), _EXACT, _point())


def best_decrease(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 5: that decrease."""
    largest = _decrease(_best(_pairs()), _pairs())
    return Evidence("largest mean decrease by search, all batches of 2", largest, _EXACT, _point())


def half_batch(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 6: the batch size of half the largest decrease, where all curvatures are equal."""
    identity = 0.7 * np.eye(3)
    single, whole = _SAMPLES, _SAMPLES.mean(0, keepdims=True)
    best, least = (_decrease(_best(each, identity), each, identity) for each in (whole, single))
    return Evidence(
        "B_noise from the best decreases of single samples and of all, H = 0.7 of the identity",
        best / least - 1,
        1e-5,
        _point(),
    )


def two_norms(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 7: the mean of the estimate of |G|² from batches of 4 and 16."""
    count = min(draws, _MOST)
    norms = {
        size: (_SAMPLES[generator.integers(_COUNT, size=(count, size))].mean(1) ** 2).sum(1)
        for size in (_SMALL, _BIG)
    }
    slope = (_BIG * norms[_BIG] - _SMALL * norms[_SMALL]) / (_BIG - _SMALL)
    noise = (norms[_SMALL] - norms[_BIG]) / (1 / _SMALL - 1 / _BIG)
    truth = _point()[equations.noise.name]
    evidence = mean_evidence("estimate of |G|² from batches of 4 and 16", slope, _point())
    return Evidence(
        evidence.quantity,
        evidence.measured,
        evidence.half,
        evidence.point,
        lambda pair: pair[0],
        others=(("that of tr Σ over the exact one", float(noise.mean()) / truth),),
    )


def fixed_rate(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 9: the decrease at half the largest best rate, over the largest decrease."""
    whole = _SAMPLES.mean(0, keepdims=True)
    rate, most = _best(whole), _decrease(_best(whole), whole)
    point = _point()
    scale = point[equations.curved_noise.name] / point[equations.curved.name]
    return Evidence(
        "decrease at half the largest best rate over the largest, all batches of 2",
        _decrease(rate / 2, _pairs()) / most,
        _EXACT,
        point | {"kappa": 0.5, equations.scale.name: scale},
    )


def without_replacement(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 10: the best rate over all batches of two different samples."""
    count = 2 * comb(_COUNT, _BATCH)
    return Evidence(
        f"best rate by search, all {count} ordered batches of 2 different samples",
        _best(_pairs(replacement=False)),
        _EXACT,
        _point(),
    )


EXPERIMENTS: Mapping[str, Callable[[int, np.random.Generator], Evidence]] = {
    "1": covariance,
    "2": parabola,
    "3": mean_loss,
    "4": best_rate,
    "5": best_decrease,
    "6": half_batch,
    "7": two_norms,
    "9": fixed_rate,
    "10": without_replacement,
}
