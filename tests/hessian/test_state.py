"""NumPy's random state is as found, the half of it that does not show in its memory too."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._state import NumpyState


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
