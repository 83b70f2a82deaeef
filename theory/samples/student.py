"""E|g_n| of Student-t per-sample gradients: heavy tails with a finite mean."""

from typing import Any

import mpmath
from sympy import (
    Float,
    Integral,
    Poly,
    Rational,
    Symbol,
    exp,
    factorial,
    gamma,
    oo,
    pi,
    sqrt,
    uppergamma,
)

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import above, batch_size, spread
from theory.samples._student_size import StudentMeanSize
from theory.symbols import n, sigma

_MOST_TERMS = 400


def student_abs_gradient(n: Any, scale: Any, degrees: Any = 3) -> Any:
    r"""Return E\|g_n\| for n independent Student-t gradients, centred, of the given scale.

    With v = degrees the standard deviation is scale*sqrt(v/(v - 2)) for v > 2.

        v <= 1               infinite
        n = 1                2*scale*sqrt(v)*Gamma((v + 1)/2)/(sqrt(pi)*Gamma(v/2)*(v - 1))
        v = 3                (2*sqrt(3)/pi)*scale*e^n*n^-n*Gamma(n, n)     (upper incomplete gamma;
                             for a number n above 300 the last three factors as 50 digits)
        odd v, whole n       a finite sum, exact; n*(v - 1)/2 up to 400
        otherwise            the characteristic-function integral, as a function that `evalf` and
                             `numeric` compute and `rewrite(Integral)` writes out

    All are theorems. For 1 < v < 2 the fall is n^(1/v - 1), slower than 1/sqrt(n); for v > 2 the
    Gaussian law holds in the limit, with relative error of order n^-(v - 2)/2 for v < 4.

    Source: the characteristic function, Hurst (1995); the integral, von Bahr (1965).

    Raises ValueError, naming the argument, for n < 1, scale < 0 or degrees <= 0.

    >>> student_abs_gradient(1, 1, degrees=5)
    4*sqrt(5)/(3*pi)
    >>> student_abs_gradient(3, 1, degrees=1)
    oo
    """
    n, scale = batch_size(n), spread("scale", scale)
    v = above("degrees", degrees, 0, "it is a number of degrees of freedom")
    if v.is_number and v <= 1:
        return oo
    if (n - 1).is_zero:
        return 2 * scale * sqrt(v) * gamma((v + 1) / 2) / (sqrt(pi) * gamma(v / 2) * (v - 1))
    if (v - 3).is_zero:
        if n.is_number and n > 300:  # sympy would write out its digits
            with mpmath.workdps(60):
                m = mpmath.mpmathify(n.evalf(60))
                rest = Float(mpmath.exp(m - m * mpmath.log(m)) * mpmath.gammainc(m, m), 50)
        else:
            rest = exp(n) * n ** (-n) * uppergamma(n, n)
        return 2 * sqrt(3) / pi * scale * rest
    if v.is_Integer and v % 2 and n.is_Integer and n * (v - 1) / 2 <= _MOST_TERMS:
        return _finite_sum(int(n), scale, int(v))
    return scale * StudentMeanSize(n, v)


def _finite_sum(n: int, scale: Any, v: int) -> Any:
    """The integral by parts: the characteristic function is exp(-y) times a polynomial in y."""
    p, y = (v - 1) // 2, Symbol("y")
    terms = [
        factorial(2 * p - j) * 2**j / (factorial(j) * factorial(p - j)) * y**j for j in range(p + 1)
    ]
    phi = Poly(sum(terms) * Rational(factorial(p), factorial(2 * p)), y)
    slope = n * phi ** (n - 1) * (phi - phi.diff(y))
    quotient = slope.quo(Poly(y, y))
    total = sum(c * factorial(k) / Rational(n) ** (k + 1) for (k,), c in quotient.terms())
    return scale * 2 * sqrt(v) / (pi * n) * total


def _steps() -> tuple[Step, ...]:
    y = Symbol("y_0", positive=True)
    v = Symbol("v_0", positive=True)
    t = Symbol("t_0", positive=True)
    density = gamma((v + 1) / 2) / (sqrt(pi * v) * gamma(v / 2)) * (1 + t**2 / v) ** (-(v + 1) / 2)
    decaying = 1 - (1 + y) ** n * exp(-n * y)
    above_two = ((v, (2, 9)),)
    return (
        Step(
            "One sample, by integration of the density.",
            2 * Integral(t * density.subs(v, 5), (t, 0, oo)),
            student_abs_gradient(1, 1, 5),
        ),
        Step(
            "At three degrees the characteristic function is (1 + y)*exp(-y), y = sqrt(3)*|t|; the "
            "n-th power's derivative has a factor y, which cancels that of the integral by parts.",
            decaying.diff(y),
            n * y * (1 + y) ** (n - 1) * exp(-n * y),
        ),
        Step(
            "What is left is an incomplete gamma function; here for n = 4.",
            2 * sqrt(3) / pi * Integral((1 + y) ** 3 * exp(-4 * y), (y, 0, oo)),
            student_abs_gradient(4, 1, 3),
        ),
        Step(
            "The finite sum for odd degrees says the same; here for n = 4 again.",
            _finite_sum(4, 1, 3),
            student_abs_gradient(4, 1, 3),
        ),
        Step(
            "One sample by the finite sum, at seven degrees, against the closed form.",
            _finite_sum(1, 1, 7),
            student_abs_gradient(1, 1, 7),
        ),
        Step(
            "By Jensen the mean size of one sample is at most its deviation.",
            student_abs_gradient(1, 1, v),
            sqrt(v / (v - 2)),
            "<",
            domain=above_two,
        ),
    )


DERIVATION = Derivation(
    name="student",
    title="Student-t gradients",
    laws=("student_abs_gradient",),
    statements=(
        Statement("theorem", "Closed for n = 1 or three degrees; a finite sum for odd degrees."),
        Statement(
            "asymptotic",
            "Above two degrees E|g_n|*sqrt(n) tends to the Gaussian value.",
            rate="n^(1 - v/2) for v < 4, 1/n for v > 4",
        ),
        Statement(
            "asymptotic",
            "Between one and two degrees the exponent is 1/v - 1, as for the stable law of index "
            "v.",
            rate="n^(1 - 2/v)",
        ),
    ),
    source="Hurst (1995); von Bahr (1965)",
    make_formulas=lambda: {
        r"E|\bar g_n|\;(\nu = 3)": student_abs_gradient(n, sigma, 3),
        r"E|\bar g_n|\;(\nu)": student_abs_gradient(n, sigma, Symbol("nu", positive=True)),
        r"E|g_1|": student_abs_gradient(1, sigma, Symbol("nu", positive=True)),
    },
    make_steps=_steps,
)
