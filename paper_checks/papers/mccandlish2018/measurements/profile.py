"""The sizes of an audit of this paper."""

from dataclasses import dataclass

from paper_checks.measurements.profile import select


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
