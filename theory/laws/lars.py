"""LARS's rate as a function of the batch size."""

from typing import Any

from sympy import Limit, Rational, Symbol, oo, pi, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import (
    above,
    at_least,
    batch_size,
    deviation,
    finite,
    positive_spread,
    scalar,
    spread,
    training_set,
)
from theory.laws._folded_normal import batch_deviation, total_deviation
from theory.laws._special import gamma_function
from theory.laws.bend import gradient_noise_scale
from theory.symbols import N, P, mu, n, s_w, sigma


def lars_rate(
    n: Any,
    s_w: Any,
    sigma: Any,
    mu: Any = 0,
    tau: Any = 0,
    population: Any = oo,
    beta: Any = 0,
    gamma: Any = 1,
    size: Any = oo,
) -> Any:
    r"""Return LARS's rate gamma*\|w\|/(\|g_n\| + beta*\|w\|) as a function of the batch size.

        gamma*s_w/(sqrt(mu^2 + tau^2 + s^2) + beta*s_w)

    with s_w the root mean square of the layer's weights, mu and tau the mean and the spread of its
    mean gradients, s that of `expected_abs_gradient`. It grows like sqrt(n) up to the gradient
    noise scale sigma^2/(mu^2 + tau^2), where it is 1/sqrt(2) of its ceiling
    gamma*s_w/sqrt(mu^2 + tau^2), and no further. (What the paper calls a vanishing gradient LARS
    takes out: rate times gradient, the step, has norm gamma*\|w\| at every n.)

    Assumptions: the layer is large, so that norms are at their limits: a theorem then, without
    normality, and asymptotic for a finite layer with relative error of order 1/P. With `size` = P
    given, the expectation for a layer of P independent Gaussian gradients with \|w\| fixed, exact:
    a factor sqrt(P/2)*Gamma((P - 1)/2)/Gamma(P/2); it needs mu = 0 and beta = 0.
    Where nothing is left of gradient and decay the rate is infinite.

    Source: You, Gitman & Ginsburg (2017); McCandlish et al. (2018); the chi distribution.

    Raises ValueError, naming the argument, for n < 1, s_w <= 0, a negative standard deviation,
    beta or gamma, population < n, size <= 1, or a size with mu or beta.

    >>> lars_rate(4, 1, 2), lars_rate(16, 1, 2)
    (1, 2)
    >>> lars_rate(10**6, 3, 1, tau=2, population=10**6)
    3/2
    """
    n, sigma, mu = batch_size(n), deviation(sigma), finite("mu", mu)
    s_w, tau = positive_spread("s_w", s_w), spread("tau", tau)
    population = training_set(population, n)
    beta = at_least("beta", beta, 0, "weight decay pulls towards zero")
    gamma = at_least("gamma", gamma, 0, "it is a rate")
    s = total_deviation(n, sigma, population, tau)
    norm = s if mu.is_zero else sqrt(mu**2 + s**2)
    whole = norm + beta * s_w
    rate = oo if whole.is_zero else gamma * s_w / whole
    if scalar("size", size) is oo:
        return rate
    size = above("size", size, 1, "with one gradient 1/|g| has no mean")
    if not (mu.is_zero and beta.is_zero):
        raise ValueError("size is given with mu or beta; its factor holds for mu = 0 and beta = 0")
    return rate * sqrt(size / 2) * gamma_function((size - 1) / 2) / gamma_function(size / 2)


def _steps() -> tuple[Step, ...]:
    tau = Symbol("tau", positive=True)
    law = lars_rate(n, s_w, sigma, 0, tau)
    return (
        Step(
            "For small batches the rate grows like sqrt(n).",
            Limit(law / sqrt(n), n, 0),
            lars_rate(1, s_w, sigma),
        ),
        Step("For large ones it is constant.", Limit(law, n, oo), s_w / tau),
        Step(
            "The two meet at the noise scale, where the rate is 1/sqrt(2) of the ceiling.",
            law.subs(n, gradient_noise_scale(sigma, 0, tau)),
            s_w / tau / sqrt(2),
        ),
        Step(
            "The mean size of a step is gamma times s_w, times sqrt(2/pi), at every n.",
            lars_rate(n, s_w, sigma) * sqrt(2 / pi) * batch_deviation(n, sigma, oo),
            sqrt(2 / pi) * s_w,
        ),
        Step(
            "A finite layer's mean rate is above the limit, by Jensen.",
            lars_rate(n, s_w, sigma),
            lars_rate(n, s_w, sigma, size=5),
            "<",
        ),
        Step(
            "For P = 3 the factor is sqrt(3/2)/Gamma(3/2) = sqrt(6/pi).",
            lars_rate(n, s_w, sigma, size=3) / lars_rate(n, s_w, sigma),
            sqrt(6 / pi) * Rational(1),
        ),
    )


DERIVATION = Derivation(
    name="lars_rate",
    title="LARS's rate against the batch size",
    laws=("lars_rate",),
    statements=(
        Statement("theorem", "In the limit of a large layer, whatever the distributions."),
        Statement("theorem", "At finite P, the factor of Gamma functions, for Gaussian gradients."),
    ),
    source="You, Gitman & Ginsburg (2017); McCandlish et al. (2018)",
    make_formulas=lambda: {
        r"\eta(n)": lars_rate(n, s_w, sigma, mu, Symbol("tau", positive=True), N),
        r"E\,\eta(n)\;(P)": lars_rate(n, s_w, sigma, size=P),
    },
    make_steps=_steps,
)
