"""Arguments of the spectrum's methods: refused in a sentence before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hessian._call.data import check_generator


def one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def count(name: str, value: Any, least: int = 1) -> int:
    """A whole number that is at least so large."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)


def positive(name: str, value: Any) -> None:
    """Raise unless the value is a positive number."""
    if not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def grid(value: Any) -> NDArray[np.float64]:
    """Places on the axis of eigenvalues, ascending."""
    places: NDArray[np.float64] = np.asarray(value, dtype=np.float64)
    if places.ndim != 1 or len(places) < 2 or not bool((np.diff(places) > 0).all()):
        raise ValueError(
            f"grid must hold two ascending numbers at least, got an array of shape {places.shape}; "
            "e.g. numpy.linspace(-1, 10, 500)"
        )
    return places


class Draw:
    """A generator that begins at the same place each time it is asked for."""

    def __init__(self, generator: torch.Generator | None) -> None:
        check_generator(generator)
        self.generator = generator or torch.Generator("cpu").manual_seed(0)
        self.state = self.generator.get_state()

    def __call__(self) -> torch.Generator:
        self.generator.set_state(self.state)
        return self.generator
