"""What `monitor` measures: a function for each, from a probe to rows of the table."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import hessian
from sim._measurements.monitored.critical_rate import critical_rate
from sim._measurements.monitored.noise_scale import noise_scale
from sim._measurements.monitored.state import as_found
from sim._measurements.monitored.top_eigenvalue import top_eigenvalue
from sim._measurements.per_sample import Objective

# Rows of one measurement: the layer, or None for the whole network, and the value of a measure.
Rows = Iterator[tuple[str, str | None, float]]


@dataclass(frozen=True, eq=False)
class Probe:
    """What is measured, and how: the arguments of `monitor` under their names."""

    objective: Objective
    pair: tuple[Any, Any]
    optimizer: Optimizer
    micro_batches: int
    tolerance: float
    evaluation: bool
    memory: int | None

    @property
    def owners(self) -> list[nn.Module]:
        """The modules whose state must not change."""
        pair = (self.objective.model, self.objective.loss)
        return [owner for owner in pair if isinstance(owner, nn.Module)]

    @property
    def trained(self) -> dict[str, Tensor]:
        """The model's parameters that have gradients, by name."""
        return {name: p for name, p in self.objective.model.named_parameters() if p.requires_grad}

    @property
    def devices(self) -> set[torch.device]:
        """Where the model's parameters are."""
        return {p.device for p in self.objective.model.parameters()}

    def of_hessian(self, function: Callable[..., Any]) -> Any:
        """A function of `hessian` on this model, loss and data."""
        objective = self.objective
        options = {"memory": self.memory, "forward": objective.how}
        return function(objective.model, objective.loss, self.pair, **options)


def unknown(name: str) -> Rows:
    """The rows where nothing can be measured."""
    yield name, None, math.nan


def _loss(probe: Probe, last: dict[str, Any]) -> Rows:
    x, y = probe.pair
    with torch.no_grad():
        yield "loss", None, float(probe.objective(x, y))


def _noise_scale(probe: Probe, last: dict[str, Any]) -> Rows:
    moments = noise_scale(probe.objective, probe.pair, probe.trained, probe.micro_batches)
    for layer, names in _layers(moments).items():
        trace, signal = (math.fsum(moments[name][k] for name in names) for k in (0, 1))
        # An estimate of |G|² below 0 is noise: the samples are too few to tell the scale.
        yield "noise_scale", layer, trace / signal if signal > 0 else math.nan
        yield "gradient_covariance", layer, trace
        yield "gradient_squared", layer, signal


def _trace(probe: Probe, last: dict[str, Any]) -> Rows:
    diagonal = _diagonal(probe, last)
    sums = {name: float(h.sum(dtype=torch.float64)) for name, h in diagonal.items()}
    for layer, names in _layers(sums).items():
        yield "trace", layer, math.fsum(sums[name] for name in names)


def _radius(probe: Probe, last: dict[str, Any]) -> Rows:
    diagonal = _diagonal(probe, last)
    for layer, names in _layers(diagonal).items():
        values = [
            hessian.radius(diagonal.gradient[name], diagonal[name]).flatten() for name in names
        ]
        joined = torch.cat([value.double().cpu() for value in values])
        # Of the middle two the lower: between a number and infinity there is no mean.
        yield "radius", layer, float(joined.median())


def _diagonal(probe: Probe, last: dict[str, Any]) -> hessian.Diagonal:
    """The exact diagonal, once for all that a measurement makes of it."""
    if "diagonal" not in last:
        last["diagonal"] = probe.of_hessian(hessian.diagonal)
    known: hessian.Diagonal = last["diagonal"]
    return known


def _sharpness(probe: Probe, last: dict[str, Any]) -> Rows:
    operator = probe.of_hessian(hessian.operator)
    top, last["vector"] = top_eigenvalue(operator, last.get("vector"), probe.tolerance)
    yield "sharpness", None, top


def _critical_rate(probe: Probe, last: dict[str, Any]) -> Rows:
    arguments = (probe.objective, probe.pair, probe.optimizer, last.get("rate"), probe.tolerance)
    with as_found(probe.owners, probe.devices) as restore:
        rate = critical_rate(*arguments, restore)
    if 0 < rate < math.inf:
        last["rate"] = rate
    yield "critical_rate", None, rate


MEASUREMENTS = {
    "loss": _loss,
    "noise_scale": _noise_scale,
    "trace": _trace,
    "radius": _radius,
    "sharpness": _sharpness,
    "critical_rate": _critical_rate,
}


def _layers(names: Iterable[str]) -> dict[str | None, list[str]]:
    """The parameters of each layer, and of the whole network."""
    layers: dict[str | None, list[str]] = {None: list(names)}
    for name in layers[None]:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    return layers
