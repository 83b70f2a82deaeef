"""Characters of a text that scikit-learn ships, to tell the next one from."""

from importlib.resources import files
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

# A context of characters, from which the next one is told.
CONTEXT = 16


def characters(count: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Contexts of characters as images of one line, the next ones, and what a network needs.

    The text is scikit-learn's own description of one of its data sets; the images are
    `[count, letters, 1, 16]`.
    """
    text = files("sklearn.datasets.descr").joinpath("kddcup99.rst").read_text(encoding="utf-8")
    alphabet = sorted(set(text.lower()))
    codes = torch.tensor([alphabet.index(letter) for letter in text.lower()])
    generator = torch.Generator().manual_seed(0)
    first = torch.randperm(len(codes) - CONTEXT, generator=generator)[:count]
    windows = codes[first[:, None] + torch.arange(CONTEXT)]
    inputs = one_hot(windows, len(alphabet)).transpose(1, 2)[:, :, None].double()
    shape = {"in_shape": (len(alphabet), 1, CONTEXT), "classes": len(alphabet)}
    return inputs, codes[first + CONTEXT], shape
