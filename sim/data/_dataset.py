"""What every data set looks like once it is in memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sim import _arguments


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A labelled data set, whole in memory.

    Attributes:
        inputs: float32, `[N, C, H, W]` or `[N, d]`, normalised as `provenance` says.
        targets: int64, `[N]`, from 0 to `classes - 1`.
        name: what `load` was asked for.
        classes: the number of classes.
        split: `"train"`, `"test"` or `"all"`.
        provenance: plain values for a report: source, sha256 of the content, sizes, normalisation,
            and the seed and size of every subset taken since.

    Raises:
        ValueError: inputs and targets of different lengths.

    >>> data = Dataset(torch.zeros(3, 2), torch.tensor([0, 1, 1]), "toy", 2, "train")
    >>> len(data), data.shape
    (3, (2,))
    >>> data
    Dataset(toy, train: (3, 2), 2 classes)
    """

    inputs: Tensor
    targets: Tensor
    name: str
    classes: int
    split: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.inputs.shape[:1] != self.targets.shape:
            raise ValueError(
                f"targets: shape {tuple(self.targets.shape)} for inputs of shape "
                f"{tuple(self.inputs.shape)}; give one label per input"
            )

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        shape, device = tuple(self.inputs.shape), self.inputs.device
        where = "" if device == torch.device("cpu") else f", on {device}"
        return f"Dataset({self.name}, {self.split}: {shape}, {self.classes} classes{where})"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, as `sim.models.build` takes it for `in_shape`."""
        return tuple(self.inputs.shape[1:])

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """`(inputs, targets)`: the whole set as one batch, as `hessian` takes it."""
        return self.inputs, self.targets

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data set on another device."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    def subset(self, n: int, seed: int = 0) -> "Dataset":
        """`n` samples drawn without replacement, in the drawn order; the same for the same seed.

        A larger subset of the same seed starts with the smaller one. The provenance gains the
        entry `subset`, with `n`, `of` and `seed`.

        Raises:
            ValueError: `n` outside 1 to N, a negative seed.

        >>> data = Dataset(torch.arange(5.0)[:, None], torch.zeros(5).long(), "toy", 1, "train")
        >>> taken = data.subset(3, seed=1)
        >>> len(taken), dict(taken.provenance["subset"])
        (3, {'n': 3, 'of': 5, 'seed': 1})
        """
        n = _arguments.integer("n", n, 1, len(self))
        index = torch.from_numpy(_order(len(self), seed)[:n]).to(self.targets.device)
        taken = {"n": n, "of": len(self), "seed": seed}
        return replace(
            self,
            inputs=self.inputs[index],
            targets=self.targets[index],
            provenance={**self.provenance, "subset": taken},
        )

    def batches(
        self, batch_size: int, *, drop_last: bool = False, seed: int | None = None
    ) -> "Batches":
        """The set as `(inputs, targets)` pairs of `batch_size`; each pass gives the same pairs.

        `seed` shuffles; `None` keeps the stored order. For another order in every epoch, ask
        anew with another seed. The last batch is smaller where N is no multiple of the batch
        size, or left out with `drop_last`.

        Raises:
            ValueError: a batch size outside 1 to N, a negative seed.

        >>> data = Dataset(torch.zeros(5, 1), torch.arange(5), "toy", 5, "train")
        >>> [targets.tolist() for _, targets in data.batches(2)]
        [[0, 1], [2, 3], [4]]
        >>> len(data.batches(2, drop_last=True))
        2
        """
        batch_size = _arguments.integer("batch_size", batch_size, 1, len(self))
        order = None if seed is None else torch.from_numpy(_order(len(self), seed))
        return Batches(self, batch_size, drop_last, order)


@dataclass(frozen=True, eq=False)
class Batches:
    """Pairs `(inputs, targets)`, as often as one likes: what `Dataset.batches` returns.

    >>> data = Dataset(torch.zeros(4, 1), torch.arange(4), "toy", 4, "train")
    >>> batches = data.batches(3)
    >>> [len(targets) for _, targets in batches] == [len(targets) for _, targets in batches]
    True
    """

    dataset: Dataset
    batch_size: int
    drop_last: bool
    order: Tensor | None

    def __len__(self) -> int:
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, targets = self.dataset.pair
        for number in range(len(self)):
            part = slice(number * self.batch_size, (number + 1) * self.batch_size)
            if self.order is None:
                yield inputs[part], targets[part]
            else:
                index = self.order[part].to(targets.device)
                yield inputs[index], targets[index]


def _order(n: int, seed: int) -> np.ndarray:
    seed = _arguments.integer("seed", seed, 0)
    return np.random.default_rng(seed).permutation(n)


def needless(name: str, root: object) -> ValueError:
    """The refusal of a folder that a data set has no use for."""
    return ValueError(f"root: got {str(root)!r}, but {name} needs no files; leave it out")
