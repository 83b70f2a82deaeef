"""The error of equation 17, |w/g| for the radius, of one parameter."""

from typing import Any

from sympy import Abs, Integral, Rational, Symbol, erfc, erfinv, exp, log, oo, pi, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import above, batch_size, deviation, finite, training_set, within
from theory.laws._floats import at_floats, digits_of
from theory.laws._folded_normal import batch_deviation
from theory.shortcut._folded_tail import FoldedTail
from theory.symbols import N, g, mu, n, sigma, x


def arguments(w: Any, h: Any, n: Any, sigma: Any, mu: Any, population: Any) -> tuple[Any, Any, Any]:
    """|w|*h, the deviation of the batch gradient, and its mean; all checked."""
    w, n, mu = finite("w", w), batch_size(n), finite("mu", mu)
    h = above("h", h, 0, "the shortcut's error is taken where the radius is finite, of a minimum")
    sigma = sqrt(h) if sigma is None else deviation(sigma)
    return Abs(w) * h, batch_deviation(n, sigma, training_set(population, n)), mu


def shortcut_ratio_quantile(
    p: Any, w: Any, h: Any, n: Any, sigma: Any = None, mu: Any = 0, population: Any = oo
) -> Any:
    r"""Return the p-quantile of \|w/g_n\|*h, by how much equation 17 misses the radius 1/h.

    Without a mean it is \|w\|*h*sqrt(n)/(sigma*z), z the 1 - p/2 quantile of a standard normal:
    no constant is fitted. With `sigma=None` the gradient of one sample has the variance h, as
    where the loss is a negative log-likelihood whose model is true (the information equality), and
    the ratio is \|w\|*sqrt(h*n)/z: nothing holds it near 1, it grows as sqrt(n), and from its 5 to
    its 95 per cent quantile it spreads over a factor of 31, whatever the network.

    With a mean mu the ratio is \|w\|*h/(s*T), with s the deviation of g_n and T where the tail of
    \|N(mu/s, 1)\| holds p; once s is far below \|mu\|, past the noise scale, it is \|w\|*h/\|mu\|.
    `population` is N where batches are drawn without replacement.

    Assumptions: g_n ~ N(mu, s), s that of `expected_abs_gradient`; (1 + g^2)^(3/2) of equation 9
    is 1. Then it is a theorem. That sigma^2 = h is one where the targets follow the model's own
    probabilities and the output is affine in w; near a minimum of the training loss of a network
    that fits its labels it is approximate, and along training sigma^2 leaves h.

    Source: equations 3 and 17 of the paper; the information equality, van der Vaart, Asymptotic
    Statistics, section 5.5.

    Raises ValueError, naming the argument, for p outside (0, 1), h <= 0, n < 1, sigma < 0,
    population < n, or a value that is not a real number.

    >>> from sympy import Rational, symbols
    >>> w, h, n = symbols("w h n", positive=True)
    >>> shortcut_ratio_quantile(Rational(1, 2), w, h, n)
    sqrt(2)*sqrt(h)*sqrt(n)*w/(2*erfinv(1/2))
    >>> shortcut_ratio_quantile(Rational(1, 2), 0.1, 4, 25).evalf(6)
    1.48260
    >>> shortcut_ratio_quantile(0.5, 0.1, 4, 25, mu=4, population=25)
    0.100000000000000
    """
    p = within("p", p, 0, 1, "the quantiles at 0 and 1 are 0 and infinite", "()")
    size, s, mu = arguments(w, h, n, sigma, mu, population)
    if s.is_zero:
        return oo if mu.is_zero else size / Abs(mu)
    if mu.is_zero:
        # 1 - p may be 1 as a float.
        z = FoldedTail(0, p).evalf(digits_of(p)) if p.is_Float else sqrt(2) * erfinv(1 - p)
        return size / (s * z)
    return size / (s * FoldedTail(Abs(mu) / s, p))


