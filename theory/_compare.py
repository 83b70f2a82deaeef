"""How alike two sympy objects are: equal, equal up to sign or constant, or different."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from random import Random
from typing import Any

from sympy import (
    Basic,
    Derivative,
    Dummy,
    Eq,
    Expr,
    Integral,
    Lambda,
    Limit,
    MatrixBase,
    Product,
    Rational,
    S,
    Subs,
    Sum,
    Symbol,
    nsimplify,
    simplify,
    sympify,
)
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from theory._objects import Gaussian
from theory.symbols import BY_NAME, EPSILON

DIGITS = 50
# Twenty digits are left for rounding, so an agreement is one to thirty digits.
TOLERANCE = Rational(1, 10**30)
POINTS = 6
_UNEVALUATED = (Integral, Sum, Limit, Derivative, Product, Subs)

Domain = Mapping[Any, tuple[Any, Any]]


class Likeness(IntEnum):
    """From most to least alike; a composite is as alike as its worst part."""

    EQUAL = 0
    SIGN = 1
    CONSTANT = 2
    DIFFERENT = 3


@dataclass(frozen=True)
class Comparison:
    """A likeness and, for two expressions whose ratio is constant, that ratio."""

    likeness: Likeness
    factor: Any = None


def compare(printed: Any, derived: Any) -> Comparison:
    """Compare two sympy objects of any sort; `factor` is derived over printed.

    Symbols are matched by name, so that the assumptions a caller's symbols carry do not matter.

    >>> from sympy import sin, cos, Symbol
    >>> x = Symbol("x")
    >>> compare(sin(x) ** 2, 1 - cos(x) ** 2).likeness.name
    'EQUAL'
    >>> compare(x, 3 * x)
    Comparison(likeness=<Likeness.CONSTANT: 2>, factor=3)
    """
    if printed is None or derived is None:
        return Comparison(Likeness.EQUAL if printed is derived else Likeness.DIFFERENT)
    return _compare(by_name(sympify(printed)), by_name(sympify(derived)))


def by_name(form: Any) -> Any:
    """The object with every symbol that has the name of one of ours replaced by ours."""
    return form.xreplace(
        {
            s: BY_NAME[s.name]
            for s in form.atoms(Symbol)
            if type(s) is Symbol and s.name in BY_NAME and s is not BY_NAME[s.name]
        }
    )


@lru_cache(maxsize=2048)
def _compare(p: Any, d: Any) -> Comparison:
    p, d = _plain(p), _plain(d)
    if p == d:
        return Comparison(Likeness.EQUAL, S.One if isinstance(p, Expr) else None)
    if isinstance(p, MatrixBase) and isinstance(d, MatrixBase):
        if p.shape != d.shape:
            return Comparison(Likeness.DIFFERENT)
        return _worst(zip(p, d, strict=True))
    if isinstance(p, Lambda) and isinstance(d, Lambda) and len(p.variables) == len(d.variables):
        renamed = d.expr.xreplace(dict(zip(d.variables, p.variables, strict=True)))
        return Comparison(_compare(p.expr, renamed).likeness)
    # An equation against the bare expression of its right-hand side.
    if isinstance(p, Eq) and isinstance(d, Expr):
        p = p.rhs
    if isinstance(d, Eq) and isinstance(p, Expr):
        d = d.rhs
    if isinstance(p, Expr) and isinstance(d, Expr):
        return _compare_expressions(p, d)
    if isinstance(p, Eq) and isinstance(d, Eq):
        return _compare_equations(p, d)
    if isinstance(p, Relational) and isinstance(d, Relational) and p.func != d.func:
        d = d.reversed
    if p.func == d.func and p.args and len(p.args) == len(d.args):
        return _worst(zip(p.args, d.args, strict=True))
    return Comparison(Likeness.DIFFERENT)


def _plain(form: Any) -> Any:
    """Carry out a relation; give distributions the form of our own."""
    if isinstance(form, Relational):
        form = _evaluated(form)
    if type(form).__name__ == "RandomSymbol":
        form = form.pspace.distribution
    if type(form).__name__ == "NormalDistribution":
        form = Gaussian(*form.args)
    return form


def _worst(pairs: Any) -> Comparison:
    return Comparison(max(_compare(p, d).likeness for p, d in pairs))


def _compare_equations(p: Any, d: Any) -> Comparison:
    if _compare(p.lhs, d.lhs).likeness is Likeness.EQUAL:
        return Comparison(_compare(p.rhs, d.rhs).likeness)
    if _compare(p.lhs, d.rhs).likeness is Likeness.EQUAL:
        return Comparison(_compare(p.rhs, d.lhs).likeness)
    whole = _compare(p.lhs - p.rhs, d.lhs - d.rhs).likeness
    # A constant multiple of both sides leaves an equation what it was.
    return Comparison(Likeness.DIFFERENT if whole is Likeness.DIFFERENT else Likeness.EQUAL)


def _compare_expressions(p: Any, d: Any) -> Comparison:
    p, d = _opaque(_evaluated(p), _evaluated(d))
    pairs = list(_sampled((p, d)))
    if not pairs:
        # Infinite, undefined or beyond numbers: only the form is left to compare.
        return Comparison(Likeness.EQUAL if p == d else Likeness.DIFFERENT)
    if all(_close(x, y) for x, y in pairs):
        return Comparison(Likeness.EQUAL, S.One)
    if any(x == 0 for x, _ in pairs):
        return Comparison(Likeness.DIFFERENT)
    ratios = [(y / x).evalf(DIGITS) for x, y in pairs]
    if ratios[0] == 0 or not all(_close(ratios[0], r) for r in ratios):
        return Comparison(Likeness.DIFFERENT)
    if _close(ratios[0], S.NegativeOne):
        return Comparison(Likeness.SIGN, S.NegativeOne)
    exact = simplify(d / p)
    if exact.free_symbols:
        exact = nsimplify(ratios[0], rational=False)
    return Comparison(Likeness.CONSTANT, exact)


def ratio(printed: Any, derived: Any) -> Any:
    """derived / printed, simplified, where both are expressions; otherwise None."""
    if not (isinstance(printed, Expr) and isinstance(derived, Expr)):
        return None
    comparison = compare(printed, derived)
    if comparison.factor is not None:
        return comparison.factor
    p, d = by_name(printed), by_name(derived)
    return None if p == 0 else simplify(d / p)


def same_to_leading_order(
    printed: Any,
    derived: Any,
    scaled: Sequence[tuple[Any, Any]],
    baseline: Any = 0,
) -> bool:
    """Whether derived/printed tends to one as EPSILON does to zero in the scaled symbols.

    Judged by the ratio at EPSILON = 10^-6 and 10^-9: its distance from one must be small and
    shrink by at least a hundred, which a ratio with another limit cannot do.
    """
    printed, derived = (x.rhs if isinstance(x, Eq) else x for x in (printed, derived))
    if not (isinstance(printed, Expr) and isinstance(derived, Expr)):
        return False
    p, d, base = by_name(printed), by_name(derived), by_name(sympify(baseline))
    p, d = _opaque(_evaluated(p), _evaluated(d))
    steps = list(scaled)
    p, d = ((x - base).subs(steps, simultaneous=True) for x in (p, d))
    off = [
        [
            abs(y / x - 1).evalf(DIGITS)
            for x, y in _sampled((p, d), fixed={EPSILON: Rational(1, 10**power)})
            if x != 0
        ]
        for power in (6, 9)
    ]
    if not off[0] or len(off[0]) != len(off[1]):
        return False
    return all(
        coarse < Rational(1, 100) and fine <= coarse / 100 + TOLERANCE
        for coarse, fine in zip(*off, strict=True)
    )


def _evaluated(expression: Any) -> Any:
    return expression.doit() if expression.has(*_UNEVALUATED) else expression


def _opaque(*expressions: Any) -> tuple[Any, ...]:
    """Replace what has no numeric value (f(x), an unfinished sum) by symbols, jointly."""
    names: dict[Any, Any] = {}
    for expression in expressions:
        for part in _without_value(expression):
            names.setdefault(part, Dummy(f"opaque{len(names)}", real=True))
    return tuple(e.xreplace(names) for e in expressions)


def _without_value(expression: Any) -> list[Any]:
    """Outermost parts that no numbers for the symbols can make a number."""
    if isinstance(expression, (AppliedUndef, *_UNEVALUATED)) and (
        expression.has(AppliedUndef) or isinstance(expression, (Limit, Derivative))
    ):
        return [expression]
    return [part for arg in expression.args for part in _without_value(arg)]


def _sampled(
    expressions: tuple[Any, ...],
    domain: Domain | None = None,
    fixed: Mapping[Any, Any] | None = None,
) -> Any:
    """Yield the expressions' values, as real or complex numbers, at points of their domain."""
    fixed = dict(fixed or {})
    free = set().union(*(e.free_symbols for e in expressions)) - set(fixed)
    count = 0
    rng = Random(20200615)
    ordered = sorted(free, key=lambda s: (s.name, str(s.assumptions0)))
    for _ in range(4 * POINTS):
        point = {**fixed, **{s: _draw(s, rng, domain or {}) for s in ordered}}
        values = tuple(e.xreplace(point).evalf(DIGITS) for e in expressions)
        if all(v.is_number and v.is_finite for v in values):
            yield values
            count += 1
        if count == POINTS or not ordered:
            return


