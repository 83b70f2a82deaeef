"""What training runs are made with, and how they are made and read."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from sim.training import Run, TrainConfig

Reading = TypeVar("Reading")


@dataclass(frozen=True)
class Lab:
    """The network, the data and the sizes that a context's profile trains with.

    `recorded` says that every run becomes a row of the ledger.
    """

    base: "TrainConfig"
    total: int
    seeds: tuple[int, ...]
    epochs: int
    root: Path | None
    runs: Path | None
    vectorise: bool
    jobs: int | None
    recorded: bool = False


def trained(
    lab: Lab, configs: "Sequence[TrainConfig]", read: "Callable[[Run], Reading]"
) -> "list[Reading]":
    """Train `configs` and return what `read` gives of each run, in the same order.

    One run at a time is in memory.

    Raises `RuntimeError` where a run failed: that is a fault, where to diverge is a finding.
    """
    from sim import sweep
    from sim.training import load

    if not configs:
        return []

    def readings(out: Path) -> "list[Reading]":
        frame = sweep(
            configs,
            out=out,
            root=lab.root,
            jobs=lab.jobs,
            threads=1,
            vectorise=lab.vectorise,
            progress=lab.runs is not None,
        )
        failed = frame[frame.status == "failed"]
        if len(failed):
            raise RuntimeError(
                f"{len(failed)} of {len(configs)} runs failed, the first: {failed.iloc[0].reason}"
            )
        return [read(load(out / config.hash)) for config in configs]

    if lab.runs is not None:
        lab.runs.mkdir(parents=True, exist_ok=True)
        return readings(lab.runs)
    with tempfile.TemporaryDirectory() as folder:
        return readings(Path(folder))
