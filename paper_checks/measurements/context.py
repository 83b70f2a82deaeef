"""What the checks of one run share: data, network and exact curvature, each made once."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_checks.errors import InputError
from paper_checks.measurements.profile import RECORDED_SEEDS, Profile
from paper_checks.measurements.store import Store
from paper_checks.result import plain
from paper_checks.shared import Shared
from paper_checks.statements import CLAIMS

if TYPE_CHECKING:
    import torch
    from torch import nn

    from paper_checks.ledger.records import Records
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


class Context:
    """Data, network and curvature for one audit; everything is made when first asked for.

    What was measured is kept in `folder`, if one is given, and read from there the next time. With
    a `ledger` every training run is a row of it; where that does not train, no data are needed.

    Raises `InputError` for a device that is not there.
    """

    def __init__(
        self,
        profile: Profile,
        dataset: str = "digits",
        data: str | os.PathLike[str] | None = None,
        device: str | None = None,
        folder: Path | None = None,
        ledger: "Records | None" = None,
    ) -> None:
        self.profile = profile
        self.ledger = ledger
        self.folder = folder
        # Whether to measure anew what is kept; it is then replaced.
        self.fresh = False
        self.kept_seconds = 0.0
        self.name = dataset
        self.root = None if data is None else Path(data)
        self.device = device or "cpu"
        self._exact: dict[int, Exact] = {}
        self._shared: dict[str, dict[str, Any]] = {}
        # What the check at work may read; `None` where anything.
        self._declared: frozenset[str] | None = None
        if self.device != "cpu":
            check_device(self.device)

    def load(self) -> None:
        """Read the data set now; errors come as `sim.data.load` raises them."""
        _ = self.dataset

    @cached_property
    def dataset(self) -> "Dataset":
        """The training split."""
        from sim.data import load

        if self.ledger is not None and not self.ledger.trains:
            absent: Dataset = self.ledger.absent(self.name)
            return absent
        return load(self.name, root=self.root).to(self.device)

    @cached_property
    def test(self) -> "Dataset":
        """The test split."""
        from sim.data import load

        return load(self.name, root=self.root, split="test").to(self.device)

    @cached_property
    def store(self) -> Store:
        """Where measurements of this configuration are kept."""
        from paper_checks.environment import hardware, versions

        facts = {
            "profile": asdict(self.profile),
            "dataset": self.name,
            "data": self.dataset.provenance.get("sha256"),
            "device": self._device_name(),
            "versions": versions(),
            "hardware": hardware(),
        }
        return Store(self.folder, facts)

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

        from paper_checks.measurements.tensor_statistics import (
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

    @contextmanager
    def reading(self, shared: Iterable[Shared]) -> Iterator[None]:
        """While this lasts, other shared measurements than these are refused.

        What one of them is made of is its own affair.
        """
        outer = self._declared
        keys = frozenset(key for each in shared for key in each.keys(self))
        self._declared = keys if outer is None else keys & outer
        try:
            yield
        finally:
            self._declared = outer

    def shared(self, key: str, make: Callable[["Context"], dict[str, Any]]) -> dict[str, Any]:
        """What `make(context)` returns, made once and kept under `key`, on disk too.

        `kept_seconds` grows by the time that a measurement read from disk once took.

        Raises `LookupError` where the check at work has not declared that it reads this.
        """
        self._refuse_undeclared(key)
        declared, self._declared = self._declared, None
        try:
            return self._once(key, make)
        finally:
            self._declared = declared

    def _refuse_undeclared(self, key: str) -> None:
        declared = self._declared
        if declared is not None and not any(f"{key}-".startswith(f"{each}-") for each in declared):
            raise LookupError(f"{key} is read but not declared; name it in @reads")

    def _once(self, key: str, make: Callable[["Context"], dict[str, Any]]) -> dict[str, Any]:
        if self.ledger is not None and key not in self._shared:
            trained = key.startswith("training-")
            measurements = make(self) if trained else self.ledger.once(self, key, make)
            self._shared[key] = plain(measurements)
            self.kept_seconds += self.ledger.taken()
        if key not in self._shared:
            read = self.folder is not None and not self.fresh
            record = self.store.get(key, make) if read else None
            if record is None:
                began = time.perf_counter()
                # As it will be read the next time: what is not finite is None from the start.
                measurements = plain(make(self))
                record = {"measurements": measurements, "seconds": time.perf_counter() - began}
                if self.folder is not None:
                    self.store.put(key, make, record)
            else:
                self.kept_seconds += record["seconds"]
            self._shared[key] = record["measurements"]
        return self._shared[key]

    def has(self, key: str) -> bool:
        """Whether a measurement of this name is kept and would be read.

        An estimate only: of the name, by whatever code it was made.
        """
        if self.fresh or self.folder is None:
            return key in self._shared
        return key in self._shared or any(self.folder.glob(f"{key}-*.json"))

    def description(self) -> dict[str, Any]:
        """Profile, data set and device, for the record of a result."""
        return {"profile": self.profile.name, "dataset": self.name, "device": self._device_name()}

    def _device_name(self) -> str:
        if not self.device.startswith("cuda"):
            return self.device
        import torch

        return f"{self.device} ({torch.cuda.get_device_name(self.device)})"

    def provenance(self) -> dict[str, Any]:
        """Where the data come from, and the network that met them."""
        try:
            facts = plain(dict(self.dataset.provenance))
        except (OSError, ValueError):
            return {"name": self.name}
        return {
            **facts,
            "images": len(self.dataset),
            "network": f"{self.network}, width {self.profile.width:g}",
        }


def check_device(device: str) -> None:
    """Put a number on the device; raise `InputError` if that cannot be done."""
    import torch

    remedy = "use cpu, or a device torch.device knows and this machine has"
    try:
        torch.zeros(1, device=torch.device(device)).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError("--device", repr(device), remedy) from None


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
