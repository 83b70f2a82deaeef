"""What goes into and comes out of each linear and convolution layer, sample by sample."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Layer:
    """A layer's inputs [N, K, P] at its P positions, and its weight's place.

    `slopes` holds, for each column of the loss, the derivative [N, O, P] at the outputs.
    """

    name: str
    module: nn.Module
    inputs: Tensor
    output: Tensor
    slopes: list[Tensor] = field(default_factory=list)

    def shaped(self, diagonal: Tensor) -> dict[str, Tensor]:
        """`[O, K]`, or `[O, K + 1]` with the bias last, as the layer's own parameters."""
        weight: Any = self.module.weight
        bias = getattr(self.module, "bias", None)
        flat = diagonal[:, : self.inputs.shape[1]]
        flat = flat.T if transposed(self.module) else flat
        prefix = f"{self.name}." if self.name else ""
        parts = {f"{prefix}weight": flat.reshape(weight.shape)}
        if bias is not None and diagonal.shape[1] > self.inputs.shape[1]:
            parts[f"{prefix}bias"] = diagonal[:, -1]
        return parts


def transposed(module: nn.Module) -> bool:
    """Whether it is a linear layer that keeps its weight as [K, O], as GPT-2 of transformers."""
    return type(module).__name__ == "Conv1D" and not isinstance(module, nn.Conv1d)


def _served(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        # Of an even size, "same" pads one side more than the other.
        even = module.padding == "same" and any(k % 2 == 0 for k in module.kernel_size)
        return module.groups == 1 and module.padding_mode == "zeros" and not even
    return isinstance(module, nn.Linear) or transposed(module)


def unfolded(module: nn.Module, x: Tensor) -> Tensor:
    """The inputs that meet the weight: [N, K, P]."""
    if isinstance(module, nn.Conv2d):
        padding: Any = module.padding
        size: Any = module.kernel_size
        if padding == "valid":
            padding = 0
        elif padding == "same":
            padding = tuple(d * (k - 1) // 2 for d, k in zip(module.dilation, size, strict=True))
        return F.unfold(x, size, module.dilation, padding, module.stride)
    return x.unsqueeze(-1) if x.dim() == 2 else x.flatten(1, -2).mT


def _positions(module: nn.Module, z: Tensor) -> Tensor:
    """Outputs as [N, O, P]."""
    if isinstance(module, nn.Conv2d):
        return z.flatten(2)
    return z.unsqueeze(-1) if z.dim() == 2 else z.flatten(1, -2).mT


def matrices(model: nn.Module) -> list[str]:
    """The trained weights and biases of linear and convolution layers."""
    return [
        f"{name}.{part}" if name else part
        for name, module in model.named_modules()
        if _served(module)
        for part, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad
    ]


def layers_of(model: nn.Module, forward: Callable[[], Tensor]) -> tuple[list[Layer], Tensor]:
    """Every layer that is called once, on samples, and what `forward` returned.

    A layer that is called twice or that shares its weight has no factors of its own; it is left
    out, as is one whose weight is frozen.
    """
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {}
    uses: dict[int, int] = {}
    handles = []
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1

    def keep(name: str) -> Callable[..., Tensor]:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            calls.setdefault(name, []).append((arguments[0].detach(), output))
            return output.clone()  # an in-place activation leaves the kept output alone

        return hook

    modules = {
        name: module
        for name, module in model.named_modules()
        if _served(module) and module.weight.requires_grad and uses[id(module.weight)] == 1
    }
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(keep(name)))
        result = forward()
    finally:
        for handle in handles:
            handle.remove()
    layers = [
        Layer(name, modules[name], unfolded(modules[name], pair[0][0]), pair[0][1])
        for name, pair in calls.items()
        if len(pair) == 1 and pair[0][0].dim() >= 2 and pair[0][1].requires_grad
    ]
    return layers, result


def pull_back(layers: list[Layer], output: Tensor, columns: list[Tensor]) -> None:
    """The columns' derivatives at every layer's outputs, by one backward pass each."""
    for column in columns:
        slopes = torch.autograd.grad(
            output,
            [layer.output for layer in layers],
            column,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        for layer, slope in zip(layers, slopes, strict=True):
            layer.slopes.append(_positions(layer.module, slope))
