"""The error of equation 17 over a layer, and how |w/g| follows the square root of the radius."""

from typing import Any

from sympy import Integral, Rational, Symbol, atan, exp, log, oo, pi, polygamma, sqrt, tan

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import (
    above,
    at_least,
    batch_size,
    deviation,
    positive_spread,
    spread,
    training_set,
    within,
)
from theory.laws._floats import at_floats
from theory.laws._folded_normal import total_deviation
from theory.ratio.distribution import ratio_quantile
from theory.symbols import g, n, s_w, sigma, x

# The variance of log|Z| for a standard normal Z.
LOG_NORMAL_VARIANCE = pi**2 / 8


def _scale(s_w: Any, h: Any, n: Any, sigma: Any, tau: Any, population: Any) -> Any:
    """s_w*h over the deviation of the layer's batch gradients: the median of the ratio."""
    s_w, n = positive_spread("s_w", s_w), batch_size(n)
    h = above("h", h, 0, "the shortcut's error is taken where the radius is finite, of a minimum")
    sigma = sqrt(h) if sigma is None else deviation(sigma)
    s = total_deviation(n, sigma, training_set(population, n), spread("tau", tau))
    return oo if s.is_zero else s_w * h / s


def shortcut_layer_median(
    s_w: Any, h: Any, n: Any, sigma: Any = None, tau: Any = 0, population: Any = oo
) -> Any:
    r"""Return the median over a layer of \|w/g_n\|*h: s_w*h/sqrt(sigma^2/n + tau^2).

    With sigma^2 = h (`sigma=None`) and centred means it is s_w*sqrt(h*n): the typical \|w/g\| of a
    layer is s_w*sqrt(n*R), so that layer-wise rules made of it follow the square root of the
    radius from layer to layer, not the radius, and grow as sqrt(n).

    Assumptions: w ~ N(0, s_w), the mean gradients N(0, tau) over the layer, g_n normal about them;
    weights independent of gradients. Then it is a theorem, for one curvature h; for curvatures
    that vary independently of w and whose logarithm is symmetric about log(h) too, with tau = 0
    and sigma^2 = h. For the layer's own entries, without a distribution, see
    `shortcut_entries_quantile`.

    Source: equation 17 of the paper; the quotient of normals, Marsaglia (1965).

    Raises ValueError, naming the argument, for s_w <= 0, h <= 0, n < 1, sigma < 0, tau < 0,
    population < n, or a value that is not a real number.

    >>> shortcut_layer_median(0.5, 0.25, 64)
    2.00000000000000
    """
    return _scale(s_w, h, n, sigma, tau, population)


def shortcut_layer_share_within(
    factor: Any,
    s_w: Any,
    h: Any,
    n: Any,
    sigma: Any = None,
    tau: Any = 0,
    population: Any = oo,
) -> Any:
    r"""Return the share of a layer in which \|w/g_n\| is within a factor of the radius 1/h.

    (2/pi)*(atan(factor/k) - atan(1/(factor*k))), k that of `shortcut_layer_median`. It is largest
    at k = 1, for a factor of two 0.4097: no batch size brings more of such a layer that near.

    Assumptions, source and errors: as `shortcut_layer_median`, one curvature h; factor above 1.

    >>> shortcut_layer_share_within(2, 0.5, 0.25, 16).evalf(6)
    0.409666
    """
    factor = above("factor", factor, 1, "2 is within a factor of two")
    k = _scale(s_w, h, n, sigma, tau, population)
    return at_floats(
        lambda factor, k: 2 / pi * (atan(factor / k) - atan(1 / (factor * k))), factor, k
    )


def shortcut_layer_quantile(
    p: Any, s_w: Any, h: Any, n: Any, sigma: Any = None, tau: Any = 0, population: Any = oo
) -> Any:
    r"""Return the p-quantile over a layer of \|w/g_n\|*h: the median times tan(pi*p/2).

    Assumptions, source and errors: as `shortcut_layer_median`, one curvature h; p in (0, 1).

    >>> from sympy import Rational
    >>> shortcut_layer_quantile(Rational(1, 3), 1, 3, 16)
    4
    """
    p = within("p", p, 0, 1, "the quantiles at 0 and 1 are 0 and infinite", "()")
    return _scale(s_w, h, n, sigma, tau, population) * tan(pi * p / 2)


