"""Large linear layers through `hessian.product`, which takes the faster library for each product.

On some processors (AMD's) that halves the time of a fully connected layer, forwards and back. The
node that it leaves on the tape is unknown to `hessian`, so that networks whose exact curvature is
taken do without.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

import hessian

# Multiplications of one product from which on the calls from Python cost less than is saved.
LARGE = 2**23
# Weights of a layer from which on its products may be so large; to ask at every step costs, too.
WEIGHTS = 2**16


class Product(torch.autograd.Function):
    """`x @ weight.T + bias` for `x` `[n, in]`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`[n, out]`."""
        ctx.save_for_backward(x, weight)
        product = hessian.product(x, weight.t())
        return product if bias is None else product.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """With respect to those that it is asked for."""
        (g,) = gradients
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            hessian.product(g, weight) if of_x else None,
            hessian.product(g.t(), x) if of_weight else None,
            g.sum(0) if of_bias else None,
        )


class Dense(nn.Linear):
    """A linear layer that is fast for large products; small ones are as in `nn.Linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """`[…, out]` of inputs `[…, in]`."""
        rows = input.numel() // max(1, self.in_features)
        if rows * self.weight.numel() < LARGE:
            return F.linear(input, self.weight, self.bias)
        flat = input.reshape(rows, self.in_features)
        output: Tensor = Product.apply(flat, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return output.view(*input.shape[:-1], self.out_features)


def densify(model: nn.Module) -> None:
    """Let the model's large linear layers be such; names, parameters and values stay.

    >>> model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 3))
    >>> densify(model)
    >>> [type(module).__name__ for module in model]
    ['Dense', 'ReLU', 'Linear']
    """
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.numel() >= WEIGHTS:
            module.__class__ = Dense
