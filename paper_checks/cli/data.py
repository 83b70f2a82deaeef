"""What a data set is and where it comes from, in lines of text."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from paper_checks.errors import InputError
from paper_checks.measurements.profile import DATASETS
from paper_checks.numbers import short


def describe(name: str, folder: Path | None = None) -> Iterator[str]:
    """Yield the facts of a data set, one a line, after its files have been checked.

    >>> next(describe("digits"))
    'digits: 1,437 samples of shape 1×8×8, 10 classes (split train)'

    Raises `InputError` for an unknown name, and `sim.data.load`'s errors for missing or damaged
    files.
    """
    from sim.data import load

    if name not in DATASETS:
        raise InputError("name", repr(name), f"choose one of {', '.join(DATASETS)}")
    data = load(name, root=folder)
    shape = "×".join(str(size) for size in data.shape)
    yield (
        f"{name}: {short(len(data))} samples of shape {shape}, {data.classes} classes "
        f"(split {data.split})"
    )
    yield from _lines(data.provenance)


def _lines(facts: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _lines(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield f"  {prefix}{key}: {text}"
