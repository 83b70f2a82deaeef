"""Radius of curvature of the loss along one parameter (Gao & Zhong 2020, equation 9)."""

from __future__ import annotations

import torch
from torch import Tensor


def radius(gradient: Tensor, curvature: Tensor) -> Tensor:
    """Radius of curvature R = (1 + g²)^{3/2} / |h|, elementwise.

    The graph of the loss along one weight, a plane curve w ↦ L(w) with slope g and second
    derivative h, is locally a circle of this radius. R is in the units in which both axes are
    drawn to the same scale, so it is *not* invariant to rescaling the loss: L → kL changes it.

    Args:
        gradient: g = dL/dw, any shape.
        curvature: h = d²L/dw², a shape that broadcasts with `gradient`.

    Returns:
        R, non-negative; infinite where h = 0, also where g = 0 as well. NaN stays NaN.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: the shapes do not broadcast.

    Source: Gao & Zhong (2020), equation 9; the classical radius of curvature of a graph.

    Example:
        >>> import torch
        >>> radius(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([2.0, -1.0, 0.0]))
        tensor([0.5000, 2.8284,    inf])
    """
    for name, value in (("gradient", gradient), ("curvature", curvature)):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name} must be a torch.Tensor, got {type(value).__name__}; "
                "use torch.as_tensor(...)"
            )
    try:
        torch.broadcast_shapes(gradient.shape, curvature.shape)
    except RuntimeError:
        raise ValueError(
            f"curvature has shape {tuple(curvature.shape)}, which does not broadcast with "
            f"gradient of shape {tuple(gradient.shape)}; pass both for the same parameter"
        ) from None
    # hypot keeps 1 + g² from overflowing where the cube root of the result does not.
    slope = torch.hypot(torch.ones_like(gradient), gradient)
    return slope.pow(3) / curvature.abs()
