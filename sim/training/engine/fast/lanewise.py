"""The passes forward and back of many multilayer perceptrons at once, without `vmap`.

What `torch.func.vmap` makes of a linear layer is a product of stacked matrices too, but with its
gradient in another layout, which a copy or a slower product has to mend, and in new memory at every
step. Here every product is one that BLAS takes as it lies, activations stay in memory that is kept,
and gradients are written where the optimizer reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

aten = torch.ops.aten
# `f(input, out)`, which may be the same memory, and the gradient of the input from that of the
# output, in its place, and from what is kept: the output, or the input where `f` needs room.
Function = Callable[[Tensor, Tensor], object]
IN_PLACE: dict[type[nn.Module], tuple[Function, Function]] = {
    nn.ReLU: (
        lambda x, out: torch.clamp_min(x, 0, out=out),
        lambda g, saved: aten.threshold_backward.grad_input(g, saved, 0, grad_input=g),
    ),
    nn.Tanh: (
        lambda x, out: torch.tanh(x, out=out),
        lambda g, saved: aten.tanh_backward.grad_input(g, saved, grad_input=g),
    ),
}
FROM_INPUT: dict[type[nn.Module], tuple[Function, Function]] = {
    nn.GELU: (
        lambda x, out: aten.gelu.out(x, out=out),
        lambda g, saved: aten.gelu_backward.grad_input(g, saved, grad_input=g),
    ),
}
ELEMENTWISE = IN_PLACE | FROM_INPUT
# Batch sizes whose views are kept at a time.
SIZES = 8


class Lanewise:
    """Linear layers with functions of single entries between them, for stacked parameters.

    Args:
        functions: between one linear layer and the next.
        parameters: weights `[lanes, out, in]` and biases `[lanes, out]`, in turns.
        gradients: of the same shapes, where gradients are to be written.
    """

    def __init__(
        self,
        functions: Sequence[nn.Module],
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
    ) -> None:
        self.functions = list(functions)
        self.parameters, self.gradients = list(parameters), list(gradients)
        self._weights = [w.detach() for w in self.parameters[::2]]
        self._biases = [b.detach() for b in self.parameters[1::2]]
        self._layers_by_size: dict[int, list[Layer]] = {}
        self._passes = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs `[lanes, C, n]` of inputs `[lanes, n, …]`.

        Where gradients are recorded, `backward` from there sets or adds to the parameters' `.grad`.
        It has to come before the next call, which writes over the activations.
        """
        x = x.flatten(2)
        if not torch.is_grad_enabled():
            return self.forward(x)
        output: Tensor = Passes.apply(self, x, self.parameters[0])  # type: ignore[no-untyped-call]
        return output

    def forward(self, x: Tensor) -> Tensor:
        """The same, all that `backward` needs in memory that is kept."""
        self._passes += 1
        layers = self._layers(x)
        for number, (layer, function) in enumerate(zip(layers, self.functions, strict=True)):
            bias, weight = self._biases[number].unsqueeze(1), self._weights[number].mT
            torch.baddbmm(bias, x, weight, out=layer.before)
            ELEMENTWISE[type(function)][0](layer.before, layer.after)
            x = layer.after
        return torch.baddbmm(self._biases[-1].unsqueeze(2), self._weights[-1], x.mT)

    def backward(self, x: Tensor, g: Tensor) -> None:
        """From the gradient of the last `forward`'s output, `[lanes, C, n]`, to the parameters'."""
        layers = self._layers(x)
        inputs = [x, *(layer.after for layer in layers)]
        last = len(self.functions)
        self._add(last, g, inputs[last])
        g = g.mT
        for number in reversed(range(last)):
            layer, function = layers[number], self.functions[number]
            torch.bmm(g, self._weights[number + 1], out=layer.gradient)
            g = layer.gradient
            saved = layer.after if type(function) in IN_PLACE else layer.before
            ELEMENTWISE[type(function)][1](g, saved)
            self._add(number, g.mT, inputs[number])

    def _add(self, number: int, g: Tensor, x: Tensor) -> None:
        """Set or add to the gradients of a layer from its output's `[lanes, out, n]`."""
        weight, bias = self.parameters[2 * number : 2 * number + 2]
        of_weight, of_bias = self.gradients[2 * number : 2 * number + 2]
        if weight.grad is None:
            torch.bmm(g, x, out=of_weight)
            torch.sum(g, 2, out=of_bias)
            weight.grad, bias.grad = of_weight, of_bias
        else:
            weight.grad.baddbmm_(g, x)
            assert bias.grad is not None
            bias.grad.add_(g.sum(2))

    def _layers(self, x: Tensor) -> list[Layer]:
        n = x.shape[1]
        if n not in self._layers_by_size:
            if len(self._layers_by_size) == SIZES:
                self._layers_by_size.clear()
            self._layers_by_size[n] = [
                Layer(x, weight, function)
                for weight, function in zip(self._weights[:-1], self.functions, strict=True)
            ]
        return self._layers_by_size[n]


class Layer:
    """Memory for what a layer computes.

    Attributes:
        before, after: the function between this linear layer and the next, `[lanes, n, out]`; one
            memory where it works in place.
        gradient: of `before`.
    """

    def __init__(self, x: Tensor, weight: Tensor, function: nn.Module) -> None:
        lanes, out, _ = weight.shape
        shape = lanes, x.shape[1], out
        self.before = self.after = x.new_empty(shape)
        self.gradient = x.new_empty(shape)
        if type(function) in FROM_INPUT:
            self.after = x.new_empty(shape)


class Passes(torch.autograd.Function):
    """The network as one node of the tape; it stands on the first parameter."""

    @staticmethod
    def forward(ctx: Any, lanes: Lanewise, x: Tensor, anchor: Tensor) -> Tensor:
        """`[lanes, C, n]`."""
        output = lanes.forward(x)
        ctx.lanes, ctx.x, ctx.number = lanes, x, lanes._passes
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        """Gradients go to `.grad` directly."""
        if ctx.number != ctx.lanes._passes:
            raise RuntimeError("the activations of this pass have been written over by a later one")
        ctx.lanes.backward(ctx.x, gradients[0])
        return None, None, None


def lanewise(
    model: nn.Module, parameters: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Lanewise | None:
    """The passes of a network whose parameters are stacked.

    `None` where the model is not a sequence of linear layers with one function of single entries
    between each and the next.

    >>> from sim import models
    >>> shapes = (5, 4, 3), (5, 4), (5, 2, 4), (5, 2)
    >>> stacked = [torch.zeros(shape, requires_grad=True) for shape in shapes]
    >>> model = models.build("mlp", in_shape=(3,), hidden=(4,), classes=2, seed=0)
    >>> forward = lanewise(model, stacked, [torch.zeros(shape) for shape in shapes])
    >>> forward(torch.zeros(5, 7, 3)).shape
    torch.Size([5, 2, 7])
    """
    if not isinstance(model, nn.Sequential):
        return None
    modules = [module for module in model if not isinstance(module, nn.Flatten)]
    linear, functions = modules[::2], modules[1::2]
    if not all(isinstance(m, nn.Linear) and m.bias is not None for m in linear):
        return None
    if not all(type(m) in ELEMENTWISE for m in functions) or len(linear) != len(functions) + 1:
        return None
    if any(isinstance(m, nn.GELU) and m.approximate != "none" for m in functions):
        return None
    return Lanewise(functions, parameters, gradients)
