"""E|g_n| of alpha-stable per-sample gradients: the exponent itself changes."""

from typing import Any

from sympy import (
    Derivative,
    Integral,
    Rational,
    Symbol,
    atan,
    cos,
    exp,
    gamma,
    log,
    oo,
    pi,
    sqrt,
    tan,
)

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import batch_size, spread, within
from theory.laws.abs_gradient import expected_abs_gradient
from theory.symbols import n, sigma


def stable_abs_gradient(n: Any, scale: Any, alpha: Any, skew: Any = 0) -> Any:
    r"""Return E\|g_n\| for n independent centred alpha-stable gradients: n^(1/alpha - 1), exactly.

    n^(1/alpha - 1)*scale*(2/pi)*Gamma(1 - 1/alpha)*(1 + b^2)^(1/(2 alpha))*cos(atan(b)/alpha) with
    b = skew*tan(pi*alpha/2), for the characteristic function
    exp(-\|scale*t\|^alpha*(1 - i*skew*sign(t)*tan(pi*alpha/2))) (scipy's S1 form with loc = 0). At
    alpha = 2 it is the Gaussian law with sigma = sqrt(2)*scale; at 1.5 the fall is n^(-1/3), and
    towards 1 there is none. A theorem for stable gradients; for gradients of tail index alpha in
    (1, 2) it gives the exponent, asymptotically (generalised central limit theorem).

    Source: Samorodnitsky & Taqqu (1994), property 1.2.17; Simsekli, Sagun & Gurbuzbalaban (2019)
    for tails of gradients.

    Raises ValueError, naming the argument, for n < 1, scale < 0, alpha outside (1, 2] (from 1 down
    the mean is infinite) or skew outside [-1, 1].

    >>> from theory import expected_abs_gradient
    >>> stable_abs_gradient(8, 1, 2) == expected_abs_gradient(4, 1)
    True
    >>> stable_abs_gradient(64, 1, 1.5).evalf(6) * 4 == stable_abs_gradient(1, 1, 1.5).evalf(6)
    True
    """
    n, scale = batch_size(n), spread("scale", scale)
    alpha = within("alpha", alpha, 1, 2, "from 1 down the mean is infinite", "(]")
    skew = within("skew", skew, -1, 1, "it is the share of the tails' difference")
    value = n ** (1 / alpha - 1) * scale * 2 / pi * gamma(1 - 1 / alpha)
    if skew.is_zero or (alpha - 2).is_zero:
        return value
    b = skew * tan(pi * alpha / 2)
    return value * (1 + b**2) ** (1 / (2 * alpha)) * cos(atan(b) / alpha)


def _steps() -> tuple[Step, ...]:
    alpha, t = Symbol("alpha", positive=True), Symbol("t_0", positive=True)
    inside = ((alpha, (Rational(11, 10), 2)),)
    return (
        Step(
            "(2/pi)*(1 - exp(-t^a))/t^2 by parts is (2/pi)*a*t^(a-2)*exp(-t^a), here at a = 3/2:",
            2 / pi * Integral(Rational(3, 2) / sqrt(t) * exp(-(t ** Rational(3, 2))), (t, 0, oo)),
            stable_abs_gradient(1, 1, Rational(3, 2)),
        ),
        Step(
            "A sum of n has n^(1/alpha) times the scale, a mean n^(1/alpha - 1) times it.",
            n * (t * sigma / n) ** alpha,
            (t * sigma * n ** (1 / alpha - 1)) ** alpha,
            domain=inside,
        ),
        Step(
            "So the slope of log E|g_n| against log(n) is 1/alpha - 1.",
            n * Derivative(log(stable_abs_gradient(n, sigma, alpha)), n),
            1 / alpha - 1,
            domain=inside,
        ),
        Step(
            "At alpha = 2 it is the Gaussian law of deviation sqrt(2) times the scale.",
            stable_abs_gradient(n, sigma, alpha).subs(alpha, 2),
            expected_abs_gradient(n, sigma) * 2 ** Rational(1, 2),
        ),
        Step(
            "Below 2 the decrease is slower than 1/sqrt(n).",
            Rational(-1, 2),
            1 / alpha - 1,
            "<",
            domain=inside,
        ),
    )


DERIVATION = Derivation(
    name="stable",
    title="Heavy tails: the exponent changes",
    laws=("stable_abs_gradient",),
    statements=(
        Statement("theorem", "For alpha-stable gradients E|g_n| is n^(1/alpha - 1)*E|g_1|."),
        Statement(
            "asymptotic",
            "For any gradients in the domain of attraction of such a law, 1 < alpha < 2, the "
            "exponent is the same, up to slowly varying factors, for which there is no rate; the "
            "rate is for tails that are a power law from some point on.",
            rate="n^(1 - 2/alpha)",
        ),
    ),
    source="Samorodnitsky & Taqqu (1994), property 1.2.17; Simsekli et al. (2019)",
    make_formulas=lambda: {
        r"E|\bar g_n|": stable_abs_gradient(n, sigma, Symbol("alpha", positive=True)),
        r"E|\bar g_n|\;(\text{skew } b)": stable_abs_gradient(
            n, sigma, Symbol("alpha", positive=True), Symbol("b", positive=True)
        ),
    },
    make_steps=_steps,
)
