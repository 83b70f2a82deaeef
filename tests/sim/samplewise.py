"""Small networks and data that the tests of per-sample gradients share."""

import torch
from torch import nn

import sim

N, D, C = 23, 5, 4


def drawn():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=generator, dtype=torch.float64)
    return x, torch.randint(C, (N,), generator=generator)


def perceptron(dropout=0.0, **options):
    return sim.models.build(
        "mlp", in_shape=(D,), classes=C, hidden=(6,), dropout=dropout, seed=0, **options
    ).double()


def batch_normalised():
    net = nn.Sequential(nn.Linear(D, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, C))
    return net.eval()
