"""Sums over the entries of gradients and steps, made while each piece of memory is in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sim.training.engine.fast.flat_parameters import ROW, FlatParameter
from sim.training.engine.rows import CAPACITY
from sim.training.record.columns import LAYER_COLUMNS

# What is kept of every entry over an epoch.
MOMENTS = ("mean", "square", "start")
# Sums over rows of entries that wait until they are put together, and pieces that they are of.
MOST_SUMS, MOST_PIECES = 2**20, 256


@dataclass
class Piece:
    """A part of a flat parameter that stays in the cache while all is done with it.

    Attributes:
        weight, mean, square, start, before: its part of the weights, of the moments of their
            gradients, of the weights at the epoch's beginning, and of those before the step.
        work: room for as many entries.
        padded: the same as whole rows, `[rows, ROW]`; what was added is zero.
        rows: where its sums go, from one to another.
    """

    weight: Tensor
    mean: Tensor
    square: Tensor
    start: Tensor
    before: Tensor
    work: Tensor
    padded: Tensor
    rows: slice


def cut(
    flat_parameters: Sequence[FlatParameter],
    moments: dict[str, list[Tensor]],
    size: int,
    before: Sequence[Tensor],
) -> list[list[Piece]]:
    """The pieces of every flat parameter, views that a step need not make.

    Args:
        flat_parameters: whose weights.
        moments: by their names, a tensor for each flat parameter.
        size: entries of a piece.
        before: a tensor for each flat parameter where its weights before a step go.
    """
    room: dict[int, Tensor] = {}
    pieces = []
    first = 0
    for number, flat in enumerate(flat_parameters):
        weight = flat.weight
        beside = [moments[name][number] for name in MOMENTS]
        parts = []
        split = [torch.split(t, size) for t in (weight, *beside, before[number])]
        for w, mean, square, start, old in zip(*split, strict=True):
            n = len(w)
            padded = room.setdefault(n, weight.new_zeros(-(-n // ROW) * ROW))
            rows = slice(first, first + len(padded) // ROW)
            work = padded[:n], padded.view(-1, ROW)
            parts.append(Piece(w, mean, square, start, old, *work, rows))
            first = rows.stop
        pieces.append(parts)
    return pieces


class PendingSums:
    """Sums over rows of entries of the last few steps, before they are put together.

    Attributes:
        values: `[steps, columns, rows]`.
        rates: of the steps.
        count: how many steps wait.
    """

    def __init__(self, pieces: Sequence[Sequence[Piece]]) -> None:
        self._pieces = [piece for parts in pieces for piece in parts]
        rows = self._pieces[-1].rows.stop
        steps = min(
            CAPACITY, MOST_SUMS // (len(LAYER_COLUMNS) * rows), MOST_PIECES // len(self._pieces)
        )
        steps = max(1, steps)
        self.values = self._pieces[0].work.new_zeros(steps, len(LAYER_COLUMNS), rows)
        self.rates = [1.0] * steps
        self.count = 0
        self._outputs: dict[tuple[int, int], list[Tensor]] = {}

    @property
    def full(self) -> bool:
        """Whether there is no room for another step."""
        return self.count == len(self.values)

    def outputs(self, column: int) -> Iterator[Tensor]:
        """Where the sums of this step go, piece by piece."""
        place = self.count, column
        if place not in self._outputs:
            self._outputs[place] = [self.values[*place, piece.rows] for piece in self._pieces]
        return iter(self._outputs[place])

    def add(self, rate: float) -> None:
        """This step's sums are made; its rate."""
        self.rates[self.count] = rate
        self.count += 1
