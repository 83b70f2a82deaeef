"""The network of a run, or several of one architecture that train as one."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.optim import Optimizer

from sim import models
from sim._isolation import mask, seeded
from sim.data import Dataset
from sim.training.config import optimizers as _optimizers
from sim.training.config.train_config import DTYPES, TrainConfig
from sim.training.engine.fast.dense import densify
from sim.training.engine.fast.lanewise import Lanewise, lanewise
from sim.training.engine.fast.units import units


class Network:
    """Networks that differ in their weights only, called lanes; mostly there is one.

    Several lanes are one set of tensors with the lanes as first dimension, and one forward pass.

    Attributes:
        model: the module; with several lanes, a shell without weights of its own.
        lanes: how many.
        names: of the parameters.
        dtype: of the parameters.
        parameters: the leaves; of several lanes `[lanes, …]`.
        units: the same memory in few pieces, see `_units`.
        channels_last: whether images are to come in this memory format.
    """

    def __init__(self, configs: list[TrainConfig], dataset: Dataset) -> None:
        config = configs[0]
        device, dtype = torch.device(config.device), DTYPES[config.dtype]
        built = [_build(each, dataset).to(device, dtype).train() for each in configs]
        self.lanes = len(built)
        self.model = built[0]
        self.names = [name for name, _ in self.model.named_parameters()]
        self.dtype = dtype
        self._precision = config.precision
        self._device = device
        self._random = any(
            isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in self.model.modules()
        )
        self._generator: torch.Generator | None = None
        if self._random and device.type == "cpu" and not config.compile and not curved(config):
            generator = torch.Generator()
            self._generator = generator if mask(self.model, generator) else None
        self._call: Callable[[Tensor], Tensor] = self.model
        self._lanewise: Lanewise | None = None
        self.channels_last = self.lanes == 1 and channels_last(config)
        if self.lanes > 1:
            reason = obstacle(config)
            if reason is not None:
                raise ValueError(f"vectorise: {reason}; train such networks one by one")
            stacked, _ = stack_module_state(built)
            self.parameters = [stacked[name].detach().requires_grad_() for name in self.names]
        else:
            if self.channels_last:
                self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if dense(config):
                densify(self.model)
            if config.compile:
                self._call = torch.compile(self.model)
            self.parameters = list(self.model.parameters())
        self.units = units(self.parameters, self.lanes)
        if self.lanes > 1 and config.precision == "full":
            (unit,) = self.units
            self._lanewise = lanewise(self.model, self.parameters, unit.gradients)

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs `[n, C]`, or `[lanes, C, n]` of several lanes, of inputs `[lanes, n, …]`.

        Softmax and loss are many times as fast with the samples last.
        """
        if self._precision == "full":
            return self._forward(x)
        # Inside an autocast of the caller's torch would keep what was made of older weights.
        with torch.autocast(self._device.type, dtype=torch.bfloat16, cache_enabled=False):
            return self._forward(x).to(self.dtype)

    def _forward(self, x: Tensor) -> Tensor:
        if self.lanes == 1:
            return self._call(x[0])

        if self._lanewise is not None:
            return self._lanewise(x)

        def one(parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
            result: Tensor = functional_call(self.model, parameters, (inputs,))
            return result

        weights = dict(zip(self.names, self.parameters, strict=True))
        return vmap(one)(weights, x).mT.contiguous()

    def optimizer(self, config: TrainConfig) -> Optimizer:
        """The optimizer of all lanes."""
        name, options = config.optimizer, config.optimizer_options
        self._views: list[tuple[nn.Parameter, int, int]] = []
        if name in _optimizers.ELEMENTWISE:
            leaves = [(f"{number}", unit.leaf) for number, unit in enumerate(self.units)]
            return _optimizers.make(name, leaves, config.lr, options)
        if self.lanes == 1:
            named = list(zip(self.names, self.parameters, strict=True))
            return _optimizers.make(name, named, config.lr, options)
        groups = []
        for lane in range(self.lanes):
            pairs = []
            for number, parameter in enumerate(self.parameters):
                view = nn.Parameter(self.lane(parameter.detach(), lane))
                self._views.append((view, number, lane))
                pairs.append((f"{lane}.{self.names[number]}", view))
            groups.append({"params": pairs})
        if options.get("grouping") != "group":
            # Every tensor is for itself, and all lanes' go through the rule in one list.
            groups = [{"params": [pair for group in groups for pair in group["params"]]}]
        return _optimizers.make(name, groups, config.lr, options)

    def join_gradients(self) -> None:
        """Show the gradients to whoever works on the units."""
        for unit in self.units:
            unit.join()

    def lend_gradients(self) -> None:
        """Show the lanes' gradients to an optimizer that works on the lanes one by one."""
        for view, number, lane in self._views:
            gradient = self.parameters[number].grad
            view.grad = None if gradient is None else self.lane(gradient, lane)

    def lane(self, tensor: Tensor, index: int) -> Tensor:
        """A lane's part of a tensor that belongs to a parameter, in the parameter's shape."""
        return tensor[index] if self.lanes > 1 else tensor

    def weights(self, index: int) -> dict[str, Tensor]:
        """A lane's parameters and buffers, copied to the CPU: what `load_state_dict` takes."""
        values = dict(self.model.state_dict())
        for name, tensor in zip(self.names, self.parameters, strict=True):
            values[name] = self.lane(tensor, index)
        return {name: value.detach().to("cpu", copy=True) for name, value in values.items()}

    def state(self) -> dict[str, Tensor]:
        """All parameters and buffers."""
        named = dict(zip(self.names, self.parameters, strict=True))
        return {
            name: named.get(name, value).detach() for name, value in self.model.state_dict().items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""
        with torch.no_grad():
            for name, value in self.state().items():
                value.copy_(state[name])

    def masks(self, *seed: int) -> AbstractContextManager[None]:
        """Masks of the passes inside come from this seed; nothing is done for a network without.

        They are drawn from a generator of the network's own, where they can be; on a GPU, compiled
        or for exact curvature from torch's global one, which no other run uses meanwhile.
        """
        if not self._random:
            return nullcontext()
        word = _word(seed)
        if self._generator is None:
            return seeded(word, self._device)
        self._generator.manual_seed(word)
        return nullcontext()

    @contextmanager
    def buffers_kept(self) -> Iterator[None]:
        """Running statistics are put back at the end."""
        before = [buffer.clone() for buffer in self.model.buffers()]
        try:
            yield
        finally:
            for buffer, value in zip(self.model.buffers(), before, strict=True):
                buffer.copy_(value)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode, and back."""
        self.model.eval()
        try:
            yield
        finally:
            self.model.train()


def _build(config: TrainConfig, dataset: Dataset) -> nn.Module:
    options: dict[str, Any] = dict(config.model_options)
    return models.build(
        config.model,
        in_shape=dataset.shape,
        classes=dataset.classes,
        seed=config.seed,
        **options,
    )


def channels_last(config: TrainConfig) -> bool:
    """Whether a network of this configuration keeps images with the channels last.

    Unasked, where it was measured to be faster: convolutions of many channels on a CPU. Exact
    curvature is taken in the usual format.
    """
    if config.channels_last is not None:
        return config.channels_last
    wide = config.model in ("alexnet", "resnet18")
    return wide and not curved(config) and torch.device(config.device).type == "cpu"


def dense(config: TrainConfig) -> bool:
    """Whether large linear layers of a network of this configuration are `_dense.Dense`."""
    plain = config.dtype == "float32" and config.precision == "full" and not config.compile
    return plain and not curved(config) and torch.device(config.device).type == "cpu"


def curved(config: TrainConfig) -> bool:
    """Whether the network's exact curvature is taken."""
    return config.optimizer == "cblr" or config.measure.curvature_every > 0


def obstacle(config: TrainConfig) -> str | None:
    """Why networks of this configuration cannot train as lanes of one, or `None`.

    >>> obstacle(TrainConfig(epochs=1, model_options={"dropout": 0.5}))
    'the model has dropout, whose masks would be others'
    """
    if curved(config):
        return "exact curvature is computed network by network"
    if config.compile or config.channels_last:
        return "compile and channels_last are for a single network"
    if _optimizers.couples(config.optimizer, config.optimizer_options):
        return "the optimizer looks at all gradients together (max_grad_norm)"
    options: dict[str, Any] = dict(config.model_options)
    shape = (1, 32, 32)
    model = models.build(config.model, in_shape=shape, classes=2, seed=0, **options)
    if any(True for _ in model.buffers()):
        return "the model has buffers (batch norm)"
    if any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in model.modules()):
        return "the model has dropout, whose masks would be others"
    return None


def _word(seed: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0]) >> 1
