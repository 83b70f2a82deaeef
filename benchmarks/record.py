"""What every record of a benchmark carries, and intervals for means of a few seeds."""

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scipy import stats


def environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
    }


def clock() -> float:
    """Seconds: of this process's processor where one thread computes, else of the wall.

    What else the machine does then hardly counts.
    """
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def write(path: Path, **content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"environment": environment(), **content}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean and half-width of Student's interval; nan for the width of a single value.

    >>> interval([1.0, 2.0, 3.0])
    (2.0, 2.484...)
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    error = statistics.stdev(values) / math.sqrt(len(values))
    return mean, error * float(stats.t.ppf((1 + level) / 2, len(values) - 1))
