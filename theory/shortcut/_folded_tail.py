"""Where the tail of a folded normal variable holds a given probability."""

from typing import Any

import mpmath

from theory.laws._evaluated import Evaluated


class FoldedTail(Evaluated):
    r"""t where P(|N(a, 1)| > t) = p, for a >= 0 and 0 < p < 1.

    >>> FoldedTail(0, 0.5).evalf(8)  # the median of |N(0, 1)|
    0.67448975
    >>> FoldedTail(3, 0.5).evalf(8)
    3.0000000
    """

    nargs = 2
    is_positive = True

    def _latex(self, printer: Any, exp: Any = None) -> str:
        inside = ", ".join(map(printer._print, self.args))
        return rf"T\left({inside}\right)" + ("" if exp is None else f"^{{{exp}}}")

    @staticmethod
    def at(centre: Any, p: Any) -> Any:
        """Newton's method, kept inside a bracket that halves whenever it would leave it."""
        # p may be next to 1, where t is of the order of 1 - p, or next to 0, where 1 - p is 1.
        with mpmath.extradps(20 + max(0, int(-mpmath.log10(p)))):
            centre, root = abs(centre), mpmath.sqrt(2)
            # |N(a, 1)| lies above |N(0, 1)| and above N(a, 1), and below a + |N(0, 1)|.
            alone = root * mpmath.erfinv(1 - p)
            low = max(alone, centre + root * mpmath.erfinv(1 - 2 * p))
            high = centre + alone
            t = low
            for _ in range(4 * mpmath.mp.prec):
                excess = mpmath.ncdf(centre - t) + mpmath.ncdf(-t - centre) - p
                low, high = (t, high) if excess > 0 else (low, t)
                step = excess / (mpmath.npdf(t - centre) + mpmath.npdf(t + centre))
                following = t + step
                if not low <= following <= high:
                    following = (low + high) / 2
                if abs(following - t) <= abs(t) * mpmath.eps * 16:
                    return following
                t = following
            return t
