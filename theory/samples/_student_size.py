"""E|g_n| of standard Student-t gradients with any number of degrees above one."""

from typing import Any

import mpmath
from sympy import Dummy, Integral, besselk, gamma, oo, pi, sqrt

from theory.laws._evaluated import Evaluated


class StudentMeanSize(Evaluated):
    r"""The mean size of the mean of n Student-t variables of v degrees: arguments n and v.

    (2/pi)*Integral((1 - phi(t/n)^n)/t^2, (t, 0, oo)); `rewrite(Integral)` gives it. It is computed
    as (2*sqrt(v)/pi)*Integral(phi^(n-1)*c*y^(v/2-1)*K_(v/2-1)(y), (y, 0, oo)), by parts with
    y = sqrt(v)*t/n, whose integrand is positive, by the trapezoidal rule in log(y).

    >>> StudentMeanSize(5, 4).evalf(10)
    0.4824479523
    """

    nargs = 2
    is_positive = True

    def _eval_rewrite_as_Integral(self, n: Any, v: Any, **_: Any) -> Any:
        t = Dummy("t", positive=True)
        y = sqrt(v) * t / n
        phi = besselk(v / 2, y) * y ** (v / 2) * 2 ** (1 - v / 2) / gamma(v / 2)
        return 2 / pi * Integral((1 - phi**n) / t**2, (t, 0, oo))

    def _latex(self, printer: Any, exp: Any = None) -> str:
        n, v = map(printer._print, self.args)
        body = (
            rf"\frac{{2}}{{\pi}} \int_0^\infty \frac{{1 - \varphi_{{{v}}}(t/{n})^{{{n}}}}}{{t^2}}"
        )
        return body + r"\, dt" if exp is None else rf"\left({body}\, dt\right)^{{{exp}}}"

    @staticmethod
    def at(n: Any, v: Any) -> Any:
        """Trapezoidal rule in u = log(y); exp(-exp(2*u)) allows a strip of pi/4."""
        digits = mpmath.mp.dps
        with mpmath.workdps(digits + 10 + int(mpmath.log10(n))):
            depth = (digits + 5) * mpmath.log(10)
            step = mpmath.pi**2 / (2 * (depth + 5))
            half = v / 2
            c = 2 ** (1 - half) / mpmath.gamma(half)
            total, u = mpmath.mpf(0), mpmath.log(depth * (2 / n + 1 / mpmath.sqrt(n)) + 1)
            while True:
                y = mpmath.exp(u)
                phi = c * y**half * mpmath.besselk(half, y)
                term = phi ** (n - 1) * c * y**half * mpmath.besselk(half - 1, y)
                total += term
                u -= step
                # To the left it falls as y^min(1, v-1); what is left is some multiple of the last.
                if y < 1 / n and term < total * mpmath.mpf(10) ** -(digits + 3):
                    break
            return 2 * mpmath.sqrt(v) / mpmath.pi * step * total
