"""The measurements of a run as TensorBoard shows them."""

import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

from sim.training.record.columns import LAYER_COLUMNS, STEP_COLUMNS
from sim.training.record.measurements import Block, Measurements


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

    def epoch(self, measurements: Measurements, first: int, rates: list[float]) -> None:
        """The steps from `first` on, of the first lane, and the last epoch's values."""
        for step, values in _rows(measurements.blocks["steps"], first):
            self._writer.add_scalar("steps/lr", rates[step], step)
            self._add(step, ((f"steps/{name}", v) for name, v in _named(STEP_COLUMNS, values)))
        for step, tensors in _rows(measurements.blocks["layer_steps"], first):
            for name, values in zip(measurements.names, tensors, strict=True):
                pairs = zip(LAYER_COLUMNS, values, strict=True)
                self._add(step, ((f"{column}/{name}", v) for column, v in pairs))
        if measurements.epochs:
            last = measurements.epochs[-1]
            names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
            self._add(last["last_step"], ((f"epochs/{n}", last[n]) for n in names if n in last))
        self._writer.flush()

    def _add(self, step: int, values: Iterable[tuple[str, float]]) -> None:
        for tag, value in values:
            self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        """Nothing more comes."""
        self._writer.close()


def _rows(blocks: Iterable[Block], first: int) -> Iterator[tuple[int, list[Any]]]:
    """Every step from `first` on, with its values in the first lane."""
    for steps, block in blocks:
        for step, values in zip(steps, block[:, 0].tolist(), strict=True):
            if step >= first:
                yield step, values


def _named(columns: Iterable[str], values: Iterable[float]) -> Iterator[tuple[str, float]]:
    """The values that were measured, by their columns; the others are nan."""
    for name, value in zip(columns, values, strict=True):
        if not math.isnan(value):
            yield name, value
