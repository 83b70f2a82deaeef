"""Reading and checking the arguments of a law. Symbols pass; only numbers can be out of range."""

from typing import Any

from sympy import S, SympifyError, oo, sympify
from sympy.core.expr import Expr


def scalar(name: str, value: Any) -> Any:
    """The argument as a sympy expression; a number must be real."""
    if getattr(value, "shape", None) == ():
        value = value.item()  # a NumPy scalar, whose own precision sympy would keep
    try:
        expression = sympify(value, strict=True)
    except (SympifyError, TypeError, AttributeError):
        expression = None
    if not isinstance(expression, Expr):
        raise ValueError(
            f"{name} is {value!r}; it must be a number or a sympy expression. "
            "For arrays, pass symbols and compile the result with theory.numeric"
        )
    if expression is S.NaN or expression.is_extended_real is False:
        raise ValueError(f"{name} is {value!r}; it must be a real number")
    return expression


def finite(name: str, value: Any) -> Any:
    """A scalar that, if it is a number, is finite."""
    expression = scalar(name, value)
    if expression.is_finite is False:
        raise ValueError(f"{name} is {value!r}; it must be finite")
    return expression


def at_least(name: str, value: Any, bound: int, remedy: str) -> Any:
    """A finite scalar that, if it is a number, is at least the bound."""
    expression = finite(name, value)
    if expression.is_number and expression < bound:
        raise ValueError(f"{name} is {value!r}; it must be at least {bound}: {remedy}")
    return expression


def batch_size(n: Any) -> Any:
    return at_least("n", n, 1, "a batch holds one sample or more")


def deviation(sigma: Any) -> Any:
    return at_least("sigma", sigma, 0, "a standard deviation is not negative; did you mean mu?")


def whole(name: str, value: Any, low: int, high: Any, remedy: str) -> int:
    """A whole number from `low` to `high`; symbols do not pass."""
    expression = None if isinstance(value, bool) else finite(name, value)
    # A Float is never == an Integer, in sympy.
    if expression is None or not (expression.is_number and (expression % 1).is_zero):
        raise ValueError(f"{name} is {value!r}; it must be a whole number: {remedy}")
    if not low <= expression <= high:
        bounds = f"{low}" if high is oo else f"{low} to {high}"
        raise ValueError(f"{name} is {value!r}; it must be a whole number from {bounds}: {remedy}")
    return int(expression)


def number(name: str, expression: Any) -> float:
    """A checked argument as a float; symbols do not pass."""
    if not expression.is_number:
        raise ValueError(f"{name} is {expression}; it must be a number: this is not symbolic")
    return float(expression)


def real(name: str, value: Any) -> Any:
    """The values, unless they are complex, of which NumPy would drop a part."""
    import numpy as np

    if callable(value) or not np.iscomplexobj(value):
        return value
    raise ValueError(f"{name} is complex; its values must be real: pass .real, or their sizes")


def rate(lr: Any) -> Any:
    return at_least("lr", lr, 0, "the step is w - lr*g, the sign is already in it")


def training_set(population: Any, n: Any) -> Any:
    """The population; where both are numbers it must hold the batch."""
    expression = scalar("population", population)
    if expression is oo:
        return expression
    expression = at_least("population", population, 1, "leave it out for an unlimited one")
    if expression.is_number and n.is_number and expression < n:
        raise ValueError(
            f"population is {population!r}, smaller than n = {n}; a batch drawn without "
            "replacement has at most population samples: lower n or leave population out"
        )
    return expression


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be {' or '.join(map(repr, allowed))}")
    return str(value)


def above(name: str, value: Any, bound: Any, remedy: str) -> Any:
    """A finite scalar that, if it is a number, is greater than the bound."""
    expression = finite(name, value)
    if expression.is_number and not expression > bound:
        raise ValueError(f"{name} is {value!r}; it must be greater than {bound}: {remedy}")
    return expression


def within(name: str, value: Any, low: Any, high: Any, remedy: str, closed: str = "[]") -> Any:
    """A finite scalar that, if it is a number, is in an interval; `closed` draws its brackets."""
    expression = finite(name, value)
    if expression.is_number:
        above_low = expression >= low if closed[0] == "[" else expression > low
        below_high = expression <= high if closed[1] == "]" else expression < high
        if not (above_low and below_high):
            interval = f"{closed[0]}{low}, {high}{closed[1]}"
            raise ValueError(f"{name} is {value!r}; it must be in {interval}: {remedy}")
    return expression


def spread(name: str, value: Any) -> Any:
    return at_least(name, value, 0, "a standard deviation or a scale is not negative")


def positive_spread(name: str, value: Any) -> Any:
    return above(name, value, 0, "a standard deviation that is divided by, or divides, is positive")
