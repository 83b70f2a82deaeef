"""Sweeps: one table, whoever trains: this process, others, a Dask cluster, or lanes."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

import sim
from sim.training import TrainConfig, grid, load
from sim.training.engine.fast import vectorise as _vectorise
from sim.training.engine.fast.vectorise import groups
from sim.training.engine.world import World
from sim.training.record.columns import TABLES

from . import reference

BASE = TrainConfig.read(
    {**reference.BASE, "model_options": {"hidden": [6]}, "optimizer_options": {"momentum": 0.9}}
)
CONFIGS = grid(BASE, lr=[0.1, 0.3], seed=range(2))


def equal(a, b):
    a, b = (frame.drop(columns="seconds", errors="ignore") for frame in (a, b))
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_the_tables_are_those_of_the_runs():
    runs = [sim.train(config) for config in CONFIGS]
    found = sim.sweep(CONFIGS, jobs=1)
    assert found[["lr", "seed"]].values.tolist() == [[0.1, 0], [0.1, 1], [0.3, 0], [0.3, 1]]
    for row, run in zip(found.itertuples(), runs, strict=True):
        assert row.hash == run.config.hash
        assert (row.status, row.reason) == ("finished", "")
        assert (row.steps_taken, row.epochs_taken) == (8, 2)
        last = run.epochs.iloc[-1]
        for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
            assert getattr(row, name) == last[name]
        assert row.best_test_accuracy == run.epochs.test_accuracy.max()
    for table in TABLES:
        frame = sim.sweep(CONFIGS, jobs=1, table=table)
        for run in runs:
            part = frame[frame.hash == run.config.hash].drop(columns=["hash", "seed"])
            if "config.lr" in part:
                part = part.drop(columns="config.lr")
                assert table == "steps"
            else:
                part = part.drop(columns="lr")
            if len(part):
                equal(part.reset_index(drop=True), getattr(run, table))
            else:
                assert getattr(run, table).empty


def test_nested_fields_have_dotted_names():
    configs = grid(
        BASE, **{"discard.share": [0.1, 0.2], "model_options.hidden": [[4], [5]], "epochs": [1]}
    )
    found = sim.sweep(configs, jobs=1)
    assert list(found.columns[:3]) == ["discard.share", "model_options.hidden", "seed"] or list(
        found.columns[:3]
    ) == ["model_options.hidden", "discard.share", "seed"]
    assert found["discard.share"].tolist() == [0.1, 0.1, 0.2, 0.2]
    assert found["model_options.hidden"].tolist() == ["[4]", "[5]"] * 2


def test_one_configuration_twice_is_one_run(tmp_path):
    found = sim.sweep([BASE, BASE.plain(), BASE], jobs=1, out=tmp_path)
    assert len(found) == 3
    assert found.seconds.nunique() == 1
    assert [path.name for path in tmp_path.iterdir()] == [BASE.hash]


def test_local_processes(tmp_path):
    expected = sim.sweep(CONFIGS, jobs=1)
    equal(sim.sweep(CONFIGS, jobs=2, out=tmp_path), expected)
    # What is there is not run again: the seconds too are those of the first time.
    again = sim.sweep(CONFIGS, jobs=1, out=tmp_path)
    assert again.equals(sim.sweep(CONFIGS, jobs=1, out=tmp_path))
    equal(again, expected)
    for config in CONFIGS:
        assert load(tmp_path / config.hash).config == config
    for table in TABLES:
        equal(
            sim.sweep(CONFIGS, jobs=1, out=tmp_path, table=table),
            sim.sweep(CONFIGS, jobs=1, table=table),
        )


@pytest.mark.filterwarnings("ignore")  # of the cluster's own clean-up
def test_a_dask_cluster_gives_the_same_table(tmp_path):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None
    ) as cluster:
        found = sim.sweep(CONFIGS, scheduler=cluster.scheduler_address, out=tmp_path)
        steps = sim.sweep(CONFIGS, scheduler=cluster.scheduler_address, table="steps")
        seeds, out = grid(BASE, seed=range(6)), tmp_path / "lanes"
        lanes = sim.sweep(seeds, scheduler=cluster.scheduler_address, out=out, vectorise=True)
    equal(found, sim.sweep(CONFIGS, jobs=1))
    equal(steps, sim.sweep(CONFIGS, jobs=1, table="steps"))
    assert len(list(tmp_path.glob("*/run.json"))) == 4
    # Three lanes for each of the two workers; those that train together share their seconds.
    assert lanes.seconds.value_counts().tolist() == [3, 3]
    parts = [sim.sweep(part, jobs=1, vectorise=True) for part in (seeds[:3], seeds[3:])]
    equal(lanes, pd.concat(parts, ignore_index=True))


def test_no_scheduler_at_the_address(monkeypatch):
    monkeypatch.setattr(sim.training.engine.workers, "PATIENCE", 0.3)
    with pytest.raises(ValueError, match=r"^scheduler: there is none at 'tcp://127.0.0.1:1'"):
        sim.sweep(CONFIGS, scheduler="tcp://127.0.0.1:1")


def test_a_cluster_that_is_lost_on_the_way():
    from distributed.client import FutureCancelledError

    lost = FutureCancelledError("a task", "scheduler-connection-lost")
    with (
        pytest.raises(
            ConnectionAbortedError, match=r"scheduler: 'tcp://a:1' or its workers were l"
        ),
        sim.training.engine.workers.losses_explained("tcp://a:1"),
    ):
        raise lost
    # Whatever else goes wrong is not the cluster's fault.
    with pytest.raises(KeyError), sim.training.engine.workers.losses_explained("tcp://a:1"):
        raise KeyError


def test_dask_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"^scheduler: .* is for Dask, which is not inst"):
        sim.sweep(CONFIGS, scheduler="tcp://127.0.0.1:1")


def test_a_run_that_fails_leaves_the_others_alone():
    bad = BASE.replace(samples=1000)
    found = sim.sweep([BASE, bad], jobs=1)
    assert found.status.tolist() == ["finished", "failed"]
    assert found.reason[1].startswith("ValueError: samples: got 1000, but gaussian has 50")
    assert np.isnan(found.test_accuracy[1])
    with pytest.warns(sim.training.Unfinished, match="1 of 2 runs did not finish"):
        assert set(sim.sweep([bad, BASE], jobs=1, table="steps").hash) == {BASE.hash}


def test_a_run_that_diverges_is_kept(tmp_path):
    wild = BASE.replace(lr=1e300)
    found = sim.sweep([BASE, wild], jobs=1, out=tmp_path)
    assert found.status.tolist() == ["finished", "diverged"]
    assert load(tmp_path / wild.hash).status == "diverged"


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"configs": []}, ValueError, r"^configs: got none; give at least one"),
        ({"configs": BASE}, TypeError, r"^configs: got one configuration; give a list"),
        ({"configs": {"epochs": 1}}, TypeError, r"^configs: got one configuration; give a list"),
        ({"configs": [{"epoch": 1}]}, ValueError, r"^epoch: no such field"),
        ({"table": "step"}, ValueError, r"^table: unknown value 'step'.*; did you mean 'steps'\?"),
        ({"jobs": 0}, ValueError, r"^jobs: got 0"),
        ({"threads": 0}, ValueError, r"^threads: got 0"),
        ({"configs": None}, TypeError, r"^configs: got None; give a list of configurations"),
        ({"configs": "grid"}, TypeError, r"^configs: got 'grid'; give a list of config"),
        ({"checkpoint_seconds": -1}, ValueError, r"^checkpoint_seconds: got -1"),
        ({"checkpoint_steps": 0}, ValueError, r"^checkpoint_steps: got 0"),
        ({"progress": 3}, TypeError, r"^progress: got 3; give True, False or a function"),
        ({"scheduler": 3}, ValueError, r"^scheduler: there is none at 3"),
    ],
)
def test_arguments_that_are_refused(arguments, kind, message):
    with pytest.raises(kind, match=message):
        sim.sweep(**{"configs": CONFIGS, **arguments})


def test_what_no_run_could_begin_with(tmp_path, monkeypatch):
    """It is told once, not run by run; what some runs cannot do is in their rows."""
    monkeypatch.delenv("CBLR_DATA", raising=False)
    missing = [config.replace(device="hpu") for config in CONFIGS]
    far = [TrainConfig(epochs=1, dataset="cifar10", seed=seed) for seed in range(2)]
    for configs, message in (
        (missing, r"^device: 'hpu' cannot be used here"),
        (far, r"^root: not given, and the environment variable CBLR_DATA is not set"),
        ([*missing, *far], r"^device: "),
    ):
        with pytest.raises(ValueError, match=message):
            sim.sweep(configs, jobs=1)
    with pytest.raises(ValueError, match=r"^root: got 'here', but gaussian needs no files"):
        sim.sweep(CONFIGS, jobs=1, root="here")
    found = sim.sweep([*missing, CONFIGS[0]], jobs=1)
    assert found.status.tolist() == ["failed"] * 4 + ["finished"]
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match=r"out: no run can be kept in"):
        sim.sweep(CONFIGS, jobs=1, out=tmp_path / "file")


def test_finished_runs_are_read_where_they_could_not_be_trained(tmp_path, monkeypatch):
    sim.sweep(CONFIGS, jobs=1, out=tmp_path)
    monkeypatch.setattr(sim.training.engine.checks, "check_device", lambda name: 1 / 0)
    assert len(sim.sweep(CONFIGS, jobs=1, out=tmp_path)) == 4


def test_somebody_may_watch_a_sweep():
    seen = []
    sim.sweep(CONFIGS, jobs=1, progress=lambda *told: seen.append(told))
    assert seen == [(done, 4, {}) for done in range(5)]


def test_sigterm_ends_a_sweep_as_ctrl_c_does():
    """Where it would end this process only, and leave the ones that train."""
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append("the caller's"))
    try:
        with pytest.raises(KeyboardInterrupt):
            sim.sweep(CONFIGS, jobs=1, progress=lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == ["the caller's"]


def test_a_worker_that_is_killed(tmp_path, monkeypatch):
    """For want of memory, say: one line, not a traceback, and the sweep can go on."""

    def killed(*args, **options):
        raise TerminatedWorkerError("A worker process managed by the executor was unexpectedly")
        yield

    monkeypatch.setattr(joblib.Parallel, "__call__", killed)
    with pytest.raises(ChildProcessError, match=r"jobs: a worker process was killed, perhaps for"):
        sim.sweep(CONFIGS, jobs=2, out=tmp_path)


# lanes


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


# torchrun

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
    from sim.training.engine.world import World

    config = TrainConfig.read(PARALLEL[4])
    with pytest.raises(ValueError, match=r"^batch_norm: batches of 13 go through 'bn1' in parts"):
        State([config.replace(batch_norm=None)], None, World(0, 2))
    with pytest.raises(ValueError, match=r"^batch_size: a batch of 2 cannot be shared by 3"):
        State([BASE], None, World(0, 3))


# TensorBoard


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
