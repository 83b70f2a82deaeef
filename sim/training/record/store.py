"""Files that are either whole or not there, and a folder that one process writes to at a time."""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import pandas as pd
import torch

# Whatever pandas is set to.
PARQUET: Literal["pyarrow"] = "pyarrow"
_SAVING = threading.Lock()


def sha256(content: bytes | memoryview) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


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
            _sync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why, remedy = error.strerror or str(error), "see to that"
        if full:
            why, remedy = "the disk is full", "free some space"
        raise OSError(
            error.errno or errno.EIO,
            f"out: {why}, {path.name} could not be written; what was written before is whole: "
            f"{remedy} and start the same run again to go on",
            str(path),
        ) from None
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


# How a file system says that it does not have what was asked for.
LACKING = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}


def _sync(descriptor: int) -> None:
    """Force to the disk what was written, as far as the file system can; shared folders may not."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in LACKING:
            raise


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one may write into it, and not read
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> str:
    """A JSON file, whole or not at all; its SHA-256."""
    content = (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
    write(path, lambda file: file.write(content))
    return sha256(content)


def write_frame(path: Path, frame: pd.DataFrame) -> str:
    """A Parquet file, whole or not at all; its SHA-256."""
    memory = io.BytesIO()
    frame.to_parquet(memory, index=False, engine=PARQUET)
    write(path, lambda file: file.write(memory.getbuffer()))
    return sha256(memory.getbuffer())


def write_tensors(path: Path, value: Any) -> str:
    """Tensors and plain values as `torch.save` writes them, whole or not at all; its SHA-256."""
    memory = io.BytesIO()
    with _SAVING:  # in older releases of torch the option is the process's
        checked = torch.serialization.get_crc32_options()
        try:
            torch.serialization.set_crc32_options(True)  # by which `read_tensors` knows damage
            torch.save(value, memory)
        finally:
            torch.serialization.set_crc32_options(checked)
    write(path, lambda file: file.write(memory.getbuffer()))
    return sha256(memory.getbuffer())


def read_tensors(path: Path, expected: str | None = None) -> Any:
    """What `write_tensors` wrote, on the CPU; nothing but tensors and plain values is unpickled.

    Args:
        path: of the file.
        expected: its SHA-256; where there is none, the checksums inside it are looked at.
    """
    with reading(path):
        memory = io.BytesIO(_content(path, expected))
        if expected is None:
            with zipfile.ZipFile(memory) as archive:
                bad = archive.testzip()
            if bad is not None:
                raise Damaged(bad)
            memory.seek(0)
        # Not as torch.utils.serialization.config says, which is about files.
        return torch.load(memory, map_location="cpu", weights_only=True, mmap=False)


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    with reading(path):
        return json.loads(path.read_text(encoding="utf-8"))


def read_frame(path: Path, expected: str | None = None) -> pd.DataFrame:
    """What `write_frame` wrote; `expected` is its SHA-256, where that is known."""
    with reading(path):
        return pd.read_parquet(io.BytesIO(_content(path, expected)), engine=PARQUET)


def check(path: Path, expected: str) -> None:
    """Refuse a file that is not the one of this SHA-256; one that is not there is none."""
    if path.exists():
        with reading(path):
            _content(path, expected)


class Damaged(Exception):
    """A file is another one than was written."""


def _content(path: Path, expected: str | None) -> bytes:
    content = path.read_bytes()
    if expected is not None and sha256(content) != expected:
        raise Damaged
    return content


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say of a file that cannot be read which one it is: nothing here leaves one half-written."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # whatever the readers make of a file that is not theirs
        raise ValueError(
            f"out: {str(path)!r} is damaged, and not by a run that was cut short, or that of "
            f"another run ({type(error).__name__}); put it back from a copy, or remove its folder "
            "to start anew"
        ) from None


def make(folder: Path) -> None:
    """The folder is there in the end.

    Raises:
        OSError: it cannot be made.
    """
    with _kept_in(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"out: no run can be kept in {str(folder)!r} ({error.strerror}); "
            "give a folder that can be made and written to",
        ) from None


LOCK = ".lock"
# What `write` calls its temporary files; all others belong to somebody else.
OURS = re.compile(r"\.(\w+\.parquet|(run|config)\.json|(weights|checkpoint)\.pt)\.\d+\.tmp")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder for this process alone; the lock goes with the process, even a killed one.

    A folder that was made for this and in which nothing was kept is removed in the end.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be made or written to.
    """
    path = folder / LOCK
    ours = path.exists() or not folder.exists()
    descriptor = _lock_descriptor(folder, path)
    try:
        # Left behind by a process that was killed while it wrote; nobody else writes now.
        for stale in folder.glob(".*.tmp"):
            if OURS.fullmatch(stale.name):
                stale.unlink(missing_ok=True)
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):  # somebody has removed it meanwhile
            if ours and os.listdir(folder) == [LOCK]:
                path.unlink()
                folder.rmdir()
        os.close(descriptor)


def _lock_descriptor(folder: Path, path: Path) -> int:
    """The descriptor of the lock's file, which is held while it is open."""
    while True:
        make(folder)
        with _kept_in(folder):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _flock(descriptor, folder)
            # Whoever held it before may have removed the folder, and this file with it.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise BlockingIOError(
                f"out: another process trains in {str(folder)!r}; wait for it, or give another "
                "folder"
            ) from None
        os.close(descriptor)


def _flock(descriptor: int, folder: Path) -> None:
    """Lock an open file, where its file system has locks; else say that it has none.

    Without one nothing is lost: what two processes write of one run is the same, and whole.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in {*LACKING, errno.ENOLCK}:
            raise
        warnings.warn(
            f"out: the file system of {str(folder)!r} has no locks ({error.strerror}); see to it "
            "that no second process trains there",
            stacklevel=2,
        )
