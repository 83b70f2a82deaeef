"""E|dw|: the expected absolute parameter step (equation 6)."""

from typing import Any

from sympy import Rational, Sum, Symbol, oo, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import batch_size, deviation, finite, rate, spread, training_set
from theory.laws._folded_normal import batch_deviation, folded_normal_mean, nothing_random
from theory.laws.abs_gradient import expected_abs_gradient
from theory.symbols import k, lr, mu, n, sigma


def expected_abs_step(
    lr: Any,
    n: Any,
    sigma: Any,
    mu: Any = 0,
    population: Any = oo,
    momentum: Any = 0,
    tau: Any = 0,
) -> Any:
    r"""Return E\|dw\| of one SGD step, in the parameter's unit.

    Equation 6 of the paper, with its constant corrected, with means and with heavy-ball momentum
    as PyTorch has it: v <- momentum*v + g, w <- w - lr*v.

    Assumptions: those of `expected_abs_gradient`; the rate is constant, the gradients of
    successive steps are independent and of one distribution (the parameters move too little to
    change it), and v has reached its stationary distribution, a momentum of m needing some
    1/(1 - m) steps for that. Then v is normal with mean mu/(1 - m) and standard deviation
    s/sqrt(1 - m^2), and

        E|dw| = lr * E|v|,  E|v| by the folded normal formula.

    With mu = 0 momentum lengthens the steps by 1/sqrt(1 - m^2) (2.29 at m = 0.9), while with
    sigma = 0 it does so by 1/(1 - m) (10 at m = 0.9): its effect depends on n.
    Every batch is taken to be drawn anew from the population; batches that partition one epoch
    are negatively correlated, which this leaves out.
    With means spread over a layer, mu_i ~ N(mu, tau), v has variance
    s^2/(1 - m^2) + tau^2/(1 - m)^2: momentum lengthens the mean's part more than the noise's.

    Source: the variance of a first-order autoregression, Box & Jenkins, section 3.2.

    Raises ValueError, naming the argument, for lr < 0, n < 1, sigma < 0, population < n, momentum
    outside [0, 1) or a value that is not a real number.

    >>> from sympy import symbols, Rational
    >>> lr, n, sigma = symbols("lr n sigma", positive=True)
    >>> expected_abs_step(lr, n, sigma)
    sqrt(2)*lr*sigma/(sqrt(pi)*sqrt(n))
    >>> expected_abs_step(lr, n, sigma, momentum=Rational(3, 5))
    5*sqrt(2)*lr*sigma/(4*sqrt(pi)*sqrt(n))
    """
    lr, n, sigma, mu = rate(lr), batch_size(n), deviation(sigma), finite("mu", mu)
    population, m = training_set(population, n), finite("momentum", momentum)
    if m.is_number and not 0 <= m < 1:
        raise ValueError(
            f"momentum is {momentum!r}; it must be in [0, 1): from 1 on the velocity has no "
            "stationary distribution"
        )
    s, tau = batch_deviation(n, sigma, population), spread("tau", tau)
    sd = s / sqrt(1 - m**2)
    if not tau.is_zero:
        sd = sqrt(sd**2 + (tau / (1 - m)) ** 2)
    return lr * folded_normal_mean(mu / (1 - m), sd, nothing_random(n, population, tau))


def _steps() -> tuple[Step, ...]:
    m, centre, tau = (Symbol(name, positive=True) for name in ("m_0", "mu_0", "tau_0"))
    inside = ((m, (0, 1)),)
    s = batch_deviation(n, sigma, oo)
    variance = s**2 / (1 - m**2)
    half = Rational(1, 2)
    return (
        Step(
            "The velocity is a sum of past gradients with weights 1, m, m^2, ..., of total "
            "1/(1 - m): its mean is that many times mu.",
            Sum(half**k, (k, 0, oo)),
            1 / (1 - half),
        ),
        Step(
            "The squares of the weights, at m = 1/2 again, sum to 1/(1 - m^2).",
            Sum(half ** (2 * k), (k, 0, oo)),
            1 / (1 - half**2),
        ),
        Step(
            "At every m the stationary variance solves V = m^2*V + s^2,",
            m**2 * variance + s**2,
            variance,
            domain=inside,
        ),
        Step(
            "and the mean M = m*M + mu.",
            m * centre / (1 - m) + centre,
            centre / (1 - m),
            domain=inside,
        ),
        Step(
            "So the mean step is that of a gradient of deviation s/sqrt(1 - m^2) and mean "
            "mu/(1 - m).",
            expected_abs_step(lr, n, sigma, centre, momentum=m),
            lr * expected_abs_gradient(1, sqrt(variance), centre / (1 - m)),
            domain=inside,
        ),
        Step(
            "Without means momentum lengthens it by 1/sqrt(1 - m^2).",
            expected_abs_step(lr, n, sigma, momentum=m) / expected_abs_step(lr, n, sigma),
            1 / sqrt(1 - m**2),
            domain=inside,
        ),
        Step(
            "Means spread over a layer are drawn once: their part grows by 1/(1 - m).",
            expected_abs_step(lr, n, 0, momentum=m, tau=tau) / expected_abs_step(lr, n, 0, tau=tau),
            1 / (1 - m),
            domain=inside,
        ),
    )


DERIVATION = Derivation(
    name="abs_step",
    title="The mean absolute step, with momentum",
    laws=("expected_abs_step",),
    statements=(
        Statement(
            "under assumptions",
            "Gradients of successive steps are normal, independent and of one distribution: then "
            "the stationary mean step is exact.",
        ),
        Statement(
            "asymptotic",
            "The velocity forgets its start: after t steps its deviation is the stationary one.",
            rate="m^(2t)",
        ),
    ),
    source="Box & Jenkins, section 3.2",
    make_formulas=lambda: {
        r"E|\Delta w|": expected_abs_step(lr, n, sigma, mu, momentum=Symbol("m", positive=True))
    },
    make_steps=_steps,
)
