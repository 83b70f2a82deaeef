"""From a model's name to the model."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from sim import _arguments
from sim._isolation import Drawing
from sim._own import is_own
from sim.models._alexnet import alexnet
from sim.models._lenet import lenet
from sim.models._mlp import mlp
from sim.models._own_model import OwnModel
from sim.models._resnet18 import resnet18
from sim.models._transformer import transformer

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "alexnet": alexnet,
    "lenet": lenet,
    "mlp": mlp,
    "resnet18": resnet18,
    "transformer": transformer,
}
MODELS = tuple(BUILDERS)
# What a torch generator takes.
MOST_SEED = 2**64 - 1
# Beyond this factor no layer fits into any memory, and the sizes of tensors overflow.
MOST_WIDTH = 10_000


def build(
    name: str,
    *,
    in_shape: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    seed: int | None = None,
    **options: Any,
) -> nn.Module:
    """Build a network, in training mode, on the CPU, with PyTorch's default initialisation.

    From a seed it is the same network in float32 whatever torch's default dtype is, and whoever
    else draws from the global random state meanwhile.

    | name | layers | options | parameters |
    |---|---|---|---|
    | `alexnet` | conv1 … conv5, fc1 … fc3 | `width`, `dropout` (0.5) | 23,272,266 |
    | `resnet18` | conv1, layer1 … layer4, fc | `width` | 11,173,962 |
    | `lenet` | conv1, conv2, fc1 … fc3 | `activation`, `width`, `dropout` (0) | 136,886 |
    | `mlp` | fc1, fc2, … | `hidden`, `activation`, `width`, `dropout` (0) | 411,146 |
    | `transformer` | embed, blocks, head | `depth`, `heads`, `patch`, `width`, … | 107,978 |

    Parameters are counted for images of 3x32x32, ten classes and the default options. All networks
    use ReLU unless `activation` says `"tanh"` or `"gelu"`, but the transformer, which uses GELU.
    `alexnet` resizes images smaller than 32x32 to 32x32 by bilinear interpolation.

    Args:
        name: one of `MODELS`, or one's own as `package.module:factory`, a function that returns a
            module; of `in_shape`, `classes` and the options it is given what it has arguments for.
        in_shape: the shape of one input: `(channels, height, width)`, or `(features,)` for `mlp`;
            a data set has it as `data.shape`.
        classes: the number of outputs.
        seed: initialise from this seed and leave the global random state as it is; `None` draws
            from the global state, as PyTorch does.
        options: `width`, the factor on the size of every hidden layer (1.0); `dropout`, the
            probability of dropping in [0, 1); `hidden`, the sizes of an MLP's hidden layers
            (128, 128); `activation`, `"relu"`, `"tanh"` or `"gelu"`; of a transformer, `depth`
            (2) blocks of `heads` (4) heads on tokens that are patches of `patch` pixels a side
            (4 for images from 32 on, else 2).

    Returns:
        The module; its forward takes `[N, *in_shape]` to logits `[N, classes]`.

    Raises:
        ValueError: an unknown name or option, or a value that the network cannot have.

    >>> model = build("alexnet", seed=0)
    >>> sum(p.numel() for p in model.parameters())
    23272266
    >>> first_linear(model)
    'fc1.weight'
    >>> small = build("mlp", in_shape=(1, 8, 8), hidden=(16,), activation="tanh", seed=0)
    >>> [name for name, _ in small.named_parameters()]
    ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias']
    """
    builder = _builder(name, options)
    shape = tuple(_arguments.integer("in_shape", size, 1) for size in in_shape)
    if not shape:
        raise ValueError("in_shape: got an empty shape; give the shape of one input")
    classes = _arguments.integer("classes", classes, 1)
    with torch.inference_mode(False), torch.device("cpu"), _seeded(seed):
        return builder(shape, classes, **options)


def check(name: str, in_shape: tuple[int, ...], options: Mapping[str, Any]) -> None:
    """Refuse the options that `build` would refuse; no memory is taken, no number drawn.

    Raises:
        ValueError: an unknown name or option, or a value that the network cannot have.

    >>> check("mlp", (1, 8, 8), {"hidden": 8})
    Traceback (most recent call last):
    ...
    ValueError: hidden: got 8; give a sequence of layer sizes
    """
    builder = _builder(name, options)
    if is_own(name):
        return  # what it does is not known before it is built
    with torch.device("meta"):
        builder(in_shape, 10, **options)


def _builder(name: str, options: Mapping[str, Any]) -> Callable[..., nn.Module]:
    """The function behind a name, after a look at the options that do not depend on the data."""
    if is_own(name):
        return _own_builder(name, options)
    builder = BUILDERS[_arguments.choice("name", name, BUILDERS)]
    _arguments.options(f"the model {name!r}", builder, options)
    if "width" in options:
        _arguments.number("width", options["width"], 0.0, open_=True)
        _arguments.at_most("width", options["width"], MOST_WIDTH)
    if "dropout" in options:
        _arguments.number("dropout", options["dropout"], 0.0, 1.0)
    return builder


def _own_builder(name: str, options: Mapping[str, Any]) -> Callable[..., nn.Module]:
    with _arguments.told_of("model"):
        builder = OwnModel(name)
    builder.check(options)
    return builder


def first_linear(model: nn.Module) -> str:
    """The name of the weight of the first fully connected layer, in the order of registration.

    Raises:
        ValueError: the model has no `torch.nn.Linear`.

    >>> first_linear(build("lenet", seed=0))
    'fc1.weight'
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            return f"{name}.weight" if name else "weight"
    raise ValueError(
        f"model: {type(model).__name__} has no torch.nn.Linear; name the parameter yourself"
    )


def _seeded(seed: int | None) -> AbstractContextManager[Any]:
    if seed is None:
        return nullcontext()
    seed = _arguments.integer("seed", seed, 0)
    _arguments.at_most("seed", seed, MOST_SEED)
    return Drawing(torch.Generator("cpu").manual_seed(seed))
