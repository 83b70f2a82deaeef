"""Files that are either whole or not there, and a folder that one process writes to at a time."""

import contextlib
import errno
import fcntl
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pandas as pd
import torch


def write(path: Path, fill: Callable[[IO[bytes]], Any]) -> None:
    """Write a file so that a reader finds the old content or the new one, whatever happens.

    A temporary file beside it is filled, forced to the disk, and put in its place.

    Raises:
        OSError: it could not be written, for instance because the disk is full; what was there
            before is still there, and the temporary file is not.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder) / "a", lambda file: file.write(b"content"))
    ...     (Path(folder) / "a").read_bytes(), os.listdir(folder)
    (b'content', ['a'])
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"out: the disk is full, {path.name} could not be written; what was written "
                "before is whole: free some space and start the same run again to go on",
                str(path),
            ) from None
        raise
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """A JSON file, whole or not at all."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write(path, lambda file: file.write(text.encode()))


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """A Parquet file, whole or not at all."""
    memory = io.BytesIO()
    frame.to_parquet(memory, index=False)
    write(path, lambda file: file.write(memory.getvalue()))


def write_tensors(path: Path, value: Any) -> None:
    """Tensors and plain values as `torch.save` writes them, whole or not at all."""
    memory = io.BytesIO()
    torch.save(value, memory)
    write(path, lambda file: file.write(memory.getbuffer()))


def read_tensors(path: Path) -> Any:
    """What `write_tensors` wrote, on the CPU; nothing but tensors and plain values is unpickled."""
    return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder for this process alone; the lock goes with the process, even a killed one.

    Raises:
        BlockingIOError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BlockingIOError(
                f"out: another process trains in {str(folder)!r}; wait for it, or give another "
                "folder"
            ) from None
        # Left behind by a process that was killed while it wrote; nobody else writes now.
        for stale in folder.glob(".*.tmp"):
            stale.unlink(missing_ok=True)
        yield
