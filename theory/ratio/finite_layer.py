"""LARS and PercentDelta on a layer of finite size: exact means, and PercentDelta's slow descent."""

from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special
from sympy import (
    EulerGamma,
    Integral,
    Limit,
    Rational,
    Symbol,
    exp,
    gamma,
    log,
    oo,
    pi,
    sqrt,
)

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import above, at_least, finite, number, positive_spread
from theory.laws._special import gamma_function
from theory.quadrature import Computed, integrate
from theory.ratio._half_cauchy import HalfCauchyHarmonicMean, transform
from theory.symbols import P, g, n, s_g, s_w, x

# The median of the Landau distribution, whose Laplace transform is s^s.
LANDAU_MEDIAN = Rational(135578042, 10**8)


def lars_mean(s_w: Any, s_g: Any, size: Any) -> Any:
    r"""Return E[\|w\|_2/\|g\|_2] on a layer of `size` = P independent Gaussian entries, exactly.

    (s_w/s_g)*Gamma((P + 1)/2)*Gamma((P - 1)/2)/Gamma(P/2)^2, above the limit s_w/s_g by about
    1/(2P) of it. A theorem: the two norms are independent chi variables.

    Source: moments of the chi distribution, Johnson, Kotz & Balakrishnan, section 18.3.

    Raises ValueError, naming the argument, for a standard deviation that is not positive or
    size <= 1, where the mean is infinite.

    >>> lars_mean(1, 1, 2)
    pi/2
    >>> lars_mean(3, 2, 3)
    6/pi
    """
    s_w, s_g = positive_spread("s_w", s_w), positive_spread("s_g", s_g)
    size = above("size", size, 1, "on one entry the ratio is half-Cauchy and has no mean")
    above_half, below_half = (gamma_function((size + sign) / 2) for sign in (1, -1))
    return s_w / s_g * above_half * below_half / gamma_function(size / 2) ** 2


def percent_delta_mean(s_w: Any, s_g: Any, size: Any) -> Any:
    r"""Return the mean of PercentDelta's radius on `size` = P entries, as an exact integral.

    E[P/sum\|g/w\|] = (s_w/s_g)*P*Integral(T(s)^P, (s, 0, oo)), T the Laplace transform of the
    half-Cauchy distribution, (2/pi)*(Ci(s)*sin(s) + (pi/2 - Si(s))*cos(s)). A theorem for
    independent centred Gaussians, at every size above one. The result holds the integral as a
    function of P that `evalf` and `numeric` compute and `rewrite(Integral)` writes out.

    Source: E[1/S] as the integral of E[exp(-s*S)]; the transform, Abramowitz & Stegun 5.2.7.

    Raises ValueError, naming the argument, for a standard deviation that is not positive or
    size <= 1, where the mean is infinite.

    >>> percent_delta_mean(3, 1, 100).evalf(8)
    0.80446941
    """
    s_w, s_g = positive_spread("s_w", s_w), positive_spread("s_g", s_g)
    size = above("size", size, 1, "on one entry the ratio is half-Cauchy and has no mean")
    return s_w / s_g * HalfCauchyHarmonicMean(size)


def _transform_values(s: NDArray[np.float64]) -> NDArray[np.float64]:
    """log T(s), without the cancellation of its closed form near 0 and at large s."""
    sine, cosine = special.sici(np.minimum(s, 40.0))
    low = np.minimum(s, 1.0)
    si, ci = special.sici(low)
    # 1 - T as a sum of nonnegative terms.
    lost = 2 * np.sin(low / 2) ** 2 + 2 / np.pi * (si * np.cos(low) - ci * np.sin(low))
    near = np.log1p(-lost)
    t = np.minimum(s, 40.0)
    middle = np.log(2 / np.pi * (cosine * np.sin(t) + (np.pi / 2 - sine) * np.cos(t)))
    q = 1 / np.maximum(s, 40.0) ** 2
    series = sum((-q) ** k * float(factorial(2 * k)) for k in range(1, 12))
    far = np.log(2 / np.pi * np.sqrt(q)) + np.log1p(series)
    return np.where(s < 1, near, np.where(s < 40, middle, far))


def percent_delta_moments(s_w: float, s_g: float, size: int) -> tuple[Computed, Computed]:
    r"""Return PercentDelta's mean and mean square on `size` = P entries, each with its error.

    The integrals of `percent_delta_mean`, (s_w/s_g)^j*P^j*Integral(s^(j-1)*T(s)^P, (s, 0, oo)) for
    j = 1 and 2, by quadrature in log(s). The standard deviation over layers follows; relative to
    the mean it falls only as 1/sqrt(log(P)).

    Assumptions and source are those of `percent_delta_mean`.

    Raises ValueError, naming the argument, for a symbol, a standard deviation that is not positive
    or size < 4 (the mean square needs three entries, and its tail is summed from four).

    >>> mean, square = percent_delta_moments(1, 1, 100)
    >>> round(mean.value, 6), mean.error < 1e-10
    (0.268156, True)
    """
    ratio = number("s_w", positive_spread("s_w", s_w)) / number("s_g", positive_spread("s_g", s_g))
    count = number("size", at_least("size", size, 4, "the mean square needs a few entries"))
    moments = []
    for power in (1, 2):

        def integrand(v: NDArray[np.float64], power: int = power) -> NDArray[np.float64]:
            # Of log(s*P), so that the range serves every size.
            return np.exp(power * v + count * _transform_values(np.exp(v) / count))

        # At the upper end T^P is below (0.64/s)^P: at P = 4 its tail is 1e-20 of the whole.
        edges = np.linspace(-45.0, np.log(count) + 24.0, 160)
        # The bends of the three branches, so that no panel contains one.
        edges = np.sort(np.concatenate([edges, np.log(count * np.array([1.0, 40.0]))]))
        value, error = integrate(integrand, edges)
        moments.append(Computed(ratio**power * value, ratio**power * error))
    return moments[0], moments[1]


