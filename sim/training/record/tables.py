"""From the measurements of a run to the tidy tables of each lane."""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from sim.training.config.schedules import Pass
from sim.training.record.columns import (
    CURVATURE_COLUMNS,
    EPOCH_COLUMNS,
    EPOCH_LAYER_COLUMNS,
    LAYER_COLUMNS,
    STEP_COLUMNS,
)
from sim.training.record.measurements import Measurements


def frames(
    measurements: Measurements, lane: int, plan: list[Pass], rates: list[float], samples: list[int]
) -> dict[str, pd.DataFrame]:
    """The tables of one lane; what follows a loss that is not finite is left out.

    Args:
        measurements: of all lanes, all brought over from the device.
        lane: which.
        plan, rates: of the run.
        samples: the size of every step's batch.
    """
    last = measurements.diverged.get(lane, math.inf)
    epoch_of = np.repeat([pass_.epoch for pass_ in plan], [pass_.steps for pass_ in plan])
    return {
        "steps": _steps(measurements, lane, last, epoch_of, np.array(rates), np.array(samples)),
        "epochs": _rows(measurements.epochs, EPOCH_COLUMNS, lane, "last_step", last - 1),
        "layer_steps": _layer_steps(measurements, lane, last, epoch_of),
        "layer_epochs": _layer_epochs(measurements, lane, last, plan),
        "curvature": _rows(measurements.curvature, CURVATURE_COLUMNS, lane, "step", last),
    }


def _rows(
    rows: list[dict[str, Any]], columns: tuple[str, ...], lane: int, key: str, last: float
) -> pd.DataFrame:
    chosen = [row for row in rows if row["lane"] == lane and row[key] <= last]
    return pd.DataFrame(chosen, columns=list(columns)) if chosen else _empty(columns).copy()


@lru_cache
def _empty(columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame([], columns=list(columns))


def _steps(
    measurements: Measurements,
    lane: int,
    last: float,
    epoch_of: np.ndarray,
    rates: np.ndarray,
    samples: np.ndarray,
) -> pd.DataFrame:
    step, values = _lane(measurements.blocks["steps"], lane, last, (len(STEP_COLUMNS),))
    known = {
        "step": step,
        "epoch": epoch_of[step],
        "batch_size": samples[step],
        "lr": rates[step],
    }
    return pd.DataFrame({**known, **dict(zip(STEP_COLUMNS, values.T, strict=True))})


def _layer_steps(
    measurements: Measurements, lane: int, last: float, epoch_of: np.ndarray
) -> pd.DataFrame:
    names = measurements.names
    shape = (len(names), len(LAYER_COLUMNS))
    step, values = _lane(measurements.blocks["layer_steps"], lane, last, shape)
    known = {
        "step": np.repeat(step, len(names)),
        "epoch": np.repeat(epoch_of[step], len(names)),
        "parameter": np.tile(np.array(names, dtype=object), len(step)),
    }
    flat = values.reshape(-1, len(LAYER_COLUMNS)).T
    return pd.DataFrame({**known, **dict(zip(LAYER_COLUMNS, flat, strict=True))})


def _lane(
    blocks: list[tuple[list[int], Tensor]], lane: int, last: float, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The steps up to the last one, and their values in this lane."""
    if not blocks:
        return np.empty(0, dtype=int), np.empty((0, *shape))
    step = np.concatenate([np.array(steps) for steps, _ in blocks])
    values = np.concatenate([block[:, lane].numpy() for _, block in blocks])
    return step[step <= last], values[step <= last]


def _layer_epochs(
    measurements: Measurements, lane: int, last: float, plan: list[Pass]
) -> pd.DataFrame:
    ends = {pass_.epoch: pass_.first + pass_.steps - 1 for pass_ in plan}
    ended = [row for row in measurements.layer_epochs if ends[row[0]] < last]
    names = measurements.names
    known = {
        "epoch": np.repeat(np.array([epoch for epoch, _, _ in ended], dtype=int), len(names)),
        "parameter": np.tile(np.array(names, dtype=object), len(ended)),
        "size": np.tile(measurements.sizes, len(ended)),
        "steps": np.repeat(np.array([count for _, count, _ in ended], dtype=int), len(names)),
    }
    values = [block[lane].numpy() for _, _, block in ended]
    columns = np.concatenate([np.empty((0, len(EPOCH_LAYER_COLUMNS))), *values]).T
    return pd.DataFrame({**known, **dict(zip(EPOCH_LAYER_COLUMNS, columns, strict=True))})