def _exponent(a: Any, s_h: Any, s_lw: Any, rho: Any) -> tuple[Any, Any, Any, Any]:
    return (
        at_least("exponent", a, 0, "it is a in sigma^2 ~ h^a, 1 where sigma^2 = h"),
        positive_spread("s_h", s_h),
        spread("s_lw", pi / (2 * sqrt(2)) if s_lw is None else s_lw),
        within("rho", rho, -1, 1, "it is a correlation"),
    )


def shortcut_radius_slope(exponent: Any, s_h: Any, s_lw: Any = None, rho: Any = 0) -> Any:
    r"""Return the slope of log\|w/g\| against log R in a layer: exponent/2 - rho*s_lw/s_h.

    `exponent` is a where sigma^2 is c*h^a over the layer, 1 where sigma^2 = h; s_h and s_lw are
    the standard deviations of log h and of log\|w\| (pi/sqrt(8) = 1.11, a centred normal's, where
    it is left out), rho the correlation of the two. A shortcut that measured the radius would have
    slope 1; with weights independent of curvatures this one has 1/2 at every batch size below the
    noise scale: it sees the square root of the radius.

    Assumptions: the gradient of each entry is its noise, sigma*z/sqrt(n) with z independent of
    w and h and of finite E(log\|z\|)^2; R = 1/h. A theorem: it is the population's least-squares
    slope, of no other linearity than that of log(sigma) in log(h).

    Source: equation 17 of the paper and the least-squares slope Cov/Var.

    Raises ValueError, naming the argument, for exponent < 0, s_h <= 0, s_lw < 0, rho outside
    [-1, 1], or a value that is not a real number.

    >>> shortcut_radius_slope(1, 2)
    1/2
    """
    a, s_h, s_lw, rho = _exponent(exponent, s_h, s_lw, rho)
    return a / 2 - rho * s_lw / s_h


def shortcut_radius_correlation(exponent: Any, s_h: Any, s_lw: Any = None, rho: Any = 0) -> Any:
    r"""Return the correlation of log\|w/g\| with log R in a layer.

    (a*s_h/2 - rho*s_lw)/sqrt(a^2*s_h^2/4 + s_lw^2 - a*rho*s_h*s_lw + pi^2/8). For normal weights
    independent of the curvatures and sigma^2 = h it is s_h/sqrt(s_h^2 + pi^2): only layers whose
    curvatures span many decades let the shortcut rank their radii, since z alone spreads log\|w/g\|
    by pi/sqrt(8).

    Assumptions: those of `shortcut_radius_slope`, and normal noise. A theorem.

    Source and errors: as there.

    >>> from sympy import Symbol
    >>> shortcut_radius_correlation(1, Symbol("s_h", positive=True))
    s_h/(2*sqrt(s_h**2/4 + pi**2/4))
    """
    a, s_h, s_lw, rho = _exponent(exponent, s_h, s_lw, rho)
    along = a * s_h / 2 - rho * s_lw
    across = s_lw**2 * (1 - rho**2) + LOG_NORMAL_VARIANCE
    return along / sqrt(along**2 + across)


