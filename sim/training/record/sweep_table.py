"""The table of a sweep, from the tables of its runs."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from sim.training.config.options import plain
from sim.training.config.train_config import TrainConfig
from sim.training.record.columns import columns
from sim.training.record.run import Run

# A run's row in the table of runs, and its part of the table that is wanted, if that is another.
Rows = tuple[dict[str, Any], pd.DataFrame | None]


def unfinished(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Hash, status and reason of the runs that did not finish.

    >>> unfinished([{"hash": "a", "status": "finished"},
    ...             {"hash": "b", "status": "failed", "reason": "it is there"}])
    [{'hash': 'b', 'status': 'failed', 'reason': 'it is there'}]
    """
    columns = ("hash", "status", "reason")
    return [{key: row[key] for key in columns} for row in rows if row["status"] != "finished"]


def rows_of(config: TrainConfig, run: Run | BaseException, table: str) -> Rows:
    """A row of the table of runs, and a table of the run."""
    if isinstance(run, Run):
        frame = None if table == "runs" else getattr(run, table).assign(hash=config.hash)
        return run.summary(), frame
    empty = None
    if table != "runs":
        empty = pd.DataFrame([], columns=[*columns(table), "hash"])
    return Run.failure(config, run), empty


def joined(configs: list[TrainConfig], rows: dict[TrainConfig, Rows]) -> pd.DataFrame:
    """All tables under one another, each with the fields in which the configurations differ."""
    flat = [_flat(plain(config)) for config in configs]
    names = dict.fromkeys(name for fields in flat for name in fields)
    differing = [n for n in names if len({repr(fields.get(n)) for fields in flat}) > 1]
    if "seed" not in differing:
        differing.append("seed")
    of_runs = [rows[config] for config in configs]
    frames = [frame for _, frame in of_runs if frame is not None]
    if frames:
        filled = [frame for frame in frames if len(frame)] or frames[:1]
        whole = pd.concat(filled, ignore_index=True)
    else:
        whole = pd.DataFrame([row for row, _ in of_runs])
    lengths = [1 if frame is None else len(frame) for _, frame in of_runs]
    for position, name in enumerate(differing):
        values = [
            v for fields, k in zip(flat, lengths, strict=True) for v in [fields.get(name)] * k
        ]
        column = pd.Series(values, dtype=object).infer_objects()
        whole.insert(position, f"config.{name}" if name in whole.columns else name, column)
    return whole


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dictionary with dotted names; lists stay whole, as text where they hold more."""
    dotted: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            dotted |= _flat(value, f"{name}.")
        elif isinstance(value, list | dict):
            dotted[name] = str(value)
        else:
            dotted[name] = value
    return dotted
