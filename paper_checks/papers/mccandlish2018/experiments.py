"""An experiment for each equation that a number can try, none of which knows its formula.

All are on one quadratic loss with a finite population of sample gradients, of which a batch of two
has all its values counted out, so that most of them are exact but for rounding.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from math import exp

import numpy as np
from scipy.optimize import minimize_scalar

from paper_checks.equations.checks import Experiment
from paper_checks.equations.evidence import Array, Evidence, mean_evidence
from paper_checks.papers.mccandlish2018 import equations
from theory import symbols

_BATCH, _SMALL, _BIG, _COUNT = 2, 4, 16, 24
_GENERATOR = np.random.default_rng(5)
_HESSIAN = np.diag([3.0, 1.0, 0.25])
_SAMPLES = np.array([1.0, -0.5, 2.0]) + _GENERATOR.normal(0, 1.5, (_COUNT, 3))
_WHOLE = _SAMPLES.mean(0, keepdims=True)
_EXACT = 1e-6
_MOST = 20_000


def _decrease(rate: float, batches: Array, hessian: Array = _HESSIAN) -> float:
    """The mean decrease of the quadratic loss by one step with each of some batch gradients."""
    bend = np.einsum("ni,ij,nj->n", batches, hessian, batches)
    return float((rate * batches @ _WHOLE[0] - rate**2 * bend / 2).mean())


def _pairs(replacement: bool = True) -> Array:
    """The gradients of all batches of two."""
    places = [(i, j) for i, j in product(range(_COUNT), repeat=2) if replacement or i != j]
    pairs: Array = _SAMPLES[np.array(places)].mean(1)
    return pairs


def _best(batches: Array, hessian: Array = _HESSIAN) -> float:
    """The rate of the largest mean decrease, by search."""
    search = minimize_scalar(
        lambda rate: -_decrease(rate, batches, hessian),
        bounds=(0, 10),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return float(search.x)


def _largest(batches: Array, hessian: Array = _HESSIAN) -> float:
    """That decrease."""
    return _decrease(_best(batches, hessian), batches, hessian)


def _point(**more: float) -> dict[str, float]:
    """The values of the symbols, by their names."""
    full, spread = _WHOLE[0], np.cov(_SAMPLES.T, bias=True)
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


def exact(
    quantity: str, value: Callable[[], float], half: float = _EXACT, **more: float
) -> Experiment:
    """An experiment without chance: what `value` counts out, to `half` at most."""
    return lambda draws, generator: Evidence(quantity, value(), half, _point(**more))


def two_norms(draws: int, generator: np.random.Generator) -> Evidence:
    """Equation 7: the mean of the estimate of |G|² from batches of 4 and 16."""
    count = min(draws, _MOST)
    small, big = (
        (_SAMPLES[generator.integers(_COUNT, size=(count, size))].mean(1) ** 2).sum(1)
        for size in (_SMALL, _BIG)
    )
    slope = (_BIG * big - _SMALL * small) / (_BIG - _SMALL)
    noise = (small - big) / (1 / _SMALL - 1 / _BIG)
    over = float(noise.mean()) / _point()[equations.noise.name]
    evidence = mean_evidence("estimate of |G|² from batches of 4 and 16", slope, _point())
    others = (("that of tr Σ over the exact one", over),)
    return replace(evidence, read=lambda pair: pair[0], others=others)


_EQUAL, _STEP = 0.7 * np.eye(3), 1e-2
_CURVED, _CURVED_NOISE = equations.curved.name, equations.curved_noise.name
EXPERIMENTS: Mapping[str, Experiment] = {
    "1": exact(
        "variance of the first entry over all batches of 2 of 24 samples",
        lambda: float(_pairs()[:, 0].var()),
    ),
    # Where the value and all derivatives are 1.
    "2": exact(
        "exp(-x) after a step of 0.01 from 0",
        lambda: exp(-_STEP),
        _STEP**4 / 20,
        **{"L": 1.0, "varepsilon": _STEP},
        **dict.fromkeys((r"{G^\top V}", r"{V^\top HV}", r"{D^3L[V,V,V]}"), 1.0),
    ),
    "3": exact(
        "mean loss after a step of rate 0.1, all batches of 2, from 0",
        lambda: -_decrease(0.1, _pairs()),
        varepsilon=0.1,
    ),
    "4": exact("best rate by search, all batches of 2", lambda: _best(_pairs())),
    "5": exact("largest mean decrease by search, all batches of 2", lambda: _largest(_pairs())),
    "6": exact(
        "B_noise from the best decreases of single samples and of all, H = 0.7 of the identity",
        lambda: _largest(_WHOLE, _EQUAL) / _largest(_SAMPLES, _EQUAL) - 1,
        1e-5,
    ),
    "7": two_norms,
    "9": exact(
        "decrease at half the largest best rate over the largest, all batches of 2",
        lambda: _decrease(_best(_WHOLE) / 2, _pairs()) / _largest(_WHOLE),
        kappa=0.5,
        **{equations.scale.name: _point()[_CURVED_NOISE] / _point()[_CURVED]},
    ),
    "10": exact(
        f"best rate by search, all {_COUNT * (_COUNT - 1)} ordered batches of 2 different samples",
        lambda: _best(_pairs(replacement=False)),
    ),
}
