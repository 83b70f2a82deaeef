"""CIFAR-10 from its standard binary files (Krizhevsky 2009)."""

import errno
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sim._extras import extra

CLASSES = 10
FOLDER = "cifar-10-batches-bin"
FILES = {"train": tuple(f"data_batch_{k}.bin" for k in range(1, 6)), "test": ("test_batch.bin",)}
SHAPE = (3, 32, 32)
RECORDS = 10_000
RECORD = 1 + 3 * 32 * 32
# Of the 50000 training images, each byte divided by 255; the values in common use.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
REMEDY = f"unpack {URL} there, or call sim.data.download_cifar10(root)"


def cifar10(
    root: str | os.PathLike[str] | None, split: str
) -> tuple[Tensor, Tensor, int, Mapping[str, Any]]:
    """The images as float32 `[N, 3, 32, 32]` and their labels, in the order of the files."""
    paths = files(root, split)
    inputs = torch.empty(RECORDS * len(paths), 3, 32, 32, dtype=torch.float32, device="cpu")
    targets = torch.empty(RECORDS * len(paths), dtype=torch.int64, device="cpu")
    mean, std = (
        torch.tensor(v, dtype=torch.float32, device="cpu")[:, None, None] for v in (MEAN, STD)
    )
    sha = hashlib.sha256()
    for number, path in enumerate(paths):
        raw = np.fromfile(path, dtype=np.uint8)
        sha.update(raw.data)
        records = raw.reshape(RECORDS, RECORD)
        _check_labels(path, records[:, 0])
        part = slice(number * RECORDS, (number + 1) * RECORDS)
        targets[part] = torch.from_numpy(records[:, 0].astype(np.int64))
        pixels = torch.from_numpy(records[:, 1:]).reshape(RECORDS, 3, 32, 32)
        inputs[part] = (pixels.float() / 255).sub_(mean).div_(std)
    provenance = {
        # The layout is published; whose pixels these are, only the hash can tell.
        "source": f"local files in the layout of {URL}",
        "files": [path.name for path in paths],
        "sha256": sha.hexdigest(),
        "sizes": {part: RECORDS * len(FILES[part]) for part in FILES},
        "normalisation": {"scale": 255, "mean": list(MEAN), "std": list(STD)},
    }
    return inputs, targets, CLASSES, provenance


def files(root: str | os.PathLike[str] | None, split: str) -> list[Path]:
    """The files of a split, every one of them looked at before the first one is read."""
    folder = _folder(root)
    paths = [folder / name for part in FILES for name in FILES[part] if split in (part, "all")]
    for path in paths:
        _check_size(path)
    return paths


def download_cifar10(
    root: str | os.PathLike[str], *, downloader: Callable[..., Any] | None = None
) -> Path:
    """Download CIFAR-10 (162 MiB) from its home page into `root`, check its sha256 and unpack it.

    What is already there is not downloaded again. `downloader` replaces pooch's own, for a proxy
    or a mirror; the checksum stays the same.

    Returns:
        The folder `root/cifar-10-batches-bin` with the six binary files, whose sizes are checked.

    Raises:
        ValueError: the archive or a file in it is not the published one.
        ConnectionError: it cannot be fetched.

    An archive that is not the published one is refused, whatever delivered it:

    >>> import tempfile
    >>> def mirror(url, output_file, pooch):
    ...     Path(output_file).write_bytes(b"something else")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     download_cifar10(folder, downloader=mirror)
    Traceback (most recent call last):
    ...
    ValueError: SHA256 hash of downloaded file ... does not match the known hash...
    """
    with extra("download_cifar10"):
        import pooch
    try:
        pooch.retrieve(
            URL,
            known_hash=f"sha256:{SHA256}",
            fname="cifar-10-binary.tar.gz",
            path=Path(root).expanduser(),
            processor=pooch.Untar(extract_dir="."),
            downloader=downloader,
        )
    except OSError as error:
        if error.errno is not None:  # of the disk, and it says what
            raise
        raise ConnectionError(
            errno.ENETUNREACH,
            f"{URL} cannot be fetched ({type(error).__name__}); see to the network, or "
            f"unpack it in {str(root)!r} yourself",
        ) from None
    folder = Path(root).expanduser() / FOLDER
    for name in (name for part in FILES.values() for name in part):
        _check_size(folder / name)
    return folder


def _folder(root: str | os.PathLike[str] | None) -> Path:
    origin = "root"
    if root is None:
        origin, root = "CBLR_DATA", os.environ.get("CBLR_DATA")
    if not root:
        raise ValueError(
            "root: not given, and the environment variable CBLR_DATA is not set; "
            f"name the folder of the CIFAR-10 binary files (--data DIR), or {REMEDY}"
        )
    outer = Path(root).expanduser()
    if not outer.is_dir():
        raise FileNotFoundError(f"{origin}: {str(outer)!r} is not a folder; {REMEDY}")
    inner = outer / FOLDER
    return inner if inner.is_dir() else outer


def _check_size(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"root: {path.name} is missing in {str(path.parent)!r}; {REMEDY}")
    size = path.stat().st_size
    if size != RECORDS * RECORD:
        raise ValueError(
            f"root: {str(path)!r} has {size} bytes instead of {RECORDS * RECORD}; "
            "it is truncated or another file: delete it and unpack the archive again"
        )


def _check_labels(path: Path, labels: np.ndarray) -> None:
    wrong = np.flatnonzero(labels >= CLASSES)
    if len(wrong):
        raise ValueError(
            f"root: {str(path)!r} has the label {labels[wrong[0]]} in record {wrong[0]}, but "
            "labels run from 0 to 9; it is damaged or another file: unpack the archive again"
        )
