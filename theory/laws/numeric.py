"""Compile a sympy expression to a NumPy function that is accurate at extreme arguments."""

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy import special
from sympy import Expr, Function, Symbol, SympifyError, lambdify, sympify, uppergamma

from theory.laws._evaluated import Evaluated
from theory.laws._trust import doubt

# Squares and ratios of squares of such numbers neither overflow nor underflow in float64.
_SAFE = (1e-70, 1e70)
# Tried one after another, until two agree to float64's digits.
_DIGITS = (30, 50, 100, 200, 400, 800)
_AGREE = 1e-16
# Stand-ins for zero and infinity; mpmath's exponents are unlimited, so the limit is hit exactly.
_ZERO = "1e-1000"
_INFINITY = "1e1000"


def _gamma(x: Any) -> Any:
    """Gamma where float64 holds it; elsewhere nan, so that the entry goes to mpmath."""
    return np.where(np.asarray(x) < 150, special.gamma(x), np.nan)


_SPECIAL = {
    "erf": special.erf,
    "erfc": special.erfc,
    "erfinv": special.erfinv,
    "gamma": _gamma,
    "upper_gamma": lambda a, x: special.gammaincc(a, x) * _gamma(a),
    "besselk": special.kv,
}


def numeric(expression: Any, *symbols: Any) -> Callable[..., NDArray[np.float64]]:
    r"""Return f(\*arrays), which evaluates the expression in float64; arguments broadcast.

    Without `symbols` the arguments are the free symbols by name. NumPy evaluates in one pass;
    the entries whose arguments lie beyond 1e-70 to 1e70, those in which a sum cancels to less than
    1e-4 of its terms, a function multiplies the error of its argument by 1e4 (log next to 1, tan
    next to its pole) or a factor underflows, and those that come out infinite or undefined (0/0
    where a spread is zero, an infinite population) are taken one by one with mpmath, at as many
    digits (30 to 800) as it takes for two precisions to agree, as the limit from within the domain.
    Such entries cost a millisecond or two each. An entry that has no limit stays nan or infinite.

    Raises ValueError if the expression has a symbol that is not among the arguments, or if the
    number of arrays is not the number of symbols. So does f for a negative value of a symbol that
    was declared positive or nonnegative. Where an argument is nan the result is; where a law has no
    value, as for n above the population, it is nan too. The expression holds no other part of a
    law's domain: for n = 0.25 it is the formula's value, though the law takes no n below 1.

    >>> from sympy import symbols
    >>> from theory import expected_abs_gradient
    >>> n, sigma = symbols("n sigma", positive=True)
    >>> law = numeric(expected_abs_gradient(n, sigma), n, sigma)
    >>> law([1, 4], 1.0).round(6).tolist()
    [0.797885, 0.398942]
    """
    try:
        expression = sympify(expression, strict=True)
    except (SympifyError, TypeError):
        expression = repr(expression)
    if not isinstance(expression, Expr):
        raise ValueError(
            f"expression is {expression}; it must be a sympy expression, not a statement or a text"
        )
    arguments = tuple(symbols) or tuple(sorted(expression.free_symbols, key=lambda s: s.name))
    if not all(isinstance(s, Symbol) for s in arguments):
        raise ValueError(f"symbols is {arguments}; it must hold sympy symbols only")
    missing = sorted(s.name for s in expression.free_symbols - set(arguments))
    if missing:
        raise ValueError(
            f"symbols lacks {', '.join(missing)}; pass every free symbol of the expression "
            "(two symbols of one name but other assumptions are not the same)"
        )
    # sympy's NumPy printer refuses this one function under its own name.
    printable = expression.replace(uppergamma, Function("upper_gamma"))
    modules = [_SPECIAL, "numpy"]
    computed = {f.func.__name__: f.func for f in expression.atoms(Evaluated)}
    fast = lambdify(arguments, printable, [{k: f.values for k, f in computed.items()}, *modules])
    exact = lambdify(arguments, expression, [{k: f.at for k, f in computed.items()}, "mpmath"])
    names = [{k: f.values for k, f in computed.items()}, *modules]
    doubtful = doubt(printable, arguments, names)

    def evaluate(*values: Any) -> NDArray[np.float64]:
        if len(values) != len(arguments):
            names = ", ".join(s.name for s in arguments)
            raise ValueError(f"{len(values)} arrays were given; pass one for each of: {names}")
        arrays = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in values))
        shape = arrays[0].shape if arrays else ()
        for symbol, x in zip(arguments, arrays, strict=True):
            if symbol.is_nonnegative and (x < 0).any():
                raise ValueError(
                    f"{symbol.name} is {x[x < 0][0]}; it must be at least 0, as its symbol says"
                )
        with np.errstate(all="ignore"):
            out = np.array(np.broadcast_to(fast(*arrays), shape), dtype=np.float64)
            odd = ~np.isfinite(out) | doubtful(arrays, out)
        size = [np.abs(x) for x in arrays]
        for x in size:
            odd |= (x != 0) & ((x < _SAFE[0]) | (x > _SAFE[1]))
        for index in np.argwhere(odd & ~_any_nan(arrays, shape)):
            place = tuple(index)
            out[place] = _limit(exact, [x[place] for x in arrays], out[place])
        return out

    return evaluate


def _any_nan(arrays: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    missing = np.zeros(shape, dtype=bool)
    for x in arrays:
        missing |= np.isnan(x)
    return missing


def _limit(exact: Callable[..., Any], point: list[Any], otherwise: float) -> float:
    """The value at the point; where that is undefined, the one next to it."""
    edge = any(x == 0 or np.isinf(x) for x in point)
    for zero in (0, _ZERO) if edge else (0,):
        value = _settled(exact, point, zero, edge)
        if value is not None:
            return value
    return otherwise


def _settled(exact: Callable[..., Any], point: list[Any], zero: Any, edge: bool) -> float | None:
    """The value on which two precisions agree; nan where none do, None where there is none."""
    before = None
    for digits in _DIGITS:
        with mpmath.workdps(digits):
            values = [mpmath.mpf(_INFINITY) * int(np.sign(x)) if np.isinf(x) else x for x in point]
            nudged = [mpmath.mpf(zero) if x == 0 else mpmath.mpf(x) for x in values]
            try:
                value = mpmath.mpmathify(exact(*nudged))
            except (ZeroDivisionError, ValueError, OverflowError):
                value = mpmath.nan
            if not mpmath.isfinite(value) or isinstance(value, mpmath.mpc):
                # Inside the domain it may be for want of digits: 1 - p is 1.
                if edge:
                    return None
                continue
            # Zero may be a difference that needs more digits, but for a limit it is one.
            if (
                before is not None
                and abs(value - before) <= _AGREE * abs(value)
                and (value or edge)
            ):
                return float(value)
            before = value
    return None if before is None else float(before) if before == 0 else np.nan
