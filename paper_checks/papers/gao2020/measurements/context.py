"""What the checks of this paper share: the network and its exact curvature, each made once."""

import time
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from paper_checks.measurements import context as engine
from paper_checks.papers.gao2020.measurements.profile import RECORDED_SEEDS, Profile
from paper_checks.papers.gao2020.statements import CLAIMS
from paper_checks.shared import Shared

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sim.data import Dataset

# Images on which the exact diagonal is compared with differences of the loss's value.
CROSS_CHECKED = 32
# Measured at the value by which it will be judged.
WEIGHT_DECAY = CLAIMS["claim-weight-decay-centres-minimum"].thresholds["beta"]
SNAPSHOTS = Shared(
    lambda context: tuple(f"snapshot-{seed}" for seed in context.profile.seeds),
    tuple(f"snapshot-{seed}" for seed in RECORDED_SEEDS),
)


@dataclass(frozen=True)
class Exact:
    """A network at one point with its exact curvature, entry by entry.

    `entries` maps a parameter's name to the flat float64 arrays w, g and h.
    """

    model: "nn.Module"
    pair: tuple["torch.Tensor", "torch.Tensor"]
    entries: dict[str, tuple[Any, Any, Any]]


@dataclass(frozen=True)
class Snapshot:
    """The exact curvature of one network at one point, reduced to one row a parameter tensor.

    `rows` hold `sim.compare_radii`'s columns and `tensor_statistics`; `deviation` is the largest
    one against differences of the loss in float64 where that was asked for.
    """

    seed: int
    rows: list[dict[str, Any]]
    parameters: int
    samples: int
    loss: float
    methods: dict[str, str]
    seconds: float
    gradient_seconds: float
    deviation: float | None


class Context(engine.Context):
    """The network and its curvature beside what every audit's context has."""

    paper = "gao2020"
    profile: Profile

    @cached_property
    def _exact(self) -> dict[int, Exact]:
        return {}

    @cached_property
    def population(self) -> "Dataset":
        """The training set of figure 3: all of it, or the profile's share, drawn once."""
        limit = self.profile.population
        if limit is None or limit >= len(self.dataset):
            return self.dataset
        return self.dataset.subset(limit, seed=0)

    @property
    def network(self) -> str:
        """The name of the network that suits the data: AlexNet for images."""
        return "alexnet" if len(self.dataset.shape) == 3 else "mlp"

    def model(self, seed: int = 0) -> "nn.Module":
        """The network, freshly initialised from `seed`, on the context's device."""
        from sim.models import build

        built = build(
            self.network,
            in_shape=self.dataset.shape,
            classes=self.dataset.classes,
            width=self.profile.width,
            seed=seed,
        )
        return built.to(self.device)

    def snapshot(self, seed: int = 0) -> Snapshot:
        """The network's exact curvature at initialisation, dropout off, on the profile's sample."""
        return Snapshot(
            **self.shared(f"snapshot-{seed}", lambda context: asdict(context._measure(seed)))
        )

    def exact(self, seed: int = 0) -> Exact:
        """The network of `snapshot`, entry by entry; the latest one stays in memory."""
        self._refuse_undeclared(f"snapshot-{seed}")
        if seed not in self._exact:
            snapshot = asdict(self._measure(seed))
            # The statistics came with it; other checks need nothing else.
            self.shared(f"snapshot-{seed}", lambda context: snapshot)
        return self._exact[seed]

    def _measure(self, seed: int) -> Snapshot:
        from torch.nn.functional import cross_entropy

        import hessian

        model = self.model(seed).eval()
        count = min(self.profile.sample, len(self.dataset))
        pair = self.dataset.subset(count, seed=seed).pair
        gradient_seconds = _gradient_seconds(model, cross_entropy, pair)
        began = time.perf_counter()
        curvature = hessian.diagonal(model, cross_entropy, pair)
        seconds = time.perf_counter() - began
        rows = self._rows(model, cross_entropy, pair, curvature)
        parts = dict(model.named_parameters())
        entries = {
            name: (_numpy(parts[name]), _numpy(curvature.gradient[name]), _numpy(curvature[name]))
            for name in curvature
        }
        self._exact = {seed: Exact(model, pair, entries)}
        deviation: dict[str, float] = {}
        if self.profile.verify and seed == self.profile.seeds[0]:
            # Apart from the timed computation, and on few samples: it takes many passes.
            few = tuple(part[:CROSS_CHECKED] for part in pair)
            budget = self.profile.verify * len(curvature)
            checked = hessian.diagonal(model, cross_entropy, few, verify=budget)
            deviation = checked.deviation
        return Snapshot(
            seed=seed,
            rows=rows,
            parameters=sum(row["size"] for row in rows),
            samples=count,
            loss=float(curvature.loss),
            methods=curvature.plan.methods(),
            seconds=seconds,
            gradient_seconds=gradient_seconds,
            deviation=max(deviation.values()) if deviation else None,
        )

    def _rows(
        self, model: "nn.Module", loss: Any, pair: Any, curvature: Any
    ) -> list[dict[str, Any]]:
        import numpy as np

        from paper_checks.papers.gao2020.measurements.tensor_statistics import (
            mean_growth,
            tensor_statistics,
        )
        from sim import compare_radii

        frame = compare_radii(model, loss, pair, curvature=curvature)
        parameters = dict(model.named_parameters())
        rows = []
        for row in frame.to_dict("records"):
            name = row["parameter"]
            w, g, h = (_numpy(x[name]) for x in (parameters, curvature.gradient, curvature))
            more = tensor_statistics(w, g, h, WEIGHT_DECAY)
            if name.endswith("weight"):
                more["growth"] = mean_growth(np.abs(w[g != 0] / g[g != 0]))
            rows.append({str(key): value for key, value in row.items()} | more)
        return rows

    def provenance(self) -> dict[str, Any]:
        """Where the data come from, and the network that met them."""
        facts = super().provenance()
        if "images" not in facts:
            return facts
        return {**facts, "network": f"{self.network}, width {self.profile.width:g}"}


def _numpy(tensor: "torch.Tensor") -> Any:
    return tensor.detach().cpu().double().numpy().ravel()


def _gradient_seconds(model: "nn.Module", loss: Any, pair: Any, repeats: int = 3) -> float:
    """The least of a few timings of one gradient; the least is the least disturbed."""
    import torch

    inputs, targets = pair
    parameters = list(model.parameters())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        torch.autograd.grad(loss(model(inputs), targets), parameters)
        if inputs.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)