def percent_delta_centre(s_w: Any, s_g: Any, size: Any, landau: Any = LANDAU_MEDIAN) -> Any:
    r"""Return PercentDelta's typical radius on `size` = P entries: its median over layers.

    (s_w/s_g)*(pi/2)/(log(2*P/pi) + 1 - Euler's gamma + landau), with `landau` = 1.3558 the median
    of the Landau distribution; another of its quantiles gives the other quantiles of the radius
    (the q of the one is the 1 - q of the other). The mean radius has the same law turned over:
    (s_w/s_g)*(2/pi)*(log(2*P/pi) + 1 - gamma + landau).

    Assumptions: independent centred Gaussians. Asymptotic: the sum over P of P half-Cauchy terms,
    less its centre, tends to a Landau variable, with error of order log(P)^2/P.

    Source: stable laws of index one, Embrechts, Klueppelberg & Mikosch, section 2.2; Landau (1944).

    Raises ValueError, naming the argument, for a standard deviation that is not positive or
    size < 2.

    >>> from sympy import N
    >>> round(N(percent_delta_centre(1, 1, 10**6)), 4)
    0.1037
    """
    s_w, s_g = positive_spread("s_w", s_w), positive_spread("s_g", s_g)
    size = at_least("size", size, 2, "the centre is one of many entries")
    depth = log(2 * size / pi) + 1 - EulerGamma + finite("landau", landau)
    return s_w / s_g * pi / (2 * depth)


def _formulas() -> dict[str, Any]:
    return {
        r"E\frac{\|w\|_2}{\|g\|_2}": lars_mean(s_w, s_g, P),
        r"E R_{\mathrm{PercentDelta}}": percent_delta_mean(s_w, s_g, P),
        r"\mathrm{med} R_{\mathrm{PercentDelta}}": percent_delta_centre(s_w, s_g, P),
    }


def _steps() -> tuple[Step, ...]:
    k = Symbol("k_0", positive=True)
    chi = x ** (k - 1) * exp(-(x**2) / 2) / (2 ** (k / 2 - 1) * gamma(k / 2))
    over = ((k, (Rational(3, 2), 9)),)
    root = sqrt(2)
    return (
        Step(
            "The norm of k standard normals is a chi variable; its mean:",
            Integral(x * chi, (x, 0, oo)),
            root * gamma((k + 1) / 2) / gamma(k / 2),
            domain=over,
        ),
        Step(
            "The mean of its inverse, finite for k > 1:",
            Integral(chi / x, (x, 0, oo)),
            gamma((k - 1) / 2) / (root * gamma(k / 2)),
            domain=over,
        ),
        Step(
            "Their product is LARS's mean.",
            root * gamma((k + 1) / 2) / gamma(k / 2) * gamma((k - 1) / 2) / (root * gamma(k / 2)),
            lars_mean(1, 1, k),
            domain=over,
        ),
        Step(
            "The inverse of a positive sum is the integral of its exponentials.",
            Integral(exp(-x * g), (g, 0, oo)),
            1 / x,
        ),
        Step(
            "Near 0 the transform falls as (2/pi)*s*log(s): that is what makes the mean infinite.",
            Limit((1 - transform(x)) / (-x * log(x)), x, 0),
            2 / pi,
        ),
        Step(
            "The next order is (2/pi)*(1 - gamma)*s.",
            Limit((1 - transform(x)) / x + 2 / pi * log(x), x, 0),
            2 / pi * (1 - EulerGamma),
        ),
        Step(
            "So P*log T(s/P), which centres the mean of P terms, is of order log(P):",
            -(2 / pi) * x * (1 - EulerGamma - log(x / n)),
            -(2 / pi) * x * (log(n) + 1 - EulerGamma) + (2 / pi) * x * log(x),
        ),
        Step(
            "and what is left, (2/pi)*s*log(s), is the Landau variable's s*log(s) at 2/pi of its "
            "scale, shifted by (2/pi)*log(2/pi).",
            (2 / pi * x) * log(2 / pi * x),
            (2 / pi) * x * log(x) + (2 / pi) * log(2 / pi) * x,
        ),
        Step(
            "The harmonic mean falls with the size of the layer.",
            percent_delta_centre(1, 1, 10 * n),
            percent_delta_centre(1, 1, n),
            "<",
            domain=((n, (10, 1000)),),
        ),
    )


DERIVATION = Derivation(
    name="finite_layer",
    title="LARS and PercentDelta on layers of finite size",
    laws=("lars_mean", "percent_delta_mean", "percent_delta_moments", "percent_delta_centre"),
    statements=(
        Statement(
            "theorem",
            "The mean of LARS's ratio and, as an integral, of PercentDelta's are exact at every "
            "size above one for independent centred Gaussians.",
        ),
        Statement(
            "asymptotic",
            "PercentDelta's median falls as 1/log(P); the centred sum tends to a Landau variable.",
            rate="log(P)^2/P",
        ),
    ),
    source="Embrechts, Klueppelberg & Mikosch (1997); Abramowitz & Stegun 5.2.7; Landau (1944)",
    make_formulas=_formulas,
    make_steps=_steps,
)
