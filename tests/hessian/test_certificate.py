"""What the certificate proves, and that it never proves what is false."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian

from . import oracle
from .networks import NETWORKS, build, mlp


def batch(inputs, n=5, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return inputs(n, generator), torch.randint(0, 4, (n,), generator=generator)


EXPECTED = {
    # name: parameters that need a product per entry; all others are proved affine
    "relu-cnn": set(),
    "residual-bn-eval": set(),
    "residual-bn-train": {"stem.weight", "bn1.weight", "bn1.bias", "conv.weight"},
    "relu-mlp": set(),
    "tanh-mlp": {"0.weight", "0.bias", "2.weight", "2.bias"},
    "gelu-mlp": {"0.weight", "0.bias", "2.weight", "2.bias"},
    # The bias reaches its second use through the weight only, which does not depend on it.
    "tied-in-series": {"lin.weight"},
    "tied-in-parallel": set(),
    "layer-norm": {"inp.weight", "inp.bias"},
    "embedding": set(),
    "attention": {"emb.weight", "q.weight", "q.bias", "k.weight", "k.bias"},
    "scales": set(),
    "coupled": set(),
    "dropout-train": set(),
    "custom-function": {"a.weight", "a.bias"},
}


@pytest.mark.parametrize("network", NETWORKS)
def test_which_parameters_are_proved_affine(network):
    model, inputs = build(network)
    plan = hessian.plan(model, F.cross_entropy, batch(inputs))
    refused = {
        e.name
        for e in plan
        if e.method in ("preactivation", "parameter", "chain")
        and "columns cost more" not in e.reason
        and "nothing is curved" not in e.reason
    }
    assert refused == EXPECTED[network]


@pytest.mark.parametrize("network", NETWORKS)
def test_affine_means_no_second_derivative_of_the_output(network):
    """A random projection of the output has zero second derivative in every proved entry."""
    model, inputs = build(network)
    x, y = batch(inputs)
    plan = hessian.plan(model, F.cross_entropy, (x, y))
    projection = torch.randn(5, 4, dtype=torch.float64)
    torch.manual_seed(1)
    curvature = oracle.diagonal(model, lambda o, _: (o * projection).sum(), [(x, y)])
    # What would be a second derivative, to have a scale for rounding errors.
    scale = max(float(h.abs().max()) for h in curvature.values()) or 1.0
    for entry in plan:
        if entry.method in ("affine", "columns") or "nothing is curved" in entry.reason:
            assert float(curvature[entry.name].abs().max()) <= 1e-12 * max(scale, 1.0), entry
    assert {e.name for e in plan} == set(curvature)


def test_an_unknown_operation_is_not_proved():
    class Unknown(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, grad):
            return 2 * grad

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.b(Unknown.apply(self.a(x)))

    plan = hessian.plan(Net(), F.cross_entropy, (torch.randn(4, 3), torch.tensor([0, 1, 1, 0])))
    assert plan["a.weight"].method == "parameter"
    assert "not a known operation" in plan["a.weight"].reason
    assert plan["b.weight"].method == "affine"


@pytest.mark.parametrize(
    ("middle", "apart"),
    [
        (lambda x: x, True),
        (lambda x: x - x.mean(0), False),
        (lambda x: x / 3 + x.flip(0), False),
        (lambda x: x + x.sum(0, keepdim=True), False),
        (lambda x: x.t().t(), True),
        (lambda x: x.unsqueeze(1).squeeze(1), True),
        (lambda x: x.view(4, 1, 3).reshape(4, 3), True),
        # Samples on two axes: apart, but beyond what a layout can say.
        (lambda x: x.view(2, 2, 3).reshape(4, 3), False),
        (lambda x: x.cumsum(0), False),
        (lambda x: x.cumsum(1), True),
        (lambda x: x.t().reshape(4, 3), False),
        (lambda x: torch.cat([x[1:], x[:1]]), False),
        (lambda x: torch.cat([x[:, 1:], x[:, :1]], 1), True),
        (lambda x: torch.ones(4, 4, dtype=x.dtype) @ x, False),
        (lambda x: x @ torch.ones(3, 3, dtype=x.dtype), True),
        (lambda x: x.max(0, keepdim=True).values + x, False),
        (lambda x: x.unsqueeze(1).expand(4, 2, 3).sum(1), True),
    ],
)
def test_samples_that_meet_below_the_output(middle, apart):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.b(middle(F.relu(self.a(x))))

    torch.manual_seed(0)
    model = Net().double()
    x, y = torch.randn(4, 3).double(), torch.tensor([0, 1, 2, 0])
    got = hessian.diagonal(model, F.cross_entropy, (x, y))
    assert (got.plan["a.weight"].method == "affine") is apart
    assert got.plan["b.weight"].method == "affine"
    oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))


@pytest.mark.parametrize(
    ("loss", "method"),
    [
        (lambda m: lambda o, t: F.mse_loss(o, t), "affine"),
        (lambda m: lambda o, t: F.mse_loss(o, t).sqrt(), "columns"),
        (lambda m: lambda o, t: (o.sum(0) - t.sum(0)).pow(2).sum(), "columns"),
        (lambda m: lambda o, t: (o - t).pow(2).sum() * (o * t).sum(), "columns"),
        (lambda m: lambda o, t: (o @ o.T - t @ t.T).pow(2).mean(), "columns"),
        (lambda m: lambda o, t: F.mse_loss(o, t) + m[0].weight.pow(4).sum(), "affine"),
        (
            lambda m: lambda o, t: F.mse_loss(o, t) + (m[0].weight @ m[0].weight.T).sum(),
            "parameter",
        ),
        (lambda m: lambda o, t: F.mse_loss(o, t) * m[0].weight.pow(2).sum(), "parameter"),
        (
            lambda m: lambda o, t: F.mse_loss(o, t) + (m[0].weight * m[0].weight.T).sum(),
            "parameter",
        ),
        (lambda m: lambda o, t: F.mse_loss(o, t) + m[0].weight.exp().mean(), "affine"),
        (lambda m: lambda o, t: F.mse_loss(o, t) + (m[0].weight.sum()).pow(2), "parameter"),
        (lambda m: lambda o, t: F.mse_loss(o, t) + (o * m[0].weight[0]).pow(2).sum(), "parameter"),
    ],
)
def test_losses_that_couple_or_read_the_parameters(loss, method):
    """The first layer's route, and that the result is exact whichever it is."""
    torch.manual_seed(0)
    # many entries, few outputs: columns are cheaper than entries
    model = nn.Sequential(nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 9)).double()
    x, y = torch.randn(3, 9).double(), torch.randn(3, 9).double()
    criterion = loss(model)
    got = hessian.diagonal(model, criterion, (x, y))
    assert got.plan["0.weight"].method == method
    oracle.assert_exact(got, oracle.diagonal(model, criterion, [(x, y)]))


def test_a_loss_linear_in_a_smooth_output_is_not_taken_for_flat():
    model = mlp(nn.Tanh).double()
    x, y = torch.randn(3, 6).double(), torch.randn(3, 4).double()
    loss = lambda o, t: (torch.tanh(o) * t).sum()  # noqa: E731
    linear = nn.Sequential(model, nn.Tanh())
    got = hessian.diagonal(linear, lambda o, t: (o * t).sum(), (x, y))
    oracle.assert_exact(
        {k.removeprefix("0."): v for k, v in got.items()}, oracle.diagonal(model, loss, [(x, y)])
    )
    assert all(float(h.abs().max()) > 0 for h in got.values())


def test_piecewise_square_selects_its_branch():
    """x·relu(x) is a product of two values that both depend on the parameter."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 2)

        def forward(self, x):
            z = self.a(x)
            return z * F.relu(z)

    model = Net().double()
    x, y = torch.randn(4, 3).double(), torch.randn(4, 2).double()
    got = hessian.diagonal(model, F.mse_loss, (x, y))
    assert "multiplies two values" in got.plan["a.weight"].reason
    oracle.assert_exact(got, oracle.diagonal(model, F.mse_loss, [(x, y)]))
