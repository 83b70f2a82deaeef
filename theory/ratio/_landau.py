"""Quantiles of the Landau distribution, the stable law of index one and full skewness."""

from functools import lru_cache

import numpy as np

# In v = log(t) the integrand is smooth and, beyond these ends, below 1e-16 for x in the bracket.
_LOG_T = np.linspace(-45.0, 4.0, 20001)
_T = np.exp(_LOG_T)
_FIXED = np.exp(-_T * _LOG_T) * np.sin(np.pi * _T) / np.pi
_BRACKET = (-3.5, 1e15)


def exceedance(x: float) -> float:
    """P(X > x) = (1/pi)*Integral(exp(-t*log(t) - x*t)*sin(pi*t)/t, (t, 0, oo))."""
    return float(np.trapezoid(_FIXED * np.exp(-x * _T), _LOG_T))


@lru_cache(maxsize=64)
def quantile(q: float) -> float:
    """The q-quantile, by bisection in a variable that spreads the long right tail."""
    low, high = (float(np.arcsinh(end)) for end in _BRACKET)
    for _ in range(90):
        middle = (low + high) / 2
        if exceedance(float(np.sinh(middle))) > 1 - q:
            low = middle
        else:
            high = middle
    return float(np.sinh(high))
