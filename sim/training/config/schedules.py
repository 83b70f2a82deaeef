"""What happens when: passes over the data, batch sizes and rates, all known before the run."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sim import _arguments

WARMUPS = ("constant", "gradual", "linear")
DECAYS = ("cosine", "polynomial", "step")
# Steps of a run: their rates are kept in a list, and every step makes a row of a table.
MOST_STEPS = 10**7


@dataclass(frozen=True, kw_only=True)
class Phase:
    """The beginning of a run, or the next part of it, with another batch size or rate.

    Attributes:
        epochs: how long, in passes over the data; or
        steps: in steps. The pass in which they end is broken off there.
        batch_size: n in this phase, or `None` for that of the run.
        lr: the base rate in this phase, or `None` for that of the run.

    >>> Phase(epochs=1, batch_size=512, lr=0.005).batch_size
    512
    """

    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("epochs: give either epochs or steps for a phase")
        for name, value in (("epochs", self.epochs), ("steps", self.steps)):
            if value is not None:
                object.__setattr__(self, name, _arguments.integer(name, value, 1))
        if self.batch_size is not None:
            size = _arguments.integer("batch_size", self.batch_size, 1)
            object.__setattr__(self, "batch_size", size)
        if self.lr is not None:
            object.__setattr__(self, "lr", _arguments.number("lr", self.lr, 0.0))


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """A factor on the rate at the beginning of a run.

    Attributes:
        kind: `"linear"` rises with every step, from `start` at the first to 1 at the step after
            the last; `"gradual"` stays within an epoch and rises from one to the next, so it needs
            `epochs`; `"constant"` is `start` throughout.
        epochs: how long, in passes; or
        steps: in steps.
        start: the factor at the first step.

    >>> Warmup(steps=4).kind
    'linear'
    """

    kind: str = "linear"
    epochs: int | None = None
    steps: int | None = None
    start: float = 0.1

    def __post_init__(self) -> None:
        _arguments.choice("kind", self.kind, WARMUPS)
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("epochs: give either epochs or steps for the warm-up")
        if self.kind == "gradual" and self.epochs is None:
            raise ValueError("epochs: a gradual warm-up rises by epochs; give epochs, not steps")
        for name, value in (("epochs", self.epochs), ("steps", self.steps)):
            if value is not None:
                object.__setattr__(self, name, _arguments.integer(name, value, 1))
        object.__setattr__(self, "start", _arguments.number("start", self.start, 0.0))


@dataclass(frozen=True, kw_only=True)
class Decay:
    """A factor on the rate that falls after the warm-up. With t from 0 there to 1 at the end:

    Attributes:
        kind: `"step"`: times `factor` from each of the epochs `milestones` on (counted from 0);
            `"cosine"`: `final` + (1 - `final`)(1 + cos πt)/2;
            `"polynomial"`: `final` + (1 - `final`)(1 - t)^`power`.
        milestones: epochs, increasing.
        factor: in (0, 1].
        power: positive.
        final: in [0, 1].

    >>> Decay(kind="step", milestones=(30, 60)).factor
    0.1
    """

    kind: str
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    power: float = 2.0
    final: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of their range, and milestones without the decay that needs them."""
        _arguments.choice("kind", self.kind, DECAYS)
        if isinstance(self.milestones, str | Mapping) or not isinstance(self.milestones, Iterable):
            raise TypeError(f"milestones: got {self.milestones!r}; give a list of epochs")
        milestones = tuple(_arguments.integer("milestones", m, 0) for m in self.milestones)
        if list(milestones) != sorted(set(milestones)):
            raise ValueError(f"milestones: got {milestones!r}; give increasing epochs")
        if (self.kind == "step") != bool(milestones):
            raise ValueError("milestones: give them for the decay 'step', and for no other")
        object.__setattr__(self, "milestones", milestones)
        for name in ("factor", "power"):
            value = _arguments.number(name, getattr(self, name), 0.0, open_=True)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "final", _arguments.number("final", self.final, 0.0))
        for name in ("factor", "final"):
            value = getattr(self, name)
            if value > 1:
                raise ValueError(
                    f"{name}: got {value:g}; a decay does not raise the rate, give at most 1"
                )


