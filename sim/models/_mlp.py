"""The multilayer perceptron."""

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from sim import _arguments
from sim.models._shapes import scaled

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh}


def mlp(
    in_shape: tuple[int, ...],
    classes: int,
    *,
    hidden: Sequence[int] = (128, 128),
    activation: str = "relu",
    width: float = 1.0,
    dropout: float = 0.0,
) -> nn.Module:
    """Linear layers fc1, fc2, … with an activation, and dropout where asked, between them."""
    act = ACTIVATIONS[_arguments.choice("activation", activation, ACTIVATIONS)]
    if isinstance(hidden, str) or not isinstance(hidden, Sequence):
        raise ValueError(f"hidden: got {hidden!r}; give a sequence of layer sizes")
    sizes = [scaled(_arguments.integer("hidden", size, 1), width) for size in hidden]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    before = math.prod(in_shape)
    for number, size in enumerate(sizes, start=1):
        layers[f"fc{number}"] = nn.Linear(before, size)
        layers[f"{activation}{number}"] = act()
        if dropout > 0:
            layers[f"dropout{number}"] = nn.Dropout(dropout)
        before = size
    layers[f"fc{len(sizes) + 1}"] = nn.Linear(before, classes)
    return nn.Sequential(layers)
