"""The limit and the standard error of every layer-wise rule as the layer grows."""

from typing import Any

from sympy import (
    Integral,
    Limit,
    Max,
    Rational,
    S,
    Subs,
    Symbol,
    erf,
    erfinv,
    exp,
    log,
    nan,
    oo,
    pi,
    sqrt,
)

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import above, at_least, choice, positive_spread, scalar
from theory.ratio.distribution import ratio_density, ratio_quantile
from theory.symbols import P, beta, g, n, s_g, s_w, x

RULES = (
    "lars",
    "mclr-signed",
    "mclr-absolute",
    "mclr-ratio",
    "percentdelta",
    "mean",
)
# The median of |Z| for a standard normal Z, and the density of |Z| there.
_MEDIAN = sqrt(2) * erfinv(Rational(1, 2))
_AT_MEDIAN = sqrt(2 / pi) * exp(-(_MEDIAN**2) / 2)


def rule_limit(rule: str, s_w: Any, s_g: Any, beta: Any = 0) -> Any:
    r"""Return what a layer-wise rule's radius tends to as the layer's size P grows.

    | rule | the paper | on P entries | limit |
    |---|---|---|---|
    | lars | 23 | \|w\|_2/(\|g\|_2 + beta*\|w\|_2) | s_w/(s_g + beta*s_w) |
    | mclr-signed | 20, 22 | \|med w/(med g + beta*med w)\| | none (nan): Cauchy at every size |
    | mclr-absolute | 20, 22 | med\|w\|/(med\|g\| + beta*med\|w\|) | s_w/(s_g + beta*s_w) |
    | mclr-ratio | 20, 22 | med\|w/(g + beta*w)\| | s_w/sqrt(s_g^2 + beta^2*s_w^2) |
    | percentdelta | 24 | P/sum\|(g + beta*w)/w\| | 0, like 1/log(P) |
    | mean | figure 2 | mean\|w/(g + beta*w)\| | infinite, like log(P) |

    Assumptions: the entries are independent, w ~ N(0, s_w) and g ~ N(0, s_g). The limits of the
    first four rows are almost sure (laws of large numbers for moments and quantiles); the last two
    hold in probability. LARS's limit needs only second moments, with s_w and s_g the root mean
    squares; the medians need only the medians. So for layers that are not Gaussian the rules part:
    a gradient of heavy tails has a root mean square far above its median, and LARS's rate is then
    below MCLR's.

    Source: equations 20 to 24 of the paper; van der Vaart, Asymptotic Statistics, chapter 21.

    Raises ValueError, naming the argument, for an unknown rule, a standard deviation that is not
    positive or beta < 0.

    >>> from sympy import symbols
    >>> s_w, s_g = symbols("s_w s_g", positive=True)
    >>> [rule_limit(rule, s_w, s_g) for rule in RULES]
    [s_w/s_g, nan, s_w/s_g, s_w/s_g, 0, oo]
    """
    rule = choice("rule", rule, RULES)
    s_w, s_g = positive_spread("s_w", s_w), positive_spread("s_g", s_g)
    beta = at_least("beta", beta, 0, "weight decay pulls towards zero")
    if rule in ("lars", "mclr-absolute"):
        return s_w / (s_g + beta * s_w)
    if rule == "mclr-ratio":
        return s_w / sqrt(s_g**2 + (beta * s_w) ** 2)
    return {"mclr-signed": nan, "percentdelta": S.Zero, "mean": oo}[rule]


