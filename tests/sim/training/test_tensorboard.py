"""What is written for TensorBoard."""

import sys

import numpy as np
import pytest

import sim

from .sweeps import BASE


def test_tensorboard_cannot_write_there(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"tensorboard: nothing can be written to .* give a folder"):
        sim.train(BASE, tensorboard=tmp_path / "file")


def test_tensorboard_shows_what_the_tables_hold(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Stop(Exception):
        pass

    def stop(done, total, latest):
        if done == 6:
            raise Stop

    options = {"out": tmp_path / "run", "tensorboard": tmp_path / "board"}
    with pytest.raises(Stop):
        sim.train(BASE, progress=stop, checkpoint_steps=3, **options)
    run = sim.train(BASE, **options)
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    for tag, frame in (
        ("steps/loss", run.steps.set_index("step").loss),
        ("steps/lr", run.steps.set_index("step").lr),
        ("epochs/test_accuracy", run.epochs.set_index("last_step").test_accuracy),
        (
            "stride/fc1.weight",
            run.layer_steps.query("parameter == 'fc1.weight'").set_index("step").stride,
        ),
    ):
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in found] == frame.index.tolist()
        np.testing.assert_allclose([value for _, value in found], frame, rtol=1e-6)


def test_tensorboard_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"^tensorboard: it is not installed; pip install"):
        sim.train(BASE, tensorboard=tmp_path)
