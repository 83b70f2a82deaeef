"""The state of a training loop, as it was found: of model, loss, optimizer and random numbers."""

import copy
import random
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hessian import devices

CPU = torch.device("cpu")


class RandomState:
    """Of torch (the CPU and some devices), Python and NumPy."""

    def __init__(self, places: set[torch.device]) -> None:
        self._torch = [devices.random_state(place) for place in {CPU, *places}]
        self._python = random.getstate()
        self._numpy = np.random.get_state(legacy=False)

    def restore(self) -> None:
        """Draw from here on what was to be drawn."""
        for restore in self._torch:
            restore()
        random.setstate(self._python)
        np.random.set_state(self._numpy)


class ModuleState:
    """Modes, attributes and buffers of modules: which objects they are, and what buffers hold."""

    def __init__(self, owners: list[nn.Module]) -> None:
        modules = {id(m): m for owner in owners for m in owner.modules()}.values()
        self._attributes = [(module, dict(vars(module))) for module in modules]
        self._buffers = [(module, dict(module._buffers)) for module in modules]
        self._values = [
            (buffer, buffer.detach().clone())
            for _, buffers in self._buffers
            for buffer in buffers.values()
            if buffer is not None
        ]

    def restore(self) -> None:
        """As they were found."""
        for module, attributes in self._attributes:
            _same_objects(vars(module), attributes)
        for module, buffers in self._buffers:
            _same_objects(module._buffers, buffers)
        for buffer, value in self._values:
            buffer.data.copy_(value)


class OptimizerState:
    """Parameters, their gradients, and all that an optimizer keeps of them."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        groups, states = optimizer.param_groups, optimizer.state.items()
        parameters = [p for group in groups for p in group["params"]]
        self._gradients = [(p, p.grad) for p in parameters]
        self._values = [(p, p.data, p.detach().clone()) for p in parameters]
        self._attributes = dict(vars(optimizer))
        self._groups = [(group, dict(group), _kept(group, {"params"})) for group in groups]
        self._states = [(p, state, dict(state), _kept(state)) for p, state in states]

    @torch.no_grad()
    def restore(self) -> None:
        """As they were found, and so as often as it is called."""
        _same_objects(vars(self._optimizer), self._attributes)
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        for parameter, memory, saved in self._values:
            if parameter.data_ptr() != memory.data_ptr():
                parameter.data = memory
            memory.copy_(saved)
        for group, objects, copies in self._groups:
            _put_back(group, objects, copies)
        self._optimizer.state.clear()
        for parameter, state, objects, copies in self._states:
            _put_back(state, objects, copies)
            self._optimizer.state[parameter] = state


def _same_objects(values: dict[str, Any], objects: dict[str, Any]) -> None:
    """Under each key the object that was there, and no other keys."""
    if values.keys() != objects.keys() or any(values[key] is not objects[key] for key in objects):
        values.clear()
        values.update(objects)


def _kept(values: dict[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
    """Copies of the values."""
    return {
        key: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for key, value in values.items()
        if key not in without
    }


def _put_back(into: dict[str, Any], objects: dict[str, Any], copies: dict[str, Any]) -> None:
    """The same tensors with the values they had; of all else a copy."""
    into.clear()
    into.update(objects)
    for key, value in copies.items():
        if isinstance(value, Tensor):
            objects[key].data.copy_(value)
        else:
            into[key] = copy.deepcopy(value)


@contextmanager
def as_found(owners: list[nn.Module], places: set[torch.device]) -> Iterator[Callable[[], None]]:
    """Give modules and random state back as found, and whenever what it yields is called."""
    modules, randomness = ModuleState(owners), RandomState(places)

    def restore() -> None:
        modules.restore()
        randomness.restore()

    try:
        yield restore
    finally:
        restore()


def stepped(optimizer: Optimizer, *arguments: Any) -> None:
    """A step of the optimizer alone: no hooks, no schedule that counts its steps."""
    step = type(optimizer).step
    # torch puts a wrapper that runs the hooks around the step of every class of optimizers.
    bare = getattr(step, "__wrapped__", step) if getattr(step, "hooked", False) else step
    bare(optimizer, *arguments)
