"""Networks with their training sets, as functions of one flat vector of parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy, one_hot

from sim.models import build

if TYPE_CHECKING:
    from paper_checks.papers.mccandlish2018.measurements.context import Setup

# A context of characters, from which the next one is told.
CONTEXT = 16
# Exact products with so small a transformer cost ten times those of a perceptron.
MOST_CONTEXTS = 64
_MLPS: dict[str, Any] = {
    "mlp16": {"hidden": [16, 16]},
    "mlp32": {"hidden": [32, 32]},
    "mlp64": {"hidden": [64, 64]},
    "tanh32": {"hidden": [32, 32], "activation": "tanh"},
}


@dataclass(frozen=True, eq=False)
class Task:
    """A network, which its parameters do not come from, and the whole of its training set."""

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


def task(context: "Setup", name: str) -> Task:
    """The network `name` with the first samples of its data, in double precision."""
    count = context.profile.population
    if name == "characters":
        inputs, targets, options = characters(min(count, MOST_CONTEXTS))
        options |= {"name": "transformer", "width": 0.25, "depth": 1, "heads": 2, "patch": 1}
    else:
        images = context.dataset.subset(count, seed=0)
        inputs, targets = images.inputs.double(), images.targets
        options = {"name": "mlp", "in_shape": images.shape, "classes": images.classes}
        options |= _MLPS.get(name, {"name": name, "width": 1 / 16, "dropout": 0.0})

    def fresh(seed: int) -> nn.Module:
        return build(**options, seed=seed)

    return Task(fresh(0).double(), inputs, targets, fresh)


def characters(count: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Contexts of characters as images of one line, the next ones, and what a network needs.

    The text is scikit-learn's own description of one of its data sets.
    """
    text = files("sklearn.datasets.descr").joinpath("kddcup99.rst").read_text(encoding="utf-8")
    alphabet = sorted(set(text.lower()))
    codes = torch.tensor([alphabet.index(letter) for letter in text.lower()])
    generator = torch.Generator().manual_seed(0)
    first = torch.randperm(len(codes) - CONTEXT, generator=generator)[:count]
    windows = codes[first[:, None] + torch.arange(CONTEXT)]
    inputs = one_hot(windows, len(alphabet)).transpose(1, 2)[:, :, None].double()
    shape = {"in_shape": (len(alphabet), 1, CONTEXT), "classes": len(alphabet)}
    return inputs, codes[first + CONTEXT], shape
