"""The first batch of a loader that someone else trains on."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler

from sim.integrations._watch import first_batch

ROWS = torch.arange(12.0)


class Shuffled(Sampler):
    """As people write them, with random numbers of NumPy or of Python."""

    def __init__(self, kind):
        self.kind = kind
        self.numbers = {
            "numpy": np.random.default_rng,
            "old numpy": np.random.RandomState,
            "python": random.Random,
        }[kind](0)

    def __iter__(self):
        rows = list(range(12))
        self.numbers.shuffle(rows)
        return iter(rows)

    def __len__(self):
        return 12


class Noisy(torch.utils.data.Dataset):
    """Augmented by the global random numbers."""

    def __len__(self):
        return 12

    def __getitem__(self, k):
        return ROWS[k] + random.random() + np.random.random() + torch.rand(())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


LOADERS = {
    "its own generator": lambda: DataLoader(ROWS, 3, shuffle=True, generator=seeded()),
    "a sampler's": lambda: DataLoader(ROWS, 3, sampler=RandomSampler(ROWS, generator=seeded())),
    "a batch sampler's": lambda: DataLoader(
        ROWS, batch_sampler=BatchSampler(RandomSampler(ROWS, generator=seeded()), 3, False)
    ),
    "numpy's": lambda: DataLoader(ROWS, 3, sampler=Shuffled("numpy")),
    "numpy's old one": lambda: DataLoader(ROWS, 3, sampler=Shuffled("old numpy")),
    "python's": lambda: DataLoader(ROWS, 3, sampler=Shuffled("python")),
    "global ones": lambda: DataLoader(Noisy(), 3, shuffle=True),
}


def passes(loader):
    return torch.stack([torch.stack(list(loader)) for _ in range(2)])


@pytest.mark.parametrize("whose", LOADERS)
def test_it_leaves_the_random_numbers_as_they_are(whose):
    def begin():
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        return LOADERS[whose]()

    want = passes(begin())
    loader = begin()
    batch = first_batch(loader)
    torch.testing.assert_close(batch, want[0, 0], rtol=0, atol=0)
    torch.testing.assert_close(passes(loader), want, rtol=0, atol=0)


def test_it_looks_into_several_loaders():
    class Both:
        def __init__(self):
            self.loaders = {
                "a": DataLoader(ROWS, 3, shuffle=True, generator=seeded(1)),
                "b": [DataLoader(ROWS, 3, shuffle=True, generator=seeded(2))],
            }

        def __iter__(self):
            pairs = zip(self.loaders["a"], self.loaders["b"][0], strict=True)
            return (torch.stack(pair) for pair in pairs)

    want = passes(Both())
    both = Both()
    assert torch.equal(first_batch(both), want[0, 0])
    assert torch.equal(passes(both), want)


def test_what_has_no_batch_to_spare():
    with pytest.raises(ValueError, match=r"^data: .*list_iterator.*lost.*data="):
        first_batch(iter([ROWS]))
    with pytest.raises(ValueError, match=r"^data: .*no batch; give the samples"):
        first_batch([])
