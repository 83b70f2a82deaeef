"""Gradients of single samples: stacked, summed, or as the two factors of an outer product."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from hessian import batches, trees
from sim._measurements.samples import Forward, count, singles, spread

Loss = Callable[..., Any]
# Samples on which it is tried whether their gradients are outer products.
TRIED = 4


def trained_parameter(model: nn.Module, name: str) -> Tensor:
    """A parameter by its name, refused where there is none or it is frozen."""
    parameters = dict(model.named_parameters())
    if name not in parameters:
        raise ValueError(
            f"parameter: the model has no {name!r}; choose one of {', '.join(parameters) or 'none'}"
        )
    if not parameters[name].requires_grad:
        raise ValueError(f"parameter: {name!r} is frozen; set its requires_grad")
    return parameters[name]


class Objective(nn.Module):
    """Model and loss as one module, so that a loss that reads the parameters sees them swapped."""

    def __init__(self, model: nn.Module, loss: Loss, how: Forward | None = None) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.how = how

    def output(self, inputs: Any) -> Any:
        """What the model makes of the inputs."""
        return batches.call(self.model, inputs, self.how)

    def forward(self, inputs: Any, targets: Any) -> Tensor:
        """The loss of a batch."""
        value: Tensor = batches.loss_of(self.loss, self.output(inputs), targets)
        return value.reshape(())

    def scalar(self, inputs: Any, targets: Any) -> Tensor:
        """The same, refused where it is not one finite number."""
        return self.of_output(self.output(inputs), targets)

    def of_output(self, output: Any, targets: Any) -> Tensor:
        """The loss of an output, refused where it is not one finite number."""
        value = batches.loss_of(self.loss, output, targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"loss: it returned {shape}; it must return one number, the batch's mean"
            )
        if not bool(torch.isfinite(value.detach()).all()):
            raise ValueError(
                f"loss: its value is {value.item()}; check the data and the weights "
                "for nan and overflow"
            )
        return value.reshape(())


def gradient_sum(objective: Objective, inputs: Any, targets: Any, weight: Tensor) -> Tensor:
    """Σ_i g_i over some samples, by one backward pass."""
    value = objective.scalar(inputs, targets)
    (gradient,) = torch.autograd.grad(value, weight, allow_unused=True)
    return torch.zeros_like(weight) if gradient is None else gradient * count(inputs)


def per_sample_gradients(objective: Objective, inputs: Any, targets: Any, parameter: str) -> Tensor:
    """The gradients g_i, stacked."""
    swapped = f"model.{parameter}"
    # The others are detached too, or the result would carry a graph back to them.
    fixed = {name: p.detach() for name, p in objective.named_parameters()}
    weight = fixed.pop(swapped)
    total = count(inputs)
    leaves, structure = trees.flatten((inputs, targets))
    axes = [0 if isinstance(v, Tensor) and v.dim() and len(v) == total else None for v in leaves]

    def single(w: Tensor, *values: Any) -> Tensor:
        one = [v if axis is None else v.unsqueeze(0) for v, axis in zip(values, axes, strict=True)]
        alone = trees.unflatten(one, structure)
        value: Tensor = functional_call(objective, {**fixed, swapped: w}, alone)
        return value

    try:
        with warnings.catch_warnings():
            # An operation without a batching rule is looped over, with a warning about speed.
            warnings.filterwarnings("ignore", "There is a performance drop")
            mapped = vmap(grad(single), in_dims=(None, *axes), randomness="different")
            gradients: Tensor = mapped(weight, *leaves)
            return gradients
    except (RuntimeError, ValueError):
        # What vmap cannot follow (a custom autograd function, a branch on a value) goes one by one.
        live = dict(objective.model.named_parameters())[parameter]
        alone = [gradient_sum(objective, x, y, live) for x, y in singles(inputs, targets)]
        return torch.stack(alone)


def _factors(
    objective: Objective, layer: nn.Linear, x: Any, y: Any, *also: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]] | None:
    """δ and a with g_i = δ_i a_iᵀ, and the gradient with respect to others from the same pass."""
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.append((arguments[0].detach(), output))
        # A copy goes on, so that an in-place activation leaves the kept output alone.
        return output.clone()

    handle = layer.register_forward_hook(keep)
    try:
        value = objective.scalar(x, y)
    finally:
        handle.remove()
    if len(calls) != 1 or calls[0][0].dim() != 2 or len(calls[0][0]) != count(x):
        return None
    activation, output = calls[0]
    delta, *rest = torch.autograd.grad(
        value, (output, *also), allow_unused=True, materialize_grads=True
    )
    return delta * count(x), activation, tuple(rest)


Factors = Callable[[Any, Any], tuple[Tensor, Tensor]]


def outer_product(
    objective: Objective, inputs: Any, targets: Any, parameter: str
) -> Factors | None:
    """A function to the factors δ and a of a chunk, or `None` where g_i is no outer product."""
    layer_name, _, last = parameter.rpartition(".")
    layer = objective.model.get_submodule(layer_name)
    if last != "weight" or not isinstance(layer, nn.Linear):
        return None

    # The layer's weight may be used elsewhere too: tied, or read by the loss. So compare with the
    # gradient itself, from the same forward pass and hence the same dropout masks.
    x, y = spread(inputs, targets, TRIED, layer.weight.device)
    tried = _factors(objective, layer, x, y, layer.weight)
    if tried is None:
        return None
    delta, activation, (whole,) = tried
    scale = float(delta.abs().max() * activation.abs().max()) + float(whole.abs().max())
    off = float((delta.T @ activation / count(x) - whole).abs().max())
    if off > 100 * torch.finfo(delta.dtype).eps * scale:
        return None

    def factors(x: Any, y: Any) -> tuple[Tensor, Tensor]:
        pair = _factors(objective, layer, x, y)
        if pair is None:
            raise ValueError(
                f"model: it called the layer of {parameter!r} otherwise for another batch; "
                "measure a parameter of a layer that every batch passes once"
            )
        return pair[:2]

    return factors
