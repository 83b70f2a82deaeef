"""Backward passes for many adjoints at once: the same as one after another, whatever is batched."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hessian._runtime.lanes import pulled_back

MODELS = {
    "convolution": nn.Sequential(nn.Conv2d(2, 3, 3, groups=1), nn.Hardswish(), nn.Flatten()),
    "depthwise": nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.SiLU(), nn.Flatten()),
    "group norm": nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten()),
    "batch norm": nn.Sequential(nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten()),
    "pooled": nn.Sequential(nn.Conv2d(2, 3, 1), nn.MaxPool2d(2), nn.Softplus(), nn.Flatten()),
}


class Branching(torch.autograd.Function):
    """A backward that branches on a value, which no batching follows."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, adjoint):
        (x,) = ctx.saved_tensors
        return adjoint * x.cos() if adjoint.abs().sum() >= 0 else adjoint


def problem(model):
    torch.manual_seed(0)
    model = model.double().train()
    x = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    weights = list(model.parameters())
    loss = F.cross_entropy(model(x), torch.arange(3))
    return weights, torch.autograd.grad(loss, weights, create_graph=True)


@pytest.mark.parametrize("name", MODELS)
def test_products_of_a_hessian_are_those_of_single_passes(name):
    weights, gradients = problem(MODELS[name])
    live = [g for g in gradients if g.requires_grad]
    adjoints = [torch.randn(4, *g.shape, dtype=torch.float64) for g in live]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of what is taken lane by lane, too
        rows = pulled_back(live, weights, adjoints)
    for lane in range(4):
        single = torch.autograd.grad(
            live, weights, [a[lane] for a in adjoints], retain_graph=True, allow_unused=True
        )
        for row, want in zip(rows, single, strict=True):
            if want is None:
                assert row is None
            else:  # other orders of summing
                torch.testing.assert_close(row[lane], want, rtol=1e-11, atol=1e-13)


def test_inputs_that_nothing_depends_on():
    x, y = torch.randn(3, requires_grad=True), torch.randn(2, requires_grad=True)
    first, second = pulled_back([x * 2], [x, y], [torch.eye(3)])
    assert torch.equal(first, 2 * torch.eye(3))
    assert second is None
    assert pulled_back([x * 2], [y], [torch.eye(3)]) == [None]


def test_what_differs_for_no_lane_has_a_row_for_each():
    """The gradient of a sum of outputs does not see the adjoint's own values."""
    x = torch.randn(3, requires_grad=True)

    class Fixed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, adjoint):
            return torch.ones(3)

    (rows,) = pulled_back([Fixed.apply(x)], [x], [torch.randn(2, 3)])
    assert torch.equal(rows, torch.ones(2, 3))


def test_what_cannot_be_batched_is_refused():
    """The caller then goes one by one."""
    x = torch.randn(3, requires_grad=True)
    with pytest.raises(RuntimeError):
        pulled_back([Branching.apply(x)], [x], [torch.eye(3)])
