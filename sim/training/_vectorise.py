"""Which configurations can train together as lanes of one network."""

from sim.training._config import TrainConfig
from sim.training._network import obstacle

# Lanes that train together; beyond this many their weights leave the cache.
MOST = 32


def groups(configs: list[TrainConfig]) -> list[list[TrainConfig]]:
    """The configurations in groups that differ in their seeds only, the rest one by one.

    >>> from sim.training import grid
    >>> [len(group) for group in groups(grid({"epochs": 1}, lr=[0.1, 0.2], seed=range(3)))]
    [3, 3]
    """
    found: dict[object, list[TrainConfig]] = {}
    for config in configs:
        key: object = config.replace(seed=0, order_seed=None)
        if obstacle(config) is not None:
            key = config
        found.setdefault(key, []).append(config)
    return [
        group[start : start + MOST]
        for group in found.values()
        for start in range(0, len(group), MOST)
    ]
