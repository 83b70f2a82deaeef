"""Radii of curvature as rates of lists of tensors, and the step along them."""

from typing import Any

from torch import Tensor

from hessian import torch_private


def radii(
    gradients: list[Tensor],
    curvatures: list[Tensor],
    *,
    max_radius: float,
    min_curvature: float = 0.0,
    damping: float = 0.0,
    negative: str = "absolute",
) -> list[Tensor]:
    """min(R, R_max) for lists of tensors (equation 9), R as the options of CBLR have it.

    >>> import torch
    >>> g, h = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([2.0, 0.0, 0.0])
    >>> radii([g], [h], max_radius=10.0)
    [tensor([ 1.4142, 10.0000, 10.0000])]
    """
    size = torch_private.foreach_abs(curvatures)
    if damping:
        torch_private.foreach_add_(size, damping)
    if min_curvature:
        torch_private.foreach_clamp_min_(size, min_curvature)
    radius = torch_private.foreach_mul(gradients, gradients)
    torch_private.foreach_add_(radius, 1.0)
    torch_private.foreach_mul_(radius, torch_private.foreach_sqrt(radius))
    torch_private.foreach_div_(radius, size)
    if negative != "absolute":
        for r, h in zip(radius, curvatures, strict=True):
            r.masked_fill_(h < 0, 1.0 if negative == "gradient" else 0.0)
    # Where (1 + g²)^{3/2} overflows it is infinite, and the cap holds all the same.
    torch_private.foreach_clamp_max_(radius, max_radius)
    return list(radius)


def rates(
    group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor], curvatures: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The gradients, with coupled decay where there is one, and the rate of each entry."""
    beta = group["weight_decay"]
    if beta and group["decay"] == "coupled":
        gradients = list(torch_private.foreach_add(gradients, weights, alpha=beta))
        curvatures = list(torch_private.foreach_add(curvatures, beta))
    options = {key: group[key] for key in ("max_radius", "min_curvature", "damping", "negative")}
    return gradients, radii(gradients, curvatures, **options)


def descend(
    group: dict[str, Any],
    weights: list[Tensor],
    gradients: list[Tensor],
    curvatures: list[Tensor],
    velocities: list[Tensor] | None,
) -> None:
    """One step of the weights of a group; the velocities, where there are any, change too."""
    lr, beta = float(group["lr"]), group["weight_decay"]
    gradients, steps = rates(group, weights, gradients, curvatures)
    torch_private.foreach_mul_(steps, gradients)
    if velocities is not None:
        torch_private.foreach_mul_(velocities, group["momentum"])
        torch_private.foreach_add_(velocities, steps)
        steps = velocities
    if beta and group["decay"] == "decoupled":
        torch_private.foreach_mul_(weights, 1 - lr * beta)
    torch_private.foreach_add_(weights, steps, alpha=-lr)
