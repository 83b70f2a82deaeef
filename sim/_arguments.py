"""Checks of arguments. Every message names the argument, the value and the remedy, on one line."""

import difflib
import hashlib
import inspect
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np


def choice(argument: str, value: object, possible: Iterable[str]) -> str:
    """The value, if it is one of the possible names."""
    names = sorted(possible)
    if not isinstance(value, str) or value not in names:
        raise ValueError(
            f"{argument}: unknown value {value!r}; choose one of {', '.join(names)}"
            f"{did_you_mean(value, names)}"
        )
    return value


def did_you_mean(value: object, possible: Iterable[str]) -> str:
    """A question that names the likeliest of the possible names, or nothing.

    >>> did_you_mean("momentun", ["momentum", "lr"])
    "; did you mean 'momentum'?"
    """
    near = difflib.get_close_matches(str(value), list(possible), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def integer(argument: str, value: object, least: int, most: int | None = None) -> int:
    """The value as an int, if it is a whole number within the bounds."""
    whole = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if whole is None or whole < least or (most is not None and whole > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{argument}: got {value!r}; give a whole number {bounds}")
    return whole


def at_most(argument: str, value: float, most: float) -> None:
    """Refuse what no machine could do, where the bound is far beyond all that is meant."""
    if value > most:
        raise ValueError(f"{argument}: got {value}; give at most {most}")


def number(
    argument: str, value: object, least: float, below: float = math.inf, *, open_: bool = False
) -> float:
    """The value as a float, if it is in [least, below), or in (least, below) when `open_`."""
    try:
        real = isinstance(value, Real) and not isinstance(value, bool)
        real_number = float(value) if real else math.nan  # type: ignore[arg-type]
    except OverflowError:  # a whole number beyond what a float can hold
        real_number = math.inf
    if not (least < real_number if open_ else least <= real_number) or not real_number < below:
        low = f"above {least:g}" if open_ else f"at least {least:g}"
        high = "finite" if below == math.inf else f"below {below:g}"
        raise ValueError(f"{argument}: got {value!r}; give a number {low} and {high}")
    return real_number


def folder(
    argument: str, value: str | os.PathLike[str] | None, *, absolute: bool = True
) -> Path | None:
    """The value as a path, in which a tilde stands for the home folder, as in a shell.

    An empty text, which would be the folder one happens to be in, is no path.

    Args:
        argument: its name.
        value: a path, or `None`.
        absolute: from the root, so that it stays the same whoever changes the folder one is in;
            else as it was given, for messages.

    >>> folder("out", "runs") == Path("runs").absolute(), folder("root", "a", absolute=False)
    (True, PosixPath('a'))
    >>> folder("out", "")
    Traceback (most recent call last):
    ...
    ValueError: out: got ''; give a folder, '.' for the one that you are in
    """
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{argument}: got {value!r}; give a folder")
    if not str(os.fspath(value)).strip() or "\0" in str(os.fspath(value)):
        raise ValueError(
            f"{argument}: got {value!r}; give a folder, '.' for the one that you are in"
        )
    try:
        path = Path(value).expanduser()
        return path.absolute() if absolute else path
    except (RuntimeError, FileNotFoundError) as error:  # no such user; no folder that one is in
        raise ValueError(
            f"{argument}: got {str(value)!r}, which stands for no folder here ({error}); "
            "give a path from the root"
        ) from None


def flag(argument: str, value: object) -> bool:
    """The value, if it is a truth value, NumPy's among them."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{argument}: got {value!r}; give True or False")
    return bool(value)


def options(owner: str, function: Callable[..., Any], names: Iterable[str]) -> None:
    """Refuse a keyword that the function behind a name does not have."""
    known = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for name in names:
        if name not in known:
            possible = ", ".join(known) or "none"
            raise ValueError(
                f"{name}: no such option for {owner}; its options are: {possible}"
                f"{did_you_mean(name, known)}"
            )


class Refusal(ValueError):
    """One whose message names its argument already."""


@contextmanager
def told_of(argument: str) -> Iterator[None]:
    """Put an argument's name before what is said of the reader's own object."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("got "):
            raise
        raise Refusal(f"{argument}: {error}") from error.__cause__


@contextmanager
def under(argument: str) -> Iterator[None]:
    """Put the argument's name before the message of a refusal."""
    try:
        yield
    except Refusal:
        raise
    except (TypeError, ValueError) as error:
        raise type(error)(f"{argument}.{error}") from None


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of a plain value.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
