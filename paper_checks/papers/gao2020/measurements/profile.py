"""How much work an audit does: one row of sizes for each profile and data set."""

from dataclasses import dataclass

from paper_checks.measurements.profile import select


@dataclass(frozen=True)
class Profile:
    """The sizes of one audit; `None` means all there is.

    `width` scales AlexNet's channels; `sample` images carry the exact curvature; `population`
    images are the training set of figure 3; a layer's law is averaged over at most `entries` of
    its entries; `batches` random batches are drawn for each batch size; `draws` random numbers
    back each equation's Monte Carlo. `verify` entries a tensor are compared with differences of
    the loss, and `passes` rounds of fresh dropout masks are averaged for figure 3. Training figures
    train the network `trains`, figure 16 the network `compares`, over `runs` seeds for `epochs`, on
    at most `images` of the training set.
    """

    name: str
    width: float
    sample: int
    population: int | None
    batches: int
    entries: int
    draws: int
    seeds: tuple[int, ...] = (0, 1, 2)
    batch_sizes: tuple[int, ...] | None = None
    verify: int = 1
    passes: int = 4
    runs: int = 16
    epochs: int = 10
    images: int | None = 2048
    trains: str = "mlp"
    compares: str = "mlp"


# The profile `cifar` is on CIFAR-10 alone, all 50,000 images, AlexNet (with its dropout of a half)
# and ResNet-18 (with batch norm) at an eighth of their width; every run is a row of the ledger.
# Epochs and seeds stand beside each sweep in `paper_checks.papers.gao2020.measurements.training`.
# On CIFAR-10 the network is the paper's own, at full width; on the small sets a quarter of it is
# far more than the data needs, and every parameter still gets its exact second derivative.
_PROFILES = {
    ("quick", "digits"): Profile("quick", 0.25, 512, None, 8, 20_000, 200_000),
    ("quick", "gaussian"): Profile("quick", 0.25, 512, None, 8, 20_000, 200_000),
    ("quick", "cifar10"): Profile("quick", 1.0, 1024, 8192, 4, 20_000, 200_000, passes=2),
    ("full", "digits"): Profile(
        "full", 1.0, 1024, None, 48, 200_000, 2_000_000, runs=30, epochs=40, images=None
    ),
    ("full", "gaussian"): Profile(
        "full", 1.0, 1024, None, 48, 200_000, 2_000_000, runs=30, epochs=40, images=None
    ),
    ("full", "cifar10"): Profile(
        "full",
        1.0,
        4096,
        None,
        24,
        200_000,
        2_000_000,
        # Half of them choose a rate, and three are the fewest that a criterion reads.
        runs=6,
        epochs=100,
        images=None,
        trains="alexnet",
        compares="resnet18",
    ),
    ("cifar", "cifar10"): Profile(
        "cifar",
        0.125,
        1024,
        None,
        8,
        20_000,
        200_000,
        runs=6,
        epochs=20,
        images=None,
        trains="alexnet",
        compares="resnet18",
    ),
}

# Profiles whose runs are kept in the ledger.
RECORDED = ("cifar",)
# Of the networks whose measurements are rows of the ledger.
RECORDED_SEEDS = _PROFILES["cifar", "cifar10"].seeds


def profile(name: str, dataset: str) -> Profile:
    """The sizes of the profile `name` on `dataset`.

    >>> profile("quick", "cifar10").width
    1.0

    Raises `InputError` for a name that is neither.
    """
    return select(_PROFILES, name, dataset)


def usual_dataset(name: str) -> str:
    """The data set of a profile where none is named.

    >>> usual_dataset("quick"), usual_dataset("cifar")
    ('digits', 'cifar10')
    """
    return "cifar10" if name in RECORDED else "digits"
