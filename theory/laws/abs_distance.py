"""E|d|: the expected distance of a parameter from the minimum (equation 28)."""

from typing import Any

from sympy import Abs, Integral, Limit, Subs, Symbol, exp, oo, pi, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import batch_size, choice, deviation, finite, spread, training_set
from theory.laws._folded_normal import folded_normal_mean, nothing_random, total_deviation
from theory.laws.abs_gradient import expected_abs_gradient
from theory.symbols import a as coefficient
from theory.symbols import b, c, d, g, mu, n, sigma, w


def expected_abs_distance(
    a: Any,
    n: Any,
    sigma: Any,
    mu: Any = 0,
    population: Any = oo,
    on: str = "batch",
    tau: Any = 0,
    spread_a: Any = 0,
) -> Any:
    r"""Return E\|d\|, the expected distance of w from the minimum of a parabola a(w - b)^2 + c.

    Equation 28 of the paper, with its constant corrected (the paper prints 1/sqrt(pi) for
    1/sqrt(2 pi)), with means, and with the question it does not ask: the minimum of *which* loss.

    Assumptions: those of `expected_abs_gradient`, and the coefficient a is the same for every
    batch. On a parabola d = g/(2a), the g and the b being those of one and the same loss:

        on="batch"       E|g_n|/(2|a|)   the batch's own minimum
        on="population"  |mu|/(2|a|)     the minimum of the loss on all data

    Only the first depends on n, and with mu = 0 only the first is not zero: what shrinks as
    1/sqrt(n) is the scatter of the batches' minima around the parameter, not the distance of the
    parameter from the minimum of the loss. With means spread over a layer, mu_i ~ N(mu, tau),
    both are averages over the layer.

    With `spread_a`, the standard deviation of log\|a\| over a layer whose coefficients are
    log-normal of median \|a\|, independent of the gradients, both are the layer's averages and
    exp(spread_a^2/2) times as large: flat coordinates lie far from their minima, and at a spread of
    2, usual in networks, equation 28 with a typical a is too small by 7.4. Where the density of a
    is positive at 0, the average is infinite (`radius_tail`).

    The distance that SGD itself leaves in the long run is
    `stationary_abs_distance`.

    Source: equations 13 and 25 to 28 of the paper; the folded normal distribution.

    Raises ValueError, naming the argument, for a = 0, n < 1, sigma < 0, spread_a < 0,
    population < n, an unknown `on` or a value that is not a real number.

    >>> from sympy import symbols
    >>> a, n, sigma = symbols("a n sigma", positive=True)
    >>> expected_abs_distance(a, n, sigma)
    sqrt(2)*sigma/(2*sqrt(pi)*a*sqrt(n))
    >>> expected_abs_distance(a, n, sigma, mu=3, on="population")
    3/(2*a)
    """
    a, n, sigma, mu = finite("a", a), batch_size(n), deviation(sigma), finite("mu", mu)
    population, on = training_set(population, n), choice("on", on, ("batch", "population"))
    if a.is_zero:
        raise ValueError("a is 0; a parabola of zero curvature has no minimum, pass a nonzero a")
    tau = spread("tau", tau)
    inverse = exp(spread("spread_a", spread_a) ** 2 / 2) / (2 * Abs(a))
    if on == "population":
        return folded_normal_mean(mu, tau) * inverse
    s = total_deviation(n, sigma, population, tau)
    return folded_normal_mean(mu, s, nothing_random(n, population, tau)) * inverse


def _steps() -> tuple[Step, ...]:
    a, centre = coefficient, Symbol("mu_0", positive=True)
    width, z = Symbol("s_a", positive=True), Symbol("z", real=True)
    slope = (a * (w - b) ** 2 + c).diff(w)
    return (
        Step(
            "On a(w - b)^2 + c the distance d = w - b is the slope over 2a.",
            Subs(slope, w, b + d) / (2 * a),
            d,
        ),
        Step(
            "A batch of slope g has its own minimum at w - g/(2a).",
            Subs(slope + g - slope.subs(w, b + d), w, b + d - g / (2 * a)),
            0,
        ),
        Step(
            "So its mean distance is the mean absolute gradient over 2a.",
            expected_abs_distance(a, n, sigma, centre),
            expected_abs_gradient(n, sigma, centre) / (2 * a),
        ),
        Step(
            "The population's slope is mu at every n; what the batch's tends to as n grows.",
            expected_abs_distance(a, n, sigma, centre, on="population"),
            Limit(expected_abs_distance(a, n, sigma, centre), n, oo),
        ),
        Step(
            "Without a mean the batch's distance is equation 28, corrected, the population's zero.",
            expected_abs_distance(a, n, sigma, 0, on="population"),
            0,
        ),
        Step(
            "Over coefficients a*exp(s_a*z), z normal, the mean of 1/(2a) is exp(s_a^2/2) times "
            "that of the median.",
            Integral(exp(-width * z) * exp(-(z**2) / 2) / sqrt(2 * pi), (z, -oo, oo)),
            expected_abs_distance(a, n, sigma, spread_a=width) / expected_abs_distance(a, n, sigma),
        ),
    )


DERIVATION = Derivation(
    name="abs_distance",
    title="The distance from the minimum, and of which loss",
    laws=("expected_abs_distance",),
    statements=(
        Statement(
            "under assumptions",
            "Every batch's loss is a parabola with the same coefficient, and gradients are normal: "
            "then both distances are exact.",
        ),
        Statement(
            "under assumptions",
            "With log-normal coefficients over a layer, independent of the gradients, the layer's "
            "mean is exp(spread_a^2/2) times that of the median coefficient.",
        ),
    ),
    source="equations 13 and 25 to 28 of the paper",
    make_formulas=lambda: {
        r"E|d|\;(\text{batch})": expected_abs_distance(coefficient, n, sigma, mu),
        r"E|d|\;(\text{population})": expected_abs_distance(
            coefficient, n, sigma, mu, on="population"
        ),
    },
    make_steps=_steps,
)