def shortcut_ratio_probability(
    r: Any, w: Any, h: Any, n: Any, sigma: Any = None, mu: Any = 0, population: Any = oo
) -> Any:
    r"""Return P(\|w/g_n\|*h <= r), the inverse of `shortcut_ratio_quantile`.

    Without a mean it is erfc(\|w\|*h/(sqrt(2)*s*r)).

    Assumptions, source and errors: as there; r must be positive.

    >>> from sympy import Rational
    >>> middle = shortcut_ratio_quantile(Rational(1, 3), 2, 3, 4)
    >>> shortcut_ratio_probability(middle, 2, 3, 4).evalf(10)
    0.3333333333
    """
    r = above("r", r, 0, "a ratio of sizes is positive")
    return _probability(r, *_with_chance(w, h, n, sigma, mu, population))


def _with_chance(
    w: Any, h: Any, n: Any, sigma: Any, mu: Any, population: Any
) -> tuple[Any, Any, Any]:
    size, s, mu = arguments(w, h, n, sigma, mu, population)
    if s.is_zero:
        raise ValueError(
            f"sigma is {sigma!r}, and nothing is left to chance in a batch of n = {n}; "
            "compare |w|*h/|mu| with r"
        )
    return size, s, mu


def _probability(r: Any, size: Any, s: Any, mu: Any) -> Any:
    edges = [(size / r + sign * mu) / (sqrt(2) * s) for sign in (1, -1)]
    return erfc(edges[0]) if mu.is_zero else (erfc(edges[0]) + erfc(edges[1])) / 2


def shortcut_share_within(
    factor: Any, w: Any, h: Any, n: Any, sigma: Any = None, mu: Any = 0, population: Any = oo
) -> Any:
    r"""Return P(1/factor <= \|w/g_n\|*h <= factor), how often equation 17 is that near.

    Without a mean no weight, curvature, noise or batch size makes it greater than its maximum over
    k = \|w\|*h/s, at k^2 = 4*factor^2*log(factor)/(factor^4 - 1) (`shortcut_largest_share`): for
    factor = 2 at most 0.582. So a batch without a mean gradient misses the radius by more than two
    in 42 of 100 cases at the least.

    Assumptions, source and errors: as `shortcut_ratio_quantile`; factor must be above 1.

    >>> shortcut_share_within(2, 1, 1, 1).evalf(8)
    0.57157481
    """
    factor = above("factor", factor, 1, "2 is within a factor of two")
    size, s, mu = _with_chance(w, h, n, sigma, mu, population)
    return at_floats(
        lambda factor, size, s, mu: (
            _probability(factor, size, s, mu) - _probability(1 / factor, size, s, mu)
        ),
        factor, size, s, mu,
    )  # fmt: skip


def shortcut_largest_share(factor: Any) -> Any:
    r"""Return the largest `shortcut_share_within` without a mean, over all w, h, n and sigma.

    With k = 2*factor*sqrt(log(factor)/(factor^4 - 1)): erfc(k/(sqrt(2)*factor)) -
    erfc(k*factor/sqrt(2)).

    Assumptions: g_n ~ N(0, s). A theorem, and so a bound for the average of any layer.

    Source: the maximum of a difference of two normal tails, where their densities balance.

    Raises ValueError for factor <= 1.

    >>> shortcut_largest_share(2).evalf(6)
    0.581763
    """
    factor = above("factor", factor, 1, "2 is within a factor of two")
    return at_floats(_largest_share, factor)


def _largest_share(factor: Any) -> Any:
    k = 2 * factor * sqrt(log(factor) / (factor**4 - 1))
    return erfc(k / (sqrt(2) * factor)) - erfc(k * factor / sqrt(2))


