"""Formulas at floats without their cancellations: evaluated as the numbers that the floats are."""

from collections.abc import Callable
from typing import Any

from sympy import Float, Rational

# Digits beyond those asked for: differences may cancel down to squares of the least of floats.
_MORE = (15, 35, 85, 185, 385, 785)


def at_floats(formula: Callable[..., Any], *values: Any) -> Any:
    """The formula; where all values are numbers and one is a Float, evaluated to its digits.

    >>> from sympy import Float, log
    >>> at_floats(lambda x: log(1 + x**2), Float(1e-9))
    1.00000000000000e-18
    """
    if not all(value.is_number for value in values):
        return formula(*values)
    floats = [part for value in values for part in value.atoms(Float)]
    if not floats:
        return formula(*values)
    exact = [value.xreplace({part: Rational(part) for part in floats}) for value in values]
    digits = min(map(digits_of, floats))
    return _settled(formula(*exact), digits)


def _settled(expression: Any, digits: int) -> Any:
    """The value on which two precisions agree; the last one's, a zero perhaps, where none do."""
    if expression.is_zero:
        return expression
    before = value = expression.evalf(digits)
    for more in _MORE:
        value = expression.evalf(digits + more)
        if not (value.is_Float or value.is_zero):
            break
        if value != 0 and abs(value - before) < abs(value) / 10**digits:
            break
        before = value
    return value.evalf(digits)


def digits_of(value: Any) -> int:
    """The decimal digits of a Float."""
    return int(value._prec * 0.30103)
