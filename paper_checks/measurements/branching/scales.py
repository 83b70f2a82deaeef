"""Noise scales of a point of training, from the moments that `moments` gives."""

from collections.abc import Mapping
from typing import Any


def noise_scale(point: Mapping[str, Any]) -> float | None:
    """B_noise = tr(HΣ)/GᵀHG, or nothing where one of the two is not positive.

    >>> noise_scale({"curved_noise": 8.0, "curved": 2.0})
    4.0
    """
    if min(point["curved_noise"], point["curved"]) <= 0:
        return None
    return float(point["curved_noise"] / point["curved"])


def simple_scale(point: Mapping[str, Any]) -> float:
    """B_simple = tr Σ/|G|².

    >>> simple_scale({"noise": 8.0, "slope": 4.0})
    2.0
    """
    return float(point["noise"] / point["slope"])
