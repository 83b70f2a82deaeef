"""The largest eigenvalue of the Hessian, scaled by the rates of a rule."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor, nn

import hessian
from sim import _arguments
from sim._isolation import isolated

# Lanczos vectors kept at a time: few, because each is as long as the network has parameters.
VECTORS = 8


def sharpness(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    data: Any,
    radius: Mapping[str, Tensor] | None = None,
    *,
    tolerance: float = 0.02,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> float:
    """λ_max(ρ^½ H ρ^½), H the Hessian of the loss and ρ the rate of every parameter.

    The step w ← w - γ ρ g has, with ρ held, the Jacobian 1 - γ ρ H, and ρH has the eigenvalues of
    the symmetric ρ^½ H ρ^½. A quadratic loss is therefore descended in every direction just where
    γ < 2/λ_max, and with momentum m where γ < 2(1 + m)/λ_max; beyond it the step along the top
    eigenvector grows. Without `radius` that is the bound of plain gradient descent.

    Where ρ is the radius of CBLR the diagonal of ρH is ±1 (but for gradients near 1 and entries at
    the cap), and λ_max says by how much the whole is sharper than its diagonal: from 1, where H is
    diagonal, to P, where all P parameters do the same.

    Args:
        model, loss, data, forward: as for `hessian.operator`.
        radius: name → ρ ≥ 0, finite, in the parameter's shape, for every trainable parameter, such
            as `CBLR.radius` returns; `None` for 1.
        tolerance: relative, in (0, 1). SciPy's `eigsh` comes from below.

    Returns:
        The largest eigenvalue (not the largest in size: a direction of negative curvature is
        left at any rate), in units of 1/γ.

    Raises:
        ValueError: a rate is missing, of another shape, negative or not finite; what
            `hessian.operator` raises.

    Source: the scaled Hessian of design of diagonal preconditioners; momentum: Polyak (1964).

    Example:
        L = (2w₀ + w₁ - 1)² has H = [[8, 4], [4, 2]], and with ρ = 1/diag H both parameters do the
        same: λ_max is 2 = P.

        >>> model = nn.Linear(2, 1, bias=False)
        >>> pair = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]])
        >>> round(sharpness(model, nn.functional.mse_loss, pair), 6)
        10.0
        >>> rate = {"weight": 1 / torch.tensor([[8.0, 2.0]])}
        >>> round(sharpness(model, nn.functional.mse_loss, pair, rate), 6)
        2.0
    """
    _arguments.number("tolerance", tolerance, 0.0, 1.0, open_=True)
    with isolated(), hessian.operator(model, loss, data, forward=forward).kept() as operator:
        return _largest(operator, radius, tolerance)


def _largest(
    operator: hessian.Hessian, radius: Mapping[str, Tensor] | None, tolerance: float
) -> float:
    """The largest eigenvalue, dense where the Hessian is small, else by Lanczos."""
    root = _root(operator, radius)

    def multiply(vector: NDArray[Any]) -> NDArray[Any]:
        product = operator @ (root * vector.reshape(-1)).astype(operator.dtype)
        scaled: NDArray[Any] = (root * product).astype(operator.dtype)
        return scaled

    size = operator.shape[0]
    if size <= VECTORS:
        dense = np.stack([multiply(row) for row in np.eye(size, dtype=operator.dtype)])
        return float(np.linalg.eigvalsh(dense.astype(np.float64))[-1])
    scaled = LinearOperator(operator.shape, matvec=multiply, dtype=operator.dtype)
    start = np.random.default_rng(0).standard_normal(size).astype(operator.dtype)
    try:
        eigenvalues = eigsh(
            scaled, k=1, which="LA", tol=tolerance, ncv=VECTORS, v0=start, return_eigenvectors=False
        )
    except ArpackError:
        if multiply(start).any():
            raise
        return 0.0  # without curvature, or at rates of zero, it has no vector to begin with
    return float(eigenvalues[0])


def _root(operator: hessian.Hessian, radius: Mapping[str, Tensor] | None) -> NDArray[Any]:
    """ρ^½, flattened and concatenated like the operator's vectors."""
    if radius is None:
        return np.ones(operator.shape[0], dtype=operator.dtype)
    parts = []
    for name, shape in zip(operator.names, operator.shapes, strict=True):
        if name not in radius:
            raise ValueError(f"radius: the parameter {name!r} is missing; give a rate for each")
        value = radius[name]
        if tuple(value.shape) != shape:
            raise ValueError(
                f"radius: {name!r} has shape {tuple(value.shape)} where the parameter has {shape}; "
                "give one rate for each entry"
            )
        if not bool(((value >= 0) & value.isfinite()).all()):
            raise ValueError(
                f"radius: {name!r} holds a negative or infinite rate; cap it, as CBLR does"
            )
        parts.append(value.detach().double().sqrt().cpu().reshape(-1))
    return torch.cat(parts).numpy().astype(operator.dtype)
