"""Files: whole or not at all, and errors that say which."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paper_checks.errors import InputError

# Where nothing more can be written, whatever it is.
FULL = (errno.ENOSPC, errno.EDQUOT)


def named(error: OSError, path: Path) -> OSError:
    """The error of a write, which often does not say of which file, with its name and the remedy.

    >>> named(OSError(errno.ENOSPC, "No space left on device"), Path("a.csv"))
    OSError(28, 'No space left on device; free some and start the same command again')
    """
    text = error.strerror or str(error)
    if error.errno in FULL:
        text += "; free some and start the same command again"
    return OSError(error.errno, text, str(path))


def write_atomically(path: Path, text: str) -> None:
    """Put `text` in `path` so that a reader sees the old file or the new one, never a part."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", text=True)
    try:
        # A name may hold what no encoding has; what was measured is written all the same.
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as stream:
            stream.write(text)
        # mkstemp gives 0600; the report is meant to be served and sent.
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise named(error, path) from None
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def save(target: Path, write: Callable[..., Any]) -> None:
    """Write a table to a file; an error says to which."""
    try:
        write(target, index=False)
    except OSError as error:
        raise named(error, target) from None


def no_file(argument: str, folder: Path) -> Path:
    """`folder` itself, which need not be there yet.

    Raises `InputError` where it is a file, or lies below one.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(argument, folder, f"{existing} is not a folder; name another")
    return folder


def apart(csv: Path | None, parquet: Path | None) -> None:
    """Refuse one file for both tables, of which the second would take the place of the first."""
    if csv is not None and parquet is not None and csv.absolute() == parquet.absolute():
        raise InputError("--parquet", parquet, "is the file of --csv; name another")


def writable(out: Path) -> Path:
    """`out` itself if files can be put there; makes nothing.

    Raises `InputError` where it is a file, or lies below one, or may not be written.
    """
    existing = out
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise InputError("--out", out, f"{existing} is not a folder; name another")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError("--out", out, f"{existing} may not be written to; name another")
    return out
