"""Handwritten digits, 8x8, as scikit-learn ships them: no download."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sim._extras import extra
from sim.data._dataset import needless

CLASSES = 10
SHAPE = (1, 8, 8)
# The images come writer by writer, so the last fifth is mostly written by other hands: a test set
# that a random split would leak into. No generator is involved, so the split cannot drift.
TRAIN = 1437
# Of the 1437 training images, each pixel divided by 16.
MEAN, STD = 0.3054, 0.3755


def digits(root: None, split: str) -> tuple[Tensor, Tensor, int, Mapping[str, Any]]:
    """The images as float32 `[N, 1, 8, 8]` and their labels."""
    if root is not None:
        raise needless("digits", root)
    with extra("the data set 'digits'"):
        from sklearn.datasets import load_digits
    bunch = load_digits()
    pixels = bunch.images.astype(np.uint8)
    labels = bunch.target.astype(np.uint8)
    sha = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    part = {"train": slice(0, TRAIN), "test": slice(TRAIN, None), "all": slice(None)}[split]
    inputs = (torch.from_numpy(pixels[part]).float() / 16 - MEAN) / STD
    provenance = {
        "source": "sklearn.datasets.load_digits",
        "sha256": sha,
        "sizes": {"train": TRAIN, "test": len(labels) - TRAIN},
        "normalisation": {"scale": 16, "mean": [MEAN], "std": [STD]},
    }
    targets = torch.from_numpy(labels[part].astype(np.int64))
    return inputs.unsqueeze(1), targets, CLASSES, provenance
