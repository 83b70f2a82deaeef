"""Only nodes that torch made are known operations; a custom function may be called anything."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._tape import graph as _tape
from hessian._tape.operations import OPERATIONS

from . import by_value, oracle

LISTED = sorted({*OPERATIONS, "AccumulateGrad", "Error", "LogSoftmax", "CopySlices"})


def imposter(name):
    """A custom function with the name of torch's operation, curved, and with a false backward."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, v):
            ctx.save_for_backward(v)
            return v * v + v.flip(0)

        @staticmethod
        def backward(ctx, g):
            (v,) = ctx.saved_tensors
            return g * torch.tanh(v + 0.3) + 2 * g.flip(0)

    return type(name, (Function,), {})


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 3).double(), nn.Linear(3, 2).double()
        self.function = function

    def forward(self, x):
        return self.b(self.function(self.a(x)))


X = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 1, 0])
# Rounding of some hundred float64 operations on numbers of size one.
TIGHT = 1e-11


@pytest.mark.parametrize("name", LISTED)
def test_a_custom_function_is_unknown_whatever_its_name(name):
    model = Net(imposter(name).apply)
    want = oracle.diagonal(model, F.cross_entropy, [(X, Y)])
    got = hessian.diagonal(model, F.cross_entropy, (X, Y))
    assert by_value.gap(got, want) < TIGHT
    assert got.plan["a.weight"].method == "parameter"
    assert f"custom function {name}" in got.plan["a.weight"].reason


@pytest.mark.parametrize("name", ["Relu", "Mul", "Linear", "Tanh", "Addmm", "Sum", "View", "T"])
def test_in_every_function(name):
    model = Net(imposter(name).apply)
    want = oracle.diagonal(model, F.cross_entropy, [(X, Y)])
    assert max(by_value.everywhere(model, F.cross_entropy, X, Y, want).values()) < TIGHT
    hutchinson = hessian.estimate(
        model, F.cross_entropy, (X, Y), "hutchinson", probes=2000, names=["b.bias"]
    )
    # Two entries, one product of two signs: 1/sqrt(2000) of an off-diagonal entry below 0.5.
    assert by_value.gap(hutchinson, {"b.bias": want["b.bias"]}) < 0.05
    for kind in ("gauss-newton", "gauss-newton-mc", "empirical-fisher"):
        with pytest.raises(ValueError, match="to be separable for parameter 'a"):
            hessian.estimate(model, F.cross_entropy, (X, Y), kind)
    with pytest.raises(ValueError, match=f"custom function {name}"):
        hessian.estimate(model, F.cross_entropy, (X, Y), "becker-lecun")


def test_in_a_loss():
    """Named like an operation that keeps samples apart, and does not."""
    own = imposter("LogSoftmax").apply
    model = Net(torch.tanh)

    def loss(output, target):
        return F.nll_loss(own(output), target)

    want = oracle.diagonal(model, loss, [(X, Y)])
    assert max(by_value.everywhere(model, loss, X, Y, want).values()) < TIGHT


def test_attributes_of_a_custom_function_are_its_own():
    """The context is the node: what a user keeps on it must not be taken for autograd's."""

    class Keeps(torch.autograd.Function):
        @staticmethod
        def forward(ctx, v):
            ctx.name, ctx.variable = "relu", v
            ctx._saved_dim, ctx._saved_self, ctx._saved_result = 0, v, v
            ctx.save_for_backward(v)
            return v.tanh()

        @staticmethod
        def backward(ctx, g):
            (v,) = ctx.saved_tensors
            return g * (1 - v.tanh() ** 2)

    model = Net(Keeps.apply)
    want = by_value.diagonal(model, F.cross_entropy, X, Y)
    gaps = by_value.everywhere(model, F.cross_entropy, X, Y, want)
    assert max(gaps.values()) < by_value.CLOSE


def test_names_of_nodes():
    w = torch.randn(3, 3, requires_grad=True)
    node = (w @ w).grad_fn
    assert _tape.operation(node) == "Mm"
    assert _tape.operation(node.next_functions[0][0]) == "AccumulateGrad"
    assert _tape.is_leaf(node.next_functions[0][0])
    assert not _tape.is_leaf(imposter("AccumulateGrad").apply(w).grad_fn)
    assert _tape.operation(imposter("Mm").apply(w).grad_fn) not in LISTED


def test_a_custom_operation_of_a_library():
    @torch.library.custom_op("hessian_tests::relu", mutates_args=())
    def relu(v: torch.Tensor) -> torch.Tensor:
        return v * v * v

    def setup(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    def backward(ctx, g):
        return g * 3 * ctx.saved_tensors[0] ** 2

    relu.register_autograd(backward, setup_context=setup)
    model = Net(relu)
    want = by_value.diagonal(model, F.cross_entropy, X, Y)
    gaps = by_value.everywhere(model, F.cross_entropy, X, Y, want)
    assert max(gaps.values()) < by_value.CLOSE


@pytest.mark.filterwarnings("ignore:.*torch.jit.script", "ignore:Converting a tensor")
def test_a_scripted_model():
    """After two calls its tape is one node of the script's."""
    model = torch.jit.script(Net(nn.Tanh()))
    want = by_value.diagonal(model, F.cross_entropy, X, Y)
    gaps = by_value.everywhere(model, F.cross_entropy, X, Y, want)
    assert max(gaps.values()) < by_value.CLOSE
