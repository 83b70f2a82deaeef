"""The median of many numbers, in one pass: the same number that putting them in order gives."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.optimizers import _median as module

from .mutant import mutant

MANY = 3 * module.BLOCK + 17


def naive(values, without_nan=False):
    """The middle of a sorted list of Python's floats."""
    numbers = [v for v in values if not (without_nan and math.isnan(v))]
    if not numbers or any(map(math.isnan, numbers)):
        return math.nan
    numbers.sort()
    middle = len(numbers) // 2
    if len(numbers) % 2:
        return numbers[middle]
    return (numbers[middle - 1] + numbers[middle]) / 2


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


def check(median, tensor, without_nan=False):
    got = median([(tensor,)], torch.positive, without_nan=without_nan)
    assert got.dtype == torch.float64
    assert got.shape == ()
    # The same bits: no arithmetic is done but the mean of two numbers, in float64.
    want = naive(tensor.double().flatten().tolist(), without_nan)
    assert same(got.item(), want), (got.item(), want)


def gaussian(count):
    return np.random.default_rng(1).standard_normal(count)


def rows(count):
    """Whole rows of zeros, as of units behind ReLU that are off."""
    x = gaussian(count)
    x.reshape(-1)[: count // 2 + 5] = 0
    return x


# By name, a population of a given size.
POPULATIONS = {
    "gaussian": gaussian,
    "sorted": lambda count: np.sort(gaussian(count)),
    "cauchy": lambda count: np.random.default_rng(2).standard_cauchy(count),
    "constant": lambda count: np.full(count, 0.25),
    "few": lambda count: np.random.default_rng(3).integers(-2, 3, count).astype(float),
    "half zero": rows,
    "rectified": lambda count: gaussian(count).clip(min=0),
    "just below": lambda count: np.where(np.arange(count) < count // 2, 0.0, 1.0),
    "just below, turned": lambda count: np.where(np.arange(count) < count // 2, 1.0, 0.0),
    "just above": lambda count: np.where(np.arange(count) < count // 2 + 1, 0.0, 1.0),
    "infinite": lambda count: np.where(np.arange(count) < count // 2, 0.0, np.inf),
    "from both ends": lambda count: np.where(np.arange(count) < count // 2, -np.inf, np.inf),
    "huge": lambda count: np.where(gaussian(count) < 0, 1.6e308, 1.7e308),
    "tiny": lambda count: 1e-300 * gaussian(count),
    # A hundred numbers in the middle of a desert: no sample sees them.
    "desert": lambda count: np.concatenate(
        [-np.ones(count // 2 - 50), np.linspace(-0.5, 0.5, 100), np.ones(count - count // 2 - 50)]
    ),
}
COUNTS = (module.FEW, module.FEW + 1, MANY, MANY + 1)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", POPULATIONS)
def test_it_is_that_of_the_sorted_numbers(name, count):
    values = torch.from_numpy(POPULATIONS[name](count))
    check(module.median, values)
    check(module.median, values.float())


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(0, 40) | st.integers(module.FEW - 2, module.FEW + 2),
    places=st.integers(1, 9),
    nan=st.integers(0, 3),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    without_nan=st.booleans(),
)
def test_sizes_ties_and_dtypes(size, places, nan, seed, dtype, without_nan):
    rng = np.random.default_rng(seed)
    values = rng.integers(-places, places + 1, size) * rng.choice([1.0, 0.1])
    values[rng.integers(0, max(1, size), min(nan, size))] = np.nan
    check(module.median, torch.from_numpy(values).to(dtype), without_nan)


@pytest.mark.parametrize("without_nan", [False, True])
@pytest.mark.parametrize("share", [1, MANY // 3, MANY])
def test_not_a_number(share, without_nan):
    values = torch.from_numpy(gaussian(MANY))
    values[-share:] = torch.nan
    check(module.median, values, without_nan)


def test_views_of_any_strides_and_several_tensors():
    values = torch.from_numpy(gaussian(4 * MANY)).view(4, MANY)
    views = [values.T, values[::2, ::3], values[0].expand(2, MANY), values[:, :1]]
    views.append(torch.view_as_complex(values.view(-1, 2)).conj().imag)  # negated when read
    for view in views:
        check(module.median, view)
    together = module.median([(view,) for view in views], torch.positive)
    want = naive([number for view in views for number in view.flatten().tolist()])
    assert together.item() == want
    assert module.median([], torch.positive).isnan()


def check_pairs(median):
    w = torch.from_numpy(gaussian(MANY * 2)).view(MANY, 2)
    g = torch.from_numpy(gaussian(MANY * 2)[::-1].copy()).view(2, MANY).T
    got = median([(w, g)], lambda a, b: (a / b).abs())
    assert got.item() == naive((w / g).abs().flatten().tolist())


def test_entries_of_pairs_stay_together():
    # Whatever the order in which the two lie in memory.
    check_pairs(module.median)


BRACKETS = [[-9.0, -8.0], [8.0, 9.0], [0.5, 0.5], [-1e-3, 0.0]]


@pytest.mark.parametrize("bracket", BRACKETS)
def test_a_bracket_that_misses_costs_time_only(bracket, monkeypatch):
    monkeypatch.setattr(module, "_bracket", lambda *_: np.array(bracket))
    check(module.median, torch.from_numpy(gaussian(MANY)))
    values = torch.from_numpy(gaussian(MANY))
    values[0] = torch.nan
    check(module.median, values, without_nan=True)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8])
def test_other_devices_get_the_same(count):
    # Their way is torch's own median, which runs on a CPU too.
    for values in (torch.arange(count).double(), torch.ones(count), -torch.arange(count).float()):
        want = naive(values.double().tolist())
        assert same(module._by_torch(values).item(), want)


MUTANTS = {
    "upper of the two": ("return (lower + upper) / 2", "return upper"),
    "one more below": ("below = total - not_below", "below = total - not_below + 1"),
    "no look at the counts": ("if not below <= (total", "if False and below <= (total"),
    "nan overlooked": ("if total < count and not without_nan", "if False"),
    "nan overlooked among few": ("if not without_nan and missing.any()", "if False"),
    "level ends one later": ("smaller + at_level)", "smaller + at_level + 1)"),
    "level not left out": ("high if high < smaller else high - at_level", "high"),
    "level for both": ("if low in equal and high in equal", "if high in equal"),
    "a number below the level": ("level if low in equal else ", ""),
    "orders of their own": (
        "tensor.detach().permute(order)",
        "tensor.detach().permute(sorted(order, key=tensor.stride))",
    ),
}


@pytest.mark.parametrize("error", MUTANTS)
def test_a_wrong_selection_is_caught(error, tmp_path, monkeypatch):
    changed = mutant(Path(module.__file__), *MUTANTS[error], tmp_path, monkeypatch)
    with pytest.raises((AssertionError, IndexError, ValueError)):
        check_all(changed, monkeypatch)


def check_all(changed, monkeypatch):
    for name, count in ((name, count) for name in POPULATIONS for count in COUNTS):
        values = torch.from_numpy(POPULATIONS[name](count))
        check(changed.median, values)
        values[:9] = torch.nan
        check(changed.median, values)
    check_pairs(changed.median)
    for bracket in BRACKETS:
        monkeypatch.setattr(changed, "_bracket", lambda *_, bracket=bracket: np.array(bracket))
        check(changed.median, torch.from_numpy(gaussian(MANY)))