def rule_standard_error(
    rule: str,
    s_w: Any,
    s_g: Any,
    size: Any,
    beta: Any = 0,
    kurtosis_w: Any = 3,
    kurtosis_g: Any = 3,
) -> Any:
    r"""Return the standard error of a rule's radius on a layer of `size` = P entries.

    With r the limit of `rule_limit` and k = s_g/s_w, to leading order in 1/P:

        lars           r^2*k*sqrt((kurtosis_w + kurtosis_g - 2)/(4*P)), r^2*k/sqrt(P) for Gaussians
        mclr-absolute  r^2*k*sqrt(2)/(2*m*f(m)*sqrt(P)) = 1.650*r^2*k/sqrt(P), m = 0.6745 the median
                       of |Z|, f its density
        mclr-ratio     r^2*k*pi/(2*sqrt(P)) = 1.571*r^2*k/sqrt(P)
        mclr-signed    infinite: the quotient of the medians is Cauchy
        percentdelta   infinite relative to its limit 0: returned as oo; see `percent_delta_centre`
        mean           infinite

    So with Gaussian layers LARS is the most exact of the three that converge; the two readings of
    the median need 2.7 and 2.5 times as many entries. With heavy tails it turns: LARS's error
    grows with the kurtosis, the medians' does not, and without a fourth moment (tail index a below
    4, above 2) the error of LARS falls slower than 1/sqrt(P), as P^(2/a - 1).

    Assumptions: those of `rule_limit`; the kurtosis arguments E x^4/(E x^2)^2 serve LARS alone.
    Asymptotic, with relative error of order 1/P.

    Source: the delta method and the asymptotic normality of sample quantiles, van der Vaart,
    Asymptotic Statistics, theorem 3.1 and corollary 21.5.

    Raises ValueError, naming the argument, as `rule_limit`, for size < 1 and for a kurtosis
    below 1.

    >>> from sympy import symbols
    >>> s_w, s_g, P = symbols("s_w s_g P", positive=True)
    >>> rule_standard_error("lars", s_w, s_g, P)
    s_w/(sqrt(P)*s_g)
    >>> rule_standard_error("mclr-ratio", s_w, s_g, P)
    pi*s_w/(2*sqrt(P)*s_g)
    """
    limit = rule_limit(rule, s_w, s_g, beta)
    k = scalar("s_g", s_g) / scalar("s_w", s_w)
    size = at_least("size", size, 1, "a layer has one entry or more")
    fourth = [
        at_least(name, value, 1, "E x^4 is at least (E x^2)^2")
        for name, value in (("kurtosis_w", kurtosis_w), ("kurtosis_g", kurtosis_g))
    ]
    if rule == "lars":
        return limit**2 * k * sqrt((sum(fourth) - 2) / (4 * size))
    if rule == "mclr-absolute":
        return limit**2 * k / (sqrt(2) * _MEDIAN * _AT_MEDIAN * sqrt(size))
    if rule == "mclr-ratio":
        return limit**2 * k * pi / (2 * sqrt(size))
    return oo


def rule_growth_exponent(rule: str, tail_w: Any = oo, tail_g: Any = oo) -> Any:
    r"""Return e where the rule's radius grows as P^e with the layer, for power-law tails.

    `tail_w` is the index a of the weights' tail, P(\|w\| > t) ~ t^-a; `tail_g` the gradients';
    infinite for lighter tails, as of a Gaussian. Both densities are positive at 0.

        lars          max(1/tail_w, 1/2) - max(1/tail_g, 1/2)    norms of tails below 2 outgrow
                                                                sqrt(P)
        mclr-*        0                                          medians do not feel tails
        percentdelta  1 - max(1/tail_g, 1)                       0 hides the 1/log(P)
        mean          max(1/tail_w, 1) - 1                       0 hides the log(P)

    Asymptotic, in probability, up to logarithms (at an index of exactly 2 or 1 as well).

    Source: sums of regularly varying terms, Embrechts, Klueppelberg & Mikosch, section 2.2.

    Raises ValueError for an unknown rule or an index that is not positive.

    >>> rule_growth_exponent("lars", tail_g=1)
    -1/2
    >>> rule_growth_exponent("mclr-ratio", tail_g=1)
    0
    """
    rule = choice("rule", rule, RULES)
    inverse = [
        S.Zero
        if scalar(name, value) is oo
        else 1 / above(name, value, 0, "it is an exponent of decay")
        for name, value in (("tail_w", tail_w), ("tail_g", tail_g))
    ]
    half = Rational(1, 2)
    if rule == "lars":
        return Max(inverse[0], half) - Max(inverse[1], half)
    if rule == "percentdelta":
        return 1 - Max(inverse[1], 1)
    return Max(inverse[0], 1) - 1 if rule == "mean" else S.Zero


def _formulas() -> dict[str, Any]:
    names = {"lars": "LARS", "mclr-absolute": "MCLR,abs", "mclr-ratio": "MCLR,ratio"}
    limits = {rf"R_{{\mathrm{{{n}}}}}": rule_limit(r, s_w, s_g, beta) for r, n in names.items()}
    errors = {
        rf"\mathrm{{SE}}_{{\mathrm{{{n}}}}}": rule_standard_error(r, s_w, s_g, P, beta)
        for r, n in names.items()
    }
    return limits | errors


