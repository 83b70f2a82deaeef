"""Gradients of single samples: stacked, summed, or as the two factors of an outer product."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sim._measurements.samples import spread

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


def scalar_loss(loss: Loss, output: Any, targets: Tensor) -> Tensor:
    """The loss of a batch, refused where it is not one finite number."""
    value = loss(output, targets)
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss: it returned {shape}; it must return one number, the batch's mean")
    if not bool(torch.isfinite(value.detach()).all()):
        raise ValueError(
            f"loss: its value is {value.item()}; check the data and the weights "
            "for nan and overflow"
        )
    return value.reshape(())


def gradient_sum(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, weight: Tensor
) -> Tensor:
    """Σ_i g_i over some samples, by one backward pass."""
    value = scalar_loss(loss, model(inputs), targets)
    (gradient,) = torch.autograd.grad(value, weight, allow_unused=True)
    return torch.zeros_like(weight) if gradient is None else gradient * len(targets)


class _Objective(nn.Module):
    """Model and loss as one module, so that a loss that reads the parameters sees them swapped."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch."""
        value: Tensor = self.loss(self.model(x), y).reshape(())
        return value


def per_sample_gradients(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, parameter: str
) -> Tensor:
    """The gradients g_i, stacked."""
    objective = _Objective(model, loss)
    swapped = f"model.{parameter}"
    # The others are detached too, or the result would carry a graph back to them.
    fixed = {name: p.detach() for name, p in objective.named_parameters()}
    weight = fixed.pop(swapped)

    def single(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        alone = x.unsqueeze(0), y.unsqueeze(0)
        value: Tensor = functional_call(objective, {**fixed, swapped: w}, alone)
        return value

    try:
        with warnings.catch_warnings():
            # An operation without a batching rule is looped over, with a warning about speed.
            warnings.filterwarnings("ignore", "There is a performance drop")
            mapped = vmap(grad(single), in_dims=(None, 0, 0), randomness="different")
            gradients: Tensor = mapped(weight, inputs, targets)
            return gradients
    except RuntimeError:
        # What vmap cannot follow (a custom autograd function, a branch on a value) goes one by one.
        alone = zip(inputs.split(1), targets.split(1), strict=True)
        live = dict(model.named_parameters())[parameter]
        return torch.stack([gradient_sum(model, loss, x, y, live) for x, y in alone])


def _factors(
    model: nn.Module, loss: Loss, layer: nn.Linear, x: Tensor, y: Tensor, *also: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]] | None:
    """δ and a with g_i = δ_i a_iᵀ, and the gradient with respect to others from the same pass."""
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.append((arguments[0].detach(), output))
        # A copy goes on, so that an in-place activation leaves the kept output alone.
        return output.clone()

    handle = layer.register_forward_hook(keep)
    try:
        value = scalar_loss(loss, model(x), y)
    finally:
        handle.remove()
    if len(calls) != 1 or calls[0][0].dim() != 2 or len(calls[0][0]) != len(y):
        return None
    activation, output = calls[0]
    delta, *rest = torch.autograd.grad(
        value, (output, *also), allow_unused=True, materialize_grads=True
    )
    return delta * len(y), activation, tuple(rest)


Factors = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def outer_product(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, parameter: str
) -> Factors | None:
    """A function to the factors δ and a of a chunk, or `None` where g_i is no outer product."""
    layer_name, _, last = parameter.rpartition(".")
    layer = model.get_submodule(layer_name)
    if last != "weight" or not isinstance(layer, nn.Linear):
        return None

    # The layer's weight may be used elsewhere too: tied, or read by the loss. So compare with the
    # gradient itself, from the same forward pass and hence the same dropout masks.
    x, y = spread(inputs, targets, TRIED, layer.weight.device)
    tried = _factors(model, loss, layer, x, y, layer.weight)
    if tried is None:
        return None
    delta, activation, (whole,) = tried
    scale = float(delta.abs().max() * activation.abs().max()) + float(whole.abs().max())
    off = float((delta.T @ activation / len(y) - whole).abs().max())
    if off > 100 * torch.finfo(delta.dtype).eps * scale:
        return None

    def factors(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        pair = _factors(model, loss, layer, x, y)
        if pair is None:
            raise ValueError(
                f"model: it called the layer of {parameter!r} otherwise for another batch; "
                "measure a parameter of a layer that every batch passes once"
            )
        return pair[:2]

    return factors
