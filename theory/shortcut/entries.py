"""The error of equation 17 over the entries that a layer has, without a distribution of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from sympy import Rational, Symbol, erfc, exp, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import above, batch_size, number, real, within
from theory.shortcut.entry import shortcut_ratio_probability, shortcut_ratio_quantile
from theory.shortcut.layer import shortcut_layer_median
from theory.symbols import n

Array = NDArray[np.float64]


def _entries(name: str, value: Any, least: float = -np.inf) -> Array:
    value = real(name, value)
    try:
        values = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.array(np.nan)
    if values.dtype != np.float64 or isinstance(value, bool) or not np.isfinite(values).all():
        raise ValueError(f"{name} is {value!r}; it must be an array of finite numbers")
    if not values.size or (values < least).any():
        raise ValueError(
            f"{name} is empty or has values below {least:g}; leave entries without any out"
        )
    return values


def _tail(edge: Array, centre: Array) -> Array:
    """P(|N(centre, 1)| >= edge)."""
    return np.asarray(ndtr(centre - edge) + ndtr(-centre - edge))


def _inside(edge: Array, centre: Array) -> Array:
    """P(|N(centre, 1)| < edge), to its own digits."""
    # There what the series leaves out is below 1e-13, and the difference has lost two digits.
    narrow = edge * (1 + centre) < 0.05
    e, c = edge**2, centre**2
    hermite = (c - 1, (c - 6) * c + 3, ((c - 15) * c + 45) * c - 15)
    series = 1 + e / 6 * (hermite[0] + e / 20 * (hermite[1] + e / 42 * hermite[2]))
    density = np.exp(-c / 2) * np.sqrt(2 / np.pi)
    whole = ndtr(edge - centre) - ndtr(-edge - centre)
    return np.asarray(np.where(narrow, edge * density * series, whole))


def _layer(w: Any, h: Any, n: Any, sigma: Any, mu: Any, population: Any) -> tuple[Array, Array]:
    """|w|*h/s and |mu|/s of every entry that has a curvature."""
    n = number("n", batch_size(n))
    w, h, mu = _entries("w", w), _entries("h", h, 0.0), _entries("mu", mu)
    sigma = np.sqrt(h) if sigma is None else _entries("sigma", sigma, 0.0)
    share = 1.0
    if population is not None:
        total = number("population", above("population", population, 1, "leave it out for none"))
        if total <= n:
            raise ValueError(
                f"population is {population!r}; it must be greater than n = {n:g}: a whole "
                "population leaves nothing to chance"
            )
        share = (total - n) / (total - 1)
    try:
        w, h, sigma, mu = (v.ravel() for v in np.broadcast_arrays(w, h, sigma, mu))
    except ValueError:
        raise ValueError(
            f"w and h, sigma, mu have shapes {w.shape}, {h.shape}, {sigma.shape} and {mu.shape}; "
            "pass one value for each entry, or one for all"
        ) from None
    curved = (h > 0) & (sigma > 0)
    if not curved.any():
        raise ValueError("h is nowhere positive where sigma is; a ratio to no radius is undefined")
    s = sigma[curved] * np.sqrt(share / n)
    return np.abs(w[curved]) * h[curved] / s, np.abs(mu[curved]) / s


def shortcut_entries_probability(
    r: Any, w: Any, h: Any, n: Any, sigma: Any = None, mu: Any = 0, population: Any = None
) -> float:
    r"""Return the expected share of a layer's entries with \|w/g_n\|*h <= r, a float.

    The mean over entries of `shortcut_ratio_probability`. w, h, sigma and mu are arrays of one
    shape, or one number for all; sigma left out is sqrt(h). Entries with h = 0 or sigma = 0 (dead
    units) are left out. The share within a factor of two is its difference between 2 and 1/2.

    Assumptions: g_n ~ N(mu, s) in every entry; entries need not be independent. A theorem for the
    expectation over batches.

    Source: as `shortcut_ratio_quantile`.

    Raises ValueError, naming the argument, for r <= 0, n < 1, population <= n, arrays of different
    shapes, values that are not finite, or negative h or sigma.

    >>> round(shortcut_entries_probability(1, [1.0, 2.0], [1.0, 1.0], 1), 4)
    0.1814
    """
    r = number("r", above("r", r, 0, "a ratio of sizes is positive"))
    size, centre = _layer(w, h, n, sigma, mu, population)
    return float(_tail(size / r, centre).mean())


def shortcut_entries_quantile(
    p: Any, w: Any, h: Any, n: Any, sigma: Any = None, mu: Any = 0, population: Any = None
) -> float:
    r"""Return the p-quantile of \|w/g_n\|*h over a layer's entries and batches, a float.

    Where `shortcut_entries_probability` is p, by bisection to 1e-12. At p = 1/2 the median that
    equation 17 gives in this layer, over what the radius is: with sigma and mu left out it knows
    nothing of gradients, only the weights, the curvatures and n.

    Assumptions, source and errors: as there; p in (0, 1), and some w not zero.

    >>> round(shortcut_entries_quantile(0.5, [1.0], [4.0], 1), 4) == round(2 / 0.67449, 4)
    True
    """
    p = number("p", within("p", p, 0, 1, "the quantiles at 0 and 1 are 0 and infinite", "()"))
    size, centre = _layer(w, h, n, sigma, mu, population)
    positive = size[size > 0]
    if not positive.size or (size == 0).mean() >= p:
        raise ValueError(f"w is zero in so many entries that the quantile at p = {p} is 0")
    # Beyond these every entry's tail is next to 0, or to 1.
    low = np.log(positive.min()) - np.log(40.0 + centre.max())
    high = np.log(positive.max()) + 40.0
    while high - low > 1e-13 * max(1.0, abs(low)):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        edge = size / np.exp(middle)
        # Next to one the share has no digits; what is above has them.
        part = _tail(edge, centre) if p < 0.5 else _inside(edge, centre)
        below = part.mean() < p if p < 0.5 else part.mean() > 1 - p
        low, high = (middle, high) if below else (low, middle)
    return float(np.exp((low + high) / 2))


def _formulas() -> dict[str, Any]:
    from sympy import Indexed, Sum

    i = Symbol("i", integer=True, positive=True)
    size, count, x = (Symbol(name, positive=True) for name in ("P", "n", "x"))
    w, h = (Indexed(name, i) for name in ("w", "h"))
    share = Sum(erfc(w * sqrt(h * count) / (sqrt(2) * x)), (i, 1, size)) / size
    return {r"F(x)\;(\sigma^2 = h,\ \mu = 0)": share}


def _steps() -> tuple[Step, ...]:
    p, w, h, t = (Symbol(name, positive=True) for name in ("p_0", "w_0", "h_0", "t_0"))
    inside = ((p, (0, 1)),)
    law = shortcut_ratio_probability(t, w, h, n)
    half = Rational(1, 2)
    return (
        Step(
            "Over entries probabilities are averaged: for equal ones their quantile is the "
            "entry's.",
            (2 * law / 2).subs(t, shortcut_ratio_quantile(p, w, h, n)),
            p,
            domain=inside,
        ),
        Step(
            "Each grows with t, so that the mixture has one p-quantile.",
            0,
            law.diff(t),
            "<",
        ),
        Step(
            "It lies between the least and the greatest of the entries' own.",
            shortcut_ratio_quantile(half, w, h, n),
            shortcut_ratio_quantile(half, w * exp(t), h, n),
            "<",
        ),
        Step(
            "For n times as many samples it is sqrt(n) times as large, entry by entry.",
            shortcut_ratio_quantile(p, w, h, n),
            sqrt(n) * shortcut_ratio_quantile(p, w, h, 1),
            domain=inside,
        ),
        Step(
            "With normal weights the mixture's median is the layer's, s_w*sqrt(h*n).",
            shortcut_layer_median(w, h, n),
            w * sqrt(h * n),
        ),
    )


DERIVATION = Derivation(
    name="shortcut_entries",
    title="The error of |w/g| over the entries that a layer has",
    laws=("shortcut_entries_probability", "shortcut_entries_quantile"),
    statements=(
        Statement(
            "theorem",
            "The expected share of entries below r is the mean of theirs, dependent or not, for "
            "normal batch gradients.",
        ),
        Statement(
            "asymptotic",
            "A layer's median in one batch is near the mixture's, for entries of little "
            "dependence.",
            rate="1/sqrt(P)",
        ),
    ),
    source="equation 17 of the paper; mixtures of folded normals",
    make_formulas=_formulas,
    make_steps=_steps,
)
