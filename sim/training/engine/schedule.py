"""When everything of a run happens, known before it begins."""

from __future__ import annotations

from dataclasses import dataclass

from sim.training.config.schedules import Pass
from sim.training.config.train_config import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """The passes over the data and their steps.

    Attributes:
        passes: in their order.
        rates: of every step.
        counts: the size of every step's batch.
    """

    passes: list[Pass]
    rates: list[float]
    counts: list[int]

    @classmethod
    def of(cls, config: TrainConfig, samples: int) -> Schedule:
        """The schedule of a configuration over so many samples.

        >>> Schedule.of(TrainConfig(epochs=2, batch_size=3), 4).counts
        [3, 1, 3, 1]
        """
        passes, rates = config.plan(samples)
        counts = [
            min(pass_.batch_size, samples - k * pass_.batch_size)
            for pass_ in passes
            for k in range(pass_.steps)
        ]
        return cls(passes, rates, counts)