def _steps() -> tuple[Step, ...]:
    p, q, f = (Symbol(name, positive=True) for name in ("p_0", "q_0", "f_0"))
    w, h, m = (Symbol(name, positive=True) for name in ("w_0", "h_0", "mu_0"))
    inside = ((p, (0, 1)),)

    def normal(v: Any, s: Any) -> Any:
        return exp(-(v**2) / (2 * s**2)) / (s * sqrt(2 * pi))

    s = sigma / sqrt(n)
    edge = w * h / x
    # The score of a Bernoulli sample whose logit is f: (q - y), y = 1 with probability q.
    score = q * (1 - q) ** 2 + (1 - q) * q**2
    logistic = log(1 + exp(f)).diff(f, 2)
    best = 2 * f * sqrt(log(f) / (f**4 - 1))
    return (
        Step(
            "|w/g|*h is at most x where |g| is at least |w|*h/x: both tails of a centred normal.",
            2 * Integral(normal(g, s), (g, edge, oo)),
            shortcut_ratio_probability(x, w, h, n, sigma),
        ),
        Step(
            "With a mean the tails differ.",
            Integral(normal(g - m, s), (g, edge, oo)) + Integral(normal(g + m, s), (g, edge, oo)),
            shortcut_ratio_probability(x, w, h, n, sigma, m),
        ),
        Step(
            "The probability below the p-quantile is p,",
            shortcut_ratio_probability(shortcut_ratio_quantile(p, w, h, n, sigma), w, h, n, sigma),
            p,
            domain=inside,
        ),
        Step(
            "and with a mean.",
            shortcut_ratio_probability(
                shortcut_ratio_quantile(p, w, h, n, sigma, m), w, h, n, sigma, m
            ),
            p,
            domain=inside,
        ),
        Step(
            "Where the targets follow the model, the variance of a sample's score is the curvature "
            "of its loss: for one logit,",
            score,
            q * (1 - q),
            domain=((q, (0, 1)),),
        ),
        Step(
            "which is the second derivative of log(1 + exp(f)) at q = 1/(1 + exp(-f)).",
            logistic,
            (q * (1 - q)).subs(q, 1 / (1 + exp(-f))),
        ),
        Step(
            "Then the ratio grows as sqrt(h): the shortcut follows sqrt(R), not R.",
            shortcut_ratio_quantile(p, w, 4 * h, n) / shortcut_ratio_quantile(p, w, h, n),
            2,
            domain=inside,
        ),
        Step(
            "The share within a factor f grows with k as long as the density at k*f, times f^2, is "
            "below that at k/f: until exp(k^2*(f^2 - 1/f^2)/2) is f^2.",
            exp(best**2 * (f**2 - f**-2) / 2),
            f**2,
            domain=((f, (Rational(11, 10), 9)),),
        ),
        Step(
            "For a factor of two that is below 0.582.",
            shortcut_largest_share(2),
            Rational(582, 1000),
            "<",
        ),
    )


def _formulas() -> dict[str, Any]:
    p, w, h = (Symbol(name, positive=True) for name in ("p", "w", "h"))
    return {
        r"Q_p\;(\mu = 0)": shortcut_ratio_quantile(p, w, h, n, sigma),
        r"Q_p\;(\sigma^2 = h)": shortcut_ratio_quantile(p, w, h, n),
        "Q_p": shortcut_ratio_quantile(p, w, h, n, sigma, mu),
        r"Q_p\;(N)": shortcut_ratio_quantile(p, w, h, n, sigma, population=N),
        r"P(|w/g_n|\,h \leq x)": shortcut_ratio_probability(x, w, h, n, sigma, mu),
        "S_f": shortcut_share_within(Symbol("f", positive=True), w, h, n, sigma),
    }


DERIVATION = Derivation(
    name="shortcut",
    title="The error of |w/g| as the radius, of one parameter",
    laws=(
        "shortcut_ratio_quantile",
        "shortcut_ratio_probability",
        "shortcut_share_within",
        "shortcut_largest_share",
    ),
    statements=(
        Statement("theorem", "For g_n ~ N(mu, s) the distribution of |w/g_n|*h is exact."),
        Statement(
            "theorem",
            "Without a mean at most 0.582 of the batches have |w/g| within a factor of two of the "
            "radius, whatever the weight, the curvature, the noise and the batch size.",
        ),
        Statement(
            "under assumptions",
            "sigma^2 = h where the targets follow the model's probabilities and the output is "
            "affine in the parameter: the information equality.",
        ),
        Statement(
            "asymptotic",
            "For other gradients of finite third moment, by the central limit theorem.",
            rate="1/sqrt(n)",
        ),
    ),
    source="equations 3, 9 and 17 of the paper; van der Vaart (1998), section 5.5",
    make_formulas=_formulas,
    make_steps=_steps,
)