@dataclass(frozen=True)
class Pass:
    """One pass over the data, or the beginning of one that a limit on the steps breaks off.

    Attributes:
        epoch: its number, from 0.
        batch_size: n.
        steps: how many.
        first: the number of its first step.
        lr: the base rate.
    """

    epoch: int
    batch_size: int
    steps: int
    first: int
    lr: float


def steps_in(total: int, batch_size: int, drop_last: bool) -> int:
    """Steps of one whole pass; a remainder makes a smaller last batch unless it is dropped.

    >>> steps_in(50000, 1024, False), steps_in(50000, 1024, True)
    (49, 48)
    """
    full, rest = divmod(total, batch_size)
    return full + (rest > 0 and not drop_last)


def passes(
    total: int,
    batch_size: int,
    lr: float,
    phases: Sequence[Phase],
    epochs: int | None,
    steps: int | None,
    drop_last: bool,
) -> list[Pass]:
    """All passes of a run over `total` samples, whose limit is in `epochs` or in `steps`.

    Raises:
        ValueError: a batch larger than the data, or more steps than a run can have.

    >>> first = Phase(epochs=1, batch_size=2, lr=0.5)
    >>> for each in passes(8, 8, 1.0, [first], 2, None, False): print(each)
    Pass(epoch=0, batch_size=2, steps=4, first=0, lr=0.5)
    Pass(epoch=1, batch_size=8, steps=1, first=4, lr=1.0)
    """
    plan: list[Pass] = []
    taken = 0

    def add(size: int, rate: float, most: int | None) -> None:
        nonlocal taken
        if size > total:
            raise ValueError(
                f"batch_size: got {size}, but there are {total} samples to train on; "
                f"give at most {total}"
            )
        count = steps_in(total, size, drop_last)
        for limit in (most, None if steps is None else steps - taken):
            count = count if limit is None else min(count, limit)
        plan.append(Pass(len(plan), size, count, taken, rate))
        taken += count
        if taken > MOST_STEPS:
            raise ValueError(
                f"epochs: {epochs} passes over {total} samples in batches of {size} are more than "
                f"{MOST_STEPS} steps, the most that a run can have; give fewer"
            )

    def over() -> bool:
        return (epochs is not None and len(plan) >= epochs) or (
            steps is not None and taken >= steps
        )

    for phase in phases:
        size = batch_size if phase.batch_size is None else phase.batch_size
        rate = lr if phase.lr is None else phase.lr
        start, begun = taken, len(plan)
        while not over():
            if phase.epochs is not None and len(plan) - begun >= phase.epochs:
                break
            left = None if phase.steps is None else phase.steps - (taken - start)
            if left == 0:
                break
            add(size, rate, left)
    while not over():
        add(batch_size, lr, None)
    return plan


def rates(plan: Sequence[Pass], warmup: Warmup | None, decay: Decay | None) -> list[float]:
    """The rate of every step of the plan: base rate times warm-up times decay.

    >>> plan = passes(4, 1, 1.0, [], 1, None, False)
    >>> rates(plan, Warmup(steps=2, start=0.5), Decay(kind="polynomial", power=1))
    [0.5, 0.75, 1.0, 0.5]
    """
    total = sum(pass_.steps for pass_ in plan)
    warm = 0
    if warmup is not None:
        warm = warmup.steps or sum(pass_.steps for pass_ in plan[: warmup.epochs])
    step_rates = []
    for pass_ in plan:
        for step in range(pass_.first, pass_.first + pass_.steps):
            rate = pass_.lr
            if warmup is not None and step < warm:
                done = step / warm
                if warmup.kind == "gradual":
                    done = pass_.epoch / warmup.epochs  # type: ignore[operator]
                elif warmup.kind == "constant":
                    done = 0.0
                rate *= warmup.start + (1 - warmup.start) * done
            if decay is not None:
                rate *= _decayed(decay, pass_.epoch, max(0, step - warm), max(1, total - warm))
            step_rates.append(rate)
    return step_rates


def _decayed(decay: Decay, epoch: int, step: int, total: int) -> float:
    if decay.kind == "step":
        return decay.factor ** sum(epoch >= milestone for milestone in decay.milestones)
    t = step / total
    shape = (1 + math.cos(math.pi * t)) / 2 if decay.kind == "cosine" else (1 - t) ** decay.power
    return decay.final + (1 - decay.final) * shape
