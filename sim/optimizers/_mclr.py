"""Median-curvature learning rates (equations 20 to 22)."""

from typing import Any

import torch
from torch import Tensor

from sim import _arguments
from sim.optimizers._layerwise import LayerWise, floored, norms
from sim.optimizers._median import median
from sim.optimizers._rule import Bucket, options
from sim.optimizers._shards import spread_out, whole

READINGS = ("absolute", "ratio", "signed")


class MCLR(LayerWise):
    """Median-curvature learning rate: a group's rate is the median of its approximate radii.

    With g = dL/dw, γ = `lr`, m = `momentum`, β = `weight_decay` and med the median over a group
    (the mean of the middle two where the count is even),

        w ← w - γ v,    v ← m v + R (g + β w)

    where R is, by `reading` of equation 22 (equation 20 for β = 0),

        "absolute"   med|w| / (med|g| + β med|w|)
        "signed"     |med w / (med g + β med w)|
        "ratio"      med |w / (g + βw)|, without entries of 0/0

    **Sources differ**: "median values of parameter, gradient and curvature radius" can mean any of
    the three. As printed it is `"signed"`, but weights and gradients are spread around 0, where
    the quotient of two medians has any size at all; the default is `"absolute"`.

    Every reading can be 0 (half of the weights are) or infinite (half of the gradients are, behind
    ReLU). So by default med|w| and |med w| count for at least `floor`, and the step is at most
    `limit` times as long as that of LARS with η = 1; where the median of the gradients is 0, it is
    just that long.

    Args:
        params: tensors, (name, tensor) pairs, or groups of either, which may have own options.
        lr: γ, at least 0.
        momentum: m in [0, 1).
        weight_decay: β, at least 0.
        reading: see above.
        zero_norm: `"floor"`: see above; for `"ratio"` the floor holds for |w| entry by entry.
            `"one"`: R = 1 where it would be 0, infinite or nan. `"literal"`: as printed.
        floor: positive.
        limit: positive, for `zero_norm="floor"`; `None` for none.
        one_dimensional: `"adapt"` like others; `"plain"`: R = 1 and no decay for tensors of fewer
            than two dimensions.
        momentum_form: `"rate-outside"` as above; others as for `LARS`.
        grouping: `"tensor"`: a group is a tensor; `"group"`: a parameter group.
        foreach: as for `CBLR`.

    Raises:
        ValueError: an argument is out of its range.

    Source: Gao & Zhong (2020), equations 20 to 22. Floor and limit are not in the paper.

    Example:
        The medians of |w| and |g| are 2 and 0.5, so R = 4.

        >>> w = torch.nn.Parameter(torch.tensor([-1.0, 2.0, 3.0]))
        >>> optimizer = MCLR([w], lr=0.25)
        >>> w.grad = torch.tensor([1.0, -0.5, 0.25])
        >>> optimizer.step()
        >>> w.data
        tensor([-2.0000,  2.5000,  2.7500])
    """

    ZERO_NORMS = ("floor", "literal", "one")

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        reading: str = "absolute",
        zero_norm: str = "floor",
        floor: float = 1e-3,
        limit: float | None = 10.0,
        one_dimensional: str = "adapt",
        momentum_form: str = "rate-outside",
        grouping: str = "tensor",
        foreach: bool | None = None,
    ) -> None:
        super().__init__(params, options(locals()))

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        _arguments.choice("reading", group["reading"], READINGS)
        if group["limit"] is not None:
            _arguments.number("limit", group["limit"], 0.0, open_=True)

    def _rates(
        self, group: dict[str, Any], bucket: Bucket, directions: list[Tensor], beta: float
    ) -> Tensor:
        """The median radius of every tensor, within the limit of the ratio of its norms."""
        weights, gradients = bucket.weights, bucket.gradients
        if spread_out(bucket.parameters):
            weights, gradients = (
                [whole(part, p) for part, p in zip(parts, bucket.parameters, strict=True)]
                for parts in (weights, gradients)
            )
        pairs = list(zip(weights, gradients, strict=True))
        pools = [pairs] if group["grouping"] == "group" else [[pair] for pair in pairs]
        floor = group["floor"] if group["zero_norm"] == "floor" else 0.0
        radius = torch.stack([_radius(pool, beta, group["reading"], floor) for pool in pools])
        if group["zero_norm"] == "one":
            radius = torch.where((radius > 0) & radius.isfinite(), radius, 1.0)
        if group["limit"] is None or not floor:
            return radius
        step = norms(directions, group, bucket.parameters)
        length = norms(bucket.weights, group, bucket.parameters)
        lars = floored(length, bucket.parameters, floor, group) / step
        lars = torch.where(step == 0, 0.0, lars)
        # An infinite median is no guide; the norms are.
        radius = torch.where(radius == torch.inf, lars, radius)
        return torch.minimum(radius, group["limit"] * lars)


def _radius(pairs: list[tuple[Tensor, Tensor]], beta: float, reading: str, floor: float) -> Tensor:
    """Equation 22 in one of its readings, over all entries of the pairs (w, g); float64."""
    if reading == "ratio":

        def ratio(w: Tensor, g: Tensor) -> Tensor:
            size = w.abs().clamp(min=floor) if floor else w.abs()
            return size / (g + beta * w).abs()

        return median(pairs, ratio, without_nan=True)
    weights, gradients = ([(pair[k],) for pair in pairs] for k in (0, 1))
    if reading == "absolute":
        weight, gradient = median(weights, torch.abs), median(gradients, torch.abs)
        return weight.clamp(min=floor) / (gradient + beta * weight)
    weight, gradient = median(weights, torch.positive), median(gradients, torch.positive)
    return weight.abs().clamp(min=floor) / (gradient + beta * weight).abs()
