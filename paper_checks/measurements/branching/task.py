"""A network with its training set, as functions of one flat vector of parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy


@dataclass(frozen=True, eq=False)
class Task:
    """A network, which its parameters do not come from, and the whole of its training set.

    `fresh` makes the network of a seed.
    """

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    fresh: Callable[[int], nn.Module]

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """The parameters in their order in a flat vector."""
        return {name: parameter.shape for name, parameter in self.model.named_parameters()}

    def start(self, seed: int) -> Tensor:
        """The parameters at initialisation, `[P]`."""
        parameters = self.fresh(seed).to(self.inputs.dtype).parameters()
        return torch.cat([parameter.detach().flatten() for parameter in parameters])

    def parts(self, flat: Tensor) -> dict[str, Tensor]:
        """The tensors of a vector `[P]` by the names of the parameters."""
        pieces = flat.split([shape.numel() for shape in self.shapes.values()])
        return {
            name: piece.view(shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def loss(self, flat: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of some samples."""
        output = functional_call(self.model, self.parts(flat), (inputs,))
        mean: Tensor = cross_entropy(output, targets)
        return mean

    def whole(self, lanes: Tensor) -> Tensor:
        """The loss of the training set at each of several vectors, `[lanes, P]` to `[lanes]`."""
        most = max(1, 2**25 // self.inputs.numel())
        each = vmap(self.loss, in_dims=(0, None, None))
        losses = [each(part, self.inputs, self.targets) for part in lanes.split(most)]
        return torch.cat(losses).detach()

    def gradients(self, lanes: Tensor, index: Tensor) -> Tensor:
        """The gradient of a batch `[lanes, B]` for each of several vectors, `[lanes, P]`."""
        slopes: Tensor = vmap(grad(self.loss))(lanes, self.inputs[index], self.targets[index])
        return slopes.detach()

    def per_sample(self, flat: Tensor) -> Tensor:
        """The gradients of single samples, `[N, P]`."""
        every = torch.arange(len(self.targets))
        return torch.cat(
            [self.gradients(flat.expand(len(i), -1), i[:, None]) for i in every.split(64)]
        )
