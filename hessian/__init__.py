"""Exact second derivatives of a given network, for every parameter. Knows no paper.

| question | call |
|---|---|
| d²L/dw² of every parameter entry, exactly | `diagonal` |
| which exact method applies, why, at what cost | `plan` |
| exact values at random entries, for networks too large for all | `sample` |
| cheap substitutes with their standard errors | `estimate` |
| the true minimum along single weights, kinks and all | `coordinate_minimum` |
| eigenpairs, trace, density and layers of H, Gauss-Newton and Fisher; v → Hv | `operator` |
| a result from a file that its `save` wrote | `load` |
| radius of curvature from gradient and second derivative | `radius` |
| a loss of the logits, for models that return more than these | `on_logits` |
| a matrix product, by the library that is faster here | `product` |
| all of these for a function of tensors, without a module | `functional` |
| walking through the same batches oneself | `batches` |
| is it exact on a network or operation of one's own? | `testing.assert_exact` |
"""

from typing import TYPE_CHECKING

from hessian import batches as batches
from hessian import functional as functional
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
from hessian._hessian import Hessian as Hessian
from hessian._on_logits import on_logits as on_logits
from hessian._operator import operator as operator
from hessian._radius import radius as radius
from hessian._results.storage import load as load
from hessian._runtime.matrix_products import product as product
from hessian._sample import Sample as Sample
from hessian._sample import Samples as Samples
from hessian._sample import sample as sample
from hessian._spectrum.density import Density as Density
from hessian._spectrum.eigenpairs import Eigenpair as Eigenpair
from hessian._spectrum.eigenpairs import Eigenpairs as Eigenpairs
from hessian._spectrum.layers import Layer as Layer
from hessian._spectrum.layers import Layers as Layers
from hessian._spectrum.trace import Trace as Trace

__all__ = [
    "CoordinateMinima",
    "CoordinateMinimum",
    "Density",
    "Diagonal",
    "Eigenpair",
    "Eigenpairs",
    "Entry",
    "Estimate",
    "Hessian",
    "Layer",
    "Layers",
    "Plan",
    "Sample",
    "Samples",
    "Trace",
    "batches",
    "coordinate_minimum",
    "diagonal",
    "estimate",
    "functional",
    "load",
    "on_logits",
    "operator",
    "plan",
    "product",
    "radius",
    "sample",
    "testing",
]

if TYPE_CHECKING:
    __version__: str
else:  # not for type checkers, to which every name would then be one of this module's

    def __getattr__(name):
        """The version, which is looked up when it is first asked for."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from hessian._runtime.release import release

        return globals().setdefault(name, release())
