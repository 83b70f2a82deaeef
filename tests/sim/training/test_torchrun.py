"""Several processes of torchrun that share one run."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch

import sim
from sim.training import TrainConfig, load
from sim.training.engine.world import World

from . import reference
from .sweeps import BASE

WORKER = """
import json, sys, torch
import sim
torch.set_num_threads(1)
for number, config in enumerate(json.load(open(sys.argv[1]))):
    run = sim.train(config, out=f"{sys.argv[2]}/{number}")
# Neither is imported unasked.
assert not {"distributed", "tensorboard"} & set(sys.modules)
"""
PARALLEL = [
    {**reference.BASE, "optimizer_options": {"momentum": 0.9}},
    {**reference.BASE, "discard": {"share": 0.3}, "micro_batch": 5,
     "measure": {"decrease_every": 1, "held_out": 7}},
    {**reference.BASE, "optimizer": "cblr", "lr": 1e-3, "epochs": 1},
    {"model": "lenet", "samples": 30, "steps": 3, "batch_size": 13, "dtype": "float64",
     "augment": {}, "micro_batch": 4},
    {"model": "resnet18", "model_options": {"width": 1 / 32}, "samples": 20, "steps": 2,
     "batch_size": 13, "dtype": "float64", "lr": 0.05, "batch_norm": "synchronised"},
]  # fmt: skip


def test_two_processes_of_torchrun_are_one(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "configs.json").write_text(json.dumps(PARALLEL))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        str(tmp_path / "worker.py"), str(tmp_path / "configs.json"), str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for number, config in enumerate(PARALLEL):
        alone, together = sim.train(config), load(tmp_path / str(number))
        assert together.environment["processes"] == 2
        close = {"rtol": 1e-8, "atol": 1e-10}
        for table in ("steps", "epochs", "layer_steps", "layer_epochs"):
            a, b = (
                getattr(run, table).drop(columns="seconds", errors="ignore")
                for run in (alone, together)
            )
            pd.testing.assert_frame_equal(b, a, check_exact=False, **close)
        for name, value in alone.weights.items():
            torch.testing.assert_close(together.weights[name], value, **close)


def test_processes_need_a_choice_of_batch_norm_and_a_sample_each():
    from sim.training.engine.state import State

    config = TrainConfig.read(PARALLEL[4])
    with pytest.raises(ValueError, match=r"^batch_norm: batches of 13 go through 'bn1' in parts"):
        State([config.replace(batch_norm=None)], None, World(0, 2))
    with pytest.raises(ValueError, match=r"^batch_size: a batch of 2 cannot be shared by 3"):
        State([BASE], None, World(0, 3))
