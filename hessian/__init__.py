"""Exact second derivatives of a given network, for every parameter. Knows no paper.

| question | call |
|---|---|
| d²L/dw² of every parameter entry, exactly | `diagonal` |
| which exact method applies, why, at what cost | `plan` |
| exact values at random entries, for networks too large for all | `sample` |
| cheap substitutes with their standard errors | `estimate` |
| the true minimum along single weights, kinks and all | `coordinate_minimum` |
| v → Hv for SciPy's eigensolvers | `operator` |
| radius of curvature from gradient and second derivative | `radius` |
| a matrix product, by the library that is faster here | `product` |
| is it exact on a network or operation of one's own? | `testing.assert_exact` |
"""

from hessian import testing as testing
from hessian._batch.plan import Entry as Entry
from hessian._batch.plan import Plan as Plan
from hessian._coordinate import CoordinateMinima as CoordinateMinima
from hessian._coordinate import CoordinateMinimum as CoordinateMinimum
from hessian._coordinate import coordinate_minimum as coordinate_minimum
from hessian._diagonal import Diagonal as Diagonal
from hessian._diagonal import diagonal as diagonal
from hessian._diagonal import plan as plan
from hessian._estimate import Estimate as Estimate
from hessian._estimate import estimate as estimate
from hessian._operator import Hessian as Hessian
from hessian._operator import operator as operator
from hessian._radius import radius as radius
from hessian._runtime.matrix_products import product as product
from hessian._sample import Sample as Sample
from hessian._sample import Samples as Samples
from hessian._sample import sample as sample

__all__ = [
    "CoordinateMinima",
    "CoordinateMinimum",
    "Diagonal",
    "Entry",
    "Estimate",
    "Hessian",
    "Plan",
    "Sample",
    "Samples",
    "coordinate_minimum",
    "diagonal",
    "estimate",
    "operator",
    "plan",
    "product",
    "radius",
    "sample",
    "testing",
]
