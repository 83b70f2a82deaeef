"""The sizes of an audit of this paper, as data."""

from dataclasses import dataclass
from typing import Any

from paper_checks.measurements.profile import select

MLPS: dict[str, Any] = {
    "mlp16": {"hidden": [16, 16]},
    "mlp32": {"hidden": [32, 32]},
    "mlp64": {"hidden": [64, 64]},
    "tanh32": {"hidden": [32, 32], "activation": "tanh"},
}
# Exact products with so small a transformer cost ten times those of a perceptron.
MOST_CONTEXTS = 64
# The rate and batch size of the training on which the points lie, and along which the noise scale
# of a branched run is averaged.
RATES = {"characters": 0.3, "alexnet": 0.05}
RATE, BATCH = 0.1, 32
# Rate over batch size is 16 times higher in the first.
TEMPERATURES = {"high": 8, "low": 128}
# As they are common with several devices: what one of them sees, and all of them together.
SMALL, BIG, ESTIMATES = 32, 256, 100
REPEATS = 20
# Batches over which the decrease by one step is a mean, and the steps in units of the best one.
STEPS, MULTIPLES = 24, (0.25, 0.5, 1.0, 1.5, 2.0, 4.0)
STEP_BATCHES = (4, 32, 256)


@dataclass(frozen=True)
class Profile:
    """The sizes of one audit.

    A training set has `population` samples, of which batches are drawn with replacement. Each
    network is initialised and trained at each of the `seeds`. At `levels` of the loss, as shares of
    the one at initialisation, its scales are taken. A rate is tuned on `tuning` runs for each seed
    and read on `reading` others. `networks` are those whose scales are taken; runs
    branch off in each of the `settings`: a network, a level, and a rule.
    """

    name: str
    draws: int
    networks: tuple[str, ...]
    settings: tuple[tuple[str, float, str], ...]
    population: int = 256
    levels: tuple[float, ...] = (1.0, 0.65, 0.35, 0.15)
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    batches: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128, 256)
    tuning: int = 1
    reading: int = 4
    most_steps: int = 3000


_MLP_SETTINGS = (
    *((name, level, "sgd") for name in ("mlp16", "mlp32", "mlp64") for level in (0.65, 0.35, 0.15)),
    ("tanh32", 0.35, "sgd"),
    *(("mlp32", 0.35, rule) for rule in ("adam", "lars", "lamb")),
)
_NETWORKS = ("mlp32", "tanh32", "characters")
_LEVELS = (1.0, 0.9, 0.8, 0.7)
_PROFILES = {
    ("quick", "digits"): Profile("quick", 200_000, _NETWORKS, _MLP_SETTINGS),
    ("quick", "cifar10"): Profile(
        "quick", 200_000, ("alexnet",), (("alexnet", 0.8, "sgd"),), 128, _LEVELS
    ),
    ("full", "digits"): Profile(
        *("full", 2_000_000, _NETWORKS, (*_MLP_SETTINGS, ("characters", 0.65, "sgd")), 1024),
        seeds=tuple(range(8)),
        reading=8,
    ),
}


def profile(name: str, dataset: str) -> Profile:
    """The sizes of the profile `name` on `dataset`.

    >>> profile("quick", "digits").population
    256

    Raises `InputError` for a name that is neither.
    """
    return select(_PROFILES, name, dataset)
