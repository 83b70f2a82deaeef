"""The batch at which the median of a layer, some of whose means are spread, is a given one."""

from typing import Any

import mpmath

from theory.laws._evaluated import Evaluated


class MixtureMedianBatch(Evaluated):
    r"""1/z^2 where z solves (1 - r)*erf(1/(sqrt(2)*z)) + r*erf(1/sqrt(2*(z^2 + t^2))) = 1/2.

    The arguments are the share r and the spread t; z is the deviation of the noise at which the
    median size of the mixture (1 - r)*N(0, z) + r*N(0, sqrt(z^2 + t^2)) is one. The left-hand side
    falls with z, so there is one root, or none where even without noise the median is above one;
    then the value is infinite.

    >>> MixtureMedianBatch(0.25, 2).evalf(8)
    0.59197773
    >>> MixtureMedianBatch(0.75, 4).evalf(8)
    oo
    """

    nargs = 2
    is_extended_positive = True

    def _latex(self, printer: Any, exp: Any = None) -> str:
        inside = ", ".join(map(printer._print, self.args))
        return rf"M\left({inside}\right)" + ("" if exp is None else f"^{{{exp}}}")

    @staticmethod
    def at(share: Any, spread: Any) -> Any:
        """Bisection in the logarithm of the batch, ended by the secant method."""
        root = mpmath.sqrt(2)

        def below(batch: Any) -> Any:
            """The share of sizes below one, over one half."""
            wide = mpmath.sqrt(1 / batch + spread**2)
            inner = mpmath.erf(mpmath.sqrt(batch) / root)
            return (1 - share) * inner + share * mpmath.erf(1 / (root * wide)) - mpmath.mpf(1) / 2

        # Without spread; with it no smaller batch does.
        low = 2 * mpmath.erfinv(mpmath.mpf(1) / 2) ** 2
        if spread == 0 or share == 0:
            return low
        most = 1 - share + share * mpmath.erf(1 / (root * spread)) - mpmath.mpf(1) / 2
        if most <= 0:
            return mpmath.inf
        high = 2 * low
        while below(high) < 0:
            low, high = high, 2 * high
        with mpmath.workdps(mpmath.mp.dps + 10):
            return mpmath.findroot(below, (low, high), solver="anderson", tol=mpmath.eps**2)
