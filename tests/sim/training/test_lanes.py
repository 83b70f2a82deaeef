"""Seeds of one configuration that train together as lanes of one network."""

import math
import shutil

import joblib
import numpy as np
import pandas as pd
import pytest
import torch

import sim
from sim.training import TrainConfig, grid, load
from sim.training.engine.fast import vectorise as _vectorise
from sim.training.engine.fast.vectorise import groups
from sim.training.engine.world import World
from sim.training.record.columns import TABLES

from .sweeps import BASE, CONFIGS, equal


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adam", "optimizer_options": {}, "lr": 0.01},
        {"optimizer": "lars", "lr": 0.01},
        {"optimizer": "mclr", "lr": 0.01, "optimizer_options": {"grouping": "group"}},
        {"optimizer": "mclr", "lr": 0.01, "optimizer_options": {"one_dimensional": "plain"}},
        {"optimizer": "lamb", "lr": 0.01, "optimizer_options": {"like": "you2020"}},
        {"optimizer": "percent-delta", "lr": 0.01, "optimizer_options": {"weight_decay": 0.01}},
        {"discard": {"share": 0.3}, "loss": "power"},
        {"discard": {"kind": "random", "share": 0.3, "normaliser": "batch"}},
        {"discard_gradients": {"kind": "random", "share": 0.3}},
        {"discard_gradients": {"share": 0.3, "scope": "network"}},
        {"micro_batch": 5, "drop_last": True, "order_seed": 3},
        {"measure": {"decrease_every": 1, "held_out": 9, "layers_every": 2}},
        {"model": "lenet", "dataset": "digits", "dataset_options": {}, "model_options": {}}
        | {"samples": 40, "augment": {"crop": 2}},
        {"model": "transformer", "dataset": "digits", "dataset_options": {}, "samples": 24}
        | {"model_options": {"width": 0.25, "depth": 1}},
    ],
)
def test_lanes_are_separate_runs_to_rounding(changes):
    configs = grid(BASE.replace(**changes), seed=[0, 1, 4])
    assert [len(group) for group in groups(configs)] == [3]
    for table in ("runs", "steps", "epochs", "layer_steps", "layer_epochs"):
        one = sim.sweep(configs, jobs=1, table=table).drop(columns="seconds", errors="ignore")
        many = sim.sweep(configs, jobs=1, table=table, vectorise=True)
        many = many.drop(columns="seconds", errors="ignore")
        # float64 sums in another order, over a few steps.
        pd.testing.assert_frame_equal(many, one, check_exact=False, rtol=1e-8, atol=1e-10)


def test_only_seeds_share_a_group_and_never_too_many():
    many = grid(BASE, seed=range(34))
    rates = grid(BASE, lr=[0.7, 0.8], order_seed=[None, 5], seed=range(2))
    apart = grid(BASE.replace(model_options={"hidden": [8], "dropout": 0.5}), seed=range(2))
    found = groups([*apart, *rates, *many])
    assert [len(group) for group in found] == [1, 1, 4, 4, 17, 17]
    assert [config for group in found[:2] for config in group] == apart
    assert {config.lr for config in found[2]} == {0.7}
    assert {(c.seed, c.order_seed) for c in found[3]} == {(0, None), (0, 5), (1, None), (1, 5)}
    assert found[4] + found[5] == many


def test_lanes_have_weights_of_their_own(tmp_path):
    configs = grid(BASE, seed=range(3))
    sim.sweep(configs, jobs=1, vectorise=True, out=tmp_path)
    for config in configs:
        alone, lane = sim.train(config), load(tmp_path / config.hash)
        assert lane.config == config
        for name, value in alone.weights.items():
            torch.testing.assert_close(lane.weights[name], value, rtol=1e-9, atol=1e-12)


