"""Configurations that the tests of sweeps share, and how their tables are compared."""

import pandas as pd

from sim.training import TrainConfig, grid

from . import reference

BASE = TrainConfig.read(
    {**reference.BASE, "model_options": {"hidden": [6]}, "optimizer_options": {"momentum": 0.9}}
)
CONFIGS = grid(BASE, lr=[0.1, 0.3], seed=range(2))


def equal(a, b):
    a, b = (frame.drop(columns="seconds", errors="ignore") for frame in (a, b))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
