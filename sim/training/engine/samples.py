"""The data of a run on its device, and which of them are drawn for what."""

import os
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hessian.devices import moved
from sim import data as datasets
from sim.data import Dataset
from sim.training.config.train_config import DTYPES, TrainConfig
from sim.training.engine.batch import Pair
from sim.training.engine.streams import AUGMENT, HELD_OUT, ORDER, order_seed

SUBSET_SEED = 0


class Samples:
    """The training and the test split.

    Args:
        configs: of the lanes, which differ in their seeds only.
        root: where the files are.

    Attributes:
        training, test: on the device, in the dtype.
        channels_last: whether images come in this memory format.
    """

    def __init__(
        self, configs: list[TrainConfig], root: str | os.PathLike[str] | None = None
    ) -> None:
        self._config = configs[0]
        self._seeds = [order_seed(config) for config in configs]
        self._device = torch.device(self._config.device)
        self.training, self.test = load(self._config, root)
        self.channels_last = False

    @property
    def content(self) -> str:
        """The SHA-256 of the training split."""
        digest: str = self.training.provenance["sha256"]
        return digest

    def order(self, epoch: int) -> Tensor:
        """The order of the training samples in a pass, `[lanes, N]`."""
        n = len(self.training)
        orders = [
            np.random.default_rng([seed, ORDER, epoch]).permutation(n) for seed in self._seeds
        ]
        return torch.from_numpy(np.stack(orders)).to(self._device)

    def batch(self, index: Tensor, n: int, share: slice, step: int) -> Pair:
        """Training samples by their numbers `[lanes, n]`, augmented as it was drawn for a step.

        Args:
            index: of this process's share.
            n: the size of the whole batch.
            share: this process's part of it.
            step: for which they are.
        """
        augment = self._config.augment
        if augment is None:
            return self.take(self.training, index)
        changes = [augment.draw([seed, AUGMENT, step], n)[share] for seed in self._seeds]
        drawn = moved(torch.from_numpy(np.concatenate(changes)), self._device)
        return self.take(self.training, index, drawn)

    def held_out(self, order: Tensor, start: int, stop: int, step: int) -> Pair | None:
        """Samples that have no part in the step, which takes `order[:, start:stop]`."""
        measure = self._config.measure
        from_train = measure.held_out_from == "train"
        data = self.training if from_train else self.test
        left = len(data) - (stop - start if from_train else 0)
        n = min(measure.held_out, left)
        if n == 0:
            return None
        rows = []
        for lane, seed in enumerate(self._seeds):
            generator = np.random.default_rng([seed, HELD_OUT, step])
            index = torch.from_numpy(generator.choice(left, n, replace=False)).to(self._device)
            if from_train:
                index = order[lane, index + (stop - start) * (index >= start)]
            rows.append(index)
        return self.take(data, torch.stack(rows))

    def fixed(self, n: int) -> Pair:
        """So many training samples, always the same ones."""
        return self.training.subset(min(n, len(self.training)), SUBSET_SEED).pair

    def take(self, data: Dataset, index: Tensor, drawn: Tensor | None = None) -> Pair:
        """Samples by their numbers `[lanes, n]`, augmented as drawn `[lanes · n, 3]`."""
        flat = index.reshape(-1)
        x = data.inputs.index_select(0, flat)
        if drawn is not None and self._config.augment is not None:
            x = self._config.augment.apply(x, drawn)
        if self.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        y = data.targets.index_select(0, flat)
        return x.view(*index.shape, *x.shape[1:]), y.view(index.shape)


def load(config: TrainConfig, root: str | os.PathLike[str] | None) -> tuple[Dataset, Dataset]:
    """Training and test split, on the device, in the dtype.

    Raises:
        ValueError: there are fewer samples than the configuration wants; what `sim.data.load`
            refuses.
    """
    options: dict[str, Any] = dict(config.dataset_options)
    splits = []
    for split in ("train", "test"):
        data = datasets.load(config.dataset, root, split, **options)
        if split == "train" and config.samples is not None:
            if config.samples > len(data):
                raise ValueError(
                    f"samples: got {config.samples}, but {config.dataset} has {len(data)} "
                    f"training samples; give at most {len(data)}"
                )
            data = data.subset(config.samples, SUBSET_SEED)
        data = replace(data, inputs=data.inputs.to(DTYPES[config.dtype]))
        splits.append(data.to(config.device))
    return splits[0], splits[1]