def test_what_cannot_be_lanes_trains_alone():
    for changes in (
        {"model_options": {"dropout": 0.5}},
        {"optimizer": "cblr"},
        {"model": "resnet18", "model_options": {"width": 0.1}},
        {"measure": {"curvature_every": 1}},
        {"channels_last": True},
        {"optimizer": "lamb", "optimizer_options": {"like": "timm"}},
        {"optimizer": "lamb", "optimizer_options": {"max_grad_norm": 3.0}},
    ):
        configs = grid(TrainConfig.read({"epochs": 1, **changes}), seed=range(2))
        assert [len(group) for group in groups(configs)] == [1, 1]
    mixed = grid(BASE, lr=[0.1, 0.2], seed=range(40))
    assert [len(group) for group in groups(mixed)] == [20, 20, 20, 20]
    # For many workers lanes are cut, as evenly as can be, and down to single ones.
    few = grid(BASE, lr=[0.1, 0.2], seed=range(5))
    assert [len(g) for g in groups(grid(BASE, lr=[1, 2, 3], seed=range(5)), 2)] == [5, 5, 5]
    for workers, sizes in ((2, [5, 5]), (4, [3, 2, 3, 2]), (7, [2, 2, 1, 2, 2, 1]), (10, [1] * 10)):
        found = groups(few, workers)
        assert [len(group) for group in found] == sizes
        assert [config for group in found for config in group] == few


@pytest.mark.parametrize(
    ("changes", "lanes"),
    [
        ({"batch_size": 128}, True),
        ({"batch_size": 1024}, False),
        ({"batch_size": 8, "phases": [{"epochs": 1, "batch_size": 1024}]}, False),
        ({"batch_size": 8, "model_options": {"hidden": [512, 512]}}, False),
        ({"model": "lenet", "batch_size": 32}, True),
        ({"model": "lenet", "batch_size": 128}, False),
        ({"model": "transformer", "batch_size": 32, "model_options": {"width": 0.5}}, True),
        ({"model": "transformer", "batch_size": 128, "model_options": {"width": 0.5}}, False),
        ({"dataset": "gaussian", "dataset_options": {"features": 2000}}, False),
    ],
)
def test_lanes_are_for_small_networks(changes, lanes):
    configs = grid(TrainConfig.read({"epochs": 2, **changes}), seed=range(2))
    assert [len(group) for group in groups(configs)] == ([2] if lanes else [1, 1])


def test_one_lane_diverges_and_the_others_go_on(monkeypatch):
    build = sim.training.engine.network._build

    def sick(config, dataset):
        model = build(config, dataset)
        if config.seed == 1:
            # Large enough for an overflow at the second step.
            model.fc2.weight.data *= 1e200
        return model

    monkeypatch.setattr(sim.training.engine.network, "_build", sick)
    configs = grid(BASE.replace(loss="power"), seed=range(3))
    alone = sim.sweep(configs, jobs=1)
    assert alone.status.tolist() == ["finished", "diverged", "finished"]
    together = sim.sweep(configs, jobs=1, vectorise=True)
    for column in ("status", "reason", "steps_taken", "epochs_taken"):
        assert together[column].tolist() == alone[column].tolist()
    np.testing.assert_allclose(together.test_loss, alone.test_loss, rtol=1e-9)


def test_lanes_resume_bit_for_bit(tmp_path, monkeypatch):
    configs = grid(BASE, seed=range(3))
    whole = sim.sweep(configs, jobs=1, vectorise=True, out=tmp_path / "whole")
    # The third write of a checkpoint and then the second file of a lane's results fail.
    calls, write = [], sim.training.record.store.write
    for fatal in (3, 9):

        def failing(path, fill, fatal=fatal):
            calls.append(path.name)
            if len(calls) == fatal:
                raise OSError("broken")
            write(path, fill)

        calls.clear()
        monkeypatch.setattr(sim.training.record.store, "write", failing)
        found = sim.sweep(configs, jobs=1, vectorise=True, out=tmp_path / "cut", checkpoint_steps=2)
        assert set(found.status) == {"failed"}
    monkeypatch.undo()
    found = sim.sweep(configs, jobs=1, vectorise=True, out=tmp_path / "cut")
    equal(found, whole)
    for table in TABLES:
        a, b = (
            sim.sweep(configs, jobs=1, vectorise=True, out=tmp_path / name, table=table)
            for name in ("whole", "cut")
        )
        equal(a, b)


