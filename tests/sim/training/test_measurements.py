"""Every column against NumPy on what a plain loop kept."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import hessian
import sim
from sim.training.engine.fast.flat_parameters import flat_parameters

from . import reference

CLOSE = {"rtol": 1e-9, "atol": 1e-14}


def run(**changes):
    return sim.train({**reference.BASE, **changes})


@pytest.fixture(scope="module")
def steps():
    return list(reference.descend(reference.batches(16, 2), 0.3, momentum=0.9))


@pytest.fixture(scope="module")
def found():
    return run(
        optimizer_options={"momentum": 0.9},
        measure={"decrease_every": 1, "held_out": 12, "curvature_every": 3},
    )


def test_steps(found, steps):
    frame = found.steps
    assert frame.step.tolist() == list(range(8))
    assert frame.epoch.tolist() == [s["epoch"] for s in steps]
    np.testing.assert_allclose(frame.loss, [s["losses"].mean() for s in steps], **CLOSE)
    fell = [s["losses"].mean() - s["later"].mean() for s in steps]
    np.testing.assert_allclose(frame.decrease_batch, fell, rtol=1e-7, atol=1e-12)


def test_accuracy_is_that_before_the_step(found, steps):
    x, y = reference.data()
    model = reference.network()
    for row, step in zip(found.steps.itertuples(), steps, strict=True):
        model.load_state_dict({n: torch.from_numpy(v) for n, v in step["before"].items()})
        right = model(x[step["rows"]]).argmax(1) == y[step["rows"]]
        assert row.accuracy == pytest.approx(float(right.double().mean()), rel=1e-12)


@pytest.mark.parametrize("source", ["train", "test"])
def test_held_out_samples_have_no_part_in_the_step(steps, source):
    measure = {"decrease_every": 1, "held_out": 12, "held_out_from": source}
    found = run(optimizer_options={"momentum": 0.9}, measure=measure)
    x, y = reference.data(source)
    model = reference.network()

    def loss(weights, rows):
        model.load_state_dict({n: torch.from_numpy(v) for n, v in weights.items()})
        return float(F.cross_entropy(model(x[rows]), y[rows]).detach())

    for number, step in enumerate(steps):
        drawn = np.random.default_rng([0, 4, number])
        if source == "test":
            rows = drawn.choice(50, 12, replace=False)
        else:
            order = reference.order(0, step["epoch"])
            others = np.array([k for k in order if k not in set(step["rows"])])
            rows = others[drawn.choice(len(others), 12, replace=False)]
            assert not set(rows) & set(step["rows"])
        expected = loss(step["before"], rows) - loss(step["after"], rows)
        assert found.steps.decrease_held_out[number] == pytest.approx(expected, rel=1e-7)


def test_held_out_samples_run_out():
    measure = {"decrease_every": 1, "held_out": 12}
    found = run(batch_size=45, measure=measure)
    assert found.steps.decrease_held_out.notna().all()
    found = run(batch_size=50, measure=measure)
    assert found.steps.decrease_held_out.isna().all()
    assert found.steps.decrease_batch.notna().all()


def test_layer_steps(found, steps):
    frame = found.layer_steps
    assert len(frame) == 8 * 4
    for row in frame.itertuples():
        step = steps[row.step]
        assert row.epoch == step["epoch"]
        assert row.gradient_abs == pytest.approx(
            np.abs(step["gradient"][row.parameter]).mean(), rel=1e-9
        )
        moved = step["after"][row.parameter] - step["before"][row.parameter]
        assert row.stride == pytest.approx(np.abs(moved).mean(), rel=1e-9)


@pytest.mark.parametrize("every", [1, 2])
def test_layer_epochs(steps, every):
    found = run(optimizer_options={"momentum": 0.9}, measure={"layers_every": every})
    assert len(found.layer_epochs) == 2 * 4
    for row in found.layer_epochs.itertuples():
        inside = [s for s in steps if s["epoch"] == row.epoch]
        seen = [s for k, s in enumerate(steps) if s["epoch"] == row.epoch and k % every == 0]
        gradients = np.stack([s["gradient"][row.parameter] for s in seen])
        moves = np.stack([s["after"][row.parameter] - s["before"][row.parameter] for s in seen])
        net = inside[-1]["after"][row.parameter] - inside[0]["before"][row.parameter]
        assert (row.size, row.steps) == (gradients[0].size, len(seen))
        assert row.gradient_abs == pytest.approx(np.abs(gradients).mean(), rel=1e-9)
        assert row.gradient_mean_abs == pytest.approx(np.abs(gradients.mean(0)).mean(), rel=1e-9)
        assert row.gradient_deviation == pytest.approx(gradients.std(0, ddof=1).mean(), rel=1e-9)
        assert row.stride == pytest.approx(np.abs(moves).mean(), rel=1e-9)
        assert row.path == pytest.approx(np.abs(moves).mean((1, *range(2, moves.ndim))).sum())
        assert row.displacement == pytest.approx(np.abs(net).mean(), rel=1e-9)


def test_one_step_has_no_deviation():
    found = run(batch_size=50)
    assert found.layer_epochs.gradient_deviation.isna().all()
    assert found.layer_epochs.gradient_mean_abs.notna().all()


def test_epochs(found, steps):
    for row in found.epochs.itertuples():
        inside = [s for s in steps if s["epoch"] == row.epoch]
        every = np.concatenate([s["losses"] for s in inside])
        assert (row.steps, row.samples, row.batch_size, row.whole) == (4, 50, 16, True)
        assert row.train_loss == pytest.approx(every.mean(), rel=1e-9)
        x, y = reference.data("test")
        model = reference.network()
        model.load_state_dict({n: torch.from_numpy(v) for n, v in inside[-1]["after"].items()})
        output = model(x)
        loss = float(F.cross_entropy(output, y).detach())
        assert row.test_loss == pytest.approx(loss, rel=1e-9)
        assert row.test_accuracy == pytest.approx(float((output.argmax(1) == y).double().mean()))
    expected = [g.accuracy @ g.batch_size / 50 for _, g in found.steps.groupby("epoch")]
    np.testing.assert_allclose(found.epochs.train_accuracy, expected, rtol=1e-12)
    assert found.epochs.last_step.tolist() == [3, 7]


def test_epochs_that_are_not_whole_or_not_tested():
    found = run(epochs=None, steps=6, measure={"test_every": 2})
    assert found.epochs.whole.tolist() == [True, False]
    found = run(epochs=5, measure={"test_every": 2})
    assert found.epochs.test_accuracy.notna().tolist() == [False, True, False, True, True]
    assert run(measure={"test_every": 0}).epochs.test_loss.isna().all()


def test_curvature(found, steps):
    assert found.curvature.step.unique().tolist() == [0, 3, 6]
    x, y = reference.data()
    rows = np.random.default_rng(0).permutation(50)
    model = reference.network()
    for step, part in found.curvature.groupby("step"):
        model.load_state_dict({n: torch.from_numpy(v) for n, v in steps[step]["before"].items()})
        h = hessian.diagonal(model, F.cross_entropy, (x[rows], y[rows]), method="parameter")
        for row in part.itertuples():
            second, g = h[row.parameter].numpy(), h.gradient[row.parameter].numpy()
            radius = np.sort(((1 + g**2) ** 1.5 / np.abs(second)).ravel())
            assert row.size == second.size
            assert row.curvature_abs == pytest.approx(np.abs(second).mean(), rel=1e-7)
            assert row.gradient_abs == pytest.approx(np.abs(g).mean(), rel=1e-7)
            assert row.negative_curvature == (second < 0).mean()
            assert row.zero_curvature == 0
            for q, value in ((0.25, row.radius_low), (0.5, row.radius_median)):
                below = np.quantile(radius, q, method="closest_observation")
                near = radius[np.abs(np.arange(len(radius)) - q * (len(radius) - 1)) <= 0.5]
                assert np.isclose(near, value, rtol=1e-6).any(), (below, value)


def test_curvature_leaves_the_run_alone(found):
    plain = run(optimizer_options={"momentum": 0.9})
    pd.testing.assert_series_equal(plain.steps.loss, found.steps.loss, check_exact=True)
    for name, value in plain.weights.items():
        assert torch.equal(value, found.weights[name])


def test_dropout_and_batch_norm_are_not_disturbed_by_looking():
    base = {
        "model": "resnet18", "model_options": {"width": 1 / 32}, "samples": 24, "steps": 2,
        "batch_size": 12,
    }  # fmt: skip
    looked = sim.train({**base, "measure": {"decrease_every": 1, "held_out": 6}})
    plain = sim.train(base)
    assert all(torch.equal(plain.weights[n], v) for n, v in looked.weights.items())
    base = {"model_options": {"dropout": 0.5}, "samples": 24, "steps": 2, "batch_size": 12}
    looked = sim.train({**base, "measure": {"decrease_every": 1, "held_out": 6}})
    plain = sim.train(base)
    assert all(torch.equal(plain.weights[n], v) for n, v in looked.weights.items())


def test_nothing_is_measured_where_nothing_is_wanted():
    found = run(measure={"layers_every": 0, "test_every": 0})
    assert found.layer_steps.empty
    assert found.layer_epochs.empty
    assert found.curvature.empty
    assert found.steps.decrease_batch.isna().all()
    assert len(found.steps) == 8


def test_large_tensors_are_summed_without_loss():
    # One float32 sum over 2²⁴ numbers would be off by 2 %.
    model = sim.models.build("mlp", in_shape=(4096,), hidden=[1024], classes=2, seed=0)
    network = type("Network", (), {"lanes": 1, "names": ["weight"], "own": False})()
    network.parameters = list(model.parameters())[:1]
    network.flat_parameters = flat_parameters(network.parameters, 1)
    exact = float(network.parameters[0].detach().double().abs().mean())
    recorder = sim.training.engine.recorder.Recorder(network, 1)
    recorder.begin_epoch()
    network.parameters[0].grad = network.parameters[0].detach().clone()
    recorder.around(0, torch.optim.Adam(network.parameters), lambda: True)
    recorder.flush()
    ((_, block),) = recorder.measurements.blocks["layer_steps"]
    assert block[0, 0, 0, 0].item() == pytest.approx(exact, rel=1e-6)


def test_more_rows_than_the_device_keeps(monkeypatch):
    plain = run(measure={"decrease_every": 3})
    monkeypatch.setattr(sim.training.engine.rows, "CAPACITY", 3)
    small = run(measure={"decrease_every": 3})
    pd.testing.assert_frame_equal(plain.steps, small.steps, check_exact=True)
    pd.testing.assert_frame_equal(plain.layer_steps, small.layer_steps, check_exact=True)
    drop = ["seconds"]
    pd.testing.assert_frame_equal(
        plain.epochs.drop(columns=drop), small.epochs.drop(columns=drop), check_exact=True
    )


def test_the_model_comes_back_with_its_weights(found):
    x, y = reference.data("test")
    output = found.model()(x)
    loss = float(F.cross_entropy(output, y).detach())
    assert found.epochs.test_loss.iloc[-1] == pytest.approx(loss, rel=1e-12)
    assert not found.model().training


def test_the_callers_random_state_is_left(found):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    run(model_options={"dropout": 0.5})
    assert torch.equal(before, torch.get_rng_state())
