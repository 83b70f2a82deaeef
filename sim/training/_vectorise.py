"""Which configurations can train together as lanes of one network."""

import heapq
import itertools

from sim.training._config import TrainConfig
from sim.training._network import obstacle
from sim.training._options import canonical

# Lanes that train together; beyond this many their weights leave the cache.
MOST = 32
# What a step costs beside its lanes, in lanes: measured for small networks.
BESIDE = 2


def groups(configs: list[TrainConfig], workers: int = 1) -> list[list[TrainConfig]]:
    """The configurations in groups that differ in their seeds only, the rest one by one.

    Args:
        configs: all different.
        workers: that train a group each at a time; where there are fewer groups, they are cut.

    >>> from sim.training import grid
    >>> configs = grid({"epochs": 1}, lr=[0.1, 0.2], seed=range(3))
    >>> [len(group) for group in groups(configs)], [len(group) for group in groups(configs, 4)]
    ([3, 3], [2, 1, 2, 1])
    """
    found: dict[str, list[TrainConfig]] = {}
    for config in configs:
        fields = canonical(config.plain()) | {"seed": None, "order_seed": None}
        found.setdefault(repr(fields), []).append(config)
    whole = list(found.values())
    # An obstacle is the architecture's or an option's, never a seed's: one look is enough.
    able = [len(group) > 1 and obstacle(group[0]) is None for group in whole]

    def cut(most: int) -> list[list[TrainConfig]]:
        pairs = zip(whole, able, strict=True)
        return [part for group, lanes in pairs for part in _cut(group, most if lanes else 1)]

    def until(parts: list[list[TrainConfig]]) -> int:
        """When the last worker is ready, each taking the largest group that is left."""
        busy = [0] * workers
        for size in sorted(map(len, parts), reverse=True):
            heapq.heapreplace(busy, busy[0] + BESIDE + size)
        return max(busy)

    return min((cut(most) for most in range(MOST, 0, -1)), key=until)


def _cut(group: list[TrainConfig], most: int) -> list[list[TrainConfig]]:
    """As few parts as can be, of nearly equal size."""
    count = -(-len(group) // most)
    starts = [-(-len(group) * k // count) for k in range(count + 1)]
    return [group[a:b] for a, b in itertools.pairwise(starts)]
