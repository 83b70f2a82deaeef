"""λ_max of the Hessian, from the eigenvector of last time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, eigsh

import hessian

# Lanczos vectors kept at a time: from a random vector, and from one that is nearly right.
COLD, WARM = 8, 4
# Of a random vector, added to the last eigenvector: one that has become the top since then may
# have no part in it.
NOISE = 0.05


def top_eigenvalue(
    operator: hessian.Hessian, last: NDArray[Any] | None, tolerance: float
) -> tuple[float, NDArray[Any]]:
    """The largest eigenvalue of the Hessian, and an eigenvector to begin with the next time.

    SciPy's restarted Lanczos iteration, which ends when the residual is below `tolerance` times the
    eigenvalue: an eigenvalue is at most so far away, and mostly about the square of it.
    """
    size = operator.shape[0]
    if size <= COLD:
        dense = (operator @ np.eye(size, dtype=operator.dtype)).astype(np.float64)
        values, vectors = np.linalg.eigh(dense)
        return float(values[-1]), vectors[:, -1]
    tolerance = max(tolerance, 100 * float(np.finfo(operator.dtype).eps))
    start = np.random.default_rng(0).standard_normal(size).astype(operator.dtype)
    start /= np.linalg.norm(start)
    if last is not None and last.size != size:
        last = None  # other parameters than last time
    if last is not None:
        start *= operator.dtype.type(NOISE)
        start += last
    few = COLD if last is None else WARM
    try:
        with operator.kept() as products:
            values, vectors = eigsh(products, k=1, which="LA", tol=tolerance, ncv=few, v0=start)
    except ArpackError:
        if (operator @ start).any():
            raise
        return 0.0, start  # without curvature it has no vector to begin with
    return float(values[0]), vectors[:, 0]
