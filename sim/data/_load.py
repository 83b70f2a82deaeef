"""From a data set's name to the data set."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from sim import _arguments
from sim.data._cifar10 import SHAPE as CIFAR10_SHAPE
from sim.data._cifar10 import cifar10, files
from sim.data._dataset import Dataset, needless
from sim.data._digits import SHAPE as DIGITS_SHAPE
from sim.data._digits import digits
from sim.data._gaussian import FEATURES, gaussian
from sim.data._gaussian import check as check_gaussian

LOADERS: dict[str, Callable[..., Any]] = {
    "cifar10": cifar10,
    "digits": digits,
    "gaussian": gaussian,
}
DATASETS = tuple(LOADERS)
SPLITS = ("train", "test", "all")


def load(
    name: str,
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    **options: Any,
) -> Dataset:
    """Load a data set into memory, checked and normalised.

    | name | inputs | train / test | where from |
    |---|---|---|---|
    | `digits` | `[N, 1, 8, 8]` | 1437 / 360 | scikit-learn, the first 1437 images to train on |
    | `cifar10` | `[N, 3, 32, 32]` | 50000 / 10000 | the standard binary files under `root` |
    | `gaussian` | `[N, features]` | `samples` each | drawn: x = m_c + ε, see below |

    Images are scaled to 0..1, then standardised by constants measured on the training split
    (`provenance["normalisation"]`), the same for every split. `split="all"` is train, then test.

    Args:
        name: one of `DATASETS`.
        root: for `cifar10`, the folder that holds `data_batch_1.bin` … or one that holds
            `cifar-10-batches-bin/`; `None` reads the environment variable `CBLR_DATA`.
        split: `"train"`, `"test"` or `"all"`.
        options: for `gaussian` only: `samples` (1024), `features` (20), `classes` (10),
            `separation` (1.0) and `seed` (0). Class means are N(0, separation² I), the noise is
            N(0, I), labels are uniform; the splits share the means and nothing else.

    Returns:
        A `Dataset`. `provenance["sha256"]` is over the raw bytes of the files read, in order;
        over the 8-bit images and then the labels (`digits`); over the drawn inputs and labels
        (`gaussian`).

    Raises:
        ValueError: an unknown name, split or option; no root; a truncated or damaged file.
        FileNotFoundError: the root or a file in it does not exist.

    >>> data = load("digits")
    >>> data.shape, len(data), data.classes, len(load("digits", split="test"))
    ((1, 8, 8), 1437, 10, 360)
    >>> data.targets[:3].tolist()
    [0, 1, 2]
    >>> load("gaussian", samples=6, features=2).inputs.shape
    torch.Size([6, 2])
    """
    options = check(name, options)
    split = _arguments.choice("split", split, SPLITS)
    inputs, targets, classes, provenance = LOADERS[name](root, split, **options)
    return Dataset(inputs, targets, name, classes, split, {"name": name, **provenance})


def check(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as plain numbers, as far as they can be told without loading anything.

    Raises:
        ValueError: an unknown name or option, or a value out of its range.
    """
    loader = LOADERS[_arguments.choice("name", name, LOADERS)]
    _arguments.options(f"the data set {name!r}", loader, options)
    return check_gaussian(options) if name == "gaussian" else dict(options)


def check_files(name: str, root: str | os.PathLike[str] | None) -> None:
    """Refuse a folder that `load` would refuse, without reading what is in its files.

    Raises:
        ValueError, FileNotFoundError: no folder, or one where none is needed; a file that is
            missing or of another size.
    """
    if name == "cifar10":
        files(root, "all")
    elif root is not None:
        raise needless(name, root)


def shape_of(name: str, options: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of one input.

    >>> shape_of("digits", {}), shape_of("gaussian", {"features": 3})
    ((1, 8, 8), (3,))
    """
    if name == "gaussian":
        return (int(options.get("features", FEATURES)),)
    return {"digits": DIGITS_SHAPE, "cifar10": CIFAR10_SHAPE}[name]
