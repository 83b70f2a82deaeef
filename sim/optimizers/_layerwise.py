"""What the layer-wise rules share: groups of one tensor or many, zero norms, forms of momentum."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hessian import devices, torch_private
from sim import _arguments
from sim.optimizers._rule import Bucket, Rule, evaluate, parts_of, pieces
from sim.optimizers._shards import reduced, spread_out

GROUPINGS = ("group", "tensor")
ONE_DIMENSIONAL = ("adapt", "plain")
ADAPT = ("always", "decayed", "never")
MOMENTUM_FORMS = ("doubled-first", "rate-inside", "rate-on-history", "rate-outside", "raw-first")


class LayerWise(Rule):
    """A rule whose rate λ is one number for each group of parameters.

    A subclass says what λ is (`_rates`) and how a zero norm may be treated (`ZERO_NORMS`).
    """

    ZERO_NORMS: tuple[str, ...] = ()

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        _arguments.choice("grouping", group["grouping"], GROUPINGS)
        _arguments.choice("zero_norm", group["zero_norm"], self.ZERO_NORMS)
        _arguments.number("floor", group["floor"], 0.0, open_=True)
        _arguments.choice("one_dimensional", group["one_dimensional"], ONE_DIMENSIONAL)
        for option, possible in (("momentum_form", MOMENTUM_FORMS), ("adapt", ADAPT)):
            if option in group:
                _arguments.choice(option, group[option], possible)

    def _check_parameter(self, name: str, parameter: Tensor) -> None:
        super()._check_parameter(name, parameter)
        if getattr(parameter, "_is_flat_param", False) or hasattr(parameter, "_fsdp_flattened"):
            raise ValueError(
                f"params: {name} is a piece of a flat parameter (FullyShardedDataParallel), which "
                f"has no norm of its own tensors; shard by torch.distributed.fsdp.fully_shard"
            )
        devices.check_float64(f"params: {name}", {parameter.device}, "norms are summed")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once; parameters without a gradient are left alone.

        Args:
            closure: evaluated first, with gradients on; its value is returned.

        Raises:
            ValueError: a sparse gradient; tensors that cannot form one group.
        """
        value = evaluate(closure)
        everything = []
        for index, group in enumerate(self.param_groups):
            together = group["grouping"] == "group"
            everything.append(self._buckets(index, together=together))
        self._prepare([bucket for buckets in everything for bucket in buckets])
        for group, buckets in zip(self.param_groups, everything, strict=True):
            for bucket in buckets:
                exempt = group["one_dimensional"] == "plain"
                plain = [exempt and weight.ndim <= 1 for weight in bucket.weights]
                rest = [i for i, is_plain in enumerate(plain) if not is_plain]
                alone = [i for i, is_plain in enumerate(plain) if is_plain]
                adapted = self._adapts(group)
                if rest:
                    self._update(group, bucket.pick(rest), group["weight_decay"], adapted)
                if alone:
                    self._update(group, bucket.pick(alone), 0.0, False)
        return value

    def _prepare(self, buckets: list[Bucket]) -> None:
        """See all gradients of the step before any parameter moves."""

    def _adapts(self, group: dict[str, Any]) -> bool:
        """Whether the group is adapted at all."""
        adapt = group.get("adapt", "always")
        return adapt == "always" or (adapt == "decayed" and bool(group["weight_decay"] > 0))

    def _update(self, group: dict[str, Any], bucket: Bucket, beta: float, adapted: bool) -> None:
        """One step of gradient descent on g + βw at the rate γλ, λ = 1 where not `adapted`."""
        directions = bucket.gradients
        if beta:
            directions = list(torch_private.foreach_add(directions, bucket.weights, alpha=beta))
        rates = None
        if adapted:
            rates = self._rates(group, bucket, directions, beta)
        self._descend(group, bucket, directions, rates)
        bucket.write()

    def _rates(
        self, group: dict[str, Any], bucket: Bucket, directions: list[Tensor], beta: float
    ) -> Tensor:
        """λ for every tensor of the bucket, float64, of length one where they form one group."""
        raise NotImplementedError

    def _descend(
        self,
        group: dict[str, Any],
        bucket: Bucket,
        directions: list[Tensor],
        rates: Tensor | None,
    ) -> None:
        """Step along the directions at their rates, in the chosen form of momentum."""
        lr, momentum = float(group["lr"]), group["momentum"]
        rates = bounded(group, rates, directions[0].dtype)
        form = group["momentum_form"] if momentum else "rate-outside"
        new = [False] * len(directions)
        lists = [bucket.weights, directions]
        if momentum:
            velocities, new = self._state(bucket, "momentum_buffer")
            lists += [velocities, bucket.gradients]
        for parts in pieces(lists):
            _move(parts, rates, new, form, lr, momentum)


