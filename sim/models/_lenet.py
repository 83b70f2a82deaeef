"""LeNet-5 (LeCun et al. 1998), with the choice of activation left to the user."""

import itertools
from collections import OrderedDict

from torch import nn

from sim import _arguments
from sim.models._mlp import ACTIVATIONS
from sim.models._shapes import image, scaled


def lenet(
    in_shape: tuple[int, ...],
    classes: int,
    *,
    activation: str = "relu",
    width: float = 1.0,
    dropout: float = 0.0,
) -> nn.Module:
    """Convolutions of 6 and 16 maps, 5x5 and same-padded, each average-pooled; linear 120, 84.

    Dropout, where asked for, comes before each hidden linear layer, as in AlexNet.
    """
    act = ACTIVATIONS[_arguments.choice("activation", activation, ACTIVATIONS)]
    channels, height, breadth = image("lenet", in_shape)
    if min(height, breadth) < 4:
        raise ValueError(f"in_shape: {in_shape} is too small for lenet; it needs at least 4x4")
    c1, c2, f1, f2 = (scaled(size, width) for size in (6, 16, 120, 84))
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(channels, c1, 5, padding=2),
        act1=act(),
        pool1=nn.AvgPool2d(2),
        conv2=nn.Conv2d(c1, c2, 5, padding=2),
        act2=act(),
        pool2=nn.AvgPool2d(2),
        flatten=nn.Flatten(),
    )
    sizes = [c2 * (height // 4) * (breadth // 4), f1, f2, classes]
    for number, (before, after) in enumerate(itertools.pairwise(sizes), start=1):
        if dropout > 0 and number < 3:
            layers[f"dropout{number}"] = nn.Dropout(dropout)
        layers[f"fc{number}"] = nn.Linear(before, after)
        if number < 3:
            layers[f"act{number + 2}"] = act()
    return nn.Sequential(layers)
