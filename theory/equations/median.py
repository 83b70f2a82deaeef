"""Equations 20 to 22: the median of a layer's radii."""

from typing import Any

from sympy import Abs, Derivative, Integral, Rational, Subs, atan, exp, nan, oo, pi, sqrt

from theory.equation import Equation, Reading, Step
from theory.symbols import G, P, R_m, W, beta, g, g_m, gamma, i, median, s_g, s_w, w_m, x

_w, _g = W(i), G(i)
_layer = "the layer's weights and gradients are independent, N(0, s_w) and N(0, s_g)"
_large = "the layer is large: sample medians are replaced by their limits"
_ratio = s_w / s_g
_decayed = s_w / sqrt(s_g**2 + beta**2 * s_w**2)


def _density(x: Any, s: Any) -> Any:
    return exp(-(x**2) / (2 * s**2)) / (s * sqrt(2 * pi))


_c = s_g / s_w
_cauchy = s_w * s_g / (pi * (s_w**2 + s_g**2 * x**2))  # density of w/g at x

MEDIAN = (
    Equation(
        label="20",
        section="4.2",
        kind="result",
        title="The median radius of a layer",
        subject="R_m",
        printed=Abs(w_m / g_m),
        derived=_ratio,
        readings=(
            Reading(
                "signed medians",
                "the medians of w and of g, signs kept, as printed; for symmetric layers both go "
                "to 0 as the layer grows and the quotient to no number: at every size it is "
                "Cauchy-distributed with scale s_w/s_g",
                ((w_m, median(_w)), (g_m, median(_g))),
                value=nan,
            ),
            Reading(
                "absolute medians",
                "the medians of |w| and of |g|; the quotient tends to s_w/s_g",
                ((w_m, median(Abs(_w))), (g_m, median(Abs(_g)))),
                value=_ratio,
            ),
            Reading(
                "median of the ratio",
                "the median of |w/g| itself, which the sentence before announces; tends to s_w/s_g",
                ((Abs(w_m / g_m), median(Abs(_w / _g))),),
                value=_ratio,
            ),
        ),
        assumptions=(_layer, _large),
        note=(
            "The text can mean the signed medians, the medians of absolute values, or the median "
            "of the ratio. On a layer of independent centred Gaussians the last two tend to "
            "s_w/s_g, the median of |w/g|; the signed one, the one printed, converges to nothing."
        ),
        steps=(
            Step(
                "The quotient x of two independent centred Gaussians has the Cauchy density of "
                "scale s_w/s_g.",
                2 * Integral(g * _density(x * g, s_w) * _density(g, s_g), (g, 0, oo)),
                _cauchy,
            ),
            Step(
                "Half of its mass lies within s_w/s_g of 0, so that is the median of |w/g|.",
                Integral(_cauchy, (x, -_ratio, _ratio)),
                Rational(1, 2),
            ),
            Step(
                "P(|w| < s_w*x) is the same for every s_w, so the absolute medians are in the "
                "ratio s_w/s_g.",
                2 * Integral(_density(g, s_w), (g, 0, s_w * x)),
                2 * Integral(_density(g, s_g), (g, 0, s_g * x)),
            ),
            Step(
                "Signed medians of P entries are asymptotically N(0, 1/(2 f(0) sqrt(P))) with f "
                "their density; the layer's size cancels from the quotient's scale.",
                sqrt(1 / (4 * P * Subs(_density(g, s_w), g, 0) ** 2))
                / sqrt(1 / (4 * P * Subs(_density(g, s_g), g, 0) ** 2)),
                _ratio,
            ),
            Step(
                "So the signed quotient stays Cauchy-distributed: at every layer size it is off by"
                " more than a factor of two with this probability.",
                2 * Integral(_cauchy, (x, 2 * _ratio, oo))
                + 2 * Integral(_cauchy, (x, 0, _ratio / 2)),
                2 - 4 / pi * atan(2),
            ),
            Step(
                "That is 0.590.",
                Abs(2 - 4 / pi * atan(2) - Rational(59, 100)),
                Rational(1, 1000),
                "<",
            ),
        ),
    ),
    Equation(
        label="21",
        section="4.2",
        kind="definition",
        title="The rate of the median-curvature rule",
        subject=r"\eta_g",
        printed=gamma * R_m,
        derived=None,
        note=(
            "A definition: one rate for a group, gamma times its median radius. The index g is the "
            "group here, not the gradient."
        ),
        steps=(
            Step(
                "The rate is proportional to the radius, with gamma as the factor.",
                Derivative(gamma * R_m, R_m),
                gamma,
            ),
        ),
    ),
    Equation(
        label="22",
        section="4.2",
        kind="result",
        title="The median radius with weight decay",
        subject="R_m",
        printed=Abs(w_m / (g_m + beta * w_m)),
        derived=_decayed,
        readings=(
            Reading(
                "signed medians",
                "the medians of w and g, signs kept; for symmetric layers this converges to "
                "nothing",
                ((w_m, median(_w)), (g_m, median(_g))),
                value=nan,
            ),
            Reading(
                "absolute medians",
                "the medians of |w| and |g|, added as LARS adds its norms; tends to "
                "s_w/(s_g + beta*s_w)",
                ((w_m, median(Abs(_w))), (g_m, median(Abs(_g)))),
                value=s_w / (s_g + beta * s_w),
            ),
            Reading(
                "absolute medians of w and of the whole gradient",
                "the median of |g + beta*w| as the denominator; tends to the derived value",
                ((Abs(w_m / (g_m + beta * w_m)), median(Abs(_w)) / median(Abs(_g + beta * _w))),),
                value=_decayed,
            ),
            Reading(
                "median of the ratio",
                "the median of |w/(g + beta*w)|; tends to the derived value",
                ((Abs(w_m / (g_m + beta * w_m)), median(Abs(_w / (_g + beta * _w)))),),
                value=_decayed,
            ),
        ),
        assumptions=(_layer, _large, "weight decay adds beta*w^2/2 to the loss, and b = 0"),
        note=(
            "Equation 17 for the loss with its L2 term is |w/(g + beta*w)|, and its median over a "
            "Gaussian layer is s_w/sqrt(s_g^2 + beta^2 s_w^2). The absolute-median reading adds "
            "sizes instead, s_w/(s_g + beta*s_w), as LARS does with its norms |w|/(|g| + beta|w|); "
            "the two differ by up to sqrt(2), most where beta*s_w = s_g."
        ),
        steps=(
            Step(
                "On a layer g/w is Cauchy of scale s_g/s_w, and half the mass of |beta + g/w| lies"
                " below sqrt(beta^2 + (s_g/s_w)^2).",
                Integral(
                    _c / (pi * (_c**2 + (x - beta) ** 2)),
                    (x, -sqrt(beta**2 + _c**2), sqrt(beta**2 + _c**2)),
                ),
                Rational(1, 2),
            ),
            Step(
                "The median of the ratio is its inverse.",
                1 / sqrt(beta**2 + _c**2),
                _decayed,
            ),
            Step(
                "LARS's sum of sizes is never below the size of the sum, so its rate is never "
                "above.",
                s_w / (s_g + beta * s_w),
                _decayed,
                "<=",
            ),
            Step(
                "At beta*s_w = s_g the two differ by sqrt(2).",
                Subs(_decayed / (s_w / (s_g + beta * s_w)), beta, s_g / s_w),
                sqrt(2),
            ),
            Step("With beta = 0 it is equation 20's.", Subs(_decayed, beta, 0), _ratio),
        ),
    ),
)
