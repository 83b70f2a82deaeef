"""The distribution of |w/(g + beta*w)| for independent centred Gaussians w and g."""

from typing import Any

from sympy import Integral, Limit, Rational, Symbol, atan, atan2, cos, exp, log, oo, pi, sin, sqrt
from sympy import tan as tangent

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import at_least, positive_spread, scalar, within
from theory.laws._floats import at_floats
from theory.symbols import beta, g, s_g, s_w, x


def _arguments(s_w: Any, s_g: Any, beta: Any) -> tuple[Any, Any, Any]:
    return (
        positive_spread("s_w", s_w),
        positive_spread("s_g", s_g),
        at_least("beta", beta, 0, "weight decay pulls towards zero"),
    )


def ratio_density(r: Any, s_w: Any, s_g: Any, beta: Any = 0) -> Any:
    r"""Return the density at r >= 0 of the radius R = \|w/(g + beta*w)\| of equations 17 and 22.

    With k = s_g/s_w, and beta = 0 a half-Cauchy density of scale s_w/s_g:

        (k/pi)*(1/(k^2 r^2 + (1 - beta*r)^2) + 1/(k^2 r^2 + (1 + beta*r)^2)).

    Assumptions: w ~ N(0, s_w) and g ~ N(0, s_g), independent; then it is a theorem. The tail is
    2k/(pi*(k^2 + beta^2)*r^2), so the mean is infinite, with weight decay too: it moves the pole
    of the quotient but does not remove it.

    Source: the quotient of normal variables, Marsaglia (1965); here by g/w being Cauchy.

    Raises ValueError, naming the argument, for r < 0, a standard deviation that is not positive,
    beta < 0 or a value that is not a real number.

    >>> from sympy import symbols
    >>> r, s_w, s_g = symbols("r s_w s_g", positive=True)
    >>> ratio_density(r, s_w, s_g)
    2*s_g/(pi*s_w*(r**2*s_g**2/s_w**2 + 1))
    """
    s_w, s_g, beta = _arguments(s_w, s_g, beta)
    r = at_least("r", r, 0, "a radius is not negative")
    k = s_g / s_w
    if beta.is_zero:
        return 2 * k / (pi * (1 + (k * r) ** 2))
    near, far = ((k * r) ** 2 + (1 + sign * beta * r) ** 2 for sign in (-1, 1))
    return k / pi * (1 / near + 1 / far)


def ratio_probability(r: Any, s_w: Any, s_g: Any, beta: Any = 0) -> Any:
    r"""Return P(R <= r) for the radius R = \|w/(g + beta*w)\|: (2/pi)*atan(r*s_g/s_w) at beta = 0.

    Assumptions, source and errors are those of `ratio_density`, whose integral it is.

    >>> ratio_probability(1, 1, 1)
    1/2
    """
    s_w, s_g, beta = _arguments(s_w, s_g, beta)
    r = at_least("r", r, 0, "a radius is not negative")
    k = s_g / s_w
    if beta.is_zero:
        return 2 / pi * atan(k * r)
    return (atan2(k * r, 1 - beta * r) + atan2(k * r, 1 + beta * r)) / pi


def ratio_quantile(q: Any, s_w: Any, s_g: Any, beta: Any = 0) -> Any:
    r"""Return the q-quantile of R = \|w/(g + beta*w)\|, the inverse of `ratio_probability`.

    (s_w/s_g)*tan(pi*q/2) without weight decay. The median is s_w/sqrt(s_g^2 + beta^2*s_w^2):
    what both consistent readings of equation 20, and one of equation 22's, estimate.

    Assumptions, source and errors are those of `ratio_density`; q must lie in (0, 1).

    >>> from sympy import Rational, symbols
    >>> s_w, s_g, beta = symbols("s_w s_g beta", positive=True)
    >>> ratio_quantile(Rational(1, 2), s_w, s_g)
    s_w/s_g
    >>> ratio_quantile(Rational(1, 2), 3, 4, beta=1)
    3/5
    """
    s_w, s_g, beta = _arguments(s_w, s_g, beta)
    q = within("q", q, 0, 1, "the quantiles at 0 and 1 are 0 and infinite", "()")
    k = s_g / s_w
    if beta.is_zero:
        return tangent(pi * q / 2) / k
    return sin(pi * q) / (k * cos(pi * q) + sqrt(k**2 + (beta * sin(pi * q)) ** 2))


