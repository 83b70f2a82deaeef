"""The GPU gives what the CPU gives."""

import pytest
import torch
import torch.nn.functional as F

import hessian

from . import oracle
from .networks import NETWORKS, build


@pytest.mark.gpu
@pytest.mark.parametrize("network", sorted(set(NETWORKS) - {"dropout-train"}))
def test_the_gpu_agrees_with_the_cpu(network):
    """Not dropout: the two devices draw different masks."""
    model, inputs = build(network)
    x, y = inputs(5, torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 0])
    want = hessian.diagonal(model, F.cross_entropy, (x, y))
    got = hessian.diagonal(model.cuda(), F.cross_entropy, (x.cuda(), y.cuda()))
    assert all(h.is_cuda for h in got.values())
    oracle.assert_exact({name: h.cpu() for name, h in got.items()}, want)
