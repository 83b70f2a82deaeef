"""The forward pass of many multilayer perceptrons at once, without `vmap`.

What `torch.func.vmap` makes of a linear layer is a product of stacked matrices too, but with its
gradient in another layout, which a copy or a slower product has to mend. Here every product is one
that BLAS takes as it lies.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

ELEMENTWISE = (nn.GELU, nn.ReLU, nn.Tanh)


class Linear(torch.autograd.Function):
    """`[lanes, n, in]` by weights `[lanes, out, in]` and biases `[lanes, out]`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """`[lanes, n, out]`."""
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """With respect to all three; to the input only where that is asked for."""
        (g,) = gradients
        x, weight = ctx.saved_tensors
        of_x = torch.bmm(g, weight) if ctx.needs_input_grad[0] else None
        return of_x, torch.bmm(g.mT, x), g.sum(1)


def lanewise(model: nn.Module) -> Callable[[list[Tensor], Tensor], Tensor] | None:
    """`forward(parameters, x)` for stacked parameters and inputs `[lanes, n, …]`.

    `None` where the model is not a sequence of linear layers and functions of single entries.

    >>> from sim import models
    >>> forward = lanewise(models.build("mlp", in_shape=(3,), hidden=(4,), classes=2, seed=0))
    >>> shapes = (5, 4, 3), (5, 4), (5, 2, 4), (5, 2)
    >>> forward([torch.zeros(shape) for shape in shapes], torch.zeros(5, 7, 3)).shape
    torch.Size([5, 7, 2])
    """
    if not isinstance(model, nn.Sequential):
        return None
    modules = list(model)
    for module in modules:
        plain = isinstance(module, nn.Linear) and module.bias is not None
        if not plain and not isinstance(module, (nn.Flatten, *ELEMENTWISE)):
            return None

    def forward(parameters: list[Tensor], x: Tensor) -> Tensor:
        left = iter(parameters)
        for module in modules:
            if isinstance(module, nn.Linear):
                x = Linear.apply(x, next(left), next(left))
            elif isinstance(module, nn.Flatten):
                x = x.flatten(2)
            else:
                x = module(x)
        return x

    return forward
