"""Equations 9 to 11: the radius of curvature and the rate made from it."""

from sympy import Abs, Derivative, Limit, Rational, Subs, sqrt

from theory.equation import Equation, Step
from theory.symbols import R, a, c, d, eta, g, gamma, h, w

_radius = (1 + g**2) ** Rational(3, 2) / h
# Near w the loss is g*d + h*d^2/2; the circle's centre, from there, is at (x, y).
_x, _y = -g * (1 + g**2) / h, (1 + g**2) / h
_squared_distance = (d - _x) ** 2 + (g * d + h * d**2 / 2 - _y) ** 2
_circle = -sqrt(R**2 - w**2)  # the lower half of a circle of radius R
_on_the_arc = ((w, (-Rational(1, 10), Rational(1, 10))),)

RADIUS = (
    Equation(
        label="9",
        section="4.1",
        kind="result",
        title="The radius of curvature",
        subject="R_i",
        printed=Abs(_radius, evaluate=False),
        derived=Abs((1 + g**2) ** Rational(3, 2)) / Abs(h),
        assumptions=("the loss is a smooth function of the one coordinate w", "h is not zero"),
        note=(
            "This is the radius of the circle that touches the graph of the loss to second order. "
            "It depends on the unit of the loss: for c*L it is (1 + c^2 g^2)^(3/2)/(c|h|), which "
            "falls as 1/c while c|g| is small, is least at c^2 g^2 = 1/2, and grows as c^2 beyond."
        ),
        steps=(
            Step(
                "Near w the loss is g*d + h*d^2/2. Its squared distance from the circle's centre "
                "is stationary at d = 0.",
                Subs(Derivative(_squared_distance, d), d, 0),
                0,
            ),
            Step(
                "It is so to second order: the circle osculates.",
                Subs(Derivative(_squared_distance, d, 2), d, 0),
                0,
            ),
            Step(
                "The distance from the centre is the printed radius.",
                sqrt(Subs(_squared_distance, d, 0)),
                Abs(_radius),
            ),
            Step(
                "On a circle of radius R the formula gives R everywhere.",
                (1 + Derivative(_circle, w) ** 2) ** Rational(3, 2) / Derivative(_circle, w, 2),
                R,
                domain=(*_on_the_arc, (R, (Rational(1, 2), 3))),
            ),
            Step(
                "Rescaling the loss by c does not rescale the radius by a power of c: its "
                "derivative by c vanishes where c^2 g^2 = 1/2.",
                Subs(Derivative((1 + c**2 * g**2) ** Rational(3, 2) / c, c), c, 1 / (sqrt(2) * g)),
                0,
            ),
            Step(
                "At the minimum of a parabola a(w - b)^2 the radius is 1/(2a).",
                Subs(Abs(_radius), (g, h), (0, 2 * a)),
                1 / (2 * a),
            ),
        ),
    ),
    Equation(
        label="10",
        section="4.1",
        kind="definition",
        title="The rate of the curvature-based rule",
        subject=r"\eta_i",
        printed=gamma * R,
        derived=None,
        note=(
            "A definition: the rate of each parameter is its radius of curvature times a global "
            "gamma. At small g it makes the step gamma*g/|h|, Newton's step damped by gamma with "
            "the sign of h removed; since R depends on the loss's unit, so does the best gamma."
        ),
        steps=(
            Step(
                "As g goes to 0 the step's length over Newton's, |g/h|, goes to gamma.",
                Limit(gamma * (1 + g**2) ** Rational(3, 2) / Abs(h) / (1 / Abs(h)), g, 0),
                gamma,
            ),
        ),
    ),
    Equation(
        label="11",
        section="4.1",
        kind="result",
        title="The step of the curvature-based rule",
        subject=r"\Delta w_i",
        printed=eta * g,
        derived=-eta * g,
        assumptions=(
            "Delta w is the new value less the old",
            "the rule is a descent: the step lowers the loss to first order",
        ),
        note=(
            "As in equation 5 the sign is missing: with a positive rate the printed step climbs. "
            "The rate is positive because equation 9 takes the absolute value of the curvature."
        ),
        steps=(
            Step(
                "To first order a step changes the loss by g times the step; the derived one "
                "lowers it.",
                g * (-eta * g),
                0,
                "<",
            ),
            Step("The printed one raises it.", 0, g * (eta * g), "<"),
            Step(
                "With the derived sign and gamma = 1 a point at a small distance w from the "
                "minimum of a parabola lands at -6*a^2*w^3 to leading order: convergence is cubic.",
                Limit((w - Abs(_radius).subs({g: 2 * a * w, h: 2 * a}) * 2 * a * w) / w**3, w, 0),
                -6 * a**2,
            ),
        ),
    ),
)
