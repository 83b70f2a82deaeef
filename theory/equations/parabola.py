"""Equations 12 to 16: the parabola near a critical point."""

from sympy import Abs, Derivative, Eq, Limit, Rational, Subs, solve, sqrt

from theory.equation import Equation, Small, Step
from theory.symbols import EPSILON, a, b, c, g, h, t, w

_parabola = a * (w - b) ** 2 + c
_cubic = _parabola + t / 6 * (w - b) ** 3
# Morse's coordinate: the loss is exactly c + u^2 in it, and u is not w.
_u = (w - b) * sqrt(a + t / 6 * (w - b))
_on_parabola = "the loss is the parabola of equation 12"

PARABOLA = (
    Equation(
        label="12",
        section="4.1",
        kind="result",
        title="The loss is a parabola near a critical point",
        subject="L",
        printed=_parabola,
        derived=_cubic,
        small=Small(
            "w - b, the distance from the critical point",
            w - b,
            ((w, b + EPSILON * (w - b)),),
            baseline=c,
        ),
        assumptions=(
            "the loss is smooth in w with critical value c at b",
            "a = h(b)/2 is not zero (b is not degenerate)",
            "terms beyond the third order are left out of the derived form",
        ),
        note=(
            "Morse's lemma gives L = c + u^2 exactly, but in a new coordinate u(w); in w itself "
            "the parabola is Taylor's leading term, off by t(w - b)^3/6. The lemma keeps the "
            "critical point, its value and its type; it does not keep distances, slopes, second "
            "derivatives away from b, or the radius, and is silent far from critical points."
        ),
        steps=(
            Step("In Morse's coordinate the loss is exactly quadratic.", c + _u**2, _cubic),
            Step(
                "The coefficient a is half the second derivative at b.",
                Subs(Derivative(_cubic, w, 2), w, b),
                2 * a,
            ),
            Step(
                "What the parabola leaves out, t(w - b)^3/6, vanishes relative to L - c at the "
                "critical point, so the leading order is right.",
                Limit((_cubic - c) / (_parabola - c), w, b, "+-"),
                1,
            ),
            Step(
                "The second derivative in w varies at first order in the distance.",
                Derivative(_cubic, w, 2),
                2 * a + t * (w - b),
            ),
            Step(
                "In u it is 2 everywhere, so the change of coordinate does not keep it.",
                Derivative(_cubic, w, 2),
                2,
                "!=",
            ),
            Step(
                "Nor does it keep lengths: du/dw is sqrt(a) at b.",
                Subs(Derivative(_u, w), w, b),
                sqrt(a),
            ),
        ),
    ),
    Equation(
        label="13",
        section="4.1",
        kind="result",
        title="The slope of the parabola",
        subject=r"\frac{dL}{dw_i}",
        printed=2 * a * (w - b),
        derived=Derivative(_parabola, w).doit(),
        assumptions=(_on_parabola,),
        note="The derivative of equation 12; it holds on the parabola and near b otherwise.",
        steps=(
            Step("Differentiate equation 12.", Derivative(_parabola, w), 2 * a * (w - b)),
            Step(
                "With a cubic term the slope has a second-order remainder.",
                Derivative(_cubic, w) - 2 * a * (w - b),
                t * (w - b) ** 2 / 2,
            ),
        ),
    ),
    Equation(
        label="14",
        section="4.1",
        kind="result",
        title="The second derivative of the parabola",
        subject=r"\frac{d^2L}{dw_i^2}",
        printed=2 * a,
        derived=Derivative(_parabola, w, 2).doit(),
        assumptions=(_on_parabola,),
        note="The derivative of equation 13: the same at every point of the parabola.",
        steps=(
            Step("Differentiate equation 12 twice.", Derivative(_parabola, w, 2), 2 * a),
            Step("It does not vary.", Derivative(_parabola, w, 3), 0),
        ),
    ),
    Equation(
        label="15",
        section="4.1",
        kind="result",
        title="The second derivative as slope over distance",
        subject=r"\frac{d^2L}{dw_i^2}",
        printed=g / (w - b),
        derived=(2 * a).subs(a, solve(Eq(g, 2 * a * (w - b)), a, dict=True)[0][a]),
        assumptions=(_on_parabola, "w is not b"),
        note=(
            "Equation 13 solved for a and put into 14, for w other than b. Off the parabola it is "
            "not the second derivative at w but its average between b and w."
        ),
        steps=(
            Step(
                "On the parabola the quotient is the second derivative.",
                Derivative(_parabola, w) / (w - b),
                Derivative(_parabola, w, 2),
            ),
            Step(
                "On a loss with a cubic term it misses the second derivative by half the change of"
                " that since b.",
                Derivative(_cubic, w) / (w - b) - Derivative(_cubic, w, 2),
                -t * (w - b) / 2,
            ),
        ),
    ),
    Equation(
        label="16",
        section="4.1",
        kind="result",
        title="The radius from slope and distance",
        subject="R_i",
        printed=Abs((w - b) * (1 + g**2) ** Rational(3, 2) / g, evaluate=False),
        derived=Abs((1 + g**2) ** Rational(3, 2) / h).subs(h, g / (w - b)),
        assumptions=(_on_parabola, "w is not b, so that g is not zero"),
        note=(
            "Equation 15 put into equation 9; on the parabola it is exact. The b of another loss "
            "than the one that gave g (the population's for a batch's gradient) makes it wrong."
        ),
        steps=(
            Step(
                "On the parabola, where g = 2a(w - b), it is the radius of equation 9.",
                Subs(Abs((w - b) * (1 + g**2) ** Rational(3, 2) / g), g, 2 * a * (w - b)),
                (1 + Derivative(_parabola, w) ** 2) ** Rational(3, 2) / Derivative(_parabola, w, 2),
            ),
        ),
    ),
)
