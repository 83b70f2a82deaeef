"""E|g_n|: the expected absolute batch gradient (equation 4)."""

from typing import Any

from sympy import Integral, Limit, Symbol, exp, oo, pi, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import batch_size, deviation, finite, spread, training_set
from theory.laws._folded_normal import folded_normal_mean, nothing_random, total_deviation
from theory.symbols import N, g, mu, n, sigma, x


def expected_abs_gradient(
    n: Any,
    sigma: Any,
    mu: Any = 0,
    population: Any = oo,
    tau: Any = 0,
    mask: Any = 0,
    common: Any = 0,
) -> Any:
    r"""Return E\|g_n\| for the mean g_n of n per-sample gradients, in the gradient's unit.

    Equation 4 of the paper, with its constant corrected (the paper prints 2/sqrt(pi) for
    sqrt(2/pi)) and without its assumption mu = 0.

    Assumptions: per-sample gradients are N(mu, sigma), sigma a standard deviation; they are drawn
    independently, or without replacement from `population` samples of which sigma is the standard
    deviation with divisor N. Then g_n has mean mu and standard deviation
    s = sigma/sqrt(n) * sqrt((N - n)/(N - 1)), and

        E|g_n| = s*sqrt(2/pi)*exp(-mu^2/(2 s^2)) + mu*erf(mu/(s*sqrt(2))).

    It is a theorem for independent draws; for a finite population the mean and the standard
    deviation of g_n are exact, and its normality is the central limit theorem's (Hajek 1960).
    The 1/sqrt(n) law is the case mu = 0; it bends towards \|mu\| near n = (sigma/mu)^2, which is
    McCandlish et al.'s gradient noise scale of one coordinate (`bend_batch_size`).
    At n = population nothing is random and the result is \|mu\|.

    Extensions, all standard deviations, which add their squares to s^2:

        tau      of the coordinates' means over a layer, mu_i ~ N(mu, tau); the result is then the
                 average over the layer, and a theorem, since a normal mixture of normals is normal
        mask     of one sample's gradient over its dropout masks, drawn anew for each sample: adds
                 mask^2/n without a finite-population factor, so that mask^2/N is left at n = N
        common   over a mask that the whole batch shares: adds common^2, which does not shrink

    Source: the folded normal distribution, Leone, Nelson & Nottingham (1961); the finite
    population factor, Cochran, Sampling Techniques, theorem 2.2.

    n need not be whole, here and in the other laws: they are smooth in n, and a batch size that is
    computed, such as the noise scale, rarely is.

    Raises ValueError, naming the argument, for n < 1, a negative standard deviation,
    population < n or a value that is not a real number.

    >>> from sympy import symbols
    >>> n, sigma = symbols("n sigma", positive=True)
    >>> expected_abs_gradient(n, sigma)
    sqrt(2)*sigma/(sqrt(pi)*sqrt(n))
    >>> expected_abs_gradient(4, 1, mu=2, population=4)
    2
    >>> expected_abs_gradient(4, 1, population=4, mask=2)  # the masks' share is left at n = N
    sqrt(2)/sqrt(pi)
    """
    n, sigma, mu = batch_size(n), deviation(sigma), finite("mu", mu)
    population = training_set(population, n)
    tau, mask, common = spread("tau", tau), spread("mask", mask), spread("common", common)
    s = total_deviation(n, sigma, population, tau, mask, common)
    return folded_normal_mean(mu, s, nothing_random(n, population, tau, mask, common))


def _steps() -> tuple[Step, ...]:
    m, s, tau = (Symbol(name, positive=True) for name in ("mu_0", "s_0", "tau_0"))

    def normal(v: Any, sd: Any) -> Any:
        return exp(-(v**2) / (2 * sd**2)) / (sd * sqrt(2 * pi))

    law = expected_abs_gradient(n, sigma, m)
    return (
        Step(
            "Both half-lines of |g|, g ~ N(mu, s), give the folded normal mean.",
            Integral(g * normal(g - m, s), (g, 0, oo)) + Integral(g * normal(g + m, s), (g, 0, oo)),
            expected_abs_gradient(1, s, m),
        ),
        Step(
            "Its slope in the noise is positive, so that E|g_n| never rises with n.",
            expected_abs_gradient(1, s, m).diff(s),
            2 * normal(m, s) * s,
        ),
        Step("Without a mean it is equation 4, corrected.", law.subs(m, 0),
             expected_abs_gradient(n, sigma)),
        Step("It tends to the mean as n grows.", Limit(law, n, oo), m),
        Step(
            "Over a layer with means N(mu, tau) a normal mixture of normals is normal, of the "
            "variances' sum.",
            Integral(normal(g - x, s) * normal(x, tau), (x, -oo, oo)),
            normal(g, sqrt(s**2 + tau**2)),
        ),
        Step(
            "So the spread of the means adds to the noise,",
            expected_abs_gradient(n, sigma, tau=tau),
            expected_abs_gradient(1, sqrt(sigma**2 / n + tau**2)),
        ),
        Step(
            "and what is left as n grows is E|mu_i|.",
            Limit(expected_abs_gradient(n, sigma, tau=tau), n, oo),
            sqrt(2 / pi) * tau,
        ),
    )  # fmt: skip


DERIVATION = Derivation(
    name="abs_gradient",
    title="The mean absolute gradient, with means",
    laws=("expected_abs_gradient",),
    statements=(
        Statement("theorem", "For independent normal per-sample gradients the law is exact."),
        Statement("theorem", "With means N(mu, tau) over a layer it is the layer's average."),
        Statement(
            "asymptotic",
            "For independent gradients that are not normal, of finite fourth moment and with a "
            "density, by the central limit theorem; `edgeworth_abs_gradient` has the first "
            "correction.",
            rate="1/n at mu = 0, 1/sqrt(n) otherwise",
        ),
    ),
    source="Leone, Nelson & Nottingham (1961)",
    make_formulas=lambda: {
        r"E|g_n|": expected_abs_gradient(n, sigma, mu),
        r"E|g_n|\;(N)": expected_abs_gradient(n, sigma, population=N),
        r"E|g_n|\;(\mu_i \sim \mathcal N(\mu, \tau))": expected_abs_gradient(
            n, sigma, mu, tau=Symbol("tau", positive=True)
        ),
    },
    make_steps=_steps,
)
