"""What the checks of one run share: the data, and measurements that are made once and kept."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from paper_checks.errors import InputError
from paper_checks.measurements.profile import Sizes
from paper_checks.measurements.store import Store
from paper_checks.papers import USUAL
from paper_checks.result import plain
from paper_checks.shared import Shared

if TYPE_CHECKING:
    from paper_checks.ledger.records import Records
    from sim.data import Dataset


class Context:
    """The data of one audit and what was measured on them; all is made when first asked for.

    A paper whose checks share more derives its own, and names itself in `paper`. What was measured
    is kept in `folder`, if one is given, and read from there the next time. With a `ledger` every
    training run is a row of it; where that does not train, no data are needed.

    Raises `InputError` for a device that is not there.
    """

    paper = USUAL

    def __init__(
        self,
        profile: Sizes,
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
            "profile": asdict(cast(Any, self.profile)),
            "dataset": self.name,
            "data": self.dataset.provenance.get("sha256"),
            "device": self._device_name(),
            "versions": versions(),
            "hardware": hardware(),
        }
        return Store(self.folder, facts, self.paper)

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

    def shared(self, key: str, make: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
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

    def each(
        self, shared: Shared, make: Callable[..., dict[str, Any]], values: Iterable[Any]
    ) -> list[dict[str, Any]]:
        """What `make(context, each=value)` returns of each value, under the keys of `shared`."""
        return [
            self.shared(key, partial(make, each=value))
            for key, value in zip(shared.keys(self), values, strict=True)
        ]

    def _refuse_undeclared(self, key: str) -> None:
        declared = self._declared
        if declared is not None and not any(f"{key}-".startswith(f"{each}-") for each in declared):
            raise LookupError(f"{key} is read but not declared; name it in @reads")

    def _once(self, key: str, make: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
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
        """Paper, profile, data set and device, for the record of a result."""
        return {
            "paper": self.paper,
            "profile": self.profile.name,
            "dataset": self.name,
            "device": self._device_name(),
        }

    def _device_name(self) -> str:
        if not self.device.startswith("cuda"):
            return self.device
        import torch

        return f"{self.device} ({torch.cuda.get_device_name(self.device)})"

    def provenance(self) -> dict[str, Any]:
        """Where the data come from."""
        try:
            facts = plain(dict(self.dataset.provenance))
        except (OSError, ValueError):
            return {"name": self.name}
        return {**facts, "images": len(self.dataset)}


def check_device(device: str) -> None:
    """Put a number on the device; raise `InputError` if that cannot be done."""
    import torch

    remedy = "use cpu, or a device torch.device knows and this machine has"
    try:
        torch.zeros(1, device=torch.device(device)).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError("--device", repr(device), remedy) from None
