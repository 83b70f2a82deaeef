"""What all rules share: checked groups, names, buckets of tensors, exact resumption."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hessian.devices import SMALL_CALLS
from sim import _arguments
from sim.optimizers import _groups, _saved
from sim.optimizers._shards import PLAIN, like, local, spread_out, wrapped

# Sixteen bits are too few to sum in: work and state are float32 there, the weight is rounded once.
HALF = (torch.bfloat16, torch.float16)
# On a CPU, tensors above this size gain nothing from being walked through together: they leave
# the cache between one operation and the next.
SMALL = 2**15
# Parts of a tensor in which work entry by entry is done: it takes a dozen calls each, and beyond
# this size its temporary arrays leave the cache. Two threads share such a part.
WIDE = 2**16


def working(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a parameter of this dtype is updated and its state is kept."""
    return torch.float32 if dtype in HALF else dtype


@dataclass
class Bucket:
    """Tensors that are updated together, in their working dtype.

    `weights` are the parameters themselves (of sharded ones this process's part), or float32 copies
    that `write` rounds back.
    """

    names: list[str]
    parameters: list[Tensor]
    weights: list[Tensor]
    gradients: list[Tensor]

    def write(self) -> None:
        """Round the copies back into the parameters they were made of."""
        parts = self.parameters
        if spread_out(parts):
            parts = list(map(local, parts))
        for part, weight in zip(parts, self.weights, strict=True):
            if weight is not part:
                part.copy_(weight)

    def pick(self, indices: Iterable[int]) -> "Bucket":
        """A part of the bucket; its `write` writes that part."""
        places = list(indices)
        lists = (self.names, self.parameters, self.weights, self.gradients)
        return Bucket(*([values[i] for i in places] for values in lists))  # type: ignore[arg-type]


def parts_of(tensor: Tensor, size: int = SMALL) -> tuple[Tensor, ...]:
    """The tensor, or if it is a large one on a CPU its parts, each of which fits a cache."""
    large = tensor.device.type in SMALL_CALLS and tensor.numel() > size and tensor.is_contiguous()
    return tensor.view(-1).split(size) if large else (tensor,)


def pieces(lists: list[list[Tensor]]) -> Iterator[list[list[Tensor]]]:
    """The same lists, or where each holds one large tensor the lists of its parts.

    For work entry by entry, which gives the same numbers part by part.
    """
    if any(len(tensors) != 1 for tensors in lists):
        yield lists
        return
    parts = [parts_of(tensors[0], WIDE) for tensors in lists]
    if len({len(parts_of_tensor) for parts_of_tensor in parts}) != 1:  # not all of them contiguous
        yield lists
        return
    for tensors in zip(*parts, strict=True):
        yield [[tensor] for tensor in tensors]


