"""Per-sample factors of a linear layer's gradient, and the small network they are taken from."""

from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from paper_checks.papers.gao2020.measurements.context import Context

EPOCHS = 20
# Epochs of SGD after which the network is looked at.
STAGES = (0, 1, 5, EPOCHS)
# Networks that measurements with repetitions take: each trains for some seconds.
REPEATS = 3


def small_networks(
    context: "Context", seed: int | None = None, decay: float = 0.0
) -> "dict[str, nn.Module]":
    """The MLP of the digits in float64, at initialisation and trained, by a name for each."""
    seed = context.profile.seeds[0] if seed is None else seed
    stages = list(along_training(seed, decay).values())
    return {"MLP at initialisation": stages[0], "MLP trained": stages[-1]}


def repeats(context: "Context") -> tuple[int, ...]:
    """The seeds of measurements that are repeated on another small network."""
    return context.profile.seeds[:REPEATS]


def along_training(seed: int, decay: float = 0.0) -> "dict[int, nn.Module]":
    """The MLP after some epochs of SGD, by their number; of the same run, and for the caller."""
    return deepcopy(_trained(seed, decay))


@lru_cache(maxsize=12)
def _trained(seed: int, decay: float) -> "dict[int, nn.Module]":
    from sim.data import load
    from sim.models import build

    inputs, targets = load("digits").pair
    model = build("mlp", in_shape=(1, 8, 8), classes=10, seed=seed).double()
    stages = {0: deepcopy(model)}

    def keep(epoch: int) -> None:
        if epoch in STAGES:
            stages[epoch] = deepcopy(model)

    train(model, (inputs.double(), targets), seed, STAGES[-1], decay=decay, after=keep)
    return stages


def small_network(context: "Context", seed: int | None = None) -> "nn.Module":
    """An MLP (128, 128) for the digits, in float64."""
    from sim.models import build

    seed = context.profile.seeds[0] if seed is None else seed
    return build("mlp", in_shape=(1, 8, 8), classes=10, seed=seed).double()


def small_data(context: "Context") -> "tuple[Tensor, Tensor]":
    """The digits' training images in float64, with their labels."""
    from sim.data import load

    inputs, targets = load("digits").pair
    return inputs.double(), targets


def train(
    model: "nn.Module",
    pair: "tuple[Tensor, Tensor]",
    seed: int,
    epochs: int = EPOCHS,
    *,
    decay: float = 0.0,
    batch: int = 64,
    after: Callable[[int], None] | None = None,
) -> None:
    """SGD with momentum 0.9, lr 0.05 and small batches, in place; `after(epoch)` may look on."""
    import torch
    from torch.nn.functional import cross_entropy

    inputs, targets = pair
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=decay)
    for epoch in range(epochs):
        for index in torch.randperm(len(targets), generator=generator).split(batch):
            optimizer.zero_grad()
            cross_entropy(model(inputs[index]), targets[index]).backward()
            optimizer.step()
        if after is not None:
            after(epoch + 1)


def factors(
    model: "nn.Module", pair: "tuple[Tensor, Tensor]", layer: str
) -> "tuple[Tensor, Tensor, Tensor]":
    """Every sample's loss [n], the layer's input a [n, in] and δ = dℓ/dz [n, out].

    The gradient of sample i is δ_i a_iᵀ, so that of any part of the batch is one matrix product.
    """
    import torch
    from torch.nn.functional import cross_entropy

    seen: dict[str, Any] = {}

    def keep(module: Any, arguments: Any, output: "torch.Tensor") -> None:
        seen["input"], seen["output"] = arguments[0], output

    handle = model.get_submodule(layer).register_forward_hook(keep)
    try:
        losses = cross_entropy(model(pair[0]), pair[1], reduction="none")
    finally:
        handle.remove()
    (delta,) = torch.autograd.grad(losses.sum(), seen["output"])
    return losses.detach(), seen["input"].detach(), delta


def deviations(
    model: "nn.Module", pair: "tuple[Tensor, Tensor]", layer: str
) -> "tuple[Tensor, Callable[[Any], Tensor]]":
    """σ of the samples' gradients to a layer's weight, flat, and what takes theirs at entries.

    Of a linear layer, or of a convolution, whose sums over places are written out; what is taken
    is `[n, entries]`. All in double precision.
    """
    import torch
    from torch import nn
    from torch.nn.functional import unfold

    module = model.get_submodule(layer)
    _, a, delta = factors(model, pair, layer)
    a, delta = a.double(), delta.double()
    if isinstance(module, nn.Conv2d):
        places = unfold(
            a, module.kernel_size, module.dilation, tuple(map(int, module.padding)), module.stride
        )
        slopes = torch.einsum("nol,nil->noi", delta.flatten(2), places).flatten(1)
        return slopes.std(0, correction=0), lambda index: slopes[:, index]
    width = a.shape[1]
    mean = delta.T @ a / len(a)
    variance = delta.square().T @ a.square() / len(a) - mean.square()
    return (
        variance.clamp(min=0).sqrt().flatten(),
        lambda index: delta[:, index // width] * a[:, index % width],
    )
