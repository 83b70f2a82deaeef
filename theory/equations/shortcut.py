"""Equations 17 to 19: |w/g| for the radius, and where the paper says it fails."""

from typing import Any

from sympy import Abs, Derivative, Limit, Ne, Rational, S, Subs, Symbol, Tuple, sqrt

from theory._objects import Tends
from theory.equation import Equation, Reading, Small, Step
from theory.symbols import EPSILON, a, b, beta, g, w

_exact = Abs((w - b) * (1 + g**2) ** Rational(3, 2) / g)
_tolerance = Symbol("epsilon", positive=True)
_edge = sqrt((1 + _tolerance) ** Rational(2, 3) - 1)  # |g| at which dropping g^2 costs epsilon
_b = Symbol("b_i", positive=True)


def _share(minimum: Any) -> Any:
    """Equation 17 over the exact radius, on a parabola whose minimum is there."""
    slope = 2 * a * (w - minimum)
    return Abs(w / slope) * 2 * a / (1 + slope**2) ** Rational(3, 2)


def _readings(where: Tends, goal: Any) -> tuple[Reading, ...]:
    return (
        Reading(
            "minimum elsewhere",
            "the parabola's minimum b is not 0, so that 17 is an estimate",
            ((where, Ne(Limit(_share(_b), w, goal, "+-"), 1)),),
            derived=S.true,
        ),
        Reading(
            "parabola through the origin",
            "b = 0, as equation 17 itself assumes",
            ((where, Ne(Limit(_share(0), w, 0, "+-"), 1)),),
            derived=S.true,
        ),
    )


_steps = (
    Step(
        "With b = 0, where g = 2aw, equation 17 is 1/(2a) at every w, however small.",
        Subs(Abs(w / g), g, 2 * a * w),
        1 / (2 * a),
    ),
    Step(
        "With b = 0 it tends to the exact radius as w, and with it g, goes to 0.",
        Limit(_share(0), w, 0, "+-"),
        1,
    ),
)

SHORTCUT = (
    Equation(
        label="17",
        section="4.1",
        kind="result",
        title="|w/g| for the radius",
        subject="R_i",
        printed=Abs(w / g),
        derived=_exact,
        small=Small(
            "g and b/w, the slope and the minimum's place relative to w",
            Tuple(g, b / w),
            ((g, EPSILON * g), (b, EPSILON * b)),
        ),
        assumptions=("the loss is the parabola of equation 12",),
        note=(
            "It is equation 16 where both g^2 and b/w are small. Dropping g^2 costs less than 1% "
            "for |g| < 0.08; taking b = 0 multiplies the radius by |w/(w - b)|, which is close to "
            "one only where the minimum is much nearer to 0 than w is. Weight decay does not bring "
            "b to 0 unless it outweighs the curvature 2a."
        ),
        steps=(
            Step(
                "The exact radius is the printed one times two factors.",
                _exact,
                Abs(w / g) * Abs(1 - b / w) * (1 + g**2) ** Rational(3, 2),
            ),
            Step(
                "The factor of g reaches 1 + epsilon at this slope.",
                Subs((1 + g**2) ** Rational(3, 2), g, _edge),
                1 + _tolerance,
            ),
            Step(
                "For one per cent that is |g| = 0.0815.",
                Abs(_edge.subs(_tolerance, Rational(1, 100)) - Rational(815, 10000)),
                Rational(1, 10000),
                "<",
            ),
            Step(
                "Weight decay beta moves the minimum of a(w - b)^2 + beta*w^2/2 to 2ab/(2a + "
                "beta), which is small beside b only where beta outweighs 2a.",
                Subs(
                    Derivative(a * (w - b) ** 2 + beta * w**2 / 2, w), w, 2 * a * b / (2 * a + beta)
                ),
                0,
            ),
        ),
    ),
    Equation(
        label="18",
        section="4.1",
        kind="result",
        title="17 fails where w goes to 0",
        subject="",
        printed=Tends(w, 0),
        derived=Tuple(Tends(w, 0), Ne(b, 0)),
        readings=_readings(Tends(w, 0), 0),
        assumptions=("the loss is the parabola of equation 12",),
        note=(
            "Where the minimum is not at 0 the estimate goes to 0 as w does, while the radius does "
            "not: it fails as stated. On the parabola through the origin, which equation 17 "
            "assumes, w -> 0 and g -> 0 are one and the same limit, and there |w/g| is exact."
        ),
        steps=(
            Step(
                "With b not 0 the estimate over the exact radius goes to 0.",
                Limit(_share(_b), w, 0, "+-"),
                0,
            ),
            *_steps,
        ),
    ),
    Equation(
        label="19",
        section="4.1",
        kind="result",
        title="17 fails where g goes to 0",
        subject="",
        printed=Tends(g, 0),
        derived=Tuple(Tends(g, 0), Ne(b, 0)),
        readings=_readings(Tends(g, 0), _b),
        assumptions=("the loss is the parabola of equation 12",),
        note=(
            "Where the minimum is not at 0 the estimate grows without bound as w nears it, while "
            "the radius tends to 1/(2a): it fails as stated. On the parabola through the origin, "
            "which equation 17 assumes, the same limit makes |w/g| exact."
        ),
        steps=(
            Step(
                "With b not 0 the estimate over the exact radius grows without bound: its inverse "
                "goes to 0.",
                Limit(1 / _share(_b), w, _b, "+-"),
                0,
            ),
            *_steps,
        ),
    ),
)
