"""Which configurations can train together as lanes of one network."""

from sim.training._config import TrainConfig
from sim.training._network import obstacle
from sim.training._options import canonical

# Lanes that train together; beyond this many their weights leave the cache.
MOST = 32


def groups(configs: list[TrainConfig]) -> list[list[TrainConfig]]:
    """The configurations in groups that differ in their seeds only, the rest one by one.

    >>> from sim.training import grid
    >>> [len(group) for group in groups(grid({"epochs": 1}, lr=[0.1, 0.2], seed=range(3)))]
    [3, 3]
    """
    found: dict[str, list[TrainConfig]] = {}
    for config in configs:
        fields = canonical(config.plain()) | {"seed": None, "order_seed": None}
        found.setdefault(repr(fields), []).append(config)
    parts = []
    for group in found.values():
        # An obstacle is the architecture's or an option's, never a seed's: one look is enough.
        most = MOST if len(group) > 1 and obstacle(group[0]) is None else 1
        parts += [group[start : start + most] for start in range(0, len(group), most)]
    return parts
