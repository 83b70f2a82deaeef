"""What the plan predicts is what is done: passes are counted while the diagonal is computed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._C import _functorch as functorch

import hessian

from .networks import NETWORKS, build, mlp


def counted(monkeypatch, call):
    """Backward passes through the model's tape: calls of autograd, a row of a batch each.

    A call that differentiates a gradient runs that gradient's tape and the forward's: two.
    """
    right = torch.autograd.grad
    passes = [0]

    def grad(outputs, inputs, grad_outputs=None, **options):
        sources = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        wanted = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
        rows = 1
        given = [grad_outputs] if isinstance(grad_outputs, torch.Tensor) else grad_outputs or [None]
        if options.get("is_grads_batched"):
            rows = len(given[0])
        elif given[0] is not None and functorch.is_batchedtensor(given[0]):
            rows = functorch.get_unwrapped(given[0]).shape[functorch.maybe_get_bdim(given[0])]
        again = any(id(t) in gradients for t in sources)
        # the loss on outputs cut off the tape is not a pass through the model
        cut = [t for t in wanted if isinstance(t, torch.Tensor) and id(t) not in parameters]
        if not cut:
            passes[0] += rows * (2 if again else 1)
        got = right(outputs, inputs, grad_outputs, **options)
        if options.get("create_graph") and not cut:
            kept.extend(got)
            gradients.update(id(g) for g in got if g is not None)
        return got

    kept, gradients = [], set()
    parameters = {}
    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", grad)
        result = call(parameters)
    return result, passes[0]


CASES = [
    ("relu-mlp", "affine", None),
    ("relu-mlp", "parameter", None),
    ("relu-cnn", "affine", None),
    ("tanh-mlp", "preactivation", None),
    ("tanh-mlp", "parameter", 60_000),
    ("tied-in-series", "auto", None),
    ("residual-bn-train", "auto", None),
    ("dropout-train", "affine", 1),
    ("tanh-mlp", "auto", 1),
    ("coupled", "auto", None),
]


@pytest.mark.parametrize(("network", "method", "memory"), CASES)
def test_passes_are_those_predicted(network, method, memory, monkeypatch):
    model, inputs = build(network)
    x, y = inputs(6, torch.Generator().manual_seed(1)), torch.arange(6) % 4
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))

    def call(parameters):
        parameters.update((id(p), p) for p in model.parameters())
        return hessian.diagonal(model, F.cross_entropy, (x, y), method=method, memory=memory)

    h, backward = counted(monkeypatch, call)
    assert len(calls) == h.plan.forward
    # Columns may be carried down the tape without autograd, at the price of as many passes.
    carried = {e.backward for e in h.plan if e.method == "affine"}
    assert backward in (h.plan.backward, h.plan.backward - h.plan.parts * sum(carried))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_plan_can_be_read_at_eighty_columns(network):
    model, inputs = build(network)
    x, y = inputs(6, torch.Generator().manual_seed(1)), torch.arange(6) % 4
    plan = hessian.plan(model, F.cross_entropy, (x, y))
    text = str(plan)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(name in text for name in plan.methods())
    joined = " ".join(text.split())
    assert all(" ".join(entry.reason.split()) in joined for entry in plan)


def test_the_plan_is_that_of_the_diagonal():
    model = mlp(nn.Tanh).double()
    x, y = torch.randn(6, 6).double(), torch.arange(6) % 4
    for options in ({}, {"memory": 1}, {"method": "parameter"}, {"names": ["4.weight"]}):
        plan = hessian.plan(model, F.cross_entropy, (x, y), **options)
        assert plan == hessian.diagonal(model, F.cross_entropy, (x, y), **options).plan
