"""Training: configurations, runs that survive anything, sweeps, measurements."""

from sim.training._augment import Augment
from sim.training._config import Measure, TrainConfig, grid
from sim.training._discard import Discard, DiscardGradients
from sim.training._run import Run, load
from sim.training._schedules import Decay, Phase, Warmup
from sim.training._sweep import Unfinished, sweep
from sim.training._train import Interrupted, train

__all__ = [
    "Augment",
    "Decay",
    "Discard",
    "DiscardGradients",
    "Interrupted",
    "Measure",
    "Phase",
    "Run",
    "TrainConfig",
    "Unfinished",
    "Warmup",
    "grid",
    "load",
    "sweep",
    "train",
]
