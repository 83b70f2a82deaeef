"""Exact values at random entries, and their quantiles."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian import Sample

from . import oracle
from .networks import NETWORKS, build, mlp


@pytest.mark.parametrize("network", NETWORKS)
def test_values_are_those_of_the_full_diagonal(network):
    model, inputs = build(network)
    x, y = inputs(5, torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 0])
    pairs = [(x, y), (x[:4], y[:4])]
    torch.manual_seed(5)
    want = oracle.diagonal(model, F.cross_entropy, pairs)
    torch.manual_seed(5)
    draw = torch.Generator().manual_seed(2)
    got = hessian.sample(model, F.cross_entropy, pairs, per_parameter=3, generator=draw)
    assert list(got) == list(want)
    for name, s in got.items():
        k = min(3, want[name].numel())
        assert s.index.dtype == torch.int64
        assert s.index.unique().numel() == k == len(s.value)
        assert s.numel == want[name].numel()
    top = max(float(h.abs().max()) for h in want.values())
    gaps = [
        float((s.value - want[name].reshape(-1)[s.index]).abs().max())
        / max(float(want[name].abs().max()), 1e-6 * top)
        for name, s in got.items()
    ]
    assert max(gaps) <= 1e-9


def test_few_products_where_a_curved_layer_is_wide():
    class Means(nn.Module):  # samples meet: neither a chain nor products at sites
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 50), nn.Linear(50, 4)

        def forward(self, x):
            h = torch.tanh(self.a(x))
            return self.b(h - h.mean(0))

    model = Means().double()
    x, y = torch.randn(5, 6).double(), torch.tensor([0, 1, 2, 3, 0])
    got = hessian.sample(model, F.cross_entropy, (x, y), per_parameter=7)
    assert got.plan["a.weight"].backward == 14
    assert "7 of 300 entries" in got.plan["a.weight"].reason
    assert got.plan["b.weight"].method == "affine"


def test_the_draw_is_reproducible_and_spares_the_global_state():
    model = mlp(nn.Tanh).double()
    x, y = torch.randn(5, 6).double(), torch.tensor([0, 1, 2, 3, 0])
    before = torch.get_rng_state()
    a, b = (
        hessian.sample(model, F.cross_entropy, (x, y), 4, torch.Generator().manual_seed(1))
        for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[k].index, b[k].index) for k in a)
    other = hessian.sample(model, F.cross_entropy, (x, y), 4, torch.Generator().manual_seed(2))
    assert any(not torch.equal(a[k].index, other[k].index) for k in a)


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
def test_quantile_intervals_cover_the_true_quantile(q):
    """Of 400 intervals at 90 % at least 86 % cover: four standard errors below 90 %."""
    rng = np.random.default_rng(0)
    truth = -np.log(1 - q)  # of the exponential distribution
    hits = 0
    for _ in range(400):
        values = torch.as_tensor(rng.exponential(size=80))
        found = Sample(torch.arange(80), values, 10**9).quantile(q, confidence=0.9)
        hits += found.low <= truth <= found.high
        assert found.low <= found.value <= found.high
    assert hits / 400 >= 0.9 - 4 * (0.9 * 0.1 / 400) ** 0.5


def test_quantiles_of_too_small_a_sample_are_unbounded():
    found = Sample(torch.arange(3), torch.arange(3.0), 100).quantile(0.99)
    assert found.high == float("inf")
    with pytest.raises(ValueError, match="q must be"):
        Sample(torch.arange(3), torch.arange(3.0), 3).quantile(1.5)
    with pytest.raises(ValueError, match="confidence must be"):
        Sample(torch.arange(3), torch.arange(3.0), 3).quantile(0.5, 1.0)


def test_a_large_parameter_is_drawn_without_replacement():
    from hessian._runtime.entries import entries

    index = entries(2**20 + 5, 1000, torch.Generator().manual_seed(0))
    assert len(index) == index.unique().numel() == 1000
    assert int(index.max()) < 2**20 + 5


@pytest.mark.parametrize("wrong", [0, -1, 2.5])
def test_per_parameter_must_be_positive(wrong):
    with pytest.raises(ValueError, match="per_parameter must be"):
        hessian.sample(
            mlp(nn.ReLU), F.cross_entropy, (torch.randn(2, 6), torch.tensor([0, 1])), wrong
        )
