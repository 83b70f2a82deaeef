"""The mean of P over the sum of P half-Cauchy variables."""

from typing import Any

import mpmath
from sympy import Ci, Dummy, Integral, Si, cos, oo, pi, sin

from theory.laws._evaluated import Evaluated


def transform(s: Any) -> Any:
    """E exp(-s*X) for a half-Cauchy X of scale one: the auxiliary function of Ci and Si."""
    return 2 / pi * (Ci(s) * sin(s) + (pi / 2 - Si(s)) * cos(s))


class HalfCauchyHarmonicMean(Evaluated):
    r"""E[P/sum(X_i)] = P*Integral(T(s)^P, (s, 0, oo)) for P half-Cauchy X_i, T their transform.

    >>> HalfCauchyHarmonicMean(100).evalf(10)
    0.2681564714
    """

    nargs = 1
    is_positive = True

    def _eval_rewrite_as_Integral(self, size: Any, **_: Any) -> Any:
        s = Dummy("s", positive=True)
        return size * Integral(transform(s) ** size, (s, 0, oo))

    def _latex(self, printer: Any, exp: Any = None) -> str:
        size = printer._print(self.args[0])
        body = rf"{size} \int_0^\infty T(s)^{{{size}}}\, ds"
        return body if exp is None else rf"\left({body}\right)^{{{exp}}}"

    @staticmethod
    def at(size: Any) -> Any:
        """The trapezoidal rule in log(s*P), whose error falls as exp(-pi^2/step)."""
        digits = mpmath.mp.dps
        with mpmath.workdps(digits + 10):
            depth = (digits + 5) * mpmath.log(10)
            step = mpmath.pi**2 / (depth + 5)
            end = mpmath.log(size) + depth / (size - 1) + 2
            count = int((depth + end) / step) + 1
            values = (mpmath.exp(k * step - depth) for k in range(count + 1))
            return step * mpmath.fsum(v * _transform_at(v / size) ** size for v in values)


def _transform_at(s: Any) -> Any:
    """T at an mpmath number; the asymptotic series where it reaches the working precision."""
    if s > 3 * mpmath.mp.dps:
        term, total, k = mpmath.mpf(1), mpmath.mpf(1), 1
        while abs(term) > mpmath.eps:
            term *= -(2 * k - 1) * 2 * k / s**2
            total += term
            k += 1
        return 2 / (mpmath.pi * s) * total
    rest = mpmath.pi / 2 - mpmath.si(s)
    return 2 / mpmath.pi * (mpmath.ci(s) * mpmath.sin(s) + rest * mpmath.cos(s))
