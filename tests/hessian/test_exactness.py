"""The diagonal against both oracles: every network, every loss, pairs and loaders.

One is a naive double backward, the other second differences of the loss's value.
"""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import hessian

from . import oracle
from .networks import LOSSES, NETWORKS, build


def problem(network, loss, n=5, seed=0):
    model, inputs = build(network, seed)
    make_loss, targets = LOSSES[loss]
    generator = torch.Generator().manual_seed(seed + 1)
    return model, make_loss(model), inputs(n, generator), targets(n, generator)


def compare(model, loss, data, pairs, **options):
    torch.manual_seed(7)
    got = hessian.diagonal(model, loss, data, **options)
    torch.manual_seed(7)
    want = oracle.diagonal(model, loss, pairs)
    oracle.assert_exact(got, want)
    return got


# A surrogate gradient is not the value's own: above it only.
OF_THE_VALUE = {"custom-function": ["b.weight", "b.bias"]}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("network", NETWORKS)
def test_exact_on_one_pair(network, loss):
    model, criterion, x, y = problem(network, loss)
    got = compare(model, criterion, (x, y), [(x, y)])
    seed = list(LOSSES).index(loss)  # other entries with every loss
    torch.manual_seed(7)
    names = OF_THE_VALUE.get(network)
    assert oracle.assert_values(got, model, criterion, (x, y), 2, names, seed) == 2


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_every_entry_is_that_of_the_value(network):
    for loss in LOSSES:
        model, criterion, x, y = problem(network, loss)
        torch.manual_seed(7)
        got = hessian.diagonal(model, criterion, (x, y))
        torch.manual_seed(7)
        names = OF_THE_VALUE.get(network)
        compared = oracle.assert_values(got, model, criterion, (x, y), "all", names)
        assert compared >= 0.9 * sum(got[name].numel() for name in names or got)


@pytest.mark.parametrize("network", NETWORKS)
def test_exact_on_a_loader_with_a_smaller_last_batch(network):
    model, criterion, x, y = problem(network, "class-weights", n=7)
    loader = DataLoader(TensorDataset(x, y), batch_size=3)
    if model.training and network == "residual-bn-train":
        loader = DataLoader(TensorDataset(x, y), batch_size=4)
    got = compare(model, criterion, loader, loader)
    torch.manual_seed(7)
    oracle.assert_values(got, model, criterion, loader, 4, OF_THE_VALUE.get(network))
