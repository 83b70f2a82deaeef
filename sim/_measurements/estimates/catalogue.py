"""Every estimate by its name: who makes it, and what a draw of it costs."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hessian
from sim._measurements.estimates import kronecker, low_rank, moments
from sim._measurements.estimates.columns import class_axis, loss_columns
from sim._measurements.estimates.layers import Layer, layers_of, matrices, pull_back
from sim._measurements.per_sample import Objective
from sim._measurements.samples import Forward, count, rows

# Of hessian.estimate, by its kinds; then those with random numbers.
OWN = (
    "hutchinson",
    "preactivation",
    "gauss-newton",
    "gauss-newton-mc",
    "empirical-fisher",
    "becker-lecun",
)
LOW_RANK = {"hutch++": low_rank.hutch_plus_plus, "xdiag": low_rank.xdiag}
FACTORED = {
    "k-fac": kronecker.kfac,
    "ek-fac": kronecker.ekfac,
    "input-moment": kronecker.input_moment,
}
FROM_GRADIENT = ("ratio", *moments.RULES)
ESTIMATES = (*OWN, *LOW_RANK, *FACTORED, "adam", *FROM_GRADIENT)
RANDOM = ("hutchinson", "preactivation", "gauss-newton-mc", *LOW_RANK, "adam")

Diagonal = Mapping[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """A network with its data, and how much every estimate may spend.

    `steps` batches of `batch_size` samples make Adam's second moment.
    """

    model: nn.Module
    loss: Callable[..., Any]
    pair: tuple[Any, Any]
    probes: int
    steps: int
    batch_size: int
    decay: float
    forward: Forward | None = None
    memory: int | None = None

    def trained(self) -> dict[str, Tensor]:
        """The parameters that are not frozen."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def gradient(self, pair: tuple[Any, Any] | None = None) -> dict[str, Tensor]:
        """dL/dw of some samples, or of all."""
        inputs, targets = self.pair if pair is None else pair
        value = Objective(self.model, self.loss, self.forward).scalar(inputs, targets)
        parameters = self.trained()
        slopes = torch.autograd.grad(
            value, list(parameters.values()), allow_unused=True, materialize_grads=True
        )
        return dict(zip(parameters, slopes, strict=True))


def clocked(compute: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and the processor's seconds that it took."""
    start = time.process_time()
    result = compute()
    return result, time.process_time() - start


def of_gradient(name: str, setting: Setting, gradient: Diagonal) -> dict[str, Tensor]:
    """|g/w|, or one number for all entries of a tensor."""
    result = {}
    for key, weight in setting.trained().items():
        w, g = weight.detach().cpu().double(), gradient[key].detach().cpu().double()
        if name == "ratio":
            result[key] = moments.inverse_ratio(w, g)
        else:
            result[key] = torch.full_like(w, moments.RULES[name](w, g))
    return result


def _products(setting: Setting, name: str, seed: int) -> dict[str, Tensor]:
    options: dict[str, Any] = {"forward": setting.forward, "memory": setting.memory}
    h = hessian.operator(setting.model, setting.loss, setting.pair, **options)
    rng = np.random.default_rng(seed)
    with h.kept():
        flat = LOW_RANK[name](lambda v: np.asarray(h @ v), h.shape[0], setting.probes, rng)
    result, start = {}, 0
    for key, shape in zip(h.names, h.shapes, strict=True):
        size = torch.Size(shape).numel()
        result[key] = torch.from_numpy(flat[start : start + size].copy()).reshape(shape)
        start += size
    return result


def _adam(setting: Setting, seed: int) -> dict[str, Tensor]:
    inputs, targets = setting.pair
    total = count(inputs)
    rng = np.random.default_rng(seed)
    gradients = []
    for _ in range(setting.steps):
        index = torch.from_numpy(rng.choice(total, setting.batch_size, replace=False))
        part = rows(inputs, index, total), rows(targets, index, total)
        gradients.append(setting.gradient(part))
    moment = moments.adam_second_moment(gradients, setting.decay)
    return {name: setting.batch_size * v for name, v in moment.items()}


def factored_layers(setting: Setting, seed: int) -> list[Layer]:
    """The layers with their inputs and the loss's columns at their outputs."""
    inputs, targets = setting.pair
    objective = Objective(setting.model, setting.loss, setting.forward)
    layers, output = layers_of(setting.model, lambda: objective.output(inputs))
    if not isinstance(output, Tensor):
        raise ValueError(
            f"model: it returned {type(output).__name__}; the K-FAC family needs one tensor: "
            "pass forward= that takes it out"
        )
    leaf = output.detach().requires_grad_()
    value = objective.of_output(leaf, targets)
    generator = torch.Generator("cpu").manual_seed(seed)
    columns = loss_columns(value, leaf, class_axis(leaf, targets), setting.probes, generator)
    pull_back(layers, output, columns)
    return layers


def draw(name: str, setting: Setting, seed: int) -> dict[str, Tensor]:
    """One draw of an estimate; the K-FAC family and those of the gradient are not drawn here."""
    if name in LOW_RANK:
        return _products(setting, name, seed)
    if name == "adam":
        return _adam(setting, seed)

    def estimated(names: list[str] | None) -> dict[str, Tensor]:
        generator = torch.Generator("cpu").manual_seed(seed)
        return dict(
            hessian.estimate(
                setting.model, setting.loss, setting.pair, name, setting.probes, generator,
                names=names, forward=setting.forward, memory=setting.memory,
            )
        )  # fmt: skip

    try:
        return estimated(None)
    except ValueError as refusal:
        # One parameter that it cannot serve, an embedding or a norm, need not cost all the others.
        served = set(setting.trained()).intersection(matrices(setting.model))
        if not 0 < len(served) < len(setting.trained()):
            raise
        try:
            return estimated(sorted(served))
        except ValueError:
            raise refusal from None
