"""The network of a run, or several of one architecture that train as one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.optim import Optimizer

from sim import models
from sim._own import is_own
from sim.data import Dataset
from sim.training.config import optimizers
from sim.training.config.train_config import DTYPES, TrainConfig
from sim.training.engine.fast.dense import densify
from sim.training.engine.fast.eligible import channels_last, curved, dense, obstacle
from sim.training.engine.fast.flat_parameters import flat_parameters
from sim.training.engine.fast.lanewise import Lanewise, lanewise
from sim.training.engine.masks import Masks


class Network:
    """Networks that differ in their weights only, called lanes; mostly there is one.

    Several lanes are one set of tensors with the lanes as first dimension, and one forward pass.

    Attributes:
        model: the module; with several lanes, a shell without weights of its own.
        lanes: how many.
        names: of the parameters.
        dtype: of the parameters.
        parameters: the leaves; of several lanes `[lanes, …]`.
        flat_parameters: the same memory in few pieces, see `fast.flat_parameters`.
        masks: sets the seed of the dropout masks of the passes to come.
        channels_last: whether images are to come in this memory format.
    """

    def __init__(self, configs: list[TrainConfig], dataset: Dataset) -> None:
        config = configs[0]
        device, dtype = torch.device(config.device), DTYPES[config.dtype]
        built = [_build(lane_config, dataset).to(device, dtype).train() for lane_config in configs]
        self.lanes = len(built)
        self.model = built[0]
        self.names = [name for name, _ in self.model.named_parameters()]
        self.dtype = dtype
        self._precision = config.precision
        separate = not config.compile and not curved(config)
        self.masks = Masks(self.model, device, separate, is_own(config.model))
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
        self.flat_parameters = flat_parameters(self.parameters, self.lanes, join=not self.own)
        if self.lanes > 1 and config.precision == "full":
            (flat,) = self.flat_parameters
            self._lanewise = lanewise(self.model, self.parameters, flat.gradients)

    @property
    def own(self) -> bool:
        """Whether it is a reader's own: an optimizer leaves parameters without gradient alone."""
        return self.masks.own

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs `[n, C]`, or `[lanes, C, n]` of several lanes, of inputs `[lanes, n, …]`.

        Softmax and loss are many times as fast with the samples last.
        """
        if self._precision == "full":
            return self._forward(x)
        # Inside an autocast of the caller's torch would keep what was made of older weights.
        with torch.autocast(x.device.type, dtype=torch.bfloat16, cache_enabled=False):
            return self._forward(x).to(self.dtype)

    def _forward(self, x: Tensor) -> Tensor:
        if self.lanes == 1:
            return self._call(x[0])

        if self._lanewise is not None:
            return self._lanewise(x)

        def single(parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
            result: Tensor = functional_call(self.model, parameters, (inputs,))
            return result

        weights = dict(zip(self.names, self.parameters, strict=True))
        return vmap(single)(weights, x).mT.contiguous()

    def optimizer(self, config: TrainConfig) -> Optimizer:
        """The optimizer of all lanes."""
        name, options = config.optimizer, config.optimizer_options
        self._views: list[tuple[nn.Parameter, int, int]] = []
        if name in optimizers.ELEMENTWISE:
            leaves = [
                (f"{number}", flat.leaf)
                for number, flat in enumerate(self.flat_parameters)
                if flat.leaf.requires_grad
            ]
            return optimizers.make(name, leaves, config.lr, options)
        if self.lanes == 1:
            named = list(zip(self.names, self.parameters, strict=True))
            return optimizers.make(name, named, config.lr, options)
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
        return optimizers.make(name, groups, config.lr, options)

    def join_gradients(self) -> None:
        """Show the gradients to whoever works on the flat parameters."""
        for flat in self.flat_parameters:
            flat.join()

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
