"""The paper's 28 equations, one file for each train of thought."""

from collections.abc import Mapping
from types import MappingProxyType

from theory.equation import Equation
from theory.equations.distance import DISTANCE
from theory.equations.gradient import GRADIENT
from theory.equations.layer import LAYER
from theory.equations.loss import LOSS
from theory.equations.median import MEDIAN
from theory.equations.parabola import PARABOLA
from theory.equations.parameter import PARAMETER
from theory.equations.radius import RADIUS
from theory.equations.shortcut import SHORTCUT

EQUATIONS: Mapping[str, Equation] = MappingProxyType(
    {
        equation.label: equation
        for group in (
            GRADIENT,
            PARAMETER,
            LOSS,
            RADIUS,
            PARABOLA,
            SHORTCUT,
            MEDIAN,
            LAYER,
            DISTANCE,
        )
        for equation in group
    }
)

__all__ = ["EQUATIONS"]