class Rule(Optimizer):
    """Base of the rules: a group is checked when it is added, a state is resumed bit for bit.

    A subclass names the state it keeps of a parameter (`_keys`), and the options that `like` stands
    for (`_references`), where it has any.
    """

    _keys: tuple[str, ...] = ("momentum_buffer",)
    _references: Mapping[str, Mapping[str, Any]] = {}

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)

    def _check(self, group: dict[str, Any]) -> None:
        """Refuse a wrong option of a group; rules add their own."""
        group["lr"] = _groups.rate(group["lr"])
        group["momentum"] = _arguments.number("momentum", group["momentum"], 0.0, 1.0)
        group["weight_decay"] = _arguments.number("weight_decay", group["weight_decay"], 0.0)
        if group["foreach"] not in (None, True, False):
            raise ValueError(f"foreach: got {group['foreach']!r}; give True, False or None")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in torch, after a check of its options and tensors.

        The dictionary is copied: a second optimizer that is made of it does not get the options
        of the first.
        """
        if isinstance(param_group, dict):
            param_group = _groups.prepared(
                param_group, type(self).__name__, self.defaults, self._references, self.param_groups
            )
        super().add_param_group(param_group)
        try:
            _groups.without_duplicates(self.param_groups[-1])
            self._check(self.param_groups[-1])
            for name, parameter in self._named(len(self.param_groups) - 1):
                self._check_parameter(name, parameter)
        except ValueError:
            self.param_groups.pop()
            raise

    def _check_parameter(self, name: str, parameter: Tensor) -> None:
        """Refuse a tensor that the rule cannot update."""
        if not parameter.is_floating_point():
            raise ValueError(
                f"params: {name} has dtype {parameter.dtype}; "
                "only real floating-point parameters can be updated"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume; the state keeps the dtype in which it was saved, so the next step is the same.

        Hooks come as in torch: what they make of the state is checked and taken. Names may differ
        by the prefixes of wrappers (`module.`, `_orig_mod.`), and stay this optimizer's own.

        Raises:
            TypeError: no dictionary.
            ValueError: the state of another optimizer, or of parameters of other names, another
                order, number or shape. Nothing has been changed then.
        """
        _saved.load(self, super().load_state_dict, state_dict, self._keys)

    def _named(self, index: int) -> Iterator[tuple[str, Tensor]]:
        """The tensors of a group with a name for messages."""
        group = self.param_groups[index]
        names, parameters = group.get("param_names") or (), group["params"]
        for name, parameter in zip(names, parameters, strict=False):
            yield f"parameter {name!r}", parameter
        for i in range(len(names), len(parameters)):  # without names, or put in without one
            yield f"parameter {i} of group {index}", parameters[i]

    def _buckets(
        self,
        index: int,
        *,
        together: bool = False,
        gradients: Mapping[Tensor, Tensor] | None = None,
    ) -> list[Bucket]:
        """The tensors of a group that have a gradient, in lists that are updated at one go."""
        group = self.param_groups[index]
        _groups.check_rate(group["lr"], index)
        foreach = True if together else group["foreach"]
        buckets: dict[object, Bucket] = {}
        for name, parameter in self._named(index):
            gradient = parameter.grad if gradients is None else gradients.get(parameter)
            # Of a sharded parameter the whole counts, so that all processes go the same way.
            if gradient is None or parameter.numel() == 0:
                continue
            if gradient.layout is not torch.strided:
                raise ValueError(
                    f"{name} has a sparse gradient, which {type(self).__name__} cannot take; "
                    "make it dense, for an embedding with sparse=False"
                )
            dtype = working(parameter.dtype)
            key: object = (parameter.device, dtype)
            alone = parameter.device.type in SMALL_CALLS and parameter.numel() > SMALL
            if foreach is False or (foreach is None and alone):
                key = name
            bucket = buckets.setdefault(key, Bucket([], [], [], []))
            bucket.names.append(name)
            bucket.parameters.append(parameter)
            part = parameter
            if type(parameter) not in PLAIN or type(gradient) not in PLAIN:
                part = local(parameter)
                gradient = gradient if gradients is not None else like(gradient, parameter)
            bucket.weights.append(part if part.dtype == dtype else part.to(dtype))
            bucket.gradients.append(gradient if gradient.dtype == dtype else gradient.to(dtype))
        if together and len(buckets) > 1:
            raise ValueError(
                f"grouping: group {index} holds tensors of several devices or working dtypes; "
                "give each its own group, or use grouping='tensor'"
            )
        return list(buckets.values())

    def _state(self, bucket: Bucket, key: str) -> tuple[list[Tensor], list[bool]]:
        """State tensors under a key, zero where they are new, and which are new."""
        new = [key not in self.state[parameter] for parameter in bucket.parameters]
        for parameter, weight, is_new in zip(bucket.parameters, bucket.weights, new, strict=True):
            if is_new:
                self.state[parameter][key] = wrapped(torch.zeros_like(weight), parameter)
        values = [self.state[parameter][key] for parameter in bucket.parameters]
        return list(map(local, values)) if spread_out(values) else values, new


def options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A constructor's options, from its `locals()`.

    >>> options({"self": None, "params": [], "lr": 0.1, "momentum": 0.0})
    {'lr': 0.1, 'momentum': 0.0}
    """
    return {k: v for k, v in arguments.items() if k not in ("self", "params", "__class__")}


def preset(
    references: Mapping[str, Mapping[str, Any]], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """`options`, where those left at None are those of the reference that `like` names.

    >>> preset({"you": {"eps": 0.0}}, {"lr": 0.1, "like": "you", "eps": None})
    {'lr': 0.1, 'eps': 0.0}
    """
    values = options(arguments)
    reference = references[_arguments.choice("like", values.pop("like"), references)]
    return {k: reference[k] if v is None and k in reference else v for k, v in values.items()}


def flag(argument: str, value: object) -> bool:
    """The value, if it is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{argument}: got {value!r}; give True or False")
    return value


def evaluate(closure: Callable[[], Any] | None) -> Any:
    """The value of a closure, with gradients on, or None."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
