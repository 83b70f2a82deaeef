"""Tables to files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from paper_checks.result import named


def save(target: Path, write: Callable[..., Any]) -> None:
    """Write a table to a file; an error says to which."""
    try:
        write(target, index=False)
    except OSError as error:
        raise named(error, target) from None
