"""Convolutions that products are taken through, against torch's own double backward and values."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._spectrum import convolution as _convolution
from hessian._spectrum.convolution import Convolutions

CALLS = {
    "1d": (1, 2, {}),
    "2d": (2, 2, {"padding": 1}),
    "3d": (3, 2, {"stride": (2, 1, 1)}),
    "stride and padding": (2, 2, {"stride": (2, 1), "padding": (1, 0)}),
    "dilation": (2, 2, {"dilation": 2, "padding": 2}),
    "groups": (2, 4, {"groups": 2}),
    "each channel": (2, 4, {"groups": 4, "padding": [1]}),
}


def _case(name, bias):
    axes, channels, options = CALLS[name]
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    x = draw(2, channels, *(6, 5, 5)[:axes])
    w = draw(4, channels // options.get("groups", 1), *(3, 2, 3)[:axes])
    b = draw(4) if bias else None
    call = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[axes]
    return lambda: call(x, w, b, **options), [t for t in (x, w, b) if t is not None]


def _names(value):
    seen, left = set(), [value.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [child for child, _ in node.next_functions]
    return {type(node).__name__ for node in seen}


def _orders(function, leaves):
    """The value, its gradient, and what two more derivatives make of fixed vectors."""
    generator = torch.Generator().manual_seed(1)
    value = function().tanh().square().sum()
    found = [value]
    for _ in range(3):
        slopes = torch.autograd.grad(value, leaves, create_graph=True)
        found += slopes
        draws = [torch.randn(s.shape, generator=generator, dtype=s.dtype) for s in slopes]
        value = sum((s * d).sum() for s, d in zip(slopes, draws, strict=True))
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_derivatives_of_every_order_are_those_of_torch(name, bias):
    function, leaves = _case(name, bias)
    want = _orders(function, leaves)
    with Convolutions():
        output = function()
        got = _orders(function, leaves)
    assert "ConvolutionBackward" in _names(output)  # not torch's ConvolutionBackward0
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("name", ["2d", "groups"])
def test_they_are_those_of_the_values(name):
    function, leaves = _case(name, True)

    def value(*inputs):
        for leaf, moved in zip(leaves, inputs, strict=True):
            leaf.data.copy_(moved)
        with Convolutions():
            return function().square().square().sum()

    starts = [leaf.detach().clone() for leaf in leaves]
    _, slopes = value(*starts), torch.autograd.grad(value(*starts), leaves, create_graph=True)
    draws = [torch.randn_like(s) for s in starts]
    hv = torch.autograd.grad(slopes, leaves, draws)
    step = 1e-4

    def along(t):
        moved = [s + t * d for s, d in zip(starts, draws, strict=True)]
        return float(value(*moved).detach())

    second = (along(step) - 2 * along(0.0) + along(-step)) / step**2
    got = sum(float((h * d).sum()) for h, d in zip(hv, draws, strict=True))
    # Rounding of values of some 1e4 over the step's square, and the step's square itself.
    assert got == pytest.approx(second, rel=1e-4)


def test_what_is_not_a_plain_call_is_left_to_torch():
    x, w = torch.randn(1, 2, 5, 5).requires_grad_(), torch.randn(3, 2, 3, 3)
    with Convolutions():
        assert "ConvolutionBackward0" in _names(F.conv2d(x, w, padding="same"))
        assert "ConvolutionBackward0" in _names(F.conv2d(x[0], w))
        assert "ConvolutionBackward" in _names(F.conv2d(x, weight=w, groups=1))
        with torch.no_grad():
            assert F.conv2d(x, w).grad_fn is None


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 3, 3, stride=2)
        self.b = nn.Conv2d(3, 3, 2, groups=3)
        self.c = nn.Linear(3 * 4, 3)

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))).flatten(1))


def test_products_take_them_whole_and_in_parts(monkeypatch):
    torch.manual_seed(0)
    model, x, y = Net().double(), torch.randn(4, 1, 7, 7).double(), torch.tensor([0, 1, 2, 0])
    h = hessian.operator(model, F.cross_entropy, (x, y))
    v = torch.randn(h.shape[0], 5).double().numpy()
    made = []
    right = _convolution.Convolution.apply
    monkeypatch.setattr(_convolution.Convolution, "apply", lambda *a: made.append(1) or right(*a))
    got = h @ v
    assert len(made) == 2
    parts = hessian.operator(model, F.cross_entropy, (x, y), memory=1)
    want = parts @ v  # whose tapes are torch's own: they are read for proofs
    assert (parts.parts, parts.held) == (4, "")
    assert abs(got - want).max() <= 1e-12 * abs(want).max()
    single = h @ v[:, 0]  # one by one, where several went through at once
    assert abs(single - got[:, 0]).max() <= 1e-13 * abs(want).max()
