"""Class-conditional Gaussians: a data set whose law is known."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sim import _arguments
from sim.data._dataset import needless

SPLITS = {"train": 1, "test": 2}
FEATURES = 20


def check(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as plain numbers; a value that is out of its range is refused."""
    checked = dict(options)
    for name, least in (("samples", 1), ("features", 1), ("classes", 1), ("seed", 0)):
        if name in checked:
            checked[name] = _arguments.integer(name, checked[name], least)
    if "separation" in checked:
        checked["separation"] = _arguments.number("separation", checked["separation"], 0.0)
    return checked


def shape(options: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of one input."""
    return (int(options.get("features", FEATURES)),)


def gaussian(
    root: None,
    split: str,
    *,
    samples: int = 1024,
    features: int = FEATURES,
    classes: int = 10,
    separation: float = 1.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor, int, Mapping[str, Any]]:
    """x = m_c + ε with ε ~ N(0, I), m_c ~ N(0, separation² I) and c uniform."""
    if root is not None:
        raise needless("gaussian", root)
    # One stream for the means, which the splits share, and one for each split's draws.
    means = separation * np.random.default_rng([seed, 0]).standard_normal((classes, features))

    def draw(stream: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng([seed, stream])
        labels = generator.integers(classes, size=samples)
        return means[labels] + generator.standard_normal((samples, features)), labels

    parts = [draw(SPLITS[name]) for name in SPLITS if split in (name, "all")]
    inputs = np.concatenate([x for x, _ in parts]).astype(np.float32)
    labels = np.concatenate([y for _, y in parts]).astype(np.int64)
    provenance = {
        "source": "class-conditional Gaussians",
        "sha256": hashlib.sha256(inputs.tobytes() + labels.tobytes()).hexdigest(),
        "sizes": dict.fromkeys(SPLITS, samples),
        "normalisation": None,
        "features": features,
        "separation": separation,
        "seed": seed,
    }
    return torch.from_numpy(inputs), torch.from_numpy(labels), classes, provenance