def _steps() -> tuple[Step, ...]:
    p, f, k, h, tau = (
        Symbol(name, positive=True) for name in ("p_0", "f_0", "k_0", "h_0", "tau_0")
    )
    s_h, s_lw, a = (Symbol(name, positive=True) for name in ("s_h", "s_lw", "a_0"))
    rho = Symbol("rho", real=True)
    inside = ((p, (0, 1)), (rho, (-1, 1)))

    def density(v: Any, middle: Any) -> Any:
        """Half-Cauchy."""
        return 2 * middle / (pi * (middle**2 + v**2))

    share = shortcut_layer_share_within(f, k, 1, 1, 1)
    t = Symbol("t_0", positive=True)
    return (
        Step(
            "Over a layer |w/g_n| is half-Cauchy, with the spread of the means in that of g_n.",
            shortcut_layer_quantile(p, s_w, h, n, sigma, tau),
            h * ratio_quantile(p, s_w, sqrt(sigma**2 / n + tau**2)),
            domain=inside,
        ),
        Step(
            "Its share within a factor f is the integral of that density.",
            Integral(density(x, k), (x, 1 / f, f)),
            share,
            domain=((f, (1, 9)),),
        ),
        Step(
            "It is largest where the logarithm's densities at both ends are the same, at k = 1,",
            f * density(f, 1),
            density(1 / f, 1) / f,
        ),
        Step("where it is 0.41 for a factor of two.", shortcut_layer_share_within(2, 1, 1, 1, 1),
             Rational(41, 100), "<"),
        Step(
            "The logarithm of a half-Cauchy variable is symmetric about its median's: the density "
            "of log(x) is the same at k*t and at k/t,",
            k * t * density(k * t, k),
            k / t * density(k / t, k),
        ),
        Step(
            "so a symmetric logarithm of the curvature, independent of it, moves the median only "
            "by its own.",
            shortcut_layer_median(s_w, h * exp(t), n) * shortcut_layer_median(s_w, h * exp(-t), n),
            shortcut_layer_median(s_w, h, n) ** 2,
        ),
        Step(
            "The variance of log|Z| is a quarter of the trigamma function at 1/2.",
            polygamma(1, Rational(1, 2)) / 4,
            LOG_NORMAL_VARIANCE,
        ),
        Step(
            "(The transform of log|Z| is E|Z|^t; its second cumulant at t = 0.)",
            log(Integral(2 * g**a * exp(-(g**2) / 2) / sqrt(2 * pi), (g, 0, oo)).doit())
            .diff(a, 2)
            .subs(a, 0),
            LOG_NORMAL_VARIANCE,
        ),
        Step(
            "log|w/g| = log|w| - (a/2)*log(h) - log|z| + constants: its covariance with -log(h) "
            "over the variance of that.",
            shortcut_radius_slope(a, s_h, s_lw, rho) * s_h**2,
            a * s_h**2 / 2 - rho * s_lw * s_h,
            domain=inside,
        ),
        Step(
            "Correlation is slope times the quotient of the deviations.",
            shortcut_radius_correlation(a, s_h, s_lw, rho)
            * sqrt(a**2 * s_h**2 / 4 + s_lw**2 - a * rho * s_h * s_lw + LOG_NORMAL_VARIANCE),
            shortcut_radius_slope(a, s_h, s_lw, rho) * s_h,
            domain=inside,
        ),
        Step(
            "For normal weights and sigma^2 = h that is s_h/sqrt(s_h^2 + pi^2).",
            shortcut_radius_correlation(1, s_h),
            s_h / sqrt(s_h**2 + pi**2),
        ),
    )  # fmt: skip


def _formulas() -> dict[str, Any]:
    h, tau, f, p, a = (Symbol(name, positive=True) for name in ("h", "tau", "f", "p", "a"))
    s_h, s_lw = (Symbol(rf"s_{{{name}}}", positive=True) for name in (r"\log h", r"\log |w|"))
    rho = Symbol("rho", real=True)
    return {
        r"Q_{1/2}": shortcut_layer_median(s_w, h, n, sigma, tau),
        r"Q_{1/2}\;(\sigma^2 = h)": shortcut_layer_median(s_w, h, n),
        "Q_p": shortcut_layer_quantile(p, s_w, h, n, sigma, tau),
        "S_f": shortcut_layer_share_within(f, s_w, h, n, sigma, tau),
        r"\text{slope}": shortcut_radius_slope(a, s_h, s_lw, rho),
        r"\text{correlation}": shortcut_radius_correlation(a, s_h, s_lw, rho),
    }


DERIVATION = Derivation(
    name="shortcut_layer",
    title="The error of |w/g| over a layer: it follows the square root of the radius",
    laws=(
        "shortcut_layer_median",
        "shortcut_layer_quantile",
        "shortcut_layer_share_within",
        "shortcut_radius_slope",
        "shortcut_radius_correlation",
    ),
    statements=(
        Statement(
            "theorem",
            "For normal weights, means and noise |w/g_n|*h is half-Cauchy over a layer of one "
            "curvature, of median s_w*h/sqrt(sigma^2/n + tau^2); at most 0.41 of it is within a "
            "factor of two of 1.",
        ),
        Statement(
            "theorem",
            "Where sigma^2 = h, and weights are independent of curvatures, log|w/g| has slope 1/2 "
            "against log R, and for normal weights the correlation s_h/sqrt(s_h^2 + pi^2).",
        ),
        Statement(
            "under assumptions",
            "The median is s_w*sqrt(n*h) for curvatures of a logarithm symmetric about log(h).",
        ),
    ),
    source="equation 17 of the paper; Marsaglia (1965)",
    make_formulas=_formulas,
    make_steps=_steps,
)
