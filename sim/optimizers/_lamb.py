"""LAMB: layer-wise adaptation of Adam's steps."""

from typing import Any

import torch
from torch import Tensor

from hessian import torch_private
from sim import _arguments
from sim.optimizers._layerwise import LayerWise, bounded, floored, norms, scaled
from sim.optimizers._rule import Bucket, flag, preset

PAPER: dict[str, Any] = {
    "zero_norm": "floor",
    "adapt": "always",
    "max_grad_norm": None,
    "clip": False,
}
REFERENCES: dict[str, dict[str, Any]] = {
    "default": PAPER,
    "you2020": PAPER | {"zero_norm": "literal"},
    "timm": PAPER | {"zero_norm": "one", "adapt": "decayed", "max_grad_norm": 1.0},
    "apex": PAPER | {"zero_norm": "one", "adapt": "decayed", "max_grad_norm": 1.0},
    "apex-nvlamb": PAPER | {"zero_norm": "one", "max_grad_norm": 1.0},
}
DECAYS = ("decoupled", "l2")


class LAMB(LayerWise):
    """LAMB: every tensor moves by the same share of its norm, in the direction of Adam.

    With g = dL/dw, γ = `lr`, β₁ = `momentum`, β₂ = `beta2`, β = `weight_decay`, in step t

        m ← β₁ m + (1 - β₁) g,    v ← β₂ v + (1 - β₂) g²,
        u = m/(1 - β₁ᵗ) / (√(v/(1 - β₂ᵗ)) + eps) + β w,
        w ← w - γ λ u,    λ = ‖w‖ / ‖u‖

    **Sources differ** in zero norms, in tensors that are not decayed, in clipping and in bias
    correction; `like` selects what one of them does, and an option given beside it goes first. The
    default is the rule above with the floor of `LARS`: in λ the root mean square of w counts for
    at least `floor`, so that a tensor of zeros starts to move, by γ·`floor` per entry (root mean
    square). Taken literally it never moves; with λ = 1, as in timm and apex, its first step is γ
    per entry. A tensor that never had a gradient is moved by weight decay only, by γ‖w‖, or the
    floor's length where that is more.

    Args:
        params: tensors, (name, tensor) pairs, or groups of either, which may have own options.
        lr: γ, at least 0.
        momentum: β₁ in [0, 1).
        weight_decay: β, at least 0.
        like: `"default"`, `"you2020"`, `"timm"`, `"apex"` or `"apex-nvlamb"`: `zero_norm`, `adapt`,
            `max_grad_norm` and `clip` as there.
        beta2: β₂ in [0, 1).
        eps: positive.
        bias_correction: without it the divisors 1 - β₁ᵗ and 1 - β₂ᵗ are 1.
        grad_averaging: without it the factor 1 - β₁ of g is 1 (apex's and timm's option).
        decay: `"decoupled"` as above; `"l2"`: βw is added to g before m and v (apex's
            `adam_w_mode=False`).
        zero_norm: what λ is where ‖w‖ or ‖u‖ is 0. `"floor"`: see above, and 0 where ‖u‖ is 0.
            `"one"`: 1 (timm, apex). `"literal"`: as printed, 0 or nan.
        floor: smallest root mean square of w, positive; for `zero_norm="floor"`.
        max_grad_norm: all gradients together are scaled down to this norm first; `None` for never.
        clip: λ does not exceed 1 (timm's `trust_clip`).
        one_dimensional: `"adapt"` like others; `"plain"`: λ = 1 and no decay for tensors of fewer
            than two dimensions.
        adapt: `"always"` (apex's `use_nvlamb`, timm's `always_adapt`); `"decayed"`: λ = 1 in
            groups with β = 0 (timm, apex); `"never"`: λ = 1, which is Adam.
        grouping: `"tensor"`: norms are those of a tensor; `"group"`: of a group as one vector.
        foreach: as for `CBLR`.

    Raises:
        ValueError: an argument is out of its range; `max_grad_norm` is not the same in all groups.

    Source: You et al. (2020), algorithm 2, with φ the identity; named in Gao & Zhong (2020),
    section 4.3.

    Example:
        In the first step m/√v is the sign of g, so ‖u‖ = √2 and λ = √2.

        >>> w = torch.nn.Parameter(torch.tensor([2.0, 0.0]))
        >>> optimizer = LAMB([w], lr=0.5)
        >>> w.grad = torch.tensor([3.0, -3.0])
        >>> optimizer.step()
        >>> w.data
        tensor([1.2929, 0.7071])
    """

    ZERO_NORMS = ("floor", "literal", "one")
    _keys = ("exp_avg", "exp_avg_sq", "step")
    _references = REFERENCES

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        like: str = "default",
        beta2: float = 0.999,
        eps: float = 1e-6,
        bias_correction: bool = True,
        grad_averaging: bool = True,
        decay: str = "decoupled",
        zero_norm: str | None = None,
        floor: float = 1e-3,
        max_grad_norm: float | None = None,
        clip: bool | None = None,
        one_dimensional: str = "adapt",
        adapt: str | None = None,
        grouping: str = "tensor",
        foreach: bool | None = None,
    ) -> None:
        self._clip_factor: Tensor | None = None
        super().__init__(params, preset(REFERENCES, locals()))

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        _arguments.number("beta2", group["beta2"], 0.0, 1.0)
        _arguments.number("eps", group["eps"], 0.0, open_=True)
        _arguments.choice("decay", group["decay"], DECAYS)
        for option in ("bias_correction", "grad_averaging", "clip"):
            flag(option, group[option])
        limit = group["max_grad_norm"]
        if limit is not None:
            _arguments.number("max_grad_norm", limit, 0.0, open_=True)
        if limit != self.param_groups[0]["max_grad_norm"]:
            raise ValueError(
                f"max_grad_norm: got {limit!r} beside {self.param_groups[0]['max_grad_norm']!r}; "
                "it is for all gradients together, so give every group the same"
            )

    def _prepare(self, buckets: list[Bucket]) -> None:
        limit = self.param_groups[0]["max_grad_norm"]
        if limit is None or not buckets:
            self._clip_factor = None
            return
        device = buckets[0].weights[0].device
        whole = {"grouping": "group"}
        squares = [norms(b.gradients, whole, b.parameters).square().to(device) for b in buckets]
        total = torch.stack(squares).sum().sqrt()
        self._clip_factor = (limit / total).clamp(max=1.0)

    def _update(self, group: dict[str, Any], bucket: Bucket, beta: float, adapted: bool) -> None:
        """One step along Adam's direction at the rate γλ, λ = 1 where not `adapted`."""
        first, second = group["momentum"], group["beta2"]
        gradients = bucket.gradients
        if self._clip_factor is not None:
            factor = self._clip_factor.to(gradients[0].device).expand(1)
            gradients = scaled(gradients, factor, 1.0)
        if beta and group["decay"] == "l2":
            gradients = list(torch_private.foreach_add(gradients, bucket.weights, alpha=beta))
        means, _ = self._state(bucket, "exp_avg")
        squares, _ = self._state(bucket, "exp_avg_sq")
        torch_private.foreach_mul_(means, first)
        torch_private.foreach_add_(
            means, gradients, alpha=1 - first if group["grad_averaging"] else 1.0
        )
        torch_private.foreach_mul_(squares, second)
        torch_private.foreach_addcmul_(squares, gradients, gradients, value=1 - second)
        counts = []
        for parameter in bucket.parameters:
            state = self.state[parameter]
            state["step"] = int(state.get("step", 0)) + 1
            counts.append(state["step"])
        first_correction, second_correction = [1.0] * len(counts), [1.0] * len(counts)
        if group["bias_correction"]:
            first_correction = [1 - first**t for t in counts]
            second_correction = [(1 - second**t) ** 0.5 for t in counts]
        roots = torch_private.foreach_sqrt(squares)
        torch_private.foreach_div_(roots, second_correction)
        torch_private.foreach_add_(roots, group["eps"])
        directions = list(torch_private.foreach_div(means, first_correction))
        torch_private.foreach_div_(directions, roots)
        if beta and group["decay"] == "decoupled":
            torch_private.foreach_add_(directions, bucket.weights, alpha=beta)
        rates = self._rates(group, bucket, directions, beta) if adapted else None
        rates = bounded(group, rates, directions[0].dtype)
        torch_private.foreach_sub_(bucket.weights, scaled(directions, rates, float(group["lr"])))
        bucket.write()

    def _rates(
        self, group: dict[str, Any], bucket: Bucket, directions: list[Tensor], beta: float
    ) -> Tensor:
        weight = norms(bucket.weights, group, bucket.parameters)
        length = norms(directions, group, bucket.parameters)
        zero = group["zero_norm"]
        if zero == "floor":
            weight = floored(weight, bucket.parameters, group["floor"], group)
        ratio = weight / length
        if zero == "one":
            ratio = torch.where((weight > 0) & (length > 0), ratio, 1.0)
        elif zero == "floor":
            ratio = torch.where(length == 0, 0.0, ratio)
        return ratio.clamp(max=1.0) if group["clip"] else ratio
