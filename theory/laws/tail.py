"""The tail of the radius where the density of the curvature at zero is positive."""

from typing import Any

from sympy import Integral, Limit, Rational, Symbol, besselk, erf, exp, oo, pi, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import above, positive_spread, spread
from theory.symbols import R, g, h


def radius_tail_constant(density: Any, s_g: Any = 0) -> Any:
    r"""Return c in P(R > r) ~ c/r: 2*density*E(1 + g^2)^(3/2), density that of h at zero.

    For g ~ N(0, s_g), with y = 1/(4*s_g^2), the expectation is
    exp(y)*(K0(y) + (1 + 2*s_g^2)*K1(y))/(2*sqrt(2*pi)*s_g), and 1 for s_g = 0. So long as
    curvatures, of both signs or of sizes down to zero, have a positive density at zero, the mean
    radius of a layer is infinite, whatever the gradients: the sample mean grows as c*log(P),
    and what is plotted as an average radius depends on the size of the layer. The median is finite.

    Assumptions: h has a density continuous at 0, independent of g, E\|g\|^3 finite. Asymptotic; the
    relative error is O(1/r^2) for a density smooth and even at 0.

    Source: regular variation of an inverse, Embrechts, Klueppelberg & Mikosch, section A3.

    Raises ValueError for density <= 0 or s_g < 0.

    >>> from sympy import Rational
    >>> radius_tail_constant(Rational(1, 4))
    1/2
    """
    density = above("density", density, 0, "with none at zero the tail is lighter")
    s_g = spread("s_g", s_g)
    if s_g.is_zero:
        return 2 * density
    y = 1 / (4 * s_g**2)
    mean = exp(y) * (besselk(0, y) + (1 + 2 * s_g**2) * besselk(1, y)) / (2 * sqrt(2 * pi) * s_g)
    return 2 * density * mean


def radius_tail(r: Any, s_h: Any) -> Any:
    r"""Return P(R > r) for curvatures h ~ N(0, s_h) at g = 0: erf(1/(sqrt(2)*r*s_h)), exactly.

    It tends to sqrt(2/pi)/(s_h*r): `radius_tail_constant` at the density 1/(s_h*sqrt(2*pi)).

    Assumptions: R = 1/\|h\|, equation 9 at a stationary point. A theorem.

    Source: equation 9 of the paper.

    Raises ValueError for r <= 0 or s_h <= 0.

    >>> radius_tail(1, 2)
    erf(sqrt(2)/4)
    """
    r = above("r", r, 0, "a radius is positive")
    return erf(1 / (sqrt(2) * r * positive_spread("s_h", s_h)))


def _steps() -> tuple[Step, ...]:
    s, f = Symbol("s_h", positive=True), Symbol("f_0", positive=True)
    normal = exp(-(h**2) / (2 * s**2)) / (s * sqrt(2 * pi))
    t = Symbol("t_0", positive=True)
    y = Symbol("y_0", positive=True)
    base = exp(y) * besselk(0, y)
    # With z = 2*y, d/dz = (d/dy)/2.
    second = base - base.diff(y) + base.diff(y, 2) / 4
    closed = exp(y) / 2 * (besselk(0, y) + (1 + 1 / (2 * y)) * besselk(1, y))
    return (
        Step(
            "R > r where |h| < 1/r.",
            2 * Integral(normal, (h, 0, 1 / R)),
            radius_tail(R, s),
        ),
        Step(
            "The tail is twice the density at zero over r.",
            Limit(t * radius_tail(t, s), t, oo),
            radius_tail_constant(1 / (s * sqrt(2 * pi))),
        ),
        Step(
            "So the mean cut off at a large radius grows like its logarithm.",
            Integral(f / t, (t, 1, R)).doit().diff(R) * R,
            f,
        ),
        Step(
            "With a gradient, (1 + g^2)^(3/2) multiplies: integrals of exp(-z*t)*(1 + t)^2 follow "
            "from that of exp(-z*t)*(t*(1 + t))^(-1/2) = exp(z/2)*K0(z/2) by differentiation.",
            second,
            closed,
        ),
        Step(
            "At small gradients the factor is 1 + (3/2)*s_g^2, from the second moment.",
            Integral(Rational(3, 2) * g**2 * exp(-(g**2) / 2) / sqrt(2 * pi), (g, -oo, oo)),
            Rational(3, 2),
        ),
    )


DERIVATION = Derivation(
    name="radius_tail",
    title="The tail of the radius",
    laws=("radius_tail", "radius_tail_constant"),
    statements=(
        Statement(
            "asymptotic",
            "P(R > r) tends to c/r, for a density of the curvature smooth and even at 0.",
            rate="1/r^2",
        ),
        Statement("theorem", "So the mean radius is infinite and the median finite."),
    ),
    source="Embrechts, Klueppelberg & Mikosch (1997)",
    make_formulas=lambda: {
        "P(R > r)": radius_tail(R, Symbol("s_h", positive=True)),
        "c": radius_tail_constant(Symbol("f_0", positive=True), Symbol("s_g", positive=True)),
    },
    make_steps=_steps,
)
