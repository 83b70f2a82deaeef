"""Exact second derivatives of a given network, for every parameter. Knows no paper.

| question | call |
|---|---|
| d²L/dw² of every parameter entry, exactly | `diagonal` |
| which exact method applies, why, at what cost | `plan` |
| radius of curvature from gradient and second derivative | `radius` |
"""

from hessian._diagonal import Diagonal as Diagonal
from hessian._diagonal import diagonal as diagonal
from hessian._diagonal import plan as plan
from hessian._plan import Entry as Entry
from hessian._plan import Plan as Plan
from hessian._radius import radius as radius

__all__ = ["Diagonal", "Entry", "Plan", "diagonal", "plan", "radius"]
