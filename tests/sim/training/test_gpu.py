"""What only a CUDA device can show; run with `pytest -m gpu`."""

import numpy as np
import pytest
import torch

import sim

pytestmark = pytest.mark.gpu
BASE = {
    "model": "lenet", "samples": 256, "batch_size": 64, "epochs": 2, "dtype": "float64",
    "measure": {"decrease_every": 2, "held_out": 32, "curvature_every": 4},
}  # fmt: skip


def close(a, b, rtol=1e-8):
    for table in ("steps", "layer_steps", "layer_epochs", "curvature"):
        left, right = (getattr(run, table).select_dtypes("number") for run in (a, b))
        np.testing.assert_allclose(left, right, rtol=rtol, atol=1e-10)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"micro_batch": 20},
        {"discard": {"share": 0.3}},
        {"channels_last": True},
        {"optimizer": "lars", "lr": 0.01},
    ],
)
def test_the_gpu_computes_what_the_cpu_does(changes):
    close(sim.train({**BASE, **changes, "device": "cuda"}), sim.train({**BASE, **changes}))


def test_lanes_on_the_gpu():
    base = {**BASE, "model": "mlp", "measure": {}, "device": "cuda"}
    configs = sim.training.grid(base, seed=range(4))
    one = sim.sweep(configs, jobs=1, table="steps")
    many = sim.sweep(configs, jobs=1, table="steps", vectorise=True)
    np.testing.assert_allclose(many.loss, one.loss, rtol=1e-8)


def test_a_divergence_is_found_without_waiting(tmp_path):
    wild = {**BASE, "lr": 1e200, "loss": "power", "device": "cuda", "measure": {}}
    here, there = sim.train({**wild, "device": "cpu"}), sim.train(wild, out=tmp_path)
    assert here.status == there.status == "diverged"
    assert here.reason == there.reason
    assert here.steps.step.tolist() == there.steps.step.tolist()


def test_no_step_waits_for_the_device():
    state = sim.training.engine.state.State(
        [sim.TrainConfig.read({**BASE, "device": "cuda", "measure": {"test_every": 0}})],
        None,
        sim.training.engine.world.World(),
    )
    steps = state.steps()
    next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(steps)
        next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("changes", [{"precision": "bfloat16"}, {"compile": True}])
def test_the_fast_options_train(changes):
    base = {**BASE, "dtype": "float32", "device": "cuda", "measure": {}, "epochs": 4}
    fast, plain = sim.train({**base, **changes}), sim.train(base)
    np.testing.assert_allclose(fast.steps.loss, plain.steps.loss, rtol=0.05)
