"""The batch size at which the 1/sqrt(n) law bends, and the gradient noise scale."""

from typing import Any

from sympy import E, Rational, S, Symbol, erf, exp, oo, pi, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import deviation, finite, spread, training_set
from theory.laws._folded_normal import batch_deviation, folded_normal_mean
from theory.symbols import N, mu, n, sigma


def gradient_noise_scale(sigma: Any, mu: Any = 0, tau: Any = 0) -> Any:
    r"""Return sigma^2/(mu^2 + tau^2), the simple noise scale tr(Sigma)/\|G\|^2 of a layer.

    Assumptions: each coordinate's per-sample gradient has standard deviation sigma (divisor N),
    and the coordinates' means have mean mu and standard deviation tau over the layer, so that
    tr(Sigma) = P*sigma^2 and \|G\|^2 = P*(mu^2 + tau^2). For a single coordinate, tau = 0. No
    normality is needed: it is the n at which the variance of the batch gradient equals its
    squared mean. Infinite where mu = tau = 0.

    Source: McCandlish et al. (2018), equation 2.9.

    Raises ValueError, naming the argument, for a negative standard deviation or a value that is
    not a real number.

    >>> gradient_noise_scale(6, mu=2)
    9
    >>> gradient_noise_scale(1)
    oo
    """
    sigma, mu, tau = deviation(sigma), finite("mu", mu), spread("tau", tau)
    if mu.is_zero and tau.is_zero:
        return oo
    # As a square of a quotient: the quotient of squares would overflow first.
    return (sigma / mu) ** 2 if tau.is_zero else sigma**2 / (mu**2 + tau**2)


def bend_batch_size(sigma: Any, mu: Any = 0, tau: Any = 0, population: Any = oo) -> Any:
    r"""Return the batch size where the 1/sqrt(n) law meets the level it bends towards.

    sqrt(2/pi)*s(n) falls with n, E\|g_n\| itself tends to E\|mu_i\|; they cross at

        B = (2/pi)*(sigma/E|mu_i|)^2         independent draws
        N*B/(N - 1 + B)                      without replacement from N

    with E\|mu_i\| = \|mu\| for one coordinate and the folded normal mean for mu_i ~ N(mu, tau). At
    the crossing of a single coordinate E\|g_n\| is exp(-1/pi) + erf(1/sqrt(pi)) = 1.302 times
    either; for a centred spread it is sqrt(2) times.

    Its relation to `gradient_noise_scale`: 2/pi of it where all means are equal, equal to it where
    they are N(0, tau), and never below 2/pi of it (Jensen: E\|mu_i\|^2 <= E mu_i^2).

    Assumptions: those of `expected_abs_gradient`. Infinite where mu = tau = 0: no bend.

    Source: the asymptotes of the folded normal mean, Leone, Nelson & Nottingham (1961);
    McCandlish et al. (2018) for the noise scale.

    Raises ValueError, naming the argument, for a negative standard deviation, population < 1 or a
    value that is not a real number.

    >>> bend_batch_size(3, mu=1)
    18/pi
    >>> bend_batch_size(3, tau=1) == gradient_noise_scale(3, tau=1) == 9
    True
    >>> bend_batch_size(3, tau=1, population=13)
    39/7
    """
    sigma, mu, tau = deviation(sigma), finite("mu", mu), spread("tau", tau)
    population = training_set(population, S.One)
    if mu.is_zero and tau.is_zero:
        return oo if population is oo else population
    bend = 2 / pi * (sigma / folded_normal_mean(mu, tau)) ** 2
    return bend if population is oo else bend * population / (population - 1 + bend)


def _formulas() -> dict[str, Any]:
    tau = Symbol("tau", positive=True)
    return {
        r"B_{\mathrm{simple}}": gradient_noise_scale(sigma, mu, tau),
        r"n_{\mathrm{bend}}": bend_batch_size(sigma, mu),
        r"n_{\mathrm{bend}}\;(\mu_i \sim \mathcal N(0, \tau))": bend_batch_size(sigma, 0, tau),
        r"n_{\mathrm{bend}}\;(\text{without replacement})": bend_batch_size(sigma, mu, 0, N),
    }


def _steps() -> tuple[Step, ...]:
    tau, m = Symbol("tau", positive=True), Symbol("mu_0", positive=True)
    bend = bend_batch_size(sigma, m)
    line = sqrt(2 / pi) * batch_deviation(n, sigma, oo)
    finite = bend_batch_size(sigma, m, population=N)
    many = ((N, (50, 5000)),)
    return (
        Step("The line of equation 4 meets the level |mu| at the bend.", line.subs(n, bend), m),
        Step(
            "So does the line with its finite-population factor, at the smaller bend.",
            sqrt(2 / pi) * batch_deviation(finite, sigma, N),
            m,
            domain=many,
        ),
        Step(
            "At the bend the law itself is exp(-1/pi) + erf(1/sqrt(pi)) times the level.",
            folded_normal_mean(m, batch_deviation(bend, sigma, oo)) / m,
            exp(-1 / pi) + erf(1 / sqrt(pi)),
        ),
        Step(
            "That is 1.302.",
            abs(E ** (-1 / pi) + erf(1 / sqrt(pi)) - Rational(1302, 1000)),
            Rational(1, 1000),
            "<",
        ),
        Step(
            "It is 2/pi of the noise scale, at which the variance equals the squared mean.",
            bend / gradient_noise_scale(sigma, m),
            2 / pi,
        ),
        Step(
            "With centred means of spread tau the batch gradient is N(0, sqrt(tau^2 + s^2)) over "
            "the layer, and the line meets its level sqrt(2/pi)*tau at the noise scale itself.",
            line.subs(n, gradient_noise_scale(sigma, 0, tau)),
            folded_normal_mean(sigma * 0, tau),
        ),
        Step(
            "By Jensen the bend is at least 2/pi of the noise scale, whatever the mean and spread.",
            2 / pi * gradient_noise_scale(sigma, mu, tau),
            bend_batch_size(sigma, mu, tau),
            "<=",
        ),
        Step(
            "The bend of a finite population is below the whole population.",
            finite,
            N,
            "<",
            domain=many,
        ),
    )


DERIVATION = Derivation(
    name="bend",
    title="Where the 1/sqrt(n) law bends",
    laws=("bend_batch_size", "gradient_noise_scale"),
    statements=(
        Statement(
            "theorem",
            "For independent N(mu, sigma) per-sample gradients the two asymptotes of E|g_n| cross "
            "at (2/pi)*(sigma/mu)^2, where the law is 1.302 times either.",
        ),
        Statement(
            "theorem",
            "For means N(0, tau) over a layer the crossing is the gradient noise scale; for any "
            "means it is at least 2/pi of it.",
        ),
        Statement(
            "under assumptions",
            "Without replacement the crossing uses the exact standard deviation of the batch mean "
            "and its normality.",
        ),
    ),
    source="Leone, Nelson & Nottingham (1961); McCandlish et al. (2018), equation 2.9",
    make_formulas=_formulas,
    make_steps=_steps,
)
