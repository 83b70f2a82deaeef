"""Sweeps: one table, whoever trains: this process, others, a Dask cluster, or lanes."""

import os
import signal
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError

import sim
from sim.training import TrainConfig, grid, load
from sim.training.record.columns import TABLES

from .sweeps import BASE, CONFIGS, equal


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
