"""The Hessian as a linear operator, against a dense one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import eigsh
from torch import nn

import hessian

from .networks import build, coupling, mlp


def dense(model, loss, pairs):
    """The whole Hessian, one double backward a row."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    n = sum(len(y) for _, y in pairs)
    total = sum(len(y) / n * loss(model(x), y) for x, y in pairs)
    grads = torch.autograd.grad(total, parameters, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in grads])
    rows = [
        torch.cat(
            [
                torch.zeros(p.numel(), dtype=p.dtype) if r is None else r.reshape(-1)
                for r, p in zip(
                    torch.autograd.grad(e, parameters, retain_graph=True, allow_unused=True),
                    parameters,
                    strict=True,
                )
            ]
        )
        for e in flat
    ]
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("network", ["tanh-mlp", "dropout-train", "residual-bn-train"])
def test_products_and_eigenvalues(network):
    model, inputs = build(network)
    x, y = inputs(6, torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 0, 1])
    pairs = [(x[:2], y[:2]), (x[2:], y[2:])]
    torch.manual_seed(4)
    want = dense(model, F.cross_entropy, pairs)
    torch.manual_seed(4)
    h = hessian.operator(model, F.cross_entropy, iter(pairs))
    torch.manual_seed(99)  # the draw of dropout is that of the operator's making
    got = h @ np.eye(h.shape[0])
    scale = np.abs(want).max()
    assert h.shape == want.shape
    assert h.samples == 6
    assert np.abs(got - want).max() <= 1e-11 * scale
    assert np.abs(h.T @ want[0] - want @ want[0]).max() <= 1e-10 * scale**2
    top = eigsh(h, k=1, which="LA", return_eigenvectors=False)[0]
    assert top == pytest.approx(np.linalg.eigvalsh(want)[-1], rel=1e-8)


def test_a_loss_that_couples_samples_and_a_subset_of_names():
    model = mlp(nn.Tanh).double()
    x, y = torch.randn(4, 6).double(), torch.randn(4, 4).double()
    want = dense(model, coupling, [(x, y)])
    got = hessian.operator(model, coupling, (x, y)) @ np.eye(want.shape[0])
    assert np.abs(got - want).max() <= 1e-11 * np.abs(want).max()
    part = hessian.operator(model, coupling, (x, y), names=["2.bias"])
    assert part.names == ("2.bias",)
    assert part.shapes == ((5,),)
    first = 30 + 5 + 25
    block = want[first : first + 5, first : first + 5]
    assert np.abs(part @ np.eye(5) - block).max() <= 1e-11 * np.abs(want).max()


def test_float32_and_the_wrong_length():
    model = mlp(nn.ReLU)
    h = hessian.operator(model, F.cross_entropy, (torch.randn(3, 6), torch.tensor([0, 1, 2])))
    assert h.dtype == np.float32
    assert (h @ np.ones(h.shape[1])).dtype == np.float32
    with pytest.raises(ValueError, match=r"dimension mismatch|entries"):
        h @ np.ones(3)
    with pytest.raises(ValueError, match="'nope' is not a parameter"):
        hessian.operator(model, F.cross_entropy, None, names=["nope"])


def test_everything_is_left_as_found():
    model, inputs = build("residual-bn-train")
    x, y = inputs(4, torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    h = hessian.operator(model, F.cross_entropy, (x, y))
    h @ np.ones(h.shape[0])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