def _steps() -> tuple[Step, ...]:
    b = Symbol("beta_0", positive=True)
    k = s_g / s_w

    def normal(v: Any) -> Any:
        return exp(-(v**2) / 2) / sqrt(2 * pi)

    middle = ratio_quantile(Rational(1, 2), s_w, s_g, b)
    tail = Symbol("a", positive=True)
    return (
        Step(
            "The mean of x^4 is 3, so a mean of P squares has relative variance 2/P, a norm's "
            "logarithm 1/(2P), and the logarithm of a quotient of two norms 1/P.",
            2 * (Integral(g**4 * normal(g), (g, -oo, oo)) - 1) / (4 * P),
            rule_standard_error("lars", 1, 1, P) ** 2,
        ),
        Step(
            "With weight decay the radius r = 1/(beta + y) has derivative -r^2 in the ratio y of "
            "the norms.",
            Subs((1 / (b + x)).diff(x), x, k),
            -(rule_limit("lars", s_w, s_g, b) ** 2),
        ),
        Step(
            "Half of |Z| lies below sqrt(2)*erfinv(1/2).",
            2 * Integral(normal(g), (g, 0, x)),
            erf(x / sqrt(2)),
        ),
        Step(
            "A median of P values has variance 1/(4 P f^2); for the logarithm of |Z|'s that is "
            "1/(4 P (m f)^2), and for a quotient of two of them twice as much.",
            2 / (4 * P * (_MEDIAN * _AT_MEDIAN) ** 2),
            rule_standard_error("mclr-absolute", 1, 1, P) ** 2,
        ),
        Step(
            "That is 1.650/sqrt(P) in relative terms.",
            abs(rule_standard_error("mclr-absolute", 1, 1, 1) - Rational(165, 100)),
            Rational(1, 1000),
            "<",
        ),
        Step(
            "The density of the radius at its median, with weight decay, gives the other median's "
            "standard error.",
            1 / (2 * ratio_density(middle, s_w, s_g, b) * sqrt(P)),
            rule_standard_error("mclr-ratio", s_w, s_g, P, b),
        ),
        Step(
            "LARS's standard error is below the ratio median's, by 2/pi.",
            rule_standard_error("lars", s_w, s_g, P),
            rule_standard_error("mclr-ratio", s_w, s_g, P),
            "<",
        ),
        Step(
            "Among P radii of tail c/r the largest is of order P: the chance that all are below "
            "x*P tends to exp(-c/x).",
            Limit((1 - 1 / (x * n)) ** n, n, oo),
            exp(-1 / x),
        ),
        Step(
            "Squares of variables of tail index a have index a/2, and P of them with a < 2 sum to "
            "order P^(2/a): the norm's exponent is 1/a, above 1/2.",
            Rational(1, 2),
            rule_growth_exponent("lars", tail_w=tail) + Rational(1, 2),
            "<",
            domain=((tail, (Rational(1, 2), 2)),),
        ),
        Step(
            "The mean |g/w| cut off at P grows as log(P), so PercentDelta's rate goes to 0.",
            Limit(log(1 + P**2) / log(P), P, oo),
            2,
        ),
    )


DERIVATION = Derivation(
    name="rules",
    title="The limit and the standard error of the layer-wise rules",
    laws=("rule_limit", "rule_standard_error", "rule_growth_exponent"),
    statements=(
        Statement(
            "theorem",
            "LARS's and both consistent MCLR radii converge almost surely on independent Gaussian "
            "layers; the quotient of signed medians converges to nothing.",
        ),
        Statement(
            "asymptotic",
            "The standard errors, of order 1/sqrt(P).",
            rate="1/P",
        ),
        Statement(
            "asymptotic",
            "PercentDelta's median tends to 0 and the mean radius's to infinity like 1/log(P) and "
            "log(P), with fluctuations of the order of the rate that are not normal.",
            rate="1/log(P)",
        ),
    ),
    source="van der Vaart, Asymptotic Statistics (1998), chapters 3 and 21",
    make_formulas=_formulas,
    make_steps=_steps,
)
