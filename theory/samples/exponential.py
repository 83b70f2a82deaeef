"""E|g_n| of centred exponential, and Gamma, per-sample gradients: the skew example."""

from typing import Any

import mpmath
from sympy import Float, Integral, Symbol, exp, gamma, oo, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import above, batch_size, deviation
from theory.symbols import n, sigma

_LARGEST_EXPANDED = 300


def exponential_abs_gradient(n: Any, sigma: Any, shape: Any = 1) -> Any:
    r"""Return E\|g_n\| for n independent centred Gamma(shape) gradients of deviation sigma.

    With m = n*shape: 2*sigma/sqrt(shape)*m^m*exp(-m)/(n*Gamma(m)). shape = 1 is the centred
    exponential, 2*sigma*n^n*exp(-n)/Gamma(n + 1), whose value at n = 1 is 2*sigma/e. A theorem.
    It is the Gaussian law times 1 - 1/(12*m) + O(1/m^2). For a number m above 300 the factor
    m^m*exp(-m)/Gamma(m) comes as 50 digits.

    Source: the mean deviation of the Gamma distribution, Johnson, Kotz & Balakrishnan, section
    17.3.

    Raises ValueError, naming the argument, for n < 1, sigma < 0 or shape <= 0.

    >>> exponential_abs_gradient(1, 1)
    2*exp(-1)
    >>> exponential_abs_gradient(2, 1)
    4*exp(-2)
    """
    n, sigma = batch_size(n), deviation(sigma)
    m = n * above("shape", shape, 0, "it is the shape of a Gamma distribution")
    if m.is_number and m > _LARGEST_EXPANDED:  # m^m has a million digits at m = 10^6
        with mpmath.workdps(60):
            many = mpmath.mpmathify(m.evalf(60))
            exponent = many * mpmath.log(many) - many - mpmath.loggamma(many)
            power = Float(mpmath.exp(exponent), 50)
    else:
        power = m**m * exp(-m) / gamma(m)
    return 2 * sigma / sqrt(m / n) * power / n


def _steps() -> tuple[Step, ...]:
    t, m = Symbol("t_0", positive=True), Symbol("m_0", positive=True)
    density = t ** (m - 1) * exp(-t) / gamma(m)
    upper = -(t**m) * exp(-t) / gamma(m)
    return (
        Step(
            "The sum of n Gamma(shape) variables is Gamma(m), m = n*shape; its mean is m.",
            Integral(t * density, (t, 0, oo)),
            m,
        ),
        Step(
            "(t - m) times its density has this antiderivative,",
            upper.diff(t),
            (t - m) * density,
        ),
        Step(
            "which vanishes at 0 and infinity, so that E|S - m| is twice its size at t = m; over "
            "n = m/shape, at deviation sigma = sqrt(shape) times the scale:",
            -2 * upper.subs(t, m) / n * sigma / sqrt(m / n),
            exponential_abs_gradient(n, sigma, m / n),
        ),
        Step(
            "For one exponential sample, in full:",
            2 * Integral((t - 1) * exp(-t), (t, 1, oo)),
            exponential_abs_gradient(1, 1),
        ),
        Step(
            "A skewed sample's mean is still the smaller, the larger the batch.",
            exponential_abs_gradient(n + 1, 1),
            exponential_abs_gradient(n, 1),
            "<",
        ),
    )


DERIVATION = Derivation(
    name="exponential",
    title="Centred exponential and Gamma gradients",
    laws=("exponential_abs_gradient",),
    statements=(
        Statement("theorem", "The closed form is exact at every n and shape."),
        Statement(
            "asymptotic",
            "It is the Gaussian law times 1 - 1/(12m), m = n*shape.",
            rate="1/m^2",
        ),
    ),
    source="Johnson, Kotz & Balakrishnan, Continuous Univariate Distributions, section 17.3",
    make_formulas=lambda: {
        r"E|\bar g_n|": exponential_abs_gradient(n, sigma),
        r"E|\bar g_n|\;(\Gamma)": exponential_abs_gradient(
            n, sigma, Symbol("kappa", positive=True)
        ),
    },
    make_steps=_steps,
)