def test_lanes_that_have_begun_stay_together_and_finished_ones_are_not_lanes_again(
    tmp_path, monkeypatch
):
    configs = grid(BASE, seed=range(6))
    whole = sim.sweep(configs, jobs=1, vectorise=True, out=tmp_path / "whole")
    cut = tmp_path / "cut"
    sim.sweep(configs[:2], jobs=1, vectorise=True, out=cut)
    trained, state = [], sim.training.engine.state.State

    class Watched(state):
        def __init__(self, configs, *rest):
            super().__init__(configs, *rest)
            trained.append([c.seed for c in configs])

        def _step(self, each, step, *rest):
            if len(trained) == 1 and step == 3:
                raise OSError("broken")
            trained[-1].append(f"step {step}")
            return super()._step(each, step, *rest)

    monkeypatch.setattr(sim.training.engine.loop, "State", Watched)
    found = sim.sweep(configs[2:5], jobs=1, vectorise=True, out=cut, checkpoint_steps=2)
    assert set(found.status) == {"failed"}
    # Not all of them are wanted, and what another version wrote is left to whoever trains there.
    shutil.copytree(cut, tmp_path / "part")
    shutil.copytree(cut, tmp_path / "old")
    (path,) = (tmp_path / "old").glob("lanes-*/checkpoint.pt")
    saved = sim.training.record.store.read_tensors(path)
    sim.training.record.store.write_tensors(path, saved | {"version": 0})
    for name, wanted in (("part", configs[2:4]), ("old", configs)):
        found = sim.sweep(wanted, jobs=1, vectorise=True, out=tmp_path / name)
        assert set(found.status) == {"finished"}
    assert [each[:3] for each in trained[1:]] == [[2, 3, "step 0"], [2, 3, 4]]
    del trained[1:]
    # Two finished, three stand in a checkpoint after two steps, and one is new.
    found = sim.sweep(configs, jobs=1, vectorise=True, out=cut)
    assert [each[:4] for each in trained[1:]] == [
        [2, 3, 4, "step 2"],
        [5, "step 0", "step 1", "step 2"],
    ]
    found, whole = (frame.drop(columns="seconds") for frame in (found, whole))
    # Other lanes beside them change the rounding.
    pd.testing.assert_frame_equal(found, whole, check_exact=False, rtol=1e-9)


def test_as_many_groups_as_jobs(monkeypatch):
    seen = []
    task = sim.training._sweep.train_task

    def watched(number, plains, options, threads):
        seen.append((len(plains), threads))
        return task(number, plains, options, threads)

    class Serial:
        def __init__(self, n_jobs, **rest):
            self.n_jobs = n_jobs

        def __call__(self, calls):
            return [f(*a) for f, a, _ in calls]

    monkeypatch.setattr(sim.training._sweep, "train_task", watched)
    monkeypatch.setattr(joblib, "Parallel", Serial)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    # The threads of a process are for lanes that have it for themselves, and are enough work.
    for enough in (True, False):
        monkeypatch.setattr(_vectorise, "SHARED", 0 if enough else math.inf)
        many = 4 if enough else 1
        for jobs, sizes in ((None, [5]), (1, [5]), (2, [3, 2]), (8, [1] * 5)):
            seen.clear()
            sim.sweep(grid(BASE, seed=range(5)), jobs=jobs, vectorise=True)
            assert seen == [(size, many if len(sizes) == 1 else 1) for size in sizes]
    monkeypatch.setattr(_vectorise, "SHARED", 0)
    for options, threads in (({"threads": 3, "vectorise": True}, 3), ({"vectorise": False}, 1)):
        seen.clear()
        sim.sweep(grid(BASE, seed=range(2)), jobs=1, **options)
        assert {each for _, each in seen} == {threads}


def test_under_torchrun_a_sweep_starts_no_processes(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for options in ({"jobs": 2}, {"scheduler": "tcp://127.0.0.1:1"}):
        name, value = next(iter(options.items()))
        with pytest.raises(ValueError, match=rf"^{name}: got '?{value}'?, but torchrun's"):
            sim.sweep(CONFIGS, **options)
    parallel, seen = joblib.Parallel, []
    monkeypatch.setattr(
        joblib, "Parallel", lambda n_jobs, **o: seen.append(n_jobs) or parallel(1, **o)
    )
    monkeypatch.setattr(sim.training.engine.world.World, "current", lambda device: World())
    assert set(sim.sweep(CONFIGS).status) == {"finished"}
    assert seen == [1]


def test_lanes_have_the_threads_of_the_process(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for n, threads in ((128, 2), (8, 1)):
            lanes = grid({"epochs": 1, "batch_size": n}, seed=range(32))
            assert _vectorise.split(lanes) == threads
        monkeypatch.setattr(_vectorise, "SHARED", 0)
        run = sim.training.record.run.environment
        seen = []
        monkeypatch.setattr(
            sim.training.record.run,
            "environment",
            lambda *a: seen.append(run(*a)["threads"]) or run(*a),
        )
        sim.sweep(grid(BASE, seed=range(2)), jobs=1, vectorise=True)
        assert seen == [2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
