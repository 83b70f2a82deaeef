"""What a run leaves behind, in memory and on disk."""

import json
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from hessian import devices
from sim import models
from sim.training.config.options import differences
from sim.training.config.train_config import DTYPES, TrainConfig
from sim.training.record import store
from sim.training.record.columns import TABLES

# What the record of a run held before it named the other files.
BEFORE = {
    *("hash", "config", "status", "reason", "seconds", "data", "shape", "classes"),
    "environment",
}


@dataclass(frozen=True, eq=False)
class Run:
    """A run that has come to its end: its tables, its weights, and how it ended.

    Attributes:
        config: the configuration.
        status: `"finished"`, or `"diverged"` where a loss or a weight was not finite; all up to
            there is kept.
        reason: of a divergence, in words; else empty.
        steps, epochs, layer_steps, layer_epochs, curvature: tidy tables, see `docs/training.md`.
        weights: name → tensor, parameters and buffers at the end, on the CPU.
        data: provenance of the data set.
        shape, classes: of the data set, for `model`.
        seconds: spent in training.
        environment: versions and hardware.
        folder: where it lies on disk, or `None`.
    """

    config: TrainConfig
    status: str
    reason: str
    steps: pd.DataFrame
    epochs: pd.DataFrame
    layer_steps: pd.DataFrame
    layer_epochs: pd.DataFrame
    curvature: pd.DataFrame
    weights: dict[str, Tensor]
    data: dict[str, Any]
    shape: tuple[int, ...]
    classes: int
    seconds: float
    environment: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    def __repr__(self) -> str:
        last = f", {self.reason}" if self.reason else ""
        return f"Run({self.config.hash}, {self.status}, {len(self.steps)} steps{last})"

    def model(self) -> nn.Module:
        """The network with its weights at the end, in evaluation mode."""
        options: dict[str, Any] = dict(self.config.model_options)
        built = models.build(
            self.config.model, in_shape=self.shape, classes=self.classes, seed=0, **options
        ).to(DTYPES[self.config.dtype])
        built.load_state_dict(self.weights)
        return built.eval()

    def summary(self) -> dict[str, Any]:
        """One row of a sweep: how it ended, the last values and the best."""
        row: dict[str, Any] = {
            "hash": self.config.hash,
            "status": self.status,
            "reason": self.reason,
            "steps_taken": len(self.steps),
            "epochs_taken": len(self.epochs),
        }
        for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
            known = name in self.epochs
            values = self.epochs[name].to_numpy(dtype=float) if known else np.empty(0)
            values = values[~np.isnan(values)]
            row[name] = float(values[-1]) if len(values) else float("nan")
            if name == "test_accuracy":
                row["best_test_accuracy"] = float(values.max()) if len(values) else float("nan")
        return {**row, "seconds": self.seconds}

    @staticmethod
    def failure(config: TrainConfig, error: BaseException) -> dict[str, Any]:
        """Such a row of a run that could not be made."""
        nothing = dict.fromkeys(
            ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "best_test_accuracy"),
            float("nan"),
        )
        return {
            "hash": config.hash,
            "status": "failed",
            "reason": f"{type(error).__name__}: {error}",
            "steps_taken": 0,
            "epochs_taken": 0,
            **nothing,
            "seconds": float("nan"),
        }

    def write(self, folder: Path) -> None:
        """Write everything; `run.json` comes last and says that the rest is there."""
        files = {"config.json": store.write_json(folder / "config.json", self.config.plain())}
        for table in TABLES:
            name = f"{table}.parquet"
            files[name] = store.write_frame(folder / name, getattr(self, table))
        files["weights.pt"] = store.write_tensors(folder / "weights.pt", self.weights)
        record = {
            "hash": self.config.hash,
            "config": self.config.plain(),
            "status": self.status,
            "reason": self.reason,
            "seconds": self.seconds,
            "data": self.data,
            "shape": list(self.shape),
            "classes": self.classes,
            "environment": self.environment,
            "files": files,
        }
        record = json.loads(json.dumps(record))  # as it will be read
        store.write_json(folder / "run.json", {**record, "sha256": _sum(record)})


def load(folder: str | Path) -> Run:
    """A run from its folder.

    Raises:
        FileNotFoundError: there is no run that has come to its end.
        ValueError: one of its files is damaged.
    """
    folder = Path(folder).expanduser()
    path = folder / "run.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"folder: {str(folder)!r} holds no run that has come to its end; start it again to go "
            "on, or give the folder that holds run.json"
        )
    record = read(path)
    files = record.get("files", {})
    if "config.json" in files:
        store.check(folder / "config.json", files["config.json"])
    tables: dict[str, Any] = {
        table: store.read_frame(folder / f"{table}.parquet", files.get(f"{table}.parquet"))
        for table in TABLES
    }
    return Run(
        config=TrainConfig.read(record["config"]),
        weights=store.read_tensors(folder / "weights.pt", files.get("weights.pt")),
        shape=tuple(record["shape"]),
        folder=folder,
        **{k: record[k] for k in ("status", "reason", "seconds", "data", "classes", "environment")},
        **tables,
    )


def read(path: Path) -> dict[str, Any]:
    """The record of a run, which vouches for itself and for the other files.

    Raises:
        ValueError: it is damaged.
    """
    with store.reading(path):
        record: dict[str, Any] = json.loads(path.read_bytes())
        if set(record) != BEFORE and (
            set(record) != {*BEFORE, "files", "sha256"} or _sum(record) != record["sha256"]
        ):
            raise store.Damaged
    return record


def _sum(record: dict[str, Any]) -> str:
    """The SHA-256 of a record's content, but for itself."""
    rest = {key: value for key, value in record.items() if key != "sha256"}
    return store.sha256(json.dumps(rest, sort_keys=True).encode())


def finished(config: TrainConfig, folder: Path | None) -> Run | None:
    """The run of a configuration, if it has come to its end there.

    Raises:
        ValueError: it is that of another configuration or version, or damaged.
    """
    if folder is None or not (folder / "run.json").is_file():
        return None
    record = read(folder / "run.json")
    check_same(folder, TrainConfig.read(record["config"]).plain(), config)
    if record["hash"] != config.hash:
        raise ValueError(
            f"out: {str(folder)!r} holds a run that another version of cblr made, with which the "
            "results may be others; give another folder, or read it with sim.training.load"
        )
    return load(folder)


def check_same(folder: Path, fields: dict[str, Any], config: TrainConfig) -> None:
    """Refuse a folder that belongs to another configuration, and say in what it differs."""
    names = differences(fields, config.plain())
    if names:
        raise ValueError(
            f"out: {str(folder)!r} holds a run of another configuration, which differs in "
            f"{', '.join(names)}; give another folder, or the same configuration"
        )


def environment(device: str, world: int) -> dict[str, Any]:
    """What the numbers were computed with."""
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": world,
        "device": device,
    }
    gpu = devices.name(torch.device(device))
    if gpu is not None:
        versions["gpu"] = gpu
    return versions
