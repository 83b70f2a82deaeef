"""From a data set's name to the data set."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sim import _arguments
from sim._own import is_own
from sim.data import _cifar10, _digits, _gaussian, _own_data
from sim.data._dataset import Dataset, needless

Options = Mapping[str, Any]
Root = str | os.PathLike[str] | None


@dataclass(frozen=True)
class Source:
    """What a data set is, one row a name.

    Attributes:
        load: `load(root, split, **options)` to inputs, targets, classes and provenance; its
            keyword-only arguments are the options.
        shape: of one input, from the options; `None` where only the files can tell.
        check: the options as plain numbers, with what is out of its range refused.
        check_files: refuses a folder without reading what is in its files; `None` where no files
            are needed.
    """

    load: Callable[..., Any]
    shape: Callable[[Options], tuple[int, ...] | None]
    check: Callable[[Options], dict[str, Any]] = dict
    check_files: Callable[[Root], object] | None = None


SOURCES = {
    "cifar10": Source(
        _cifar10.cifar10,
        lambda options: _cifar10.SHAPE,
        check_files=lambda root: _cifar10.files(root, "all"),
    ),
    "digits": Source(_digits.digits, lambda options: _digits.SHAPE),
    "gaussian": Source(_gaussian.gaussian, _gaussian.shape, _gaussian.check),
}
DATASETS = tuple(SOURCES)
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
        name: one of `DATASETS`, or one's own as `package.module:object`: a function of `split`
            (`"train"` or `"test"`, and of `root` if it has that argument) that returns a pair of
            tensors, inputs `[N, …]` and labels `[N]`, or a mapping from the splits to such pairs.
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
    if is_own(name):
        split = _arguments.choice("split", split, SPLITS)
        with _arguments.told_of("dataset"):
            inputs, targets, classes, provenance = _own_data.own(name, root, split, options)
        return Dataset(inputs, targets, name, classes, split, {"name": name, **provenance})
    split = _arguments.choice("split", split, SPLITS)
    inputs, targets, classes, provenance = SOURCES[name].load(root, split, **options)
    return Dataset(inputs, targets, name, classes, split, {"name": name, **provenance})


def check(name: str, options: Options) -> dict[str, Any]:
    """The options as plain numbers, as far as they can be told without loading anything.

    Raises:
        ValueError: an unknown name or option, or a value out of its range.
    """
    if is_own(name):
        with _arguments.told_of("dataset"):
            _own_data.check(name, options)
        return dict(options)
    source = SOURCES[_arguments.choice("name", name, SOURCES)]
    _arguments.options(f"the data set {name!r}", source.load, options)
    return source.check(options)


def check_files(name: str, root: Root) -> None:
    """Refuse a folder that `load` would refuse, without reading what is in its files.

    Raises:
        ValueError, FileNotFoundError: no folder, or one where none is needed; a file that is
            missing or of another size.
    """
    if is_own(name):
        return
    check_source = SOURCES[name].check_files
    if check_source is not None:
        check_source(root)
    elif root is not None:
        raise needless(name, root)


def shape_of(name: str, options: Options) -> tuple[int, ...] | None:
    """The shape of one input; `None` where it is not known without a root.

    >>> shape_of("digits", {}), shape_of("gaussian", {"features": 3})
    ((1, 8, 8), (3,))
    """
    if is_own(name):
        with _arguments.told_of("dataset"):
            return _own_data.shape(name, options)
    return SOURCES[name].shape(options)
