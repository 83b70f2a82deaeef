"""Functions without a closed form that sympy nevertheless evaluates, substitutes and compiles."""

from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray
from sympy import Float, Function


class Evaluated(Function):
    """Stays as it stands for symbols; `evalf` computes it by `at`, at the precision asked for.

    A subclass gives `at(*arguments)`, which takes mpmath numbers and works at mpmath's precision.
    `theory.numeric` compiles it through the same method.
    """

    @staticmethod
    def at(*arguments: Any) -> Any:
        """The value at mpmath numbers, to mpmath's current precision."""
        raise NotImplementedError

    @classmethod
    def values(cls, *arguments: Any) -> NDArray[np.float64]:
        """The values for arrays, in float64; nan where there is none."""
        arrays = np.broadcast_arrays(*arguments)
        out = np.full(arrays[0].shape, np.nan)
        with mpmath.workdps(20):
            for place in np.ndindex(out.shape):
                point = [float(array[place]) for array in arrays]
                if np.isfinite(point).all():
                    out[place] = float(cls.at(*map(mpmath.mpf, point)))
        return out

    def _eval_evalf(self, prec: int) -> Any:
        more = prec + 30
        values = [argument.evalf(int(more / 3.3) + 1) for argument in self.args]
        if not all(value.is_Float or value.is_Integer for value in values):
            return None
        with mpmath.workprec(more):
            result = self.at(*(value._to_mpmath(more) for value in values))
        return Float._new(result._mpf_, prec)
