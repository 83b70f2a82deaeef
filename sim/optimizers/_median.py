"""The median of very many numbers, exactly, at about one pass through memory."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessian.devices import OWN_MEMORY
from sim.optimizers._shards import PLAIN

# Numbers that are made, compared and counted before they leave the cache.
BLOCK = 2**15
# So few are put in order as they are.
FEW = 2**13
# Half of the bracket in standard deviations of the rank of a sample's median: beyond it falls one
# population in 150,000, which is then put in order as it is.
DEVIATIONS = 4.5

Columns = tuple[Tensor, ...]
Entry = Callable[..., Tensor]


def median(columns: Sequence[Columns], entry: Entry, *, without_nan: bool = False) -> Tensor:
    """The median of `entry` over the entries of tensors, the mean of the middle two if even.

    On a CPU two order statistics of a random sample bracket the median. One pass counts what is
    below and above and keeps what is between, a few hundredths of all, where the median is then
    found. The sample decides how long it takes and nothing else: where the counts say that the
    median is not between, all numbers are put in order.

    Args:
        columns: one tuple for each tensor, all its members of one shape; the population is of all
            tensors together.
        entry: from members of a tuple, flat and in parts, to the numbers; entry by entry.
        without_nan: leave nan out; else the median is nan where there is one.

    Returns:
        A scalar, float64 on the tensors' device; nan for no numbers.

    >>> median([(torch.tensor([4.0, -1.0, 3.0, 2.0]),)], torch.abs)
    tensor(2.5000, dtype=torch.float64)
    """
    if all(
        type(t) in PLAIN and t.device.type in OWN_MEMORY for members in columns for t in members
    ):
        value = _on_cpu(columns, entry, without_nan)
        return torch.tensor(value, dtype=torch.float64, device="cpu")
    values = torch.cat([entry(*members).flatten() for members in columns])
    return _by_torch(values[~values.isnan()] if without_nan else values)


def _by_torch(values: Tensor) -> Tensor:
    """For other devices than a CPU."""
    count = values.numel()
    if count == 0:
        return torch.full((), torch.nan, dtype=torch.float64, device=values.device)
    # torch.median is the lower of the two, and unlike kthvalue it is deterministic on a GPU. The
    # upper is the same again, or the next larger value.
    low = values.median()
    if count % 2:
        return low.double()
    above = torch.where(values > low, values, torch.inf).min()
    high = torch.where((values <= low).sum() > count // 2, low, above)
    return (low.double() + high.double()) / 2


def _on_cpu(columns: Sequence[Columns], entry: Entry, without_nan: bool) -> float:
    flat = [_flat(members) for members in columns]
    count = sum(members[0].numel() for members in flat)
    if count <= FEW:
        return _of_all(flat, entry, without_nan)
    bracket = _bracket(flat, entry, count)
    low, high, level = bracket[0], bracket[-1], _level(bracket)
    not_below, not_above, inside = 0, 0, 0
    between = []
    for values in _blocks(flat, entry):
        from_low, to_high = values >= low, values <= high
        not_below += int(np.count_nonzero(from_low))
        not_above += int(np.count_nonzero(to_high))
        from_low &= to_high
        if level is not None:
            inside += int(np.count_nonzero(from_low))
            from_low &= values != level
        between.append(values[from_low])
    middle = np.concatenate(between)
    inside = inside if level is not None else middle.size
    # nan is on neither side; every other number is on one or on both.
    total = not_below + not_above - inside
    if total < count and not without_nan:
        return np.nan
    below = total - not_below
    if not below <= (total - 1) // 2 <= total // 2 < below + inside:
        return _of_all(flat, entry, without_nan)
    return _middle(middle, below, total, level or 0.0, inside - middle.size)


def _of_all(flat: Sequence[Columns], entry: Entry, without_nan: bool) -> float:
    """All numbers in memory, put in order as far as it takes."""
    values = np.concatenate([*_blocks(flat, entry), np.empty(0, np.float32)])
    missing = np.isnan(values)
    if not without_nan and missing.any():
        return np.nan
    return _middle(values[~missing] if without_nan else values)


def _flat(members: Columns) -> Columns:
    """The entries of each, the same ones side by side, in the order of the first one's memory."""
    first = members[0]
    order = sorted(range(first.ndim), key=first.stride, reverse=True)
    return tuple(tensor.detach().permute(order).reshape(-1) for tensor in members)


def _blocks(flat: Sequence[Columns], entry: Entry) -> Iterator[NDArray[np.floating]]:
    for members in flat:
        parts = (tensor.split(BLOCK) for tensor in members)
        for part in zip(*parts, strict=True):
            yield _numbers(entry(*part))


def _numbers(values: Tensor) -> NDArray[np.floating]:
    """As an array; NumPy has no bfloat16, and float32 holds all its numbers."""
    wide = values if values.dtype in (torch.float32, torch.float64) else values.float()
    array: NDArray[np.floating] = wide.resolve_neg().numpy()
    return array


def _bracket(flat: Sequence[Columns], entry: Entry, count: int) -> NDArray[np.floating]:
    """Numbers in order, among the first and last of which the median very likely is."""
    # The size at which drawing, and keeping what is between, cost about the same.
    size = count ** (2 / 3) / 4
    draws = np.random.default_rng(0)
    drawn = []
    for members in flat:
        length = members[0].numel()
        index = torch.from_numpy(draws.integers(0, length, int(size * length / count) + 1))
        drawn.append(_numbers(entry(*(tensor[index] for tensor in members))))
    sample = np.concatenate(drawn)
    sample = np.sort(sample[~np.isnan(sample)])
    if not sample.size:
        return np.full(1, np.nan)
    half = int(DEVIATIONS * sample.size**0.5 / 2) + 1
    middle = sample.size // 2
    return sample[max(0, middle - half) : middle + half + 1]


def _level(bracket: NDArray[np.floating]) -> float | None:
    """A number that very many are, such as the 0 of gradients behind ReLU: counted, not kept."""
    numbers, counts = np.unique(bracket, return_counts=True)
    most = int(counts.argmax())
    return float(numbers[most]) if counts[most] > bracket.size / 4 else None


def _middle(
    values: NDArray[np.floating],
    below: int = 0,
    total: int | None = None,
    level: float = 0.0,
    at_level: int = 0,
) -> float:
    """The median of numbers of which these, and some that are all the same, are in the middle.

    Args:
        values: in any order.
        below: how many are smaller than all of them.
        total: how many there are; `None`: these.
        level: what some others in the middle are, which none of `values` is.
        at_level: how many.
    """
    total = values.size if total is None else total
    if not total:
        return np.nan
    smaller = np.count_nonzero(values < level) if at_level else values.size
    equal = range(smaller, smaller + at_level)
    low, high = (total - 1) // 2 - below, total // 2 - below
    if low in equal and high in equal:
        return level if low == high else (level + level) / 2
    if high in equal:
        return (float(values[values < level].max()) + level) / 2
    place = high if high < smaller else high - at_level
    ordered = np.partition(values, place)
    upper = float(ordered[place])
    if low == high:
        return upper
    lower = level if low in equal else float(ordered[:place].max())
    return (lower + upper) / 2
