"""Runs that branch off from one point, at each batch size with a tuned rate, to a lower loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from typing import Any

import torch
from torch import Tensor

from paper_checks.measurements.branching.task import Task

# Of the loss where they branch off, what they have to reach.
TARGET = 0.8
# Rates around the best one of the next larger batch.
LADDER = tuple(sqrt(2.0) ** k for k in range(-4, 3))
# Rates of the largest batch: they begin at a step of that share of the parameters' length.
_FIRST = 0.02
_WIDE = tuple(2.0**k for k in range(-4, 5))
# A look at the loss each time the steps have grown by so much.
_GROWTH = 1.07
RULES = ("sgd", "adam", "lars", "lamb")


@dataclass
class Rule:
    """The steps of one of `RULES` for several vectors at a time, each with a rate of its own."""

    name: str
    task: Task

    def __post_init__(self) -> None:
        self._steps = 0
        self._first: Any = 0.0
        self._second: Any = 0.0

    def __call__(self, lanes: Tensor, gradients: Tensor, rates: Tensor) -> Tensor:
        """The vectors after one step."""
        direction = gradients
        if self.name in ("adam", "lamb"):
            self._steps += 1
            self._first = 0.9 * self._first + 0.1 * gradients
            self._second = 0.999 * self._second + 0.001 * gradients.square()
            root = (self._second / (1 - 0.999**self._steps)).sqrt() + 1e-8
            direction = self._first / (1 - 0.9**self._steps) / root
        if self.name in ("lars", "lamb"):
            direction = self._by_layer(lanes, direction)
        return lanes - rates[:, None] * direction

    def _by_layer(self, lanes: Tensor, direction: Tensor) -> Tensor:
        """The direction with each tensor as long as the tensor of weights that it belongs to."""
        sizes = [shape.numel() for shape in self.task.shapes.values()]
        pairs = zip(lanes.split(sizes, 1), direction.split(sizes, 1), strict=True)
        return torch.cat(
            [
                d * w.norm(dim=1, keepdim=True) / (d.norm(dim=1, keepdim=True) + 1e-12)
                for w, d in pairs
            ],
            1,
        )


def branch(
    task: Task,
    starts: Tensor,
    rule: str,
    batches: Sequence[int],
    tuning: int,
    reading: int,
    most: int,
) -> dict[str, Any]:
    """Steps to `TARGET` of the loss from each start `[seeds, P]`, by batch size.

    Of each start `tuning` runs choose the rate, by the geometric mean of their steps, and `reading`
    others are read; none is longer than `most` steps. The rate of the largest batch size is chosen
    among many, that of each other around the one before.
    """
    rows: list[dict[str, Any]] = []
    length, steepness = starts.norm(dim=1).mean(), _steepness(task, starts, rule)
    rates = [float(_FIRST * length / steepness) * factor for factor in _WIDE]
    for batch in sorted(batches, reverse=True):
        tuned = _tuned(task, starts, rule, batch, rates, tuning, most)
        rate = min(tuned, key=lambda each: tuned[each])
        steps = _steps(task, starts, rule, batch, [rate], reading, most, seed=batch + 1)
        rows.append(
            {
                "batch": batch,
                "rate": rate,
                "steps": steps[0],
                "tuned": [[each, value] for each, value in sorted(tuned.items())],
            }
        )
        rates = [rate * factor for factor in LADDER]
    return {"rows": rows[::-1]}


def _steepness(task: Task, starts: Tensor, rule: str) -> Tensor:
    every = torch.arange(len(task.targets)).expand(len(starts), -1)
    gradients = task.gradients(starts, every)
    moved = Rule(rule, task)(starts, gradients, torch.ones(len(starts), dtype=starts.dtype))
    length: Tensor = (moved - starts).norm(dim=1).mean()
    return length


def _tuned(
    task: Task, starts: Tensor, rule: str, batch: int, rates: list[float], tuning: int, most: int
) -> dict[float, float]:
    """The steps by rate; the grid goes on where its best is at an end."""
    values: dict[float, float] = {}
    for _ in range(4):
        new = [rate for rate in rates if rate not in values]
        many = _steps(task, starts, rule, batch, new, tuning, most, seed=batch)
        values |= {rate: _typical(steps) for rate, steps in zip(new, many, strict=True)}
        best, ends = min(values, key=lambda each: values[each]), (min(values), max(values))
        if best not in ends or not isfinite(values[best]):
            break
        rates = [best * 2 ** (-k if best == ends[0] else k) for k in (0.5, 1.0)]
    return values


def _typical(steps: Sequence[float | None]) -> float:
    """The geometric mean, infinite where a start never came there."""
    logs = [torch.tensor(each).log() for each in steps if each]
    return float(torch.stack(logs).mean().exp()) if len(logs) == len(steps) else inf


def _steps(
    task: Task,
    starts: Tensor,
    rule: str,
    batch: int,
    rates: Sequence[float],
    runs: int,
    most: int,
    seed: int,
) -> list[list[float | None]]:
    """By rate and start: the steps at which the mean loss of its runs is first at the target."""
    shape = (len(rates), len(starts), runs)
    lanes = starts[None, :, None].expand(*shape, -1).reshape(-1, starts.shape[1]).clone()
    each = torch.tensor(rates, dtype=starts.dtype).repeat_interleave(len(starts) * runs)
    target = TARGET * task.whole(starts)
    before, last = task.whole(starts).expand(shape[:2]), 0
    reached = torch.full(shape[:2], inf, dtype=starts.dtype)
    generator = torch.Generator().manual_seed(seed)
    step: Callable[..., Tensor] = Rule(rule, task)
    look = 1
    for number in range(1, most + 1):
        index = torch.randint(len(task.targets), (len(lanes), batch), generator=generator)
        lanes = step(lanes, task.gradients(lanes, index), each)
        if number < look:
            continue
        loss = task.whole(lanes).view(shape).mean(2).nan_to_num(inf, inf)
        share = ((before - target) / (before - loss)).clamp(0, 1)
        now = (loss <= target) & reached.isinf()
        reached[now] = (last + share * (number - last))[now]
        # A rate that is already twice as slow as another is given up.
        best = reached.max(1).values.min()
        if not reached.isinf().any() or number > 2 * best:
            break
        before, last, look = loss, number, max(number + 1, int(number * _GROWTH))
    return [[float(v) if isfinite(v) else None for v in row] for row in reached.tolist()]
