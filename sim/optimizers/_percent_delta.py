"""PercentDelta (equation 24)."""

from typing import Any

import torch
from torch import Tensor

from hessian import torch_private
from sim import _arguments
from sim.optimizers._layerwise import LayerWise, norms, sizes
from sim.optimizers._rule import Bucket, options


class PercentDelta(LayerWise):
    """PercentDelta: the weights of a tensor change by the share γ of themselves, on average.

    With g = dL/dw, γ = `lr`, m = `momentum`, β = `weight_decay` and n the entries of a tensor,

        R = n / ‖(g + βw) / w‖₁,    v ← m v + R (g + βw),    w ← w - γ v

    so that without momentum the mean of |Δw/w| is γ (equation 24). Multiplying the loss by a
    constant changes nothing when β = 0.

    **Sources differ** in small weights. As printed, one zero weight with a gradient makes the norm
    infinite and R = 0: the whole tensor stays. The published code adds ±1e-6 to w, so that a zero
    weight counts a million times as much as a weight of 1, and 1e-5 to the mean. The default counts
    |w| for at least `floor`, the smallest size of which a change by γ is to be measured; a tensor
    of zeros then starts with a mean |Δw| of γ·`floor`. A tensor without gradient does not move, or
    only shrinks by γ, where β > 0; entries below the floor by as much as if they were there.

    Args:
        params: tensors, (name, tensor) pairs, or groups of either, which may have own options.
        lr: γ, the target of the published code, at least 0.
        momentum: m in [0, 1).
        weight_decay: β, at least 0.
        zero_norm: `"floor"`: see above. `"google"`: R = 1 / (mean|(g + βw)/(w ± eps_weight)| +
            eps_mean), with + where w ≥ 0. `"nonzero"`: n and the norm are over the entries with
            w ≠ 0 only, and R = 0 if there are none. `"literal"`: as printed, where 0/0 adds 0.
        floor: positive.
        eps_weight: positive.
        eps_mean: at least 0.
        one_dimensional: `"adapt"` like others; `"plain"`: R = 1 and no decay for tensors of fewer
            than two dimensions.
        momentum_form: `"rate-outside"` as above; others as for `LARS`.
        grouping: `"tensor"`: a group is a tensor; `"group"`: a parameter group.
        foreach: as for `CBLR`.

    Raises:
        ValueError: an argument is out of its range.

    Source: Abu-El-Haija (2017), "Proportionate gradient updates with PercentDelta", and its code in
    google/asymproj_edge_dnn, which has no momentum and a schedule for the target; Gao & Zhong
    (2020), equation 24.

    Example:
        g/w = (0.5, 0.25, 0), so R = 3/0.75 = 4.

        >>> w = torch.nn.Parameter(torch.tensor([2.0, 4.0, 1.0]))
        >>> optimizer = PercentDelta([w], lr=0.25)
        >>> w.grad = torch.tensor([1.0, 1.0, 0.0])
        >>> optimizer.step()
        >>> w.data
        tensor([1., 3., 1.])
    """

    ZERO_NORMS = ("floor", "google", "literal", "nonzero")

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        zero_norm: str = "floor",
        floor: float = 1e-3,
        eps_weight: float = 1e-6,
        eps_mean: float = 1e-5,
        one_dimensional: str = "adapt",
        momentum_form: str = "rate-outside",
        grouping: str = "tensor",
        foreach: bool | None = None,
    ) -> None:
        super().__init__(params, options(locals()))

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        _arguments.number("eps_weight", group["eps_weight"], 0.0, open_=True)
        _arguments.number("eps_mean", group["eps_mean"], 0.0)

    def _rates(
        self, group: dict[str, Any], bucket: Bucket, directions: list[Tensor], beta: float
    ) -> Tensor:
        """One over the mean relative size of every tensor's direction, in the chosen form."""
        form = group["zero_norm"]
        weights = bucket.weights
        count = sizes(bucket.parameters, group)
        if form == "google":
            # |w ± eps| = |w| + eps, whatever the sign.
            size = list(
                torch_private.foreach_add(torch_private.foreach_abs(weights), group["eps_weight"])
            )
        else:
            size = list(torch_private.foreach_abs(weights))
        if form == "floor":
            torch_private.foreach_clamp_min_(size, group["floor"])
        shares = list(torch_private.foreach_div(directions, size))
        if form == "literal":
            for share, direction in zip(shares, directions, strict=True):
                share.masked_fill_(direction == 0, 0.0)
        elif form == "nonzero":
            for share, weight in zip(shares, weights, strict=True):
                share.masked_fill_(weight == 0, 0.0)
            there = [(weight != 0).double() for weight in weights]
            count = norms(there, group, bucket.parameters, order=1)
        total = norms(shares, group, bucket.parameters, order=1)
        if form == "google":
            trust: Tensor = 1 / (total / count + group["eps_mean"])
            return trust
        # A norm of zero is that of a direction of zeros, which no rate can change.
        return torch.where(total == 0, 0.0, count / total)
