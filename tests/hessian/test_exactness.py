"""The diagonal against a naive double backward: every network, every loss, pairs and loaders."""

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


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("network", NETWORKS)
def test_exact_on_one_pair(network, loss):
    model, criterion, x, y = problem(network, loss)
    compare(model, criterion, (x, y), [(x, y)])


@pytest.mark.parametrize("network", NETWORKS)
def test_exact_on_a_loader_with_a_smaller_last_batch(network):
    model, criterion, x, y = problem(network, "class-weights", n=7)
    loader = DataLoader(TensorDataset(x, y), batch_size=3)
    if model.training and network == "residual-bn-train":
        loader = DataLoader(TensorDataset(x, y), batch_size=4)
    compare(model, criterion, loader, loader)
