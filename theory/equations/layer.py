"""Equations 23 and 24: two layer-wise rates of the literature."""

from sympy import Abs, Integral, Limit, Sum, exp, log, oo, pi, sqrt

from theory.equation import Equation, Step
from theory.symbols import G, P, W, beta, g, gamma, i, k, s_g, s_w, x

_w, _g = W(i), G(i)
_norm_w = sqrt(Sum(_w**2, (i, 1, P)))
_norm_g = sqrt(Sum(_g**2, (i, 1, P)))
_c = s_g / s_w  # g/w is Cauchy with this scale on a layer of independent centred Gaussians

LAYER = (
    Equation(
        label="23",
        section="4.3",
        kind="definition",
        title="LARS",
        subject=r"\eta_g",
        printed=gamma * _norm_w / _norm_g,
        derived=None,
        note=(
            "A definition, quoted from You et al. (2017) without its weight decay: there the "
            "denominator is |g| + beta|w|. It is gamma times the root mean square of w over that "
            "of g, which tends to s_w/s_g, as the median of |w/g| does on independent Gaussians."
        ),
        steps=(
            Step(
                "The mean square of N(0, s_w) is s_w^2, so the norms are in the ratio s_w/s_g.",
                sqrt(
                    Integral(
                        g**2 * exp(-(g**2) / (2 * s_w**2)) / (s_w * sqrt(2 * pi)), (g, -oo, oo)
                    )
                )
                / sqrt(
                    Integral(
                        g**2 * exp(-(g**2) / (2 * s_g**2)) / (s_g * sqrt(2 * pi)), (g, -oo, oo)
                    )
                ),
                s_w / s_g,
            ),
            Step(
                "With weight decay LARS's limit is s_w/(s_g + beta*s_w), below this one.",
                s_w / (s_g + beta * s_w),
                s_w / s_g,
                "<=",
            ),
        ),
    ),
    Equation(
        label="24",
        section="4.3",
        kind="definition",
        title="PercentDelta",
        subject=r"\eta_g",
        printed=gamma * P / Sum(Abs(_g / _w), (i, 1, P)),
        derived=None,
        note=(
            "A definition, quoted from Abuelhaija (2017). It is gamma times the harmonic mean of "
            "the layer's |w/g|. On independent Gaussians E|g/w| is infinite, so the rate of a "
            "growing layer tends to 0, like 1/log of its size, unlike LARS's and the median's."
        ),
        steps=(
            Step(
                "P over the sum of inverses is the harmonic mean, below the arithmetic one (here "
                "of 1, 2 and 4).",
                3 / Sum(1 / 2**k, (k, 0, 2)),
                Sum(2**k, (k, 0, 2)) / 3,
                "<",
            ),
            Step(
                "The mean of |g/w| cut off at x, for the Cauchy density of scale c = s_g/s_w.",
                2 * Integral(g * _c / (pi * (_c**2 + g**2)), (g, 0, x)),
                _c / pi * log(1 + x**2 / _c**2),
            ),
            Step(
                "It grows like log(x) without bound.",
                Limit(_c / pi * log(1 + x**2 / _c**2) / log(x), x, oo),
                2 * _c / pi,
            ),
        ),
    ),
)
