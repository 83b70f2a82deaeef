"""Layer-wise adaptive rate scaling (equation 23)."""

from typing import Any

import torch
from torch import Tensor

from hessian import torch_private
from sim import _arguments
from sim.optimizers._layerwise import LayerWise, floored, norms, scaled
from sim.optimizers._rule import Bucket, flag, preset

CANONICAL: dict[str, Any] = {
    "trust_coefficient": 1.0,
    "eps": 0.0,
    "denominator": "separate",
    "zero_norm": "floor",
    "floor": 1e-3,
    "one_dimensional": "adapt",
    "adapt": "always",
    "clip": False,
    "decay": "coupled",
    "momentum_form": "rate-inside",
}
YOU = CANONICAL | {"trust_coefficient": 1e-3, "zero_norm": "literal"}
TORCH = YOU | {"zero_norm": "one", "momentum_form": "rate-outside"}
# What each published implementation does, as far as it differs from the paper by You et al.
REFERENCES: dict[str, dict[str, Any]] = {
    "default": CANONICAL,
    "you2017": YOU,
    "noahgolmant": YOU,
    "timm": TORCH | {"eps": 1e-8, "adapt": "decayed"},
    "apex-larc": TORCH
    | {"trust_coefficient": 0.02, "eps": 1e-8, "zero_norm": "skip", "clip": True},
    "torchlars": TORCH | {"eps": 1e-8},
    "pytorch-optimizer": TORCH | {"one_dimensional": "plain", "zero_norm": "one-denominator"},
    "pytorch-optimizer-3.6": TORCH
    | {"one_dimensional": "plain", "denominator": "gradient", "momentum_form": "raw-first"},
    "pytorch-optimizer-3": TORCH
    | {"one_dimensional": "plain", "denominator": "gradient", "momentum_form": "doubled-first"},
    "barlowtwins": TORCH | {"denominator": "combined"},
    "tf-contrib": TORCH | {"decay": "ratio-only", "momentum_form": "rate-on-history"},
}
DENOMINATORS = ("combined", "gradient", "separate")
DECAYS = ("coupled", "ratio-only")


