"""Training: configurations, runs that survive anything, sweeps, measurements.

`config` is what a run depends on, `engine` how it is made (`engine.fast` moves memory), `record`
what it leaves behind; `train` and `sweep` stand on top. All that is public is named here.
"""

from sim._extras import extra

with extra(__name__):
    from sim.training._sweep import Unfinished, sweep
    from sim.training._train import train
    from sim.training.config.augment import Augment
    from sim.training.config.discard import Discard, DiscardGradients
    from sim.training.config.schedules import Decay, Phase, Warmup
    from sim.training.config.train_config import Measure, TrainConfig, grid
    from sim.training.engine.loop import Interrupted
    from sim.training.record.run import Run, load

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
