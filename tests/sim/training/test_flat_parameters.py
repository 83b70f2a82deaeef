"""Tensors joined and cut in pieces: the same numbers as tensor by tensor."""

import numpy as np
import pandas as pd
import pytest
import torch

import sim
from sim.training.engine import layers as _layers
from sim.training.engine.fast import flat_parameters as _flat
from sim.training.engine.fast.sgd import sgd_step

BASE = {
    "model": "mlp", "model_options": {"hidden": [300, 20]}, "batch_size": 64, "steps": 4,
    "samples": 200, "optimizer_options": {"momentum": 0.9, "weight_decay": 0.01},
}  # fmt: skip
RESNET = {"model": "resnet18", "model_options": {"width": 0.3}, "samples": 24, "batch_size": 12}


def run(monkeypatch, large=None, piece=None, **changes):
    with monkeypatch.context() as patch:
        if large is not None:
            patch.setattr(_flat, "LARGE", large)
        if piece is not None:
            patch.setattr(_layers, "PIECE", piece)
        return sim.train({**BASE, "dtype": "float64", **changes})


@pytest.mark.parametrize("changes", [{}, {**RESNET}, {"optimizer": "adam", "lr": 0.01}])
@pytest.mark.parametrize(("large", "piece"), [(2**40, 1024), (1, 256), (5000, 4096)])
def test_joined_or_not_and_in_what_pieces_does_not_matter(monkeypatch, changes, large, piece):
    if changes.get("optimizer") == "adam":
        changes = {**changes, "optimizer_options": {}}
    usual = run(monkeypatch, **changes)
    found = run(monkeypatch, large, piece, **changes)
    for name, value in usual.weights.items():
        # Other roundings of 1e-16 (memory of another alignment is summed in another order), which
        # batch norm over twelve samples enlarges a thousandfold in four steps.
        torch.testing.assert_close(found.weights[name], value, rtol=1e-9, atol=1e-11)
    for table in ("steps", "layer_steps", "layer_epochs"):
        pd.testing.assert_frame_equal(
            getattr(found, table), getattr(usual, table), rtol=1e-9, atol=1e-11
        )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1},
        {"momentum": 0.9},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"momentum": 0.9, "dampening": 0.5},
        {"momentum": 0.9, "nesterov": True},
    ],
)
@pytest.mark.parametrize("every", [0, 1])
def test_every_sgd_is_torchs_and_its_strides_are_those_of_the_weights(options, every):
    """The step piece by piece, and E|Δw| from the rate and the momentum where that is the step."""
    seen = {}
    shared = {**BASE, "dtype": "float64", "optimizer_options": options, "lr": 0.05}
    found = sim.train({**shared, "measure": {"layers_every": every}})
    data = sim.data.load("digits").subset(200, 0)
    x, y = data.inputs.double(), data.targets
    model = sim.models.build("mlp", in_shape=data.shape, hidden=[300, 20], seed=0).double()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, foreach=False, **options)
    order = np.random.default_rng([0, 0, 0]).permutation(200)
    for step in range(4):
        rows = order[64 * step : 64 * step + 64]
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        for name, parameter in model.named_parameters():
            seen[step, name] = (parameter.detach() - before[name]).abs().mean().item()
    for name, value in model.state_dict().items():
        # Some hundred float64 roundings.
        torch.testing.assert_close(found.weights[name], value, rtol=1e-11, atol=1e-13)
    assert len(found.layer_steps) == every * len(seen)
    for row in found.layer_steps.itertuples():
        assert row.stride == pytest.approx(seen[row.step, row.parameter], rel=1e-9)


def test_what_is_joined_is_one_piece_of_memory():
    model = sim.models.build("resnet18", width=0.3, seed=0).to(memory_format=torch.channels_last)
    before = {name: value.clone() for name, value in model.named_parameters()}
    found = _flat.flat_parameters(list(model.parameters()), 1)
    small = sum(p.numel() < _flat.LARGE for p in model.parameters())
    assert [len(flat.members) for flat in found] == [small] + [1] * (len(before) - small)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        if parameter.dim() == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last)
        parameter.grad = torch.randn_like(parameter)
    for flat in found:
        flat.join()
        assert len(flat.weight) % _flat.ROW == 0 or not flat.joined
        # As many entries of the same sizes, whatever their order and padding.
        members = [p for k, p in enumerate(model.parameters()) if k in flat.members]
        for whole, parts in (
            (flat.weight, members),
            (torch.cat(list(flat.gradient(1000))), [p.grad for p in members]),
        ):
            total = sum(part.double().abs().sum() for part in parts)
            torch.testing.assert_close(whole.double().abs().sum(), total)
    found[0].weight.zero_()
    assert not any(p.any() for p in model.parameters() if p.numel() < _flat.LARGE)


def test_a_parameter_without_a_gradient_has_a_gradient_of_zero():
    parameters = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(5))]
    (flat,) = _flat.flat_parameters(parameters, 1)
    parameters[0].grad = torch.ones(3)
    parameters[1].grad = torch.ones(5)
    flat.join()
    parameters[1].grad = None
    flat.join()
    assert flat.leaf.grad.sum() == 3


def test_only_sgd_has_a_step_in_parts():
    w = torch.nn.Parameter(torch.ones(2))
    assert sgd_step(torch.optim.Adam([w])) is None
    assert sgd_step(torch.optim.SGD([w], 0.1, momentum=0.9)) is None
    assert sgd_step(torch.optim.SGD([w], 0.1)) is not None
