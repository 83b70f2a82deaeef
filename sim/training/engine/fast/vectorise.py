"""Which configurations can train together as lanes of one network."""

import heapq
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hessian import devices
from sim import models
from sim._isolation import isolated
from sim.data._load import shape_of
from sim.training.config.options import canonical
from sim.training.config.train_config import TrainConfig
from sim.training.engine.fast.eligible import obstacle

# Lanes that train together; beyond this many their weights leave the cache.
MOST = 32
# What a step costs beside its lanes, in lanes: measured for small networks.
BESIDE = 2
# How large a network may be for lanes to gain anything on a CPU, as measured on one core:
# multiplications of one step forwards, those of convolutions, which `vmap` makes slow, and weights.
WORK = 2**24
CONVOLUTIONS = 2**22
WEIGHTS = 2**17
# Multiplications of one step of all lanes from which on two threads are faster than one.
SHARED = 2**24


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
    by_fields: dict[str, list[TrainConfig]] = {}
    for config in configs:
        fields = canonical(config.plain()) | {"seed": None, "order_seed": None}
        by_fields.setdefault(repr(fields), []).append(config)
    whole = list(by_fields.values())
    # It is the architecture that counts, or an option, never a seed: one look is enough.
    able = [len(g) > 1 and obstacle(g[0]) is None and small(g[0]) for g in whole]

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


def small(config: TrainConfig) -> bool:
    """Whether the network is so small that lanes are faster than one network after another.

    >>> wide = {"model_options": {"hidden": [512, 512]}}
    >>> small(TrainConfig(epochs=1)), small(TrainConfig(epochs=1, **wide))
    (True, False)
    """
    if torch.device(config.device).type not in devices.MEASURED:
        return True  # not measured; what is small there is large here
    cost = _cost(config)
    if cost is None:
        return False
    return cost.weights <= WEIGHTS and cost.products <= WORK and cost.convolutions <= CONVOLUTIONS


def split(group: list[TrainConfig]) -> int:
    """Among how many threads lanes are shared that have this process for themselves.

    >>> few = [TrainConfig(epochs=1, seed=seed) for seed in range(2)]
    >>> split(few), split(few[:1])
    (1, 1)
    """
    if len(group) == 1 or torch.device(group[0].device).type not in devices.OWN_MEMORY:
        return 1
    cost = _cost(group[0])
    enough = cost is not None and len(group) * cost.products >= SHARED
    return torch.get_num_threads() if enough else 1


@dataclass(frozen=True)
class Cost:
    """What a step of one network takes: weights, and multiplications forwards."""

    weights: int
    products: int
    convolutions: int


def _cost(config: TrainConfig) -> Cost | None:
    """`None` where the shape of the inputs is not known before they are loaded."""
    shape = shape_of(config.dataset, config.dataset_options)
    if shape is None:
        return None
    options: dict[str, Any] = dict(config.model_options)
    model = models.build(config.model, in_shape=shape, classes=10, seed=0, **options)
    products = {nn.Linear: 0, nn.Conv2d: 0}

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module.weight, Tensor)
        products[type(module)] += output.numel() * module.weight[0].numel()

    for module in model.modules():
        if type(module) in products:
            module.register_forward_hook(count)
    with isolated("cpu"), torch.no_grad():
        model.eval()(torch.zeros(1, *shape, dtype=torch.float32, device="cpu"))
    n = max([config.batch_size, *(phase.batch_size or 0 for phase in config.phases)])
    weights = sum(p.numel() for p in model.parameters())
    return Cost(weights, n * sum(products.values()), n * products[nn.Conv2d])


def _cut(group: list[TrainConfig], most: int) -> list[list[TrainConfig]]:
    """As few parts as can be, of nearly equal size."""
    count = -(-len(group) // most)
    starts = [-(-len(group) * k // count) for k in range(count + 1)]
    return [group[a:b] for a, b in itertools.pairwise(starts)]
