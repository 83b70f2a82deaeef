"""Large linear layers: the same numbers by another library, and only where nobody minds."""

import math

import pytest
import torch
from torch import nn

import sim
from sim.training import TrainConfig
from sim.training.engine.fast import dense as _dense
from sim.training.engine.fast.dense import Dense, densify
from sim.training.engine.network import Network


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(_dense, "LARGE", 1)
    monkeypatch.setattr(_dense, "WEIGHTS", 1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(40,), (5, 8), (2, 4, 5)])
@pytest.mark.parametrize("of_input", [True, False])
def test_outputs_and_gradients_are_those_of_a_linear_layer(always, bias, shape, of_input):
    torch.manual_seed(0)
    layer = nn.Linear(96, 128, bias=bias)
    wide = nn.Linear(96, 128, bias=bias).double()
    wide.load_state_dict(layer.state_dict())
    densify(layer)
    x = torch.randn(*shape, 96)
    weights = torch.randn(*shape, 128)
    inputs = x.clone().requires_grad_(of_input), x.double().requires_grad_(of_input)
    output, expected = layer(inputs[0]), wide(inputs[1])
    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    # Sums of at most 128 products in float32, each entry of size 10.
    close = {"rtol": 1e-5, "atol": 1e-4, "check_dtype": False}
    torch.testing.assert_close(output, expected, **close)
    for found, right in zip(layer.parameters(), wide.parameters(), strict=True):
        torch.testing.assert_close(found.grad, right.grad, **close)
    if of_input:
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, **close)
    else:
        assert inputs[0].grad is None


def test_small_products_are_those_of_a_linear_layer():
    layer = nn.Linear(256, 256)
    x = torch.randn(127, 256)
    expected = layer(x)
    densify(layer)
    assert type(layer) is Dense
    assert torch.equal(layer(x), expected)
    assert layer(x).grad_fn.name() == expected.grad_fn.name()
    assert layer(x.repeat(2, 1)).grad_fn.name() != expected.grad_fn.name()


def test_a_second_derivative_is_refused(always):
    layer = nn.Linear(8, 4)
    densify(layer)
    (g,) = torch.autograd.grad(
        layer(torch.ones(3, 8)).pow(2).sum(), layer.weight, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "cblr"},
        {"measure": {"curvature_every": 2}},
        {"dtype": "float64"},
        {"precision": "bfloat16"},
        {"compile": True},
    ],
)
def test_only_where_first_derivatives_in_float32_are_all(changes, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: model)
    base = TrainConfig(epochs=1, model_options={"hidden": [1024]})
    data = sim.data.load("digits")
    assert any(type(m) is Dense for m in Network([base], data).model.modules())
    network = Network([base.replace(**changes)], data)
    assert not any(type(m) is Dense for m in network.model.modules())


def test_a_run_is_the_same_to_rounding(monkeypatch):
    config = {"epochs": 1, "batch_size": 256, "model_options": {"hidden": [64, 64]}}
    monkeypatch.setattr(_dense, "LARGE", math.inf)
    expected = sim.train(config)
    calls = []
    product = _dense.hessian.product
    monkeypatch.setattr(_dense, "LARGE", 1)
    monkeypatch.setattr(_dense, "WEIGHTS", 1)
    monkeypatch.setattr(_dense.hessian, "product", lambda a, b: calls.append(a) or product(a, b))
    found = sim.train(config)
    # Three layers forwards in 6 steps and one test, and 5 products back in each step.
    assert len(calls) == 3 * 7 + 5 * 6
    torch.testing.assert_close(found.weights, expected.weights, rtol=1e-4, atol=1e-5)