def ratio_mean(s_w: Any, s_g: Any, beta: Any = 0, cut: Any = oo) -> Any:
    r"""Return E[R; R <= cut], the part of the mean radius below `cut`: infinite for cut = oo.

    (s_w/(pi*s_g))*log(1 + (cut*s_g/s_w)^2) at beta = 0, so that the mean of a layer of P radii,
    the largest of which is of order P, grows like log(P). For beta > 0 only cut = oo is given.

    Assumptions, source and errors are those of `ratio_density`; a finite `cut` with beta > 0
    raises ValueError.

    >>> ratio_mean(1, 1)
    oo
    >>> ratio_mean(1, 1, cut=1)
    log(2)/pi
    """
    s_w, s_g, beta = _arguments(s_w, s_g, beta)
    if scalar("cut", cut) is oo:
        return oo
    cut = at_least("cut", cut, 0, "a radius is not negative")
    if not beta.is_zero:
        raise ValueError(f"cut is {cut!r} with beta = {beta}; a finite cut needs beta = 0")
    return at_floats(lambda k, cut: log(1 + (k * cut) ** 2) / (pi * k), s_g / s_w, cut)


def _formulas() -> dict[str, Any]:
    r, q = Symbol("r", positive=True), Symbol("q", positive=True)
    return {
        "f_R(r)": ratio_density(r, s_w, s_g),
        r"f_R(r)\;(\text{weight decay})": ratio_density(r, s_w, s_g, beta),
        "P(R \\leq r)": ratio_probability(r, s_w, s_g),
        "R_q": ratio_quantile(q, s_w, s_g),
        r"R_{1/2}\;(\text{weight decay})": ratio_quantile(Rational(1, 2), s_w, s_g, beta),
    }


def _steps() -> tuple[Step, ...]:
    q = Symbol("q", positive=True)
    b = Symbol("beta_0", positive=True)

    def normal(v: Any, s: Any) -> Any:
        return exp(-(v**2) / (2 * s**2)) / (s * sqrt(2 * pi))

    at_x = normal(x * g, s_w) * normal(g, s_g)
    half = ratio_quantile(Rational(1, 2), s_w, s_g, b)
    inside = ((q, (0, 1)),)
    return (
        Step(
            "The density of |w/g| at x is four times the integral over g > 0, for the four signs.",
            4 * Integral(g * at_x, (g, 0, oo)),
            ratio_density(x, s_w, s_g),
        ),
        Step(
            "Its integral up to x is the arc tangent.",
            Integral(ratio_density(g, s_w, s_g), (g, 0, x)),
            ratio_probability(x, s_w, s_g),
        ),
        Step(
            "Inverted, it gives the quantiles.",
            ratio_probability(ratio_quantile(q, s_w, s_g), s_w, s_g),
            q,
            domain=inside,
        ),
        Step(
            "With weight decay the probability is right at the quantiles given, too.",
            ratio_probability(ratio_quantile(q, s_w, s_g, b), s_w, s_g, b),
            q,
            domain=inside,
        ),
        Step(
            "The density with weight decay is the derivative of its probability.",
            ratio_probability(x, s_w, s_g, b).diff(x),
            ratio_density(x, s_w, s_g, b),
        ),
        Step(
            "Its median is that of equation 22 read as the median of the ratio.",
            half,
            s_w / sqrt(s_g**2 + b**2 * s_w**2),
        ),
        Step(
            "The mean below a cut is a logarithm.",
            Integral(g * ratio_density(g, s_w, s_g), (g, 0, x)),
            ratio_mean(s_w, s_g, cut=x),
        ),
        Step(
            "It grows without bound: the tail is 2*s_w/(pi*s_g) over r squared.",
            Limit(x**2 * ratio_density(x, s_w, s_g), x, oo),
            2 * s_w / (pi * s_g),
        ),
        Step(
            "Weight decay leaves such a tail, from g near -beta*w.",
            Limit(x**2 * ratio_density(x, s_w, s_g, b), x, oo),
            2 * s_w * s_g / (pi * (s_g**2 + b**2 * s_w**2)),
        ),
    )


DERIVATION = Derivation(
    name="ratio",
    title="The distribution of |w/g|",
    laws=("ratio_density", "ratio_probability", "ratio_quantile", "ratio_mean"),
    statements=(
        Statement(
            "theorem",
            "For independent centred Gaussians |w/g| is half-Cauchy of scale s_w/s_g: that is its "
            "median, and its mean is infinite.",
        ),
        Statement(
            "theorem",
            "Whatever the distributions, a continuous positive density of g at 0, independent of "
            "w, makes the tail of |w/g| of order 1/r and the mean infinite.",
        ),
    ),
    source="Marsaglia (1965), ratios of normal variables",
    make_formulas=_formulas,
    make_steps=_steps,
)
