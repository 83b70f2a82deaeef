"""Checks of arguments. Every message names the argument, the value and the remedy, on one line."""

import inspect
import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any


def choice(argument: str, value: object, possible: Iterable[str]) -> str:
    """The value, if it is one of the possible names."""
    names = sorted(possible)
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{argument}: unknown value {value!r}; choose one of {', '.join(names)}")
    return value


def integer(argument: str, value: object, least: int, most: int | None = None) -> int:
    """The value as an int, if it is a whole number within the bounds."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):  # type: ignore[operator]
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{argument}: got {value!r}; give a whole number {bounds}")
    return int(value)  # type: ignore[call-overload]


def number(
    argument: str, value: object, least: float, below: float = math.inf, *, open_: bool = False
) -> float:
    """The value as a float, if it is in [least, below), or in (least, below) when `open_`."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not real or not (least < value if open_ else least <= value) or not value < below:  # type: ignore[operator]
        low = f"above {least:g}" if open_ else f"at least {least:g}"
        high = "finite" if below == math.inf else f"below {below:g}"
        raise ValueError(f"{argument}: got {value!r}; give a number {low} and {high}")
    return float(value)  # type: ignore[arg-type]


def options(owner: str, function: Callable[..., Any], given: Iterable[str]) -> None:
    """Refuse a keyword that the function behind a name does not have."""
    known = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for name in given:
        if name not in known:
            possible = ", ".join(known) or "none"
            raise ValueError(f"{name}: no such option for {owner}; its options are: {possible}")
