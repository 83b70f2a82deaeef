"""The largest eigenvalue of the Hessian, scaled by the rates of a rule."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

import hessian
from sim import _arguments
from sim._isolation import isolated


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
    eigenvector grows. Without `radius` that is the bound of plain gradient descent. It is the first
    value of ``hessian.operator(…).scaled(radius).top()``.

    Where ρ is the radius of CBLR the diagonal of ρH is ±1 (but for gradients near 1 and entries at
    the cap), and λ_max says by how much the whole is sharper than its diagonal: from 1, where H is
    diagonal, to P, where all P parameters do the same.

    Args:
        model, loss, data, forward: as for `hessian.operator`.
        radius: name → ρ ≥ 0, finite, in the parameter's shape, for every trainable parameter, such
            as `CBLR.radius` returns; `None` for 1.
        tolerance: relative, in (0, 1), as for `hessian.Hessian.top`, which comes from below.

    Returns:
        The largest eigenvalue (not the largest in size: a direction of negative curvature is
        left at any rate), in units of 1/γ.

    Raises:
        ValueError: a rate is missing, of another shape, negative or not finite; what
            `hessian.operator` raises.
        RuntimeError: the eigenvalue did not come within the tolerance.

    Source: the scaled Hessian of design of diagonal preconditioners; momentum: Polyak (1964).

    Example:
        L = (2w₀ + w₁ - 1)² has H = [[8, 4], [4, 2]], and with ρ = 1/diag H both parameters do the
        same: λ_max is 2 = P.

        >>> import torch
        >>> model = nn.Linear(2, 1, bias=False)
        >>> pair = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]])
        >>> round(sharpness(model, nn.functional.mse_loss, pair), 4)
        10.0
        >>> rate = {"weight": 1 / torch.tensor([[8.0, 2.0]])}
        >>> round(sharpness(model, nn.functional.mse_loss, pair, rate), 4)
        2.0
    """
    _arguments.number("tolerance", tolerance, 0.0, 1.0, open_=True)
    with isolated():
        operator = hessian.operator(model, loss, data, forward=forward)
        if radius is not None:
            operator = operator.scaled(radius)
        top = operator.top(tolerance=tolerance)
    if not top.converged:
        raise RuntimeError(
            f"tolerance: after {top.products} products the largest eigenvalue {top[0].value:.4g} "
            f"is only known to {top[0].error:.2g}, not to {tolerance:g} of itself, which happens "
            "beside a far larger negative curvature; pass a larger tolerance"
        )
    return top[0].value
