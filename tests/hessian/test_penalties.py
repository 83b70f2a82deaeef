"""Losses that take derivatives by themselves: penalties on gradients, forces, Laplacians."""

import pytest
import torch
from torch import nn

import hessian

from . import by_value

X = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
Y = torch.zeros(5, dtype=torch.float64)
# Values of third derivatives through a norm of four numbers are steep: the differences' own error.
LOOSE = 3e-6


def spread(module):
    """Weights that are not all one."""
    generator = torch.Generator().manual_seed(5)
    for p in module.parameters():
        p.data.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return module


NORMS = {
    "layer": (lambda: nn.LayerNorm(4), (5, 4)),
    "layer, plain": (lambda: nn.LayerNorm(4, elementwise_affine=False), (5, 4)),
    "layer, no bias": (lambda: nn.LayerNorm(4, bias=False), (5, 4)),
    "layer, two axes": (lambda: nn.LayerNorm((2, 2)), (5, 2, 2)),
    "batch": (lambda: nn.BatchNorm1d(4), (5, 4)),
    "batch, plain": (lambda: nn.BatchNorm1d(4, affine=False), (5, 4)),
    "batch, images": (lambda: nn.BatchNorm2d(1), (5, 1, 2, 2)),
    "batch, without statistics": (lambda: nn.BatchNorm1d(4, track_running_stats=False), (5, 4)),
    "batch, evaluated": (lambda: nn.BatchNorm1d(4).eval(), (5, 4)),
    "instance": (lambda: nn.InstanceNorm1d(1, affine=True), (5, 1, 4)),
    "group": (lambda: nn.GroupNorm(1, 4), (5, 4)),
    "root mean square": (lambda: nn.RMSNorm(4), (5, 4)),
}


class Net(nn.Module):
    def __init__(self, norm, dims, penalty):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b = nn.Linear(3, 4), norm, nn.Linear(4, 2)
        spread(self.double())
        self.dims, self.penalty = dims, penalty

    def body(self, x):
        h = self.norm(self.a(x).reshape(self.dims)).reshape(len(x), 4)
        return self.b(torch.tanh(h))

    def forward(self, x):
        return self.penalty(self, x)


def slope(net, x):
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(net.body(x).square().sum(), x, create_graph=True)
    return g.square().sum(1)


def loss(output, target):
    return (output - target).mean()


@pytest.mark.parametrize("kind", NORMS)
def test_a_gradient_penalty_through_norms(kind):
    make, dims = NORMS[kind]
    model = Net(make(), dims, slope)
    want = by_value.diagonal(model, loss, X, Y)
    gaps = by_value.everywhere(model, loss, X, Y, want)
    assert max(gaps.values()) < LOOSE, gaps
    found = hessian.diagonal(model, loss, (X, Y), verify=2)
    assert by_value.gap(found, want) < LOOSE


def laplacian(net, x):
    """A derivative of a derivative, both of which keep their tape."""
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(net.body(x).sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g[:, 0].sum(), x, create_graph=True)
    return h[:, 0]


def through_backward(net, x):
    x = x.detach().requires_grad_()
    net.body(x).square().sum().backward(create_graph=True, inputs=[x])
    return x.grad.square().sum(1)


def functional(net, x):
    g = torch.func.grad(lambda v: net.body(v).square().sum())(x)
    return g.square().sum(1)


def jacobian(net, x):
    rows = torch.autograd.functional.jacobian(lambda v: net.body(v).sum(0), x, create_graph=True)
    return rows.square().sum((0, 2))


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("penalty", [laplacian, through_backward, functional, jacobian])
@pytest.mark.parametrize("kind", ["layer", "batch, without statistics"])
def test_other_ways_to_a_derivative(penalty, kind):
    make, dims = NORMS[kind]
    model = Net(make(), dims, penalty)
    want = by_value.diagonal(model, loss, X, Y)
    got = hessian.diagonal(model, loss, (X, Y))
    assert by_value.gap(got, want) < LOOSE
    assert by_value.gap(by_value.operator(model, loss, (X, Y)), want) < LOOSE


def test_a_penalty_of_the_loss():
    """As of a critic: the loss calls the model by itself."""
    model = Net(nn.LayerNorm(4), (5, 4), lambda net, x: net.body(x))

    def critic(output, target):
        x = X.clone().requires_grad_()
        (g,) = torch.autograd.grad(model.body(x).sum(), x, create_graph=True)
        return output.square().mean() + (g.norm(dim=1) - 1).square().mean()

    want = by_value.diagonal(model, critic, X, Y)
    gaps = by_value.everywhere(model, critic, X, Y, want)
    assert max(gaps.values()) < LOOSE, gaps


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_the_written_out_gradient_is_torchs(norm):
    """To rounding, in the first and the second order."""
    from hessian._call.penalties import written_out

    make, dims = NORMS[norm]
    module = spread(make().double())
    x = torch.randn(dims, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    x.requires_grad_()
    wanted = [x, *module.parameters()]
    u = torch.randn(dims, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    plain = torch.autograd.grad(module(x), wanted, u, create_graph=True)
    y = module(x)
    with written_out(y):
        ours = torch.autograd.grad(y, wanted, u, create_graph=True)
    for a, b in zip(plain, ours, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-12)
    first, second = (torch.autograd.grad(g[0].square().sum(), wanted[:2]) for g in (plain, ours))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-11)
