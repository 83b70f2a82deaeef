"""Each layer-wise rule on a layer's own weights and gradients, with its error."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sympy import EulerGamma, Rational, Subs, Sum, Symbol, binomial, expand, log, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import at_least, number, real, within
from theory.ratio import _landau
from theory.ratio.rules import RULES
from theory.symbols import k

Array = NDArray[np.float64]
# Below this many entries a tail cannot be told from the bulk, nor a density at a median.
FEWEST = 20


@dataclass(frozen=True)
class RuleEstimate:
    """A rule's radius on a layer, its standard error, and an interval of the stated level.

    `interval_of` says what the interval holds: "limit", the value on an unlimited layer of such
    entries, or "another layer", the values on other layers of this size, for the rules that have
    no finite limit. `standard_error` is then half the width of the central 68.27 per cent.
    `size` counts the entries used.
    """

    rule: str
    value: float
    standard_error: float
    low: float
    high: float
    level: float
    size: int
    interval_of: str


def rule_estimate(
    rule: str, w: Any, g: Any, *, beta: float = 0.0, level: float = 0.95
) -> RuleEstimate:
    r"""Return a rule's radius from a layer's weights and gradients, with error and interval.

    `w` and `g` are arrays of one shape; `rule` is one of `theory.RULES` (see `rule_limit`).

        lars           normal interval for the logarithm; the influence of an entry on it is
                       (w_i^2/mean(w^2) - g_i^2/mean(g^2))/2, correlation of w and g included
        mclr-absolute  the same with the medians' influences; the densities at the medians from
                       order statistics (McKean & Schrader)
        mclr-ratio     order statistics: holds for every continuous distribution
        mclr-signed    Fieller's interval for a quotient; unbounded where the median in the
                       denominator is not told from zero, and the standard error is then infinite
        percentdelta,  the terms have tail a/x wherever the density of the denominator at 0 is
        mean           positive, so their mean obeys no normal law: with a from the largest terms,
                       mean = m(u) + a*(log(a*P/u) + 1 - Euler's gamma + Landau variable), m(u)
                       the mean of terms below u (zero for larger ones)

    Assumptions: entries (pairs) are independent and identically distributed over the layer. For
    `lars` fourth moments are finite; below a tail index of 4 its interval is too short. Asymptotic
    in the size, with a coverage error of order 1/sqrt(P); for the last two, of order 1/P^(1/3).
    Entries with w = g = 0 (dead units) have no ratio and are left out of the three rules made of
    ratios. A weight without gradient has an infinite radius, and so then has their mean; a zero
    weight with one makes PercentDelta's rate zero. With fewer than 20 entries, a zero norm or
    median, or such a value, the error and the interval are nan, and the value stands alone.

    Source: delta method; McKean & Schrader (1984); Fieller (1954); stable laws of index one.

    Raises ValueError for an unknown rule, arrays that are empty, of different shapes or not
    finite, beta < 0, or a level outside (0, 1).

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> w, g = rng.standard_normal(10_000), 2 * rng.standard_normal(10_000)
    >>> rate = rule_estimate("lars", w, g)
    >>> round(rate.value, 3), rate.low < 0.5 < rate.high
    (0.502, True)
    """
    if not isinstance(rule, str) or rule not in RULES:
        raise ValueError(f"rule is {rule!r}; it must be one of {', '.join(RULES)}")
    w, g = _array("w", w), _array("g", g)
    if w.shape != g.shape:
        raise ValueError(
            f"w has shape {w.shape} and g {g.shape}; pass one gradient for each weight"
        )
    w, g = w.ravel(), g.ravel()
    if not w.size:
        raise ValueError("w and g are empty; a layer has one entry or more")
    if not (np.isfinite(w).all() and np.isfinite(g).all()):
        raise ValueError("w or g has entries that are not finite; leave them out or mend the run")
    beta = number("beta", at_least("beta", beta, 0, "weight decay pulls towards zero"))
    level = number("level", within("level", level, 0, 1, "0.95 is usual", "()"))
    z = NormalDist().inv_cdf((1 + level) / 2)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if rule in ("percentdelta", "mean", "mclr-ratio"):
            alive = (w != 0) | (g != 0)
            w, g = w[alive], g[alive]
        value, error, low, high = _RULE[rule](w, g, beta, z, level)
    of = "another layer" if rule in ("percentdelta", "mean") else "limit"
    return RuleEstimate(
        rule, float(value), float(error), float(low), float(high), level, int(w.size), of
    )


def _array(name: str, value: Any) -> Array:
    value = real(name, value)
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}; it must be an array of numbers") from None


Four = tuple[float, float, float, float]
_NONE = (np.nan, np.nan, np.nan)


def _scaled(a: Array) -> tuple[Array, float]:
    """The array over its largest size, so that squares neither overflow nor vanish."""
    top = float(np.abs(a).max())
    return (a / top if top > 0 else a), top


def _logarithmic(value: float, share: float, spread: float, z: float) -> Four:
    """A normal interval for the logarithm, `share` being d log(value) by the ratio's own."""
    sd = share * spread
    return value, value * sd, value * np.exp(-z * sd), value * np.exp(z * sd)


def _lars(w: Array, g: Array, beta: float, z: float, level: float) -> Four:
    (w, top_w), (g, top_g) = _scaled(w), _scaled(g)
    square_w, square_g = np.mean(w**2), np.mean(g**2)
    size_w, size_g = top_w * np.sqrt(square_w), top_g * np.sqrt(square_g)
    value = _over(size_w, size_g + beta * size_w)
    if w.size < FEWEST or not (size_w > 0 and size_g > 0):
        return value, *_NONE
    influence = (w**2 / square_w - g**2 / square_g) / 2
    spread = float(influence.std(ddof=1) / np.sqrt(w.size))
    return _logarithmic(value, size_g / (size_g + beta * size_w), spread, z)


def _absolute(w: Array, g: Array, beta: float, z: float, level: float) -> Four:
    w, g = np.abs(w), np.abs(g)
    m_w, m_g = float(np.median(w)), float(np.median(g))
    value = _over(m_w, m_g + beta * m_w)
    if w.size < FEWEST or not (m_w > 0 and m_g > 0):
        return value, *_NONE
    errors = [_median_error(np.log(a)) for a in (w, g)]
    agree = _agreement(w > m_w, g > m_g)
    spread = np.sqrt(max(errors[0] ** 2 + errors[1] ** 2 - 2 * agree * errors[0] * errors[1], 0.0))
    return _logarithmic(value, m_g / (m_g + beta * m_w), float(spread), z)


def _ratio(w: Array, g: Array, beta: float, z: float, level: float) -> Four:
    radius = np.sort(np.abs(w / (g + beta * w)))
    if not radius.size:
        return np.nan, *_NONE
    value = _middle(radius)
    if radius.size < FEWEST:
        return value, *_NONE
    with np.errstate(all="ignore"):
        error = (_bounds(radius, 1.0)[1] - _bounds(radius, 1.0)[0]) / 2
    return value, error, *_bounds(radius, z)


def _signed(w: Array, g: Array, beta: float, z: float, level: float) -> Four:
    m_w, m_g = float(np.median(w)), float(np.median(g))
    value = abs(_over(m_w, m_g + beta * m_w))
    if w.size < FEWEST:
        return value, *_NONE
    s_w, s_g = _median_error(w), _median_error(g)
    cross = _agreement(w > m_w, g > m_g) * s_w * s_g
    # Of y = m_g/m_w: the set where (m_g - y*m_w)^2 <= z^2*(s_g^2 - 2*y*cross + y^2*s_w^2).
    a, b, c = m_w**2 - (z * s_w) ** 2, m_w * m_g - z**2 * cross, m_g**2 - (z * s_g) ** 2
    inside = b * b - a * c
    if a > 0:
        root = np.sqrt(max(inside, 0.0))
        pieces = [((b - root) / a, (b + root) / a)]
    elif inside > 0:
        root = np.sqrt(inside)
        ends = sorted(((b - root) / a, (b + root) / a))
        pieces = [(-np.inf, ends[0]), (ends[1], np.inf)]
    else:
        pieces = [(-np.inf, np.inf)]
    nearest = min(_distance(-beta, low, high) for low, high in pieces)
    furthest = max(abs(end + beta) for piece in pieces for end in piece)
    low, high = _over(1.0, furthest), _over(1.0, nearest)
    if np.isinf(high):
        return value, np.inf, low, high
    # The derivative of 1/|beta + y| is its square.
    y = m_g / m_w
    error = value**2 * np.sqrt(max(s_g**2 - 2 * y * cross + (y * s_w) ** 2, 0.0)) / abs(m_w)
    return value, float(error), low, high


def _heavy(terms: Array, level: float) -> Four:
    """Mean of terms of tail a/x; quantiles of such means by the Landau distribution."""
    value = float(terms.mean()) if terms.size else np.nan
    if terms.size < FEWEST or not np.isfinite(value):
        return value, *_NONE
    ordered = np.sort(terms)
    count = int(min(max(5, terms.size**0.7), terms.size / 10))
    cut = float(ordered[-count - 1])
    below = float(ordered[: terms.size - count].sum() / terms.size)
    tail = cut * count / terms.size
    if not tail > 0:
        return value, *_NONE
    centre = below + tail * (np.log(count) + 1 - np.euler_gamma)  # a*P/u is the count

    def quantile(q: float) -> float:
        return float(max(centre + tail * _landau.quantile(q), 0.0))

    inner = NormalDist().cdf(1.0)
    return (
        value,
        (quantile(inner) - quantile(1 - inner)) / 2,
        quantile((1 - level) / 2),
        quantile((1 + level) / 2),
    )


def _mean(w: Array, g: Array, beta: float, z: float, level: float) -> Four:
    return _heavy(np.abs(w / (g + beta * w)), level)


def _percent_delta(w: Array, g: Array, beta: float, z: float, level: float) -> Four:
    mean, _, low, high = _heavy(np.abs((g + beta * w) / w), level)
    if np.isnan(low):
        return _over(1.0, mean), *_NONE
    inner = 2 * NormalDist().cdf(1.0) - 1
    _, _, narrow, wide = _heavy(np.abs((g + beta * w) / w), inner)
    error = (_over(1.0, narrow) - _over(1.0, wide)) / 2
    return _over(1.0, mean), error, _over(1.0, high), _over(1.0, low)


def _over(a: float, b: float) -> float:
    """a/b by the rules of floating point, without Python's error for b = 0."""
    return float(np.divide(a, b))


def _distance(point: float, low: float, high: float) -> float:
    return max(low - point, point - high, 0.0)


def _middle(ordered: Array) -> float:
    """The median of sorted values, infinite ones included."""
    low, high = ordered[(ordered.size - 1) // 2], ordered[ordered.size // 2]
    return float(low if low == high else (low + high) / 2)


def _bounds(ordered: Array, z: float) -> tuple[float, float]:
    """The two order statistics between which the median lies, by the binomial's normal limit."""
    step = int(np.floor((ordered.size - z * np.sqrt(ordered.size)) / 2))
    step = max(step, 1)
    return float(ordered[step - 1]), float(ordered[ordered.size - step])


def _median_error(a: Array) -> float:
    """Standard error of a median from the width of its own 95 per cent interval."""
    low, high = _bounds(np.sort(a), 1.96)
    return (high - low) / (2 * 1.96)


def _agreement(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Correlation of two halvings of the layer."""
    return float(2 * np.mean(a == b) - 1)


_RULE = {
    "lars": _lars,
    "mclr-signed": _signed,
    "mclr-absolute": _absolute,
    "mclr-ratio": _ratio,
    "percentdelta": _percent_delta,
    "mean": _mean,
}


def _steps() -> tuple[Step, ...]:
    a, v, y, z = (Symbol(name, positive=True) for name in ("A", "v", "y", "z"))
    share, beta, count, u = (
        Symbol(name, positive=True) for name in ("epsilon", "beta_0", "P", "u")
    )
    m_w, m_g, cross = (Symbol(name, real=True) for name in ("m_w", "m_g", "c_0"))
    s_w, s_g = Symbol("s_w", positive=True), Symbol("s_g", positive=True)
    first, middle, last = m_w**2 - (z * s_w) ** 2, m_w * m_g - z**2 * cross, m_g**2 - (z * s_g) ** 2
    root = sqrt(middle**2 - first * last)
    centre = v + a * (log(a * count / u) + 1 - EulerGamma)
    return (
        Step(
            "One more entry of square v moves the logarithm of a norm, half that of the mean "
            "square A, by (v/A - 1)/2 for each part it has of the layer.",
            Subs((log((1 - share) * a + share * v) / 2).diff(share), share, 0),
            (v / a - 1) / 2,
        ),
        Step(
            "With weight decay the logarithm of 1/(beta + y) moves by -y/(beta + y) of log(y), y "
            "the ratio without it.",
            y * log(1 / (beta + y)).diff(y),
            -y / (beta + y),
        ),
        Step(
            "Fieller's set for y = m_g/m_w, where (m_g - y*m_w)^2 is at most z^2 times its "
            "variance, is that of a quadratic,",
            expand((m_g - y * m_w) ** 2 - z**2 * (s_g**2 - 2 * y * cross + y**2 * s_w**2)),
            first * y**2 - 2 * middle * y + last,
        ),
        Step(
            "whose roots are its ends: here their product.",
            (middle + root) / first * (middle - root) / first,
            last / first,
        ),
        Step(
            "Of terms with the tail A/x the mean of those below u grows as A*log(u), so that where "
            "the tail is cut does not matter.",
            (centre.diff(u) + centre.diff(v) * u * (a / u**2)),
            0,
        ),
        Step(
            "Terms that have the tail A/x from A on have mean A*log(u/A) below u, and so this "
            "centre.",
            centre.subs(v, a * log(u / a)),
            a * (log(count) + 1 - EulerGamma),
        ),
        Step(
            "The number of entries below a median is binomial, of variance P/4 whatever the "
            "distribution, so that z*sqrt(P)/2 places on either side hold it; here for P = 6.",
            Sum((k - 3) ** 2 * binomial(6, k) / 2**6, (k, 0, 6)),
            Rational(6, 4),
        ),
    )


DERIVATION = Derivation(
    name="estimate",
    title="Intervals for the layer-wise rules from a layer's own entries",
    laws=("rule_estimate",),
    statements=(
        Statement(
            "under assumptions",
            "Pairs of weight and gradient are independent over the layer and of one distribution, "
            "whatever it is; for LARS with fourth moments.",
        ),
        Statement(
            "asymptotic",
            "The intervals of LARS and of the medians hold their level as the layer grows.",
            rate="1/sqrt(P)",
        ),
        Statement(
            "asymptotic",
            "Those of PercentDelta and the mean radius, by the Landau law with the tail estimated.",
            rate="1/P^(1/3)",
        ),
    ),
    source="McKean & Schrader (1984); Fieller (1954); stable laws of index one",
    make_formulas=lambda: {
        r"\mathrm{influence}": (Symbol("w_i") ** 2 / Symbol(r"\overline{w^2}")
                                - Symbol("g_i") ** 2 / Symbol(r"\overline{g^2}")) / 2
    },
    make_steps=_steps,
)  # fmt: skip