class LARS(LayerWise):
    """Layer-wise adaptive rate scaling: every tensor moves by the same share of its own norm.

    With g = dL/dw, γ = `lr`, m = `momentum`, β = `weight_decay` and η = `trust_coefficient`,

        λ = η ‖w‖ / (‖g‖ + β ‖w‖),    v ← m v + γ λ (g + β w),    w ← w - v

    which without decay and with η = 1 is equation 23, Δw = γ ‖w‖/‖g‖ g. Multiplying the loss by
    a constant changes nothing then, and w ← kw, g ← g/k scales the step by k.

    **Sources differ** in η, in zero norms, in the denominator, in tensors that are not decayed and
    in where momentum meets the rate; `like` selects what one of them does, and an option given
    beside it goes first. The default is You et al.'s rule with η = 1, so that `lr` is the γ of
    equation 23, and with a floor: in the numerator the root mean square of w counts for at least
    `floor`, as in Adafactor. A tensor of zeros then starts to move, by γ·`floor` per entry (root
    mean square): taken literally it would stay where it is for ever, and with λ = 1, most
    references' choice, it would make a step 1/η times as long as the others'. For the same reason
    one-dimensional tensors are adapted like the others. A tensor without gradient is moved by
    weight decay only, by at most ηγ‖w‖.

    Args:
        params: tensors, (name, tensor) pairs, or groups of either, which may have own options.
        lr: γ, at least 0.
        momentum: m in [0, 1).
        weight_decay: β, at least 0.
        like: `"default"`, `"you2017"`, `"timm"`, `"apex-larc"`, `"torchlars"`,
            `"pytorch-optimizer"` (4.0 and 4.1), `"pytorch-optimizer-3.6"` (to 3.10),
            `"pytorch-optimizer-3"` (to 3.5), `"barlowtwins"`, `"noahgolmant"` or `"tf-contrib"`:
            the options below as that implementation has them.
        trust_coefficient: η, positive.
        eps: added to the denominator.
        denominator: `"separate"` ‖g‖ + β‖w‖; `"combined"` ‖g + βw‖ (barlowtwins, the style of
            equation 22); `"gradient"` ‖g‖ (equation 23 as printed; pytorch-optimizer before 4).
        zero_norm: what λ is where ‖w‖ or ‖g‖ is 0. `"floor"`: see above, and 0 where the
            denominator is 0. `"one"`: 1. `"one-denominator"`: 1 where ‖w‖ or the denominator is 0,
            so that decay alone has λ = η/β (pytorch-optimizer 4). `"skip"`: 1, without decay
            (apex-larc). `"literal"`: as printed, 0 or nan.
        floor: smallest root mean square of w, positive; for `zero_norm="floor"`.
        one_dimensional: `"adapt"` like others; `"plain"`: λ = 1 and no decay for tensors of fewer
            than two dimensions.
        adapt: `"always"`; `"decayed"`: λ = 1 in groups with β = 0 (timm); `"never"`: λ = 1, for a
            group that is to be left out (what skip lists do elsewhere).
        clip: γλ does not exceed γ (LARC).
        decay: `"coupled"` as above; `"ratio-only"`: β in λ, not in the step (tf-contrib).
        momentum_form: `"rate-inside"` as above. `"rate-outside"`: v ← m v + λ(g + βw),
            w ← w - γv, which differs when γ changes. `"rate-on-history"`: v ← m v + g + βw,
            w ← w - γλv (tf-contrib). Two as `"rate-outside"`, but for the first step:
            `"doubled-first"`, 1 + m times as long (pytorch-optimizer to 3.5); `"raw-first"`,
            λ(g + βw) + m g, where m g is not scaled (3.6 to 3.10).
        grouping: `"tensor"`: norms are those of a tensor; `"group"`: of a group as one vector.
        foreach: as for `CBLR`.

    Raises:
        ValueError: an argument is out of its range.

    Source: You, Gitman & Ginsburg (2017), algorithm 1; Gao & Zhong (2020), equation 23. The floor:
    Shazeer & Stern (2018).

    Example:
        ‖w‖ = 5 and ‖g‖ = 1, so that γ = 0.1 gives a step of length 0.5.

        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = LARS([w], lr=0.1)
        >>> w.grad = torch.tensor([1.0, 0.0])
        >>> optimizer.step()
        >>> w.data
        tensor([2.5000, 4.0000])
    """

    ZERO_NORMS = ("floor", "literal", "one", "one-denominator", "skip")
    _references = REFERENCES

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        like: str = "default",
        trust_coefficient: float | None = None,
        eps: float | None = None,
        denominator: str | None = None,
        zero_norm: str | None = None,
        floor: float | None = None,
        one_dimensional: str | None = None,
        adapt: str | None = None,
        clip: bool | None = None,
        decay: str | None = None,
        momentum_form: str | None = None,
        grouping: str = "tensor",
        foreach: bool | None = None,
    ) -> None:
        super().__init__(params, preset(REFERENCES, locals()))

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        _arguments.number("trust_coefficient", group["trust_coefficient"], 0.0, open_=True)
        _arguments.number("eps", group["eps"], 0.0)
        _arguments.choice("denominator", group["denominator"], DENOMINATORS)
        _arguments.choice("decay", group["decay"], DECAYS)
        flag("clip", group["clip"])

    def _update(self, group: dict[str, Any], bucket: Bucket, beta: float, adapted: bool) -> None:
        directions = bucket.gradients
        if beta and group["decay"] == "coupled":
            directions = list(torch_private.foreach_add(directions, bucket.weights, alpha=beta))
        rates = None
        if adapted:
            weight, gradient = (
                norms(bucket.weights, group, bucket.parameters),
                norms(bucket.gradients, group, bucket.parameters),
            )
            rates = self._ratio(group, bucket, weight, gradient, beta)
            if beta and group["zero_norm"] == "skip" and group["decay"] == "coupled":
                # Where a norm is zero there is no decay either.
                rates_of_decay = beta * ((weight > 0) & (gradient > 0)).double()
                decay = scaled(bucket.weights, rates_of_decay, 1.0)
                directions = list(torch_private.foreach_add(bucket.gradients, decay))
        self._descend(group, bucket, directions, rates)
        bucket.write()

    def _ratio(
        self,
        group: dict[str, Any],
        bucket: Bucket,
        weight: Tensor,
        gradient: Tensor,
        beta: float,
    ) -> Tensor:
        """λ for every tensor from the norms of weights and gradients, zero norms as was chosen."""
        denominator, slope = gradient, gradient
        if group["denominator"] == "separate":
            denominator = gradient + beta * weight
        elif group["denominator"] == "combined" and beta:
            both = torch_private.foreach_add(bucket.gradients, bucket.weights, alpha=beta)
            denominator = gradient = norms(list(both), group, bucket.parameters)
        denominator = denominator + group["eps"]
        zero = group["zero_norm"]
        if zero == "floor":
            # Decay alone shrinks what there is: no floor.
            least = floored(weight, bucket.parameters, group["floor"], group)
            weight = torch.where(slope > 0, least, weight)
        ratio = group["trust_coefficient"] * weight / denominator
        present = (weight > 0) & (gradient > 0)
        if zero == "one-denominator":
            present = (weight > 0) & (denominator > 0)
        if zero in ("one", "one-denominator"):
            ratio = torch.where(present, ratio, 1.0)
        elif zero == "floor":
            ratio = torch.where(denominator == 0, 0.0, ratio)
        if group["clip"] and group["lr"] >= 0:
            # λ/γ, which is infinite at γ = 0, where a warm-up may begin; but 0 for λ = 0.
            ratio = torch.where(ratio == 0, 0.0, ratio / float(group["lr"])).clamp(max=1.0)
        return torch.where(present, ratio, 1.0) if zero == "skip" else ratio
