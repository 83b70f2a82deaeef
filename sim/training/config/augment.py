"""Random shifts and reflections of images, drawn anew for every step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sim import _arguments


@dataclass(frozen=True, kw_only=True)
class Augment:
    """The usual augmentation of CIFAR-10 (He et al. 2016): a random crop and a random reflection.

    It is for the samples that make a step. Test, held-out and curvature samples stay as they are,
    and what is measured on the batch is measured on its samples as they were changed.

    Attributes:
        crop: pixels of padding on every side, from which a window of the image's size is cut at a
            random place; 0: none. The padding is 0 after standardisation, the mean colour.
        flip: reflect each image left to right with probability 1/2.

    >>> Augment(flip=False)
    Augment(crop=4, flip=False)
    """

    crop: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "crop", _arguments.integer("crop", self.crop, 0))
        object.__setattr__(self, "flip", _arguments.flag("flip", self.flip))
        if not self.crop and not self.flip:
            raise ValueError("crop: without it and without flip nothing is augmented; give one")

    def check(self, shape: tuple[int, ...], dataset: str) -> None:
        """Refuse inputs that are not images, or smaller than the padding.

        Raises:
            ValueError: of this shape.
        """
        if len(shape) != 3:
            raise ValueError(
                f"augment: it is for images, but the inputs of {dataset} have the shape {shape}; "
                "leave it out"
            )
        if self.crop >= min(shape[1:]):
            raise ValueError(
                f"augment.crop: got {self.crop}, but the images of {dataset} are "
                f"{shape[1]}x{shape[2]} pixels; give at most {min(shape[1:]) - 1}"
            )

    def draw(self, seed: Sequence[int], n: int) -> np.ndarray:
        """Row, column and reflection of each of n samples, `[n, 3]`.

        >>> Augment(crop=1).draw([0], 4).shape
        (4, 3)
        """
        generator = np.random.default_rng(list(seed))
        places = generator.integers(0, 2 * self.crop + 1, (n, 2))
        reflected = generator.integers(0, 2, (n, 1)) if self.flip else np.zeros((n, 1), dtype=int)
        return np.concatenate([places, reflected], 1)

    def apply(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Images `[n, C, H, W]` changed as `draw` says, all at once.

        >>> x = torch.arange(4.0).view(1, 1, 2, 2)
        >>> Augment(crop=1).apply(x, torch.tensor([[1, 2, 1]]))[0, 0].tolist()
        [[0.0, 1.0], [0.0, 3.0]]
        """
        down, right, reflected = drawn.unbind(1)
        if self.crop:
            height, width = x.shape[-2:]
            windows = F.pad(x, [self.crop] * 4).unfold(2, height, 1).unfold(3, width, 1)
            x = windows[torch.arange(len(x), device=x.device), :, down, right]
        if self.flip:
            x = torch.where(reflected.bool().view(-1, 1, 1, 1), x.flip(3), x)
        return x
