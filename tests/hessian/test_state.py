"""What is the caller's is as found: NumPy's random state, the half that does not show, and more."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._call.state import NumpyState


def same(a, b):
    return a[0] == b[0] and np.array_equal(a[1], b[1]) and a[2:] == b[2:]


def draws():
    return {
        "nothing": lambda: None,
        "uniform": np.random.random,
        "one normal": np.random.standard_normal,  # and another one is held back
        "two normals": lambda: np.random.standard_normal(2),
        "a seed": lambda: np.random.seed(5),
        "another kind": lambda: np.random.permutation(100),
    }


@pytest.mark.parametrize("inside", draws())
@pytest.mark.parametrize("before", draws())
def test_numpys_state_is_as_found(before, inside):
    np.random.seed(3)
    draws()[before]()
    start = np.random.get_state()
    for _ in range(3):
        state = NumpyState()
        assert same(np.random.get_state(), start)
        for _ in range(2):
            draws()[inside]()
            again = NumpyState()
            here = np.random.get_state()
            draws()[before]()
            again.restore()
            assert same(np.random.get_state(), here)
        state.restore()
        assert same(np.random.get_state(), start)


def test_a_loss_that_draws_from_numpy_meets_the_same_numbers_in_every_pass():
    model, seen = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), []
    data = torch.randn(4, 3), torch.arange(4) % 2

    def loss(o, t):
        seen.append(np.random.standard_normal(3).tolist())
        return F.cross_entropy(o * seen[-1][0], t)

    np.random.seed(1)
    np.random.standard_normal()  # one is held back
    start = np.random.get_state()
    hessian.diagonal(model, loss, data, method="parameter")
    assert len(seen) > 1
    assert all(numbers == seen[0] for numbers in seen)
    assert same(np.random.get_state(), start)


def test_a_generator_of_another_kind():
    if not hasattr(np.random, "set_bit_generator"):
        pytest.skip("this NumPy has one kind of global generator")
    source = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        start = np.random.get_state(legacy=False)
        state = NumpyState()
        np.random.random(5)
        state.restore()
        assert np.random.get_state(legacy=False)["state"] == start["state"]
    finally:
        np.random.set_bit_generator(source)


def test_the_smallest_numbers_count():
    # As after the import of a library that was built with -ffast-math.
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    pair = torch.randn(6, 4, generator=generator), torch.randn(6, 3, generator=generator)

    def loss(output, target):
        return 1e-38 * nn.functional.mse_loss(output, target)

    alone = hessian.diagonal(model, loss, pair)
    assert any(0 < h.abs()[h != 0].min() < torch.finfo(h.dtype).tiny for h in alone.values())
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not take the smallest numbers for zero")
    try:
        found = hessian.diagonal(model, loss, pair)
        assert sys.float_info.min / 2 == 0, "the caller's setting is put back"
    finally:
        torch.set_flush_denormal(False)
    assert all(torch.equal(h, alone[name]) for name, h in found.items())


def test_flags_that_a_program_has_frozen(monkeypatch):
    # As after torch.backends.disable_global_flags(), which torch's own test helpers call.
    switch = torch.backends.flags_frozen.__globals__
    pair = torch.randn(6, 4), torch.randn(6, 3)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        monkeypatch.setitem(switch, "__allow_nonbracketed_mutation_flag", False)
        assert torch.backends.flags_frozen()
        hessian.diagonal(nn.Linear(4, 3), nn.functional.mse_loss, pair)
        assert torch.backends.flags_frozen()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        monkeypatch.undo()
        torch.set_float32_matmul_precision(before)
