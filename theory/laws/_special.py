"""Special functions that sympy would otherwise expand into numbers of a million digits."""

from typing import Any

from sympy import gamma, sympify

_LARGEST_EXPANDED = 300


def gamma_function(x: Any) -> Any:
    """Gamma(x), left as it stands for a large number; evalf and numeric compute it then."""
    x = sympify(x)
    if x.is_number and x > _LARGEST_EXPANDED:
        return gamma(x, evaluate=False)
    return gamma(x)
