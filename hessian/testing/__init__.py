"""Proving a network, a loss or an operation of one's own: second differences of the loss's value.

| question | call |
|---|---|
| is `hessian.diagonal` exact on this? | `assert_exact` |
| what do values of the loss alone say about d²L/dw²? | `differences` |
| random networks, losses and data for property tests | `hessian.testing.strategies` |
"""

from hessian.testing._exact import Exactness as Exactness
from hessian.testing._exact import assert_exact as assert_exact
from hessian.testing._oracle import Differences as Differences
from hessian.testing._oracle import Record as Record
from hessian.testing._oracle import differences as differences

__all__ = ["Differences", "Exactness", "Record", "assert_exact", "differences"]
