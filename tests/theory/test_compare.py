"""The comparison behind the verdicts: each likeness on each sort of object."""

import pytest
import sympy
from sympy import Eq, Integral, Lambda, Lt, Matrix, Piecewise, Sum, Symbol, Tuple, exp, oo, sqrt

from theory import Distributed, Gaussian, Tends
from theory._compare import Likeness, compare, holds_numerically, ratio, same_to_leading_order
from theory.symbols import EPSILON

x, y = sympy.symbols("x y", positive=True)
r = Symbol("r", real=True)
f = sympy.Function("f")
EQUAL, SIGN, CONSTANT, DIFFERENT = Likeness


@pytest.mark.parametrize(
    ("printed", "derived", "likeness"),
    [
        ((x + y) ** 2, x**2 + 2 * x * y + y**2, EQUAL),
        (sqrt(x**2), x, EQUAL),
        (sqrt(r**2), r, DIFFERENT),
        (abs(r), -r, DIFFERENT),
        (x - y, y - x, SIGN),
        (x, -3 * x, CONSTANT),
        (x, x + sympy.Rational(1, 10**12), DIFFERENT),
        (x, x * (1 + sympy.Rational(1, 10**20)), CONSTANT),
        (sympy.Float(0.5), sympy.Rational(1, 2), EQUAL),
        (0, x, DIFFERENT),
        (x, 0, DIFFERENT),
        (0, 0, EQUAL),
        (oo, oo, EQUAL),
        (oo, x, DIFFERENT),
        (sympy.nan, x, DIFFERENT),
        (f(x), f(x), EQUAL),
        (f(x), 2 * f(x), CONSTANT),
        (f(x), f(y), DIFFERENT),
        (Integral(exp(-x * r**2), (r, -oo, oo)), sqrt(sympy.pi / x), EQUAL),
        (Sum(f(r), (r, 0, 3)), f(0) + f(1) + f(2) + f(3), EQUAL),
        (Piecewise((x, x < 1), (x**2, True)), x, DIFFERENT),
        (Piecewise((x, r < 0), (x, True)), x, EQUAL),
        (Eq(x, y), Eq(y, x), EQUAL),
        (Eq(x, 2 * y), Eq(x, y), CONSTANT),
        (Eq(r, -y), Eq(r, y), SIGN),
        (Eq(2 * x - 4 * y, 0), Eq(x, 2 * y), EQUAL),
        (Eq(x, y), x * y, DIFFERENT),
        (Eq(f(x), x + x), 2 * x, EQUAL),
        (Lt(x, y), sympy.Gt(y, x), EQUAL),
        (Lt(x, y), Lt(y, x), DIFFERENT),
        (Tuple(x, y), Tuple(x, y * 1), EQUAL),
        (Tuple(x, y), Tuple(x, -y), SIGN),
        (Tuple(x, y), Tuple(x, y, y), DIFFERENT),
        (Matrix([x, y]), Matrix([x, 3 * y]), CONSTANT),
        (Matrix([x, y]), Matrix([[x, y]]), DIFFERENT),
        (Lambda(x, x**2), Lambda(y, y**2), EQUAL),
        (Lambda(x, x**2), Lambda(y, 2 * y**2), CONSTANT),
        (Gaussian(0, x), Gaussian(0, sqrt(x) ** 2), EQUAL),
        (Gaussian(0, x), Gaussian(0, 2 * x), CONSTANT),
        (Gaussian(y, x), Gaussian(-y, x), SIGN),
        (Distributed(r, Gaussian(0, x)), Distributed(y, Gaussian(0, x)), DIFFERENT),
        (Tends(x, 0), Tends(x, 0), EQUAL),
        (Tends(x, 0), Tends(x, 1), DIFFERENT),
        (Gaussian(0, x), x, DIFFERENT),
    ],
)
def test_likeness(printed, derived, likeness):
    assert compare(printed, derived).likeness is likeness


def test_sympy_distributions_are_understood():
    from sympy.stats import Normal

    assert compare(Gaussian(r, x), Normal("z", r, x)).likeness is EQUAL
    assert compare(Normal("z", 0, x), Normal("z", 0, 2 * x)).likeness is CONSTANT


def test_none():
    assert compare(None, None).likeness is EQUAL
    assert compare(None, x).likeness is DIFFERENT


def test_ratio():
    assert ratio(2 * x, x * y) == y / 2
    assert ratio(0, x) is None
    assert ratio(Gaussian(0, x), x) is None
    assert ratio(x, sqrt(2) * x) == sqrt(2)


def test_leading_order():
    small = [(x, EPSILON * x)]
    assert same_to_leading_order(y, y * (1 + x), small)
    assert same_to_leading_order(sympy.sin(x), x, small)
    assert not same_to_leading_order(y, 2 * y + x, small)
    assert not same_to_leading_order(y, y * sympy.Rational(1000001, 1000000), small)
    assert not same_to_leading_order(Tuple(x), Tuple(x), small)
    # A constant in common must not hide that what is left differs.
    assert same_to_leading_order(y + x, y + 2 * x, small)
    assert not same_to_leading_order(y + x, y + 2 * x, small, baseline=y)


def test_relations():
    assert holds_numerically(x, x + y, "<")
    assert not holds_numerically(x + y, x, "<=")
    assert holds_numerically(2 * x * y, x**2 + y**2, "<=")
    assert holds_numerically(x, y, "!=")
    assert not holds_numerically(x, x, "!=")
    assert holds_numerically(x, 1, "<", {x: (0, 1)})
    assert not holds_numerically(x, 1, "<")