def _move(
    parts: list[list[Tensor]],
    rates: Tensor | None,
    new: list[bool],
    form: str,
    lr: float,
    momentum: float,
) -> None:
    """A step of weights along directions; with momentum also of velocities, given gradients."""
    weights, directions, *rest = parts
    if form == "rate-on-history":
        velocities, _ = rest
        torch_private.foreach_mul_(velocities, momentum)
        torch_private.foreach_add_(velocities, directions)
        torch_private.foreach_sub_(weights, scaled(velocities, rates, lr))
        return
    steps = scaled(directions, rates, lr if form == "rate-inside" else 1.0)
    if momentum:
        velocities, gradients = rest
        if form in ("doubled-first", "raw-first"):
            starts = steps if form == "doubled-first" else gradients
            for velocity, start, is_new in zip(velocities, starts, new, strict=True):
                if is_new:
                    velocity.copy_(start)
        torch_private.foreach_mul_(velocities, momentum)
        torch_private.foreach_add_(velocities, steps)
        steps = velocities
    torch_private.foreach_add_(weights, steps, alpha=-1.0 if form == "rate-inside" else -lr)


def scaled(tensors: list[Tensor], rates: Tensor | None, factor: float) -> list[Tensor]:
    """Each tensor times its rate times the factor, in its own dtype."""
    if rates is None:
        return list(torch_private.foreach_mul(tensors, factor)) if factor != 1.0 else tensors
    factors = (rates * factor).expand(len(tensors)).unbind()
    return list(torch_private.foreach_mul(tensors, list(factors)))


def bounded(group: dict[str, Any], rates: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Rates that do not overflow a dtype, where they would turn entries of 0 into nan."""
    if rates is None or group["zero_norm"] == "literal":
        return rates
    return rates.clamp(max=torch.finfo(dtype).max)


def norms(
    tensors: list[Tensor], group: dict[str, Any], parameters: list[Tensor], order: int = 2
) -> Tensor:
    """‖·‖ of each tensor, or of all as one vector where they form one group; float64.

    Of parameters that are spread over processes `tensors` are the parts that are here. In float32
    the squares of gradients below 1e-23 would vanish, and with them the norm.
    """
    # A large tensor goes part by part, so that its float64 copy does not leave the cache.
    parts = [parts_of(tensor) for tensor in tensors]
    flat = torch_private.foreach_norm(
        [part for parts_of_tensor in parts for part in parts_of_tensor], order, dtype=torch.float64
    )
    tensor_norms = torch.stack(list(flat))
    if len(tensor_norms) > len(parts):
        values = tensor_norms.split([len(parts_of_tensor) for parts_of_tensor in parts])
        tensor_norms = torch.stack([torch.linalg.vector_norm(value, order) for value in values])
    if spread_out(parameters):
        sums = reduced(tensor_norms if order == 1 else tensor_norms.square(), parameters)
        tensor_norms = sums if order == 1 else sums.sqrt()
    if group["grouping"] == "tensor":
        return tensor_norms
    total = tensor_norms.sum() if order == 1 else torch.linalg.vector_norm(tensor_norms)
    return total.reshape(1)


def sizes(parameters: list[Tensor], group: dict[str, Any]) -> Tensor:
    """The number of entries of each tensor, or of all where they form one group; float64."""
    counts = [float(parameter.numel()) for parameter in parameters]
    if group["grouping"] == "group":
        counts = [sum(counts)]
    return torch.tensor(counts, dtype=torch.float64, device=parameters[0].device)


def floored(
    weight: Tensor, parameters: list[Tensor], floor: float, group: dict[str, Any]
) -> Tensor:
    """‖w‖, but not less than that of a tensor all of whose entries are `floor`."""
    return torch.maximum(weight, floor * sizes(parameters, group).sqrt())