def _draw(symbol: Any, rng: Random, domain: Domain) -> Any:
    """A rational number that the symbol's assumptions, or the stated domain, allow."""
    if symbol in domain:
        low, high = (sympify(end) for end in domain[symbol])
        value = low + (high - low) * Rational(rng.randint(1, 996), 997)
        return value if not symbol.is_integer else Rational(round(value))
    if symbol.is_integer:
        value = Rational(rng.randint(2, 9))
    else:
        value = Rational(rng.randint(200, 2990), 997)
    if not (symbol.is_nonnegative or symbol.is_positive) and rng.random() < 0.5:
        value = -value
    if symbol.is_negative:
        value = -abs(value)
    return value


def _close(x: Any, y: Any) -> bool:
    scale = max(abs(x), abs(y))
    return bool(scale == 0 or abs(x - y) <= TOLERANCE * scale)


def holds_numerically(lhs: Any, rhs: Any, relation: str, domain: Domain | None = None) -> bool:
    """Whether a relation between two objects holds; numbers are compared at 30 digits."""
    lhs, rhs = by_name(sympify(lhs)), by_name(sympify(rhs))
    if not (isinstance(lhs, Expr) and isinstance(rhs, Expr)):
        equal = compare(_done(lhs), _done(rhs)).likeness is Likeness.EQUAL
        return equal if relation == "=" else relation == "!=" and not equal
    left, right = _opaque(_evaluated(lhs), _evaluated(rhs))
    if relation == "=" and left == right:
        return True
    pairs = list(_sampled((left, right), domain))
    if not pairs:
        return relation == "!=" and left != right
    tests: dict[str, Callable[[Any, Any], bool]] = {
        "=": _close,
        "!=": lambda x, y: not _close(x, y),
        "<": lambda x, y: bool(x < y),
        "<=": lambda x, y: bool(x < y) or _close(x, y),
    }
    return all(tests[relation](x, y) for x, y in pairs)


def _done(form: Basic) -> Any:
    return form.doit() if form.has(*_UNEVALUATED) else form
