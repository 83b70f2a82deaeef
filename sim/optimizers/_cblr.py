"""Curvature-based learning rates with the exact second derivative (equations 9 to 11)."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sim import _arguments
from sim.optimizers._radii import descend, rates
from sim.optimizers._rule import Bucket, Rule, evaluate, options, pieces, working
from sim.optimizers._saved import bare
from sim.optimizers._shards import PLAIN, like, local, reduced, sharded, spread_out, wrapped

DECAYS = ("coupled", "decoupled")
NEGATIVE = ("absolute", "gradient", "zero")
Source = Callable[[], Mapping[str, Tensor]]
REMEDY = (
    "pass hessian.diagonal(model, loss, batch) of this model, through a wrapper without keywords "
    "(accelerate's) as step(h), or set a source as optimizer.curvature"
)


class CBLR(Rule):
    """Each parameter has a learning rate of its own, γ times its radius of curvature.

    With g = dL/dw, h = d²L/dw² and R = (1 + g²)^{3/2} / |h| (equation 9), a step is

        v ← m v + min(R, R_max) g,    w ← w - γβ w - γ v        (equations 10 and 11)

    with γ = `lr`, m = `momentum`, β = `weight_decay`, R_max = `max_radius`. Without momentum and
    decay, and where the cap is not reached, that is w ← w - γ R g. R is infinite where h = 0, so
    the cap is finite; an entry with g = h = 0, a dead unit, does not move. On a parabola a step
    with γ = 1 goes a factor (1 + g²)^{3/2} as far as Newton's: near the minimum it converges with
    order 3, and for any γ it converges only from where (1 + g²)^{3/2} < 2/γ.

    R is not invariant to the scale of the loss, and h is only the diagonal: in many dimensions γ
    must stay below 2(1 + m)/λ_max(ρ^½ H ρ^½), ρ = min(R, R_max), which can be as small as 2/P for
    P parameters. `sim.stable_gamma` finds γ, cap and interval that keep within that along a run.

    The curvature goes to `step`, or comes from a source. The gradient is `.grad`; where no
    parameter has one, it is `curvature.gradient`, which `hessian.diagonal` has already computed.
    That leaves buffers and random state as found: a network with batch norm or dropout still needs
    a forward and backward pass of its own, after `hessian.diagonal`, so that both have the same
    dropout.

    Args:
        params: names are needed: `model.named_parameters()`, or groups whose "params" are
            (name, tensor) pairs.
        lr: γ, at least 0.
        momentum: m in [0, 1). R g is accumulated, not g: a past gradient keeps its own radius.
        weight_decay: β, at least 0.
        decay: `"decoupled"` takes γβw off the weight and leaves R alone; `"coupled"` is that of
            an L2 term β|w|²/2 in the loss: βw is added to g and β to h.
        max_radius: R_max, positive and finite. γ R_max is the learning rate of plain gradient
            descent that parameters with (almost) no curvature get, and on ReLU networks most have
            almost none at first. A larger cap leaves more of them to their own radius and asks for
            a smaller γ. The default is one with which multilayer perceptrons and a narrow AlexNet
            trained, at γ near 2e-4.
        min_curvature: |h| is not taken for smaller than this.
        damping: added to |h|, before `min_curvature`.
        negative: an entry with h < 0 (after coupled decay) moves with R from |h| for `"absolute"`
            (equation 9), not at all for `"zero"`, as by plain gradient descent (R = 1) for
            `"gradient"`.
        refresh_interval: the number of steps that one curvature may serve; `None` sets no limit.
            `due` says whether the next step needs a new one.
        foreach: `True` updates all tensors of a group together, which saves launches; `False` one
            by one, which saves memory; `None` chooses by device and size. The results are equal.
        curvature: a source: a function without arguments that returns the curvature (the second
            derivatives at the current weights, `hessian.diagonal(model, loss, batch)`), called by
            each step that is not given one, or every `refresh_interval` steps. For loops that call
            `step()` or `step(closure)` themselves: Lightning, Hugging Face's Trainer, accelerate,
            a gradient scaler; `sim.integrations.BatchCurvature` is one. Also an attribute to set.
            Not part of the saved state, nor of a copy: without `refresh_interval` their next step
            needs a source, or a curvature.

    Raises:
        TypeError: `curvature` is no function.
        ValueError: an argument is out of its range; a parameter has no name.

    Source: Gao & Zhong (2020), equations 9 to 11. The paper has neither the cap nor momentum,
    and leaves the sign of h to the absolute value.

    Example:
        L = w²/2 at w = 1 has g = h = 1, so R = 2^{3/2} and w ← 1 - 2^{3/2}/4.

        >>> w = torch.nn.Parameter(torch.tensor(1.0))
        >>> optimizer = CBLR([("w", w)], lr=0.25)
        >>> (w**2 / 2).backward()
        >>> optimizer.step(curvature={"w": torch.tensor(1.0)})
        >>> round(w.item(), 6)
        0.292893
    """

    _keys = ("curvature", "momentum_buffer")
    curvature: Source | None = None

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        decay: str = "decoupled",
        max_radius: float = 3000.0,
        min_curvature: float = 0.0,
        damping: float = 0.0,
        negative: str = "absolute",
        refresh_interval: int | None = None,
        foreach: bool | None = None,
        curvature: Source | None = None,
    ) -> None:
        if curvature is not None and not callable(curvature):
            raise TypeError(
                f"curvature: got {type(curvature).__name__}; give a function that returns "
                "hessian.diagonal(model, loss, batch), or pass that to step"
            )
        defaults = options(locals())
        del defaults["curvature"]
        # The age is the number of steps taken with the stored curvature.
        super().__init__(params, {**defaults, "curvature_age": None})
        self.curvature = curvature

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        _arguments.choice("decay", group["decay"], DECAYS)
        _arguments.choice("negative", group["negative"], NEGATIVE)
        _arguments.number("max_radius", group["max_radius"], 0.0, open_=True)
        _arguments.number("min_curvature", group["min_curvature"], 0.0)
        _arguments.number("damping", group["damping"], 0.0)
        if group["refresh_interval"] is not None:
            _arguments.integer("refresh_interval", group["refresh_interval"], 1)
        if "param_names" not in group:
            raise ValueError("params: CBLR needs names; pass model.named_parameters()")
        names = [name for known in self.param_groups for name in known["param_names"]]
        for name in group["param_names"]:
            if names.count(name) > 1:
                raise ValueError(f"params: two parameters are called {name!r}; rename one")

    @property
    def due(self) -> bool:
        """Whether the next step needs a curvature: there is none yet, or it has served its time.

        With a source of its own and without a `refresh_interval`, every step needs a new one.

        >>> w = torch.nn.Parameter(torch.tensor(1.0))
        >>> CBLR([("w", w)], lr=0.1).due
        True
        """
        has_source = self.curvature is not None
        for group in self.param_groups:
            age, interval = group["curvature_age"], group["refresh_interval"]
            if age is None or (age >= interval if interval is not None else has_source):
                return True
        return False

    @torch.no_grad()
    def step(
        self,
        closure: Callable[[], Any] | Mapping[str, Tensor] | None = None,
        curvature: Mapping[str, Tensor] | Source | None = None,
    ) -> Any:
        """Update the parameters once.

        Args:
            closure: evaluated first, with gradients on; its value is returned. A mapping in its
                place is the curvature: through accelerate's wrapper, which takes no keyword, write
                ``optimizer.step(h)``.
            curvature: name → d²L/dw² in the parameter's shape, for every trainable parameter of
                this optimizer and no other, as `hessian.diagonal` returns it, or a function that
                returns it, called after the closure. It is copied. `None` asks the optimizer's own
                source where a new one is `due`, and else uses the last one again.

        Raises:
            TypeError: a closure that is no function; a curvature that is not a mapping of tensors.
            ValueError: a name is missing, unknown or has another shape; a value is not finite;
                `None` where there is no curvature yet or `refresh_interval` has passed; a sparse
                gradient. Nothing has been changed then.
        """
        if isinstance(closure, Mapping) and curvature is None:
            closure, curvature = None, closure
        if closure is not None and not callable(closure):
            raise TypeError(
                f"closure: got {type(closure).__name__}; give a function, or as the curvature "
                "hessian.diagonal(model, loss, batch)"
            )
        if curvature is None and self.due and self.curvature is None and closure is not None:
            self._check_age()
        value = evaluate(closure)
        if curvature is None and self._at_rest():
            self._begin()
            return value
        asked = self._asked(curvature)
        curvatures, buckets = self._gather(asked)
        if asked is not None:
            self._store(curvatures)
        sourced = curvature is None and self.curvature is not None
        for group, members in zip(self.param_groups, buckets, strict=True):
            for bucket in members:
                self._update(group, bucket)
            group["curvature_age"] += 1
            if sourced and group["refresh_interval"] is None:
                # It was for this step alone: a copy or a resumed optimizer, which has no source
                # yet, must not go on with it in silence.
                group["curvature_age"] = None
        return value

    def _asked(self, curvature: Mapping[str, Tensor] | Source | None) -> Any:
        """What a step is given, or its source returns where one is due; `None`: the last again."""
        source = self.curvature if curvature is None and self.due else curvature
        if callable(source) and not isinstance(source, Mapping):
            with torch.enable_grad():
                return source()
        return source

    @torch.no_grad()
    def radius(self, curvature: Mapping[str, Tensor] | Source | None = None) -> dict[str, Tensor]:
        """The rate that the next step would give each entry: min(R, R_max), with all options.

        γ times this is the learning rate. Changes nothing; `curvature` and its gradient are taken
        as by `step`, from the optimizer's own source too. With it `sim.sharpness` tells how large
        γ may be.

        Returns:
            Name → tensor of the parameter's shape, in the dtype it is updated in, for the
            parameters that have a gradient.

        Raises:
            TypeError, ValueError: as `step`.

        >>> w = torch.nn.Parameter(torch.tensor([0.0, 1.0]))
        >>> w.grad = torch.tensor([0.0, 0.0])
        >>> optimizer = CBLR([("w", w)], lr=0.1, max_radius=10.0)
        >>> optimizer.radius({"w": torch.tensor([4.0, 0.0])})
        {'w': tensor([ 0.2500, 10.0000])}
        """
        curvatures, buckets = self._gather(self._asked(curvature))
        radii: dict[Tensor, Tensor] = {}
        for group, members in zip(self.param_groups, buckets, strict=True):
            for bucket in members:
                second = [
                    curvatures[p].to(w) if p in curvatures else local(self.state[p]["curvature"])
                    for p, w in zip(bucket.parameters, bucket.weights, strict=True)
                ]
                _, values = rates(group, bucket.weights, bucket.gradients, second)
                radii.update(zip(bucket.parameters, values, strict=True))
        pairs = [pair for group in self.param_groups for pair in zip(*_named(group), strict=True)]
        return {name: wrapped(radii[p], p) for name, p in pairs if p in radii}

    def _gather(
        self, curvature: Mapping[str, Tensor] | None
    ) -> tuple[dict[Tensor, Tensor], list[list[Bucket]]]:
        """A new curvature by parameter and what is to be updated, after all checks."""
        gradients = None
        curvatures: dict[Tensor, Tensor] = {}
        if curvature is None:
            self._check_age()
        else:
            curvatures = self._match(curvature)
            known = getattr(curvature, "gradient", {})
            if all(p.grad is None for group in self.param_groups for p in group["params"]):
                gradients = self._match_gradients(known)
            elif known and _stale(self.param_groups, known):
                raise ValueError(
                    "params: every .grad is 0, and the gradient that came with the curvature is "
                    "not; leave none by zero_grad(set_to_none=True), or call backward() first"
                )
        buckets = [
            self._buckets(index, gradients=gradients) for index in range(len(self.param_groups))
        ]
        for bucket in (bucket for members in buckets for bucket in members):
            for name, parameter in zip(bucket.names, bucket.parameters, strict=True):
                if parameter not in curvatures and "curvature" not in self.state.get(parameter, ()):
                    raise ValueError(
                        f"curvature: {name} has a gradient but no curvature yet; {REMEDY}"
                    )
        return curvatures, buckets

    def _update(self, group: dict[str, Any], bucket: Bucket) -> None:
        curvatures = [self.state[p]["curvature"] for p in bucket.parameters]
        if spread_out(curvatures):
            curvatures = list(map(local, curvatures))
        lists = [bucket.weights, bucket.gradients, curvatures]
        if group["momentum"]:
            lists.append(self._state(bucket, "momentum_buffer")[0])
        for weights, gradients, second, *velocities in pieces(lists):
            descend(group, weights, gradients, second, velocities[0] if velocities else None)
        bucket.write()

    def _at_rest(self) -> bool:
        """Whether there is no curvature yet, and none is needed: γ and all gradients are 0.

        So torch.distributed.checkpoint makes a new optimizer's state, to have a place to load into.
        """
        if self.state or any(group["lr"] != 0 for group in self.param_groups):
            return False
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        known = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
        if not known:
            return False
        moved = torch.stack([local(gradient).any().double().cpu() for _, gradient in known])
        return not bool(reduced(moved, [parameter for parameter, _ in known]).any())

    def _begin(self) -> None:
        """The state before the first step; the next one needs a curvature all the same."""
        for index, group in enumerate(self.param_groups):
            for bucket in self._buckets(index):
                self._state(bucket, "curvature")
                if group["momentum"]:
                    self._state(bucket, "momentum_buffer")

    def _check_age(self) -> None:
        for group in self.param_groups:
            age, interval = group["curvature_age"], group["refresh_interval"]
            if age is None:
                raise ValueError(f"curvature: there is none to use again yet; {REMEDY}")
            if interval is not None and age >= interval:
                raise ValueError(
                    f"curvature: the last one has served {age} steps, refresh_interval is "
                    f"{interval}; {REMEDY}"
                )

    def _match(self, curvature: Any) -> dict[Tensor, Tensor]:
        """The curvature by parameter, after all checks."""
        if not isinstance(curvature, Mapping):
            raise TypeError(f"curvature: got {type(curvature).__name__}; {REMEDY}")
        curvatures = self._by_parameter("curvature", curvature)
        # nan and inf show in the extremes, at one pass and without memory.
        finite = [
            torch.stack(value.aminmax()).isfinite().all()
            if value.numel()
            else torch.ones((), dtype=torch.bool, device=value.device)
            for value in curvatures.values()
        ]
        if not finite:
            return curvatures
        good = torch.stack([flag.to(finite[0].device) for flag in finite])
        if spread_out(curvatures):
            good = reduced((~good).double(), list(curvatures)) == 0
        if not bool(good.all()):
            index = good.tolist().index(False)
            wrong = list(curvatures)[index]
            pairs = (zip(*_named(group), strict=True) for group in self.param_groups)
            bad = next(name for pairs_of_group in pairs for name, p in pairs_of_group if p is wrong)
            raise ValueError(
                f"curvature: {bad!r} holds a value that is not finite; "
                "check the data and the weights for nan and overflow"
            )
        return curvatures

    def _match_gradients(self, gradients: Any) -> dict[Tensor, Tensor]:
        return self._by_parameter("curvature.gradient", gradients) if gradients else {}

    def _by_parameter(self, part: str, values: Mapping[str, Any]) -> dict[Tensor, Tensor]:
        """The tensors by their parameters, refused where a name, dtype or shape is wrong."""
        known = {}
        tensors = {}
        values = self._renamed(values)
        for group in self.param_groups:
            for name, parameter in zip(*_named(group), strict=True):
                known[name] = parameter
                if name not in values:
                    if parameter.requires_grad:
                        raise ValueError(f"{part}: the parameter {name!r} is missing; {REMEDY}")
                    continue
                value = values[name]
                if not isinstance(value, Tensor) or not value.is_floating_point():
                    kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
                    raise TypeError(f"{part}: {name!r} is {kind}; give a floating-point tensor")
                if value.shape != parameter.shape:
                    raise ValueError(
                        f"{part}: {name!r} has shape {tuple(value.shape)} where the parameter has "
                        f"{tuple(parameter.shape)}; {REMEDY}"
                    )
                value = value.detach()
                plain = type(value) in PLAIN and type(parameter) in PLAIN
                tensors[parameter] = value if plain else like(value, parameter)
        for name in values:
            if name not in known:
                raise ValueError(
                    f"{part}: {name!r} is no parameter of this optimizer; add it to the "
                    "optimizer, or leave it out with hessian.diagonal(…, names=…)"
                )
        return tensors

    def _renamed(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The same under this optimizer's names, which wrappers may have changed."""
        names = [name for group in self.param_groups for name in group["param_names"]]
        if all(name in values for name in names):
            return values
        ours = {bare(name): name for name in names if name not in values}
        stripped = Counter(bare(name) for name in values)
        renamed = {}
        for name, value in values.items():
            alone = name not in names and stripped[bare(name)] == 1
            renamed[ours.get(bare(name), name) if alone else name] = value
        return renamed

    def _store(self, curvatures: Mapping[Tensor, Tensor]) -> None:
        for parameter, value in curvatures.items():
            state = self.state[parameter]
            if "curvature" not in state:
                room = torch.empty_like(local(parameter), dtype=working(parameter.dtype))
                state["curvature"] = wrapped(room, parameter)
            room = state["curvature"]
            (room if type(room) in PLAIN else local(room)).copy_(value)
        for group in self.param_groups:
            group["curvature_age"] = 0


def _stale(groups: list[dict[str, Any]], known: Mapping[str, Tensor]) -> bool:
    """Whether all gradients are the zeros of `zero_grad`, which would hide the ones known."""
    for parameter in (p for group in groups for p in group["params"]):
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.layout is not torch.strided or sharded(gradient) or bool(gradient.any()):
            return False
    return any(not sharded(value) and bool(value.any()) for value in known.values())


def _named(group: dict[str, Any]) -> tuple[list[str], list[Tensor]]:
    names, parameters = group["param_names"], group["params"]
    if len(names) != len(parameters):
        raise ValueError(
            f"params: a group has {len(parameters)} tensors and {len(names)} names; put the name "
            "of each into its param_names, too"
        )
    return names, parameters
