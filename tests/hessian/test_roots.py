"""Norms, distances and sizes that are zero, held to differences of the loss's value.

Their squares are smooth there, and autograd's second derivative of them is not a number or zero.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
import hessian.functional

from . import by_value

# The same in every run: differences of values are no oracle beside a kink.
DRAWN = torch.Generator().manual_seed(0)
X, Y = torch.randn(6, 4, dtype=torch.float64, generator=DRAWN), torch.arange(6) % 3
OPS = torch.ops.aten
METHODS = ("auto", "parameter")


class Net(nn.Module):
    """A linear layer with a bias of zeros, what `body` makes of it, and another one."""

    def __init__(self, body, wide=4):
        super().__init__()
        torch.manual_seed(0)
        self.below, self.above = nn.Linear(4, 4).double(), nn.Linear(wide, 3).double()
        nn.init.zeros_(self.above.bias)
        self.body = body

    def forward(self, x):
        return self.above(self.body(self, self.below(x)))


def multiplied(root):
    return (root * root).sum()


PENALTIES = {
    "norm": lambda p: p.norm() ** 2,
    "torch.norm": lambda p: torch.norm(p, 2.0).pow(2),
    "norm of rows": lambda p: torch.norm(p, dim=-1, keepdim=True).square().sum(),
    "vector norm": lambda p: torch.linalg.vector_norm(p).square(),
    "norm by its axis": lambda p: torch.linalg.norm(p, 2, dim=-1).pow(2.0).sum(),
    "matrix norm": lambda p: torch.linalg.matrix_norm(p.reshape(1, -1)).pow(2),
    "norm times itself": lambda p: multiplied(torch.linalg.norm(p)),
    "fourth power": lambda p: (1 + p.norm() ** 2) ** 2 + p.norm() ** 4,
    "distance": lambda p: torch.dist(p, torch.zeros_like(p)) ** 2,
    "distances in pairs": lambda p: F.pairwise_distance(p, 0 * p, eps=0.0).square().sum(),
    "hypot": lambda p: torch.hypot(p, 0 * p).square().sum(),
    "deviation": lambda p: p.std() ** 2 + torch.std(p, -1, correction=0).square().sum(),
    "size": lambda p: (p.abs() ** 2).sum(),
    "size times itself": lambda p: multiplied(torch.abs(p)),
    "size of a complex number": lambda p: torch.fft.fft(p).abs().pow(2).sum(),
    "norm of complex numbers": lambda p: torch.fft.fft(p).norm() ** 2,
    "in other places": lambda p: (p.abs().reshape(1, -1)[:, 1:] ** 2).sum(),
    "scaled": lambda p: (2 * p.norm() / 3).square() + torch.div(p.abs().flatten(), 2).pow(2).sum(),
    "scaled by parameters": lambda p: (p.abs() * (1 + p)).square().sum(),
    "operators": lambda p: OPS.pow(OPS.linalg_vector_norm(p), 2) + OPS.abs(p).square().sum(),
}  # fmt: skip


def assert_close(model, loss, want):
    gaps = by_value.everywhere(model, loss, X, Y, want)
    assert all(gap < by_value.CLOSE for gap in gaps.values()), gaps


def penalised(model, penalty):
    def loss(output, target):
        return F.cross_entropy(output, target) + sum(penalty(p) for p in model.parameters())

    return loss


@pytest.mark.parametrize("name", PENALTIES)
def test_squares_of_roots_in_penalties_on_zeros(name):
    model = Net(lambda net, h: h.tanh())
    loss = penalised(model, PENALTIES[name])
    want = by_value.diagonal(model, loss, X, Y)
    assert_close(model, loss, want)


def some_zero(h):
    return h * (torch.arange(6) != 2).unsqueeze(1)


BODIES = {
    "kernel": lambda net, h: torch.exp(-(torch.cdist(h, h) ** 2)),
    "distances": lambda net, h: torch.cdist(h, h),
    "wide kernel": lambda net, h: torch.exp(-((torch.cdist(h, h) / 3) ** 2) / 2),
    "normalised": lambda net, h: F.normalize(some_zero(h)).tanh(),
    "cosines": lambda net, h: F.cosine_similarity(some_zero(h)[:, None], net.below.weight, 2),
    "power spectrum": lambda net, h: torch.fft.fft(some_zero(h)).abs().square(),
}


@pytest.mark.parametrize("name", BODIES)
def test_roots_that_are_zero_on_the_way(name):
    model = Net(BODIES[name], 6 if "kernel" in name or name == "distances" else 4)
    want = by_value.diagonal(model, F.cross_entropy, X, Y)
    assert_close(model, F.cross_entropy, want)


TOTALS = {
    "norm of norms": lambda norms: torch.stack(norms).norm(),
    "square of it": lambda norms: torch.linalg.vector_norm(torch.stack(norms)) ** 2,
    "norm of joined norms": lambda norms: torch.cat([n.reshape(1) for n in norms]).norm(),
}


@pytest.mark.parametrize("name", TOTALS)
def test_a_norm_of_norms_of_which_one_is_zero(name):
    model = Net(lambda net, h: h.tanh())

    def loss(output, target):
        norms = [p.norm() for p in model.parameters()]
        return F.cross_entropy(output, target) + TOTALS[name](norms)

    assert_close(model, loss, by_value.diagonal(model, loss, X, Y))


@pytest.mark.parametrize("method", METHODS)
def test_a_norm_of_zeros_by_itself_has_no_second_derivative(method):
    """The loss is beside a kink, and whatever number stood there would be wrong beyond it."""
    model = Net(lambda net, h: h.tanh())
    loss = penalised(model, lambda p: F.mse_loss(p.norm(), torch.ones((), dtype=p.dtype)))
    h = hessian.diagonal(model, loss, (X, Y), method=method)
    assert h["above.bias"].isnan().all()
    assert all(h[name].isfinite().all() for name in h if name != "above.bias")


@pytest.mark.parametrize("method", METHODS)
def test_a_root_that_was_written_to_is_none_any_more(method):
    model = Net(lambda net, h: h.tanh())
    model.above.bias.data[:2] = torch.tensor([0.25, -0.5])  # the third stays at its kink
    loss = penalised(model, lambda p: (p.abs().add_(0.5) ** 4).sum())
    want = by_value.diagonal(model, loss, X, Y, ["above.bias"])["above.bias"]
    h = hessian.diagonal(model, loss, (X, Y), names=["above.bias"], method=method)["above.bias"]
    torch.testing.assert_close(h[:2], want[:2], rtol=1e-6, atol=1e-6)


def test_functions():
    p = {"a": torch.zeros(3, dtype=torch.float64), "b": X[:3, :3].clone()}

    def function(p):
        return (
            (p["a"] @ p["b"]).norm() ** 2 + torch.linalg.norm(p["b"]) + p["b"].abs().square().sum()
        )

    h = hessian.functional.diagonal(function)(p)
    torch.testing.assert_close(h["a"], 2 * p["b"].square().sum(1), rtol=1e-12, atol=0.0)
