"""The measurements of a run as TensorBoard shows them."""

import os
from typing import Any

from sim.training.engine.recorder import LAYER_COLUMNS, STEP_COLUMNS, Recorder


class Board:
    """Writes what each epoch brought; `tensorboard` is imported here, and only here.

    Args:
        folder: what `tensorboard --logdir` is given.
        first: the step from which on everything will be written; what lies there is dropped.

    Raises:
        ValueError: it is not installed.
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str], first: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError(
                "tensorboard: it is not installed; pip install 'cblr[tensorboard]', "
                "or leave it out: the tables hold the same"
            ) from None
        try:
            self._writer: Any = SummaryWriter(str(folder), purge_step=first)
        except OSError as error:
            raise OSError(
                error.errno,
                f"tensorboard: nothing can be written to {str(folder)!r} ({error.strerror}); "
                "give a folder that can be made and written to",
            ) from None

    def epoch(self, recorder: Recorder, first: int, rates: list[float]) -> None:
        """The steps from `first` on, of the first lane, and the last epoch's values."""
        add = self._writer.add_scalar
        for steps, block in recorder.blocks["steps"]:
            for step, values in zip(steps, block[:, 0].tolist(), strict=True):
                if step >= first:
                    add("steps/lr", rates[step], step)
                    for name, value in zip(STEP_COLUMNS, values, strict=True):
                        if value == value:
                            add(f"steps/{name}", value, step)
        for steps, block in recorder.blocks["layer_steps"]:
            for step, rows in zip(steps, block[:, 0].tolist(), strict=True):
                if step >= first:
                    for name, values in zip(recorder.network.names, rows, strict=True):
                        for column, value in zip(LAYER_COLUMNS, values, strict=True):
                            add(f"{column}/{name}", value, step)
        if recorder.epochs:
            last = recorder.epochs[-1]
            for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
                if name in last:
                    add(f"epochs/{name}", last[name], last["last_step"])
        self._writer.flush()

    def close(self) -> None:
        """Nothing more comes."""
        self._writer.close()
