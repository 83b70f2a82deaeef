"""The limits of the layer-wise rules on layers of any distribution."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sympy import Abs, Function, Integral, Rational, Symbol, exp, oo, pi, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import at_least, choice, number
from theory.quadrature import nodes
from theory.ratio._inverse import mean_inverse
from theory.ratio.distribution import ratio_probability
from theory.ratio.rules import RULES, rule_limit
from theory.samples._continuous import of_distribution
from theory.symbols import g, s_g, s_w, x

Array = NDArray[np.float64]
# Panels in probability that narrow towards both ends, to 2^-60 of them.
_EDGES = np.concatenate([2.0 ** np.arange(-60, -1), [0.5]])
ACCURACY = 1e-8
_NEEDED = ("cdf", "sf", "ppf", "isf", "pdf", "moment")


def _distribution(name: str, value: Any) -> Any:
    if not all(hasattr(value, method) for method in _NEEDED):
        raise ValueError(
            f"{name} is {value!r}; it must be a frozen continuous distribution, as scipy.stats "
            "makes them"
        )
    return value


def _expectation(of: Callable[[Array], Array], law: Any) -> float:
    """E of(X) by quadrature in probability from both ends."""
    total = 0.0
    for side, zero in ((law.ppf, law.cdf(0.0)), (law.isf, law.sf(0.0))):
        # Integrands may bend where X is 0.
        p, weights = nodes(np.unique([*_EDGES, zero]) if 1e-15 < zero < 0.5 else _EDGES)
        total += float((weights * of(side(p.ravel())).reshape(p.shape)).sum())
    return total


def _root(rising: Callable[[float], float], start: float) -> float:
    """Where a function of log x passes one half, from a positive start; to 1e-13."""
    low = high = np.log(start)
    while rising(np.exp(low)) > 0.5:
        low -= 1
    while rising(np.exp(high)) < 0.5:
        high += 1
    while high - low > 1e-14 * max(1.0, abs(low)):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if rising(np.exp(middle)) > 0.5 else (middle, high)
    return float(np.exp((low + high) / 2))


def _abs_median(law: Any) -> float:
    """The median of |X|: P(-x < X < x) = 1/2."""
    scale = max(abs(float(law.ppf(0.25))), abs(float(law.ppf(0.75))))
    if scale == 0:
        return 0.0
    return _root(lambda size: float(law.cdf(size) - law.cdf(-size)), scale)


def _ratio_median(w: Any, g: Any, beta: float) -> float:
    """The median of |w/(g + beta*w)|, over w by quadrature."""

    def below(r: float) -> float:
        def given(weights: Array) -> Array:
            edge = np.abs(weights) / r
            return np.asarray(g.sf(edge - beta * weights) + g.cdf(-edge - beta * weights))

        return _expectation(given, w)

    return _root(below, _abs_median(w) / _abs_median(g))


def _without_mean(rule: str, top: Any, bottom: Any, beta: float) -> float:
    """E|top/bottom| plus what weight decay shifts: infinite where the density at 0 is not."""
    if float(bottom.pdf(0.0)) > 0 and (rule == "percentdelta" or beta == 0):
        return np.inf
    if beta:
        raise ValueError(
            f"beta is {beta!r} for {rule!r} of distributions without mass at zero; pass 0, or use "
            "rule_estimate on a sample"
        )
    names = ("g", "w") if rule == "percentdelta" else ("w", "g")
    try:
        size = of_distribution(top, 1)
    except ValueError as error:
        raise ValueError(str(error).replace("source", names[0], 1)) from None
    inverse = mean_inverse(bottom, names[1])
    for name, mean in zip(names, (size, inverse), strict=True):
        if np.isfinite(mean.value) and mean.error > ACCURACY * mean.value:
            raise ValueError(
                f"{name} has a mean of {'1/' * (name == names[1])}|{name}| near {mean.value:.6g}, "
                f"computed to {mean.error:.1g} only; use rule_estimate on a sample"
            )
    return size.value * inverse.value


def rule_limit_of(rule: str, w: Any, g: Any, beta: float = 0.0) -> float:
    r"""Return what a layer-wise rule tends to on layers of any distribution, a float.

    `w` and `g` are frozen continuous distributions, as scipy.stats makes them; `rule` is one of
    `theory.RULES`. `rule_limit` is the case of centred normal ones.

        lars           the quotient of the root mean squares: 0 where the gradients have no second
                       moment, infinite where the weights have none
        mclr-signed    \|med w/(med g + beta*med w)\|, nan where both medians are 0
        mclr-absolute  med\|w\|/(med\|g\| + beta*med\|w\|)
        mclr-ratio     the median of \|w/(g + beta*w)\|
        percentdelta   0 where the density of the weights at 0 is positive, else, with beta = 0,
                       1/(E\|g\| E\|1/w\|)
        mean           infinite where that of the gradients is, else E\|w\| E\|1/g\|, with beta = 0

    Heavy tails part the rules: for Laplace gradients of the deviation of normal weights the limits
    are 1, 1.376 and 1.300, for Student's of 3 degrees of freedom 1, 1.527 and 1.457.

    Assumptions: entries are independent, and w of g. The limits are almost sure, as there. The
    numbers are computed by quadrature, to 1e-8 for densities that are smooth but for a few places;
    a heavy tail, or a power of \|x\| at 0, is integrated to the end of floats.

    Source: laws of large numbers for moments and quantiles, van der Vaart, chapter 21.

    Raises ValueError for an unknown rule, beta < 0, or what is no distribution; for the last two
    rules with beta where they have a finite limit, and where a mean is not known to 1e-8.

    >>> import scipy.stats
    >>> normal, laplace = scipy.stats.norm(), scipy.stats.laplace(scale=0.5**0.5)
    >>> [round(rule_limit_of(rule, normal, laplace), 3) for rule in ("lars", "mclr-ratio")]
    [1.0, 1.3]
    """
    rule = choice("rule", rule, RULES)
    w, g = _distribution("w", w), _distribution("g", g)
    beta = number("beta", at_least("beta", beta, 0, "weight decay pulls towards zero"))
    if rule == "mclr-signed":
        top = float(w.ppf(0.5))
        bottom = float(g.ppf(0.5)) + beta * top
        return abs(top / bottom) if bottom else (np.inf if top else np.nan)
    if rule == "mclr-ratio":
        return _ratio_median(w, g, beta)
    if rule in ("percentdelta", "mean"):
        pair = (g, w) if rule == "percentdelta" else (w, g)
        mean = _without_mean(rule, *pair, beta)
        return 1 / mean if rule == "percentdelta" else mean
    size = _abs_median if rule == "mclr-absolute" else _root_mean_square
    top, bottom = size(w), size(g)
    if np.isinf(top):
        return 1 / beta if beta and not np.isinf(bottom) else (np.nan if np.isinf(bottom) else top)
    return 0.0 if np.isinf(bottom) else top / (bottom + beta * top)


def _root_mean_square(law: Any) -> float:
    with np.errstate(all="ignore"):
        square = float(law.moment(2))
    # scipy's moment of a distribution without one may be nan, or of either sign.
    return float(np.sqrt(square)) if np.isfinite(square) and square >= 0 else np.inf


def _steps() -> tuple[Step, ...]:
    b, t = Symbol("b_0", positive=True), Symbol("t_0", positive=True)

    def laplace(v: Any) -> Any:
        return exp(-v / b) / b

    normal = 2 * exp(-(t**2) / (2 * s_g**2)) / (s_g * sqrt(2 * pi))
    inner = 2 * Integral(exp(-(g**2) / (2 * s_w**2)) / (s_w * sqrt(2 * pi)), (g, 0, x * t))
    return (
        Step(
            "P(|w/g| <= x) is the mean over |g| of P(|w| <= x*|g|): for normal ones the arc "
            "tangent.",
            Integral((inner.doit() * normal).simplify(), (t, 0, oo)).doit().diff(x),
            ratio_probability(x, s_w, s_g).diff(x),
        ),
        Step(
            "The second moment of a Laplace variable is 2*b^2,",
            Integral(t**2 * laplace(t), (t, 0, oo)),
            2 * b**2,
        ),
        Step("and half of its size lies below b*log(2).", Integral(laplace(t), (t, 0, x)),
             1 - exp(-x / b)),
        Step(
            "So of one deviation its median is below the normal's, and MCLR's rate above LARS's.",
            sqrt(Rational(1, 2)) * Rational(6931472, 10**7),
            Rational(67448, 10**5),
            "<",
        ),
        Step(
            "For normal layers the limit of the ratio's median is rule_limit's.",
            ratio_probability(rule_limit("mclr-ratio", s_w, s_g), s_w, s_g),
            Rational(1, 2),
        ),
    )  # fmt: skip


DERIVATION = Derivation(
    name="rules_of_any",
    title="The layer-wise rules on layers that are not Gaussian",
    laws=("rule_limit_of",),
    statements=(
        Statement(
            "theorem",
            "LARS tends to the quotient of the root mean squares and both consistent medians to "
            "those of the distributions, almost surely, whatever these are.",
        ),
    ),
    source="van der Vaart, Asymptotic Statistics (1998), chapter 21",
    make_formulas=lambda: {
        r"P(|w/g| \leq x)": Integral(
            (Function("F_w")(x * Abs(g)) - Function("F_w")(-x * Abs(g))) * Function("f_g")(g),
            (g, -oo, oo),
        )
    },
    make_steps=_steps,
)
