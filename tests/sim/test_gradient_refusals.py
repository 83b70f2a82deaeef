import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sim

from .samplewise import C, D, batch_normalised, drawn, perceptron


@pytest.fixture
def data():
    return drawn()


class Centred(nn.Module):
    """Subtracts the batch's mean: couples samples without being a batch norm."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(D, C)

    def forward(self, x):
        return self.fc(x - x.mean(0))


def weighted(output, target):
    return F.cross_entropy(output, target, weight=torch.tensor([1.0, 2, 3, 4]).to(output))


def summed(output, target):
    return F.cross_entropy(output, target, reduction="sum")


def unreduced(output, target):
    return F.cross_entropy(output, target, reduction="none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameter": "fc9.weight"}, r"^parameter: the model has no 'fc9.weight'; choose one of "),
        (
            {"loss": weighted},
            r"^loss: .* on 23 samples, but .* as the mean of their own losses; gi",
        ),
        ({"loss": summed}, r"^loss: .* on 23 samples, but .* as the mean of their own losses; gi"),
        ({"loss": unreduced}, r"^loss: it returned \(23,\); it must return one number"),
        ({"loss": lambda *_: 1.0}, r"^loss: it returned float; it must return one number"),
        ({"loss": lambda o, _: o.sum() * math.nan}, r"^loss: its value is nan; check the data"),
        ({"data": []}, r"^data: it holds no batch; give a pair"),
        ({"data": (torch.ones(3, D), torch.ones(2))}, r"^data: 3 inputs and 2 targets; give as"),
        ({"data": (torch.ones(0, D), torch.ones(0))}, r"^data: 0 inputs and 0 targets; give as"),
        (
            {"model": batch_normalised().double().train(), "parameter": "0.weight"},
            r"^model: '1' normalises over the batch, .*; call model.eval\(\) first$",
        ),
        (
            {"model": Centred().double(), "parameter": "fc.weight"},
            r"^model: a sample's output depends on the others in its batch",
        ),
        (
            {"model": nn.Sequential(nn.Linear(D, 1), nn.Flatten(0, 0)), "loss": None},
            r"^parameter: the model has no 'fc1.weight'",
        ),
        ({"memory": 0}, r"^memory: got 0; give a whole number at least 1"),
        ({"seed": -1}, r"^seed: got -1"),
    ],
)
def test_both_refuse(changes, message, data):
    arguments = {"model": perceptron(), "loss": F.cross_entropy, "data": data}
    arguments |= {"parameter": "fc1.weight"} | changes
    with pytest.raises(ValueError, match=message):
        sim.gradient_moments(**arguments)
    with pytest.raises(ValueError, match=message):
        sim.mean_abs_gradient(**arguments, batch_sizes=[1])


def test_frozen_parameters_and_outputs_that_are_no_rows(data):
    model = perceptron()
    model.fc1.weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"^parameter: 'fc1.weight' is frozen; set its requires_g"):
        sim.gradient_moments(model, F.cross_entropy, data, "fc1.weight")
    total = nn.Sequential(nn.Linear(D, C), nn.Flatten(0)).double()
    with pytest.raises(ValueError, match=r"^model: it did not return a tensor with one row"):
        sim.gradient_moments(total, F.cross_entropy, data, "0.weight")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": []}, r"^batch_sizes: got none; give at least one"),
        ({"batch_sizes": [0]}, r"^batch_sizes: got 0; give a whole number from 1 to 23$"),
        ({"batch_sizes": [24]}, r"^batch_sizes: got 24; give a whole number from 1 to 23$"),
        (
            {"batch_sizes": [0], "replacement": True},
            r"^batch_sizes: got 0; give a whole number at least 1$",
        ),
        ({"repeats": 0}, r"^repeats: got 0; give a whole number at least 1$"),
    ],
)
def test_the_sizes_and_repeats_are_checked(changes, message, data):
    with pytest.raises(ValueError, match=message):
        sim.mean_abs_gradient(
            perceptron(), F.cross_entropy, data, "fc1.weight", **({"batch_sizes": [1]} | changes)
        )


def test_passes_are_checked(data):
    with pytest.raises(ValueError, match=r"^passes: got 0; give a whole number at least 1$"):
        sim.gradient_moments(perceptron(), F.cross_entropy, data, "fc1.weight", passes=0)


@pytest.mark.parametrize(
    "rare", [torch.tensor([1.0, 1, 1, 30]), None], ids=["class weights", "ignored labels"]
)
def test_a_rare_label_that_counts_otherwise_is_seen(rare):
    # 600 samples of which 64 would be tried: only two, next to each other, have the rare label.
    torch.manual_seed(0)
    x, y = torch.randn(600, D, dtype=torch.float64), torch.randint(C - 1, (600,))
    y[100:102] = C - 1 if rare is not None else -100

    def loss(output, target):
        weights = None if rare is None else rare.to(output)
        return F.cross_entropy(output, target, weight=weights)

    with pytest.raises(ValueError, match=r"^loss: .* as the mean of their own losses|value is nan"):
        sim.gradient_moments(perceptron(), loss, (x, y), "fc1.weight")
