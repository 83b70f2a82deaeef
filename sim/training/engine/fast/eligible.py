"""Which of the faster ways a configuration's networks can take."""

from typing import Any

import torch

from hessian import devices, torch_private
from sim import models
from sim._own import is_own
from sim.training.config import optimizers
from sim.training.config.train_config import TrainConfig


def channels_last(config: TrainConfig) -> bool:
    """Whether a network of this configuration keeps images with the channels last.

    Unasked, where it was measured to be faster: convolutions of many channels on a CPU. Exact
    curvature is taken in the usual format.
    """
    if config.channels_last is not None:
        return config.channels_last
    wide = config.model in ("alexnet", "resnet18")
    return wide and not curved(config) and torch.device(config.device).type in devices.MEASURED


def dense(config: TrainConfig) -> bool:
    """Whether large linear layers of a network of this configuration are `_dense.Dense`."""
    plain = config.dtype == "float32" and config.precision == "full" and not config.compile
    return plain and not curved(config) and torch.device(config.device).type in devices.MEASURED


def curved(config: TrainConfig) -> bool:
    """Whether the network's exact curvature is taken."""
    return config.optimizer == "cblr" or config.measure.curvature_every > 0


def obstacle(config: TrainConfig) -> str | None:
    """Why networks of this configuration cannot train as lanes of one, or `None`.

    >>> obstacle(TrainConfig(epochs=1, model_options={"dropout": 0.5}))
    'the model has dropout, whose masks would be others'
    """
    if curved(config):
        return "exact curvature is computed network by network"
    if any(is_own(name) for name in (config.model, config.loss, config.optimizer)):
        return "what the model, loss or optimizer of one's own does is not known"
    if config.compile or config.channels_last:
        return "compile and channels_last are for a single network"
    if optimizers.couples(config.optimizer, config.optimizer_options):
        return "the optimizer looks at all gradients together (max_grad_norm)"
    options: dict[str, Any] = dict(config.model_options)
    shape = (1, 32, 32)
    model = models.build(config.model, in_shape=shape, classes=2, seed=0, **options)
    if any(True for _ in model.buffers()):
        return "the model has buffers (batch norm)"
    if any(isinstance(m, torch_private.Dropout) and m.p > 0 for m in model.modules()):
        return "the model has dropout, whose masks would be others"
    return None
