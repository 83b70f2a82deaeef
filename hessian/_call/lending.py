"""Lending a user's model to an exact computation, and walking through the user's data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hessian import devices
from hessian._call import data as _data
from hessian._call import precision as _precision
from hessian._call.attributes import attribute_tensors, drop_caches
from hessian._call.hooks import take_hooks_off
from hessian._call.names import fits, matching
from hessian._call.objective import METHOD_CHOICES, Objective
from hessian._call.state import compute_exactly, note_state
from hessian._call.thaw import freeze, may_freeze
from hessian._call.wrapped import refuse_shards, unwrap
from hessian._call.written import Written, will_be_put_back
from hessian._runtime.ledger import alone, settled
from hessian._runtime.workspace import keep_within

DEFAULT_MEMORY = 2**30
_CPU = {torch.device("cpu")}


@contextmanager
def lend(
    model: nn.Module,
    loss: _data.Loss,
    method: str,
    forward: _data.Forward | None,
    names: Iterable[str] | None,
    memory: int | None,
    dtype: torch.dtype | None,
) -> Iterator[Objective]:
    """Check the arguments, then lend the model to an exact computation.

    A `Guard` must stand around it, which an interrupt on the way in or out cannot pass.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not callable(loss):
        raise TypeError(
            f"loss must be a function of (output, target), got {type(loss).__name__}; "
            "e.g. torch.nn.functional.cross_entropy"
        )
    if method not in METHOD_CHOICES:
        raise ValueError(f"method must be one of {', '.join(METHOD_CHOICES)}, got {method!r}")
    if memory is not None and not (isinstance(memory, int) and memory > 0):
        raise ValueError(f"memory must be a positive number of bytes, got {memory!r}")
    if forward is not None and not callable(forward):
        raise TypeError(
            f"forward must be a function of (model, inputs), got {type(forward).__name__}"
        )
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype must be a floating torch.dtype, got {dtype!r}")
    refuse_shards(model)
    if isinstance(loss, nn.Module):
        refuse_uninitialised("loss", [*loss.named_parameters(), *loss.named_buffers()])
    parameters = selected(model, names)
    memory = memory or default_memory(parameters.values())
    places = {p.device for p in parameters.values()}
    if places != _CPU:
        devices.check_float64("model", places, "losses are factored and derivatives are checked")
    objective = Objective(model, loss, forward, parameters, method, memory, asked=dtype)
    modules, parts = objective.modules(), objective.parts()
    every = _each([p for part in parts for p in part._parameters.values()])
    buffers = _each([b for part in parts for b in part._buffers.values()])
    attributes = attribute_tensors(parts)
    objective.written = Written(every, attributes)
    wanted = {id(p) for p in (parameters.values() if may_freeze() else every)}
    with alone(), settled(), _twice_differentiable():
        compute_exactly(places)
        note_state(parts, places)
        drop_caches()
        freeze(every, wanted)
        _precision.unify(modules, every, dtype)
        will_be_put_back(objective.written)
        take_hooks_off(parts, [*every, *buffers, *(tensor for _, _, tensor in attributes)])
        unwrap(parts)
        keep_within(memory)
        yield objective


def _each(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    """The tensors, each once."""
    return list({id(t): t for t in tensors if t is not None}.values())


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Say what to do where torch has no second derivative of an operation."""
    try:
        yield
    except RuntimeError as error:  # of which NotImplementedError is one
        text = str(error).strip().splitlines()[0] if str(error).strip() else ""
        missing = "derivative for" in text and "not implemented" in text
        if not missing or text.startswith("model"):
            raise
        raise NotImplementedError(
            f"model or loss: an operation has no second derivative in torch ({text}); write it "
            "with differentiable operations, or pass names= without the parameters below it"
        ) from error


def default_memory(parameters: Iterable[Tensor]) -> int:
    """Bytes of working set: 1 GiB, on a GPU half of what is free on the fullest one in use."""
    places = {p.device for p in parameters if p.device.type != "cpu"}
    if not places:
        return DEFAULT_MEMORY
    free = [size for place in places if (size := devices.free_memory(place)) is not None]
    return max(1, min(free) // 2) if free else DEFAULT_MEMORY


def refuse_uninitialised(owner: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Parameters and buffers of lazy modules have no shape before the first call.

    Raises:
        ValueError: there is one.
    """
    for name, tensor in tensors:
        if is_lazy(tensor):
            raise ValueError(
                f"{owner}: {name!r} belongs to a lazy module that was not called yet and has no "
                "shape; run it once, e.g. model(inputs), before"
            )


def selected(model: nn.Module, names: Iterable[str] | None) -> dict[str, Tensor]:
    every = dict(model.named_parameters())
    refuse_uninitialised("model", every.items())
    refuse_uninitialised("model", model.named_buffers())
    if not every:
        raise ValueError("model has no parameters; pass a module with at least one nn.Parameter")
    free = {name: p for name, p in every.items() if p.requires_grad}
    if names is None:
        if not free:
            raise ValueError(
                "model has no parameter that requires gradients; call requires_grad_() on some"
            )
        return _real(free)
    if isinstance(names, str):
        raise TypeError(f"names must be an iterable of parameter names, got the string {names!r}")
    if not isinstance(names, Iterable):
        raise TypeError(f"names must be an iterable of parameter names, got {type(names).__name__}")
    chosen = list(dict.fromkeys(each for name in names for each in _meant(name, every, free)))
    for name in chosen:
        if name not in every:
            raise ValueError(
                f"names: {name!r} is not a parameter of the model; its parameters are "
                f"{', '.join(list(every)[:8])}{', …' if len(every) > 8 else ''}"
            )
        if name not in free:
            raise ValueError(
                f"names: {name!r} is frozen (requires_grad is False); call requires_grad_() on it"
            )
    if not chosen:
        raise ValueError("names is empty; leave it out to differentiate every parameter")
    return _real({name: every[name] for name in every if name in set(chosen)})


def _meant(name: Any, every: Mapping[str, Tensor], free: Mapping[str, Tensor]) -> list[Any]:
    """A name, or the names of free parameters that a pattern such as ``"layer1.*"`` stands for."""
    if name in every or not isinstance(name, str):
        return [name]
    if not set("*?[") & set(name):
        return [matching(name, every) or name]
    fitting = [each for each in free if fits(each, name)]
    if not fitting:
        raise ValueError(
            f"names: the pattern {name!r} matches no parameter that requires gradients; "
            f"the parameters are {', '.join(list(free)[:8])}{', …' if len(free) > 8 else ''}"
        )
    return fitting


def _real(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for name, p in parameters.items():
        if p.is_inference():
            raise ValueError(
                f"parameter {name!r} was made under torch.inference_mode(), and autograd cannot "
                "use it; build the model outside, or pass copy.deepcopy(model)"
            )
        if p.is_complex():
            raise ValueError(
                f"parameter {name!r} is complex, and d²L/dw² is one number for a real w only; keep "
                "its parts as a real parameter (torch.view_as_real), or leave it out with names="
            )
    return dict(parameters)
