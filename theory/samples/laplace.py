"""E|g_n| of centred Laplace per-sample gradients."""

from typing import Any

from sympy import Integral, Rational, Symbol, exp, gamma, oo, pi, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import batch_size, deviation
from theory.laws._special import gamma_function
from theory.laws.abs_gradient import expected_abs_gradient
from theory.symbols import n, sigma


def laplace_abs_gradient(n: Any, sigma: Any) -> Any:
    r"""Return E\|g_n\| for n independent Laplace gradients of mean 0 and deviation sigma.

    sigma*sqrt(2/pi)*Gamma(n + 1/2)/Gamma(n + 1), that is sigma*sqrt(2)*binomial(2n, n)/4^n. A
    theorem. It is the Gaussian law times 1 - 1/(8n) + O(1/n^2): below it, most at n = 1 (0.886).

    Source: the sum of n Laplace variables is the difference of two Gamma(n) variables, Kotz,
    Kozubowski & Podgorski (2001), section 2.3.

    Raises ValueError, naming the argument, for n < 1 or sigma < 0.

    >>> laplace_abs_gradient(1, 1)
    sqrt(2)/2
    >>> laplace_abs_gradient(2, 4)
    3*sqrt(2)/2
    """
    n, sigma = batch_size(n), deviation(sigma)
    return sigma * sqrt(2 / pi) * gamma_function(n + Rational(1, 2)) / gamma_function(n + 1)


def _steps() -> tuple[Step, ...]:
    t = Symbol("t_0", positive=True)
    whole = Symbol("n_0", integer=True, positive=True)
    root = sqrt(2)
    return (
        Step(
            "With scale one the characteristic function of a sample is 1/(1 + t^2).",
            2 * Integral(exp(-t) / 2, (t, 0, oo)),
            1,
        ),
        Step(
            "Integrated by parts, (2/pi)*(1 - (1 + t^2)^-n)/t^2 becomes (4n/pi)*(1 + t^2)^(-n-1).",
            Integral(4 * n / pi * (1 + t**2) ** (-n - 1), (t, 0, oo)),
            2 * n * gamma(n + Rational(1, 2)) / (sqrt(pi) * gamma(n + 1)),
        ),
        Step(
            "Divided by n, at deviation sigma = sqrt(2) times the scale:",
            2 * n * gamma(n + Rational(1, 2)) / (sqrt(pi) * gamma(n + 1)) / n * sigma / root,
            laplace_abs_gradient(n, sigma),
        ),
        Step(
            "For two samples the density of the sum is (1 + |x|)*exp(-|x|)/4.",
            2 * Integral(t * (1 + t) * exp(-t) / 4, (t, 0, oo)) / 2 / root,
            laplace_abs_gradient(2, 1),
        ),
        Step(
            "A larger batch has the smaller mean: the quotient is (2n + 1)/(2n + 2).",
            laplace_abs_gradient(whole + 1, 1) / laplace_abs_gradient(whole, 1),
            (2 * whole + 1) / (2 * whole + 2),
        ),
    )


DERIVATION = Derivation(
    name="laplace",
    title="Laplace gradients",
    laws=("laplace_abs_gradient",),
    statements=(
        Statement("theorem", "The closed form is exact at every n."),
        Statement("asymptotic", "It is the Gaussian law times 1 - 1/(8n).", rate="1/n^2"),
    ),
    source="Kotz, Kozubowski & Podgorski (2001), The Laplace Distribution, section 2.3",
    make_formulas=lambda: {
        r"E|\bar g_n|": laplace_abs_gradient(n, sigma),
        r"E|\bar g_n|\;(\text{Gaussian})": expected_abs_gradient(n, sigma),
    },
    make_steps=_steps,
)
