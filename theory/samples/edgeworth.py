"""The first corrections to E|g_n| for gradients that are not Gaussian."""

from typing import Any

from sympy import Integral, Symbol, exp, oo, pi, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import batch_size, finite, positive_spread
from theory.laws._folded_normal import folded_normal_mean
from theory.symbols import g, mu, n, sigma


def edgeworth_abs_gradient(
    n: Any, sigma: Any, skewness: Any = 0, kurtosis: Any = 0, mu: Any = 0
) -> Any:
    r"""Return E\|g_n\| to order 1/n for gradients of given skewness and *excess* kurtosis.

    With s = sigma/sqrt(n), a = mu/s and f the standard normal density,

        E|g_n| = folded normal + 2*s*f(a)*(-skewness*a/(6*sqrt(n))
                 + kurtosis*(a^2 - 1)/(24*n) + skewness^2*(a^4 - 6*a^2 + 3)/(72*n)),

    at mu = 0: s*sqrt(2/pi)*(1 - (kurtosis - skewness^2)/(24*n)). Heavy tails make the mean size
    smaller at the same sigma, asymmetry larger.

    Assumptions: independent gradients with a finite fourth moment and a density (or Cramer's
    condition). Asymptotic: the relative error is o(1/n), and O(1/n^2) at mu = 0 with a finite sixth
    moment. It is a correction: where it is not small, it is not valid.

    Source: Bhattacharya & Rao (1976), theorem 20.1; \|x\| has the second derivative 2*delta(x).

    Raises ValueError, naming the argument, for n < 1, sigma <= 0, or moments that cannot be
    (kurtosis below skewness^2 - 2).

    >>> from sympy import symbols
    >>> n = symbols("n", positive=True)
    >>> (edgeworth_abs_gradient(n, 1, 2, 6) / edgeworth_abs_gradient(n, 1)).expand()
    1 - 1/(12*n)
    """
    n, sigma, mu = batch_size(n), positive_spread("sigma", sigma), finite("mu", mu)
    skewness, kurtosis = finite("skewness", skewness), finite("kurtosis", kurtosis)
    if skewness.is_number and kurtosis.is_number and kurtosis < skewness**2 - 2:
        raise ValueError(
            f"kurtosis is {kurtosis}; it is the excess over the normal's 3 and at least "
            f"skewness^2 - 2 = {skewness**2 - 2} for every distribution"
        )
    s = sigma / sqrt(n)
    a = mu / s
    terms = (
        -skewness * a / (6 * sqrt(n))
        + kurtosis * (a**2 - 1) / (24 * n)
        + skewness**2 * (a**4 - 6 * a**2 + 3) / (72 * n)
    )
    if mu.is_zero:
        return sqrt(2 / pi) * s * (1 - (kurtosis - skewness**2) / (24 * n))
    return folded_normal_mean(mu, s) + 2 * s * exp(-(a**2) / 2) / sqrt(2 * pi) * terms


def _steps() -> tuple[Step, ...]:
    skew, kurt = Symbol("lambda_3", real=True), Symbol("lambda_4", real=True)
    f = exp(-(g**2) / 2) / sqrt(2 * pi)
    he4, he6 = g**4 - 6 * g**2 + 3, g**6 - 15 * g**4 + 45 * g**2 - 15
    correction = edgeworth_abs_gradient(n, sigma, skew, kurt) / edgeworth_abs_gradient(n, sigma)
    return (
        Step(
            "The density's term in kurtosis is f*He_4/24; it changes E|Z| by -sqrt(2/pi)/24.",
            2 * Integral(g * he4 * f, (g, 0, oo)),
            -sqrt(2 / pi),
        ),
        Step(
            "That in skewness squared is f*He_6/72; it changes E|Z| by 3*sqrt(2/pi)/72.",
            2 * Integral(g * he6 * f, (g, 0, oo)),
            3 * sqrt(2 / pi),
        ),
        Step("Together:", correction, 1 + (-kurt / 24 + 3 * skew**2 / 72) / n),
        Step(
            "With a mean, integrate |z + a| by parts twice: He_4*f is the second derivative of "
            "He_2*f, and |z + a| has the second derivative 2*delta(z + a).",
            ((g**2 - 1) * f).diff(g, 2),
            he4 * f,
        ),
        Step(
            "He_6*f is that of He_4*f, so that E|Z + a| changes by 2*He_4(a)*f(a).",
            (he4 * f).diff(g, 2),
            he6 * f,
        ),
        Step(
            "The skewness term is f*He_3, the second derivative of -He_1*f with its sign turned.",
            (g * f).diff(g, 2),
            (g**3 - 3 * g) * f,
        ),
        Step(
            "Without skewness and kurtosis the folded normal law is left.",
            edgeworth_abs_gradient(n, sigma, 0, 0, mu),
            folded_normal_mean(mu, sigma / sqrt(n)),
        ),
    )


DERIVATION = Derivation(
    name="edgeworth",
    title="The first correction to the Gaussian law",
    laws=("edgeworth_abs_gradient",),
    statements=(
        Statement(
            "asymptotic",
            "With a sixth moment and Cramer's condition, at mu = 0; with a fourth moment alone, or "
            "a mean, the relative error is o(1/n).",
            rate="1/n^2",
        ),
    ),
    source="Bhattacharya & Rao (1976), Normal Approximation, theorem 20.1",
    make_formulas=lambda: {
        r"E|\bar g_n|": edgeworth_abs_gradient(
            n, sigma, Symbol("lambda_3", real=True), Symbol("lambda_4", real=True)
        )
    },
    make_steps=_steps,
)
