"""One run: from a configuration to its tables and weights."""

import os
from collections.abc import Mapping
from typing import Any

from sim import _arguments
from sim.training.config.train_config import TrainConfig
from sim.training.engine.loop import Loop
from sim.training.record.progress import Progress, shown
from sim.training.record.run import Run


def train(
    config: TrainConfig | Mapping[str, Any],
    *,
    out: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_steps: int | None = None,
    tensorboard: str | os.PathLike[str] | None = None,
    progress: Progress | bool = False,
) -> Run:
    """Train a network as a configuration says, and measure it on the way.

    On a CPU the result depends on the configuration and the number of threads only, bit for bit,
    however often the run is killed and started again.

    Args:
        config: a `TrainConfig`, or a mapping of its fields.
        out: the run's own folder. A run that stands there goes on from its checkpoint; one that
            has come to its end is returned without training. `None` keeps everything in memory.
        root: where the data set's files are, as for `sim.data.load`.
        checkpoint_seconds: write a checkpoint so often.
        checkpoint_steps: and after every so many steps.
        tensorboard: also write the measurements there, after every epoch, for TensorBoard.
        progress: `True` for a bar on standard error (a line now and then where that is no
            terminal), or a function that is called after every step with the steps done, their
            total, and the latest known values.

    Returns:
        A `Run`. A loss that is not finite ends the run early: its status is `"diverged"`.

    Raises:
        ValueError: the folder holds a run of another configuration (the message names the
            fields), of other data or of another version; a batch larger than the data; batch norm
            in parts without `batch_norm`; a device that is not there; what `TrainConfig`,
            `load` and `build` refuse.
        Interrupted: Ctrl-C or SIGTERM, after a checkpoint.
        OSError: the disk is full; the last checkpoint is whole.
        BlockingIOError: another process trains in the same folder.
        MemoryError: the network or a batch does not fit into the memory of the device.

    >>> run = train({"model_options": {"hidden": [16]}, "samples": 256, "batch_size": 64,
    ...              "epochs": 3, "lr": 0.2})
    >>> run.status, len(run.steps), bool(run.epochs.train_accuracy.iloc[-1] > 0.5)
    ('finished', 12, True)
    """
    config = TrainConfig.read(config)
    folder, tensorboard = (
        _arguments.folder(*pair) for pair in (("out", out), ("tensorboard", tensorboard))
    )
    root = _arguments.folder("root", root, absolute=False)
    loop = Loop([config], [folder], folder, root, checkpoint_seconds, checkpoint_steps, tensorboard)
    with shown(progress, config.hash) as report:
        return loop.run(report)[0]
