"""Runs in surroundings that nobody chose: other libraries' switches, other file systems, hosts."""

import contextlib
import errno
import fcntl
import itertools
import os
import shutil
import signal
import stat
import sys
import threading
import warnings
from pathlib import Path

import joblib
import pandas as pd
import pytest
import torch
from torch.utils.serialization import config as serialization

import sim
from sim.training import _sweep, grid, load
from sim.training.engine import workers as _workers
from sim.training.engine.signals import stoppable
from sim.training.record import store as _store
from sim.training.record.columns import TABLES

BASE = {"model_options": {"hidden": [4]}, "samples": 64, "epochs": 1, "batch_size": 32}
# Most units die at the first steps, and the momentum of their weights falls below 1e-38.
SMALL = {
    "model_options": {"hidden": [16]},
    "samples": 64,
    "batch_size": 64,
    "steps": 60,
    "lr": 30.0,
    "optimizer_options": {"momentum": 0.1},
}


def tables(run):
    return [getattr(run, table).drop(columns="seconds", errors="ignore") for table in TABLES]


def equal(a, b):
    whole = all(torch.equal(value, b.weights[name]) for name, value in a.weights.items())
    return whole and all(x.equals(y) for x, y in zip(tables(a), tables(b), strict=True))


@pytest.fixture
def flushed():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not take the smallest numbers for zero")
    yield
    torch.set_flush_denormal(False)


def test_the_smallest_numbers_count(flushed):
    # As after the import of a library that was built with -ffast-math.
    run = sim.train(SMALL)
    assert sys.float_info.min / 2 == 0, "the caller's setting is put back"
    torch.set_flush_denormal(False)
    alone = sim.train(SMALL)
    smallest = alone.layer_steps.stride[alone.layer_steps.stride > 0].min()
    assert smallest < torch.finfo(torch.float32).tiny, "the case has such numbers"
    assert equal(run, alone)


@contextlib.contextmanager
def mapped():
    """Files are mapped into memory when torch loads them."""
    serialization.load.mmap = True
    try:
        yield
    finally:
        serialization.load.mmap = False


@contextlib.contextmanager
def other_parquet():
    """A library for Parquet files that is not there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas deprecates it
        with pd.option_context("io.parquet.engine", "fastparquet"):
            yield


@pytest.mark.parametrize("setting", [mapped, other_parquet])
def test_switches_of_the_libraries_that_read_and_write(tmp_path, setting):
    alone = sim.train(BASE)
    with setting():
        run = sim.train(BASE, out=tmp_path / "a", checkpoint_steps=1)
        assert equal(run, alone)
        assert equal(load(tmp_path / "a"), alone)
    again = sim.train({**BASE, "seed": 1}, out=tmp_path / "b", checkpoint_steps=1, progress=None)
    with setting():
        shutil.copytree(tmp_path / "b", tmp_path / "c")
        assert equal(sim.train({**BASE, "seed": 1}, out=tmp_path / "c"), again)


def test_threads_that_save_leave_the_switch_of_checksums_alone(tmp_path, monkeypatch):
    first = threading.current_thread()
    inside, done, saved = threading.Event(), threading.Event(), torch.save

    def slow(value, file):
        # The second begins while the first is at it, if it can, and ends after it.
        if threading.current_thread() is first:
            second.start()
            inside.wait(0.3)
        else:
            inside.set()
            done.wait()
        saved(value, file)

    monkeypatch.setattr(torch, "save", slow)
    second = threading.Thread(target=_store.write_tensors, args=(tmp_path / "b", torch.ones(1)))
    # Of the process, as in older releases of torch; later each thread has its own.
    switch = [False]
    monkeypatch.setattr(torch.serialization, "get_crc32_options", lambda: switch[-1])
    monkeypatch.setattr(torch.serialization, "set_crc32_options", switch.append)
    _store.write_tensors(tmp_path / "a", torch.ones(1))
    done.set()
    second.join()
    assert switch == [False, True, False, True, False]


@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK", "EOPNOTSUPP", "EBADF"])
def test_a_file_system_without_locks(tmp_path, monkeypatch, code):
    def flock(descriptor, how):
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match=r"^out: the file system of .* has no locks .*; see to it"):
        run = sim.train(BASE, out=tmp_path / "run")
    assert equal(run, load(tmp_path / "run"))
    assert equal(run, sim.train(BASE))


def refusing_to_sync(monkeypatch, code, kind):
    synced = os.fsync

    def fsync(descriptor):
        if kind(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("kind", [stat.S_ISDIR, stat.S_ISREG])
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync(tmp_path, monkeypatch, code, kind):
    refusing_to_sync(monkeypatch, code, kind)
    assert equal(sim.train(BASE, out=tmp_path / "run"), load(tmp_path / "run"))


def test_a_disk_that_fails_to_sync(tmp_path, monkeypatch):
    refusing_to_sync(monkeypatch, errno.EIO, stat.S_ISREG)
    with pytest.raises(OSError, match=r"out: Input/output error, config\.json could not be"):
        sim.train(BASE, out=tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_folder_that_one_may_write_into_and_not_read(tmp_path, monkeypatch):
    opened = os.open

    def refuse(path, flags, *mode, **options):
        if flags == os.O_RDONLY and os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert sim.train(BASE, out=tmp_path / "run").status == "finished"


def test_the_folder_that_one_is_in_changes_meanwhile(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def leave(done, total, latest):
        os.chdir(tmp_path / "there")

    sim.train(BASE, out="run", checkpoint_steps=1, progress=leave)
    assert os.listdir(tmp_path / "there") == []
    assert os.listdir(tmp_path / "here") == ["run"]
    assert load(tmp_path / "here" / "run").status == "finished"


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run = sim.train(BASE, out="~/runs/first")
    assert run.folder == tmp_path / "home" / "runs" / "first"
    sim.sweep([BASE], out=Path("~/runs"), jobs=1)
    assert equal(load("~/runs/first"), run)
    assert os.listdir(tmp_path) == ["home"]
    with pytest.raises(ValueError, match=r"^out: got '~nobody-of-this-name/a', which stands for"):
        sim.train(BASE, out="~nobody-of-this-name/a")


def test_workers_in_other_folders_find_the_data(tmp_path, monkeypatch):
    roots = []

    def train(configs, options):
        roots.append(options["root"])
        return [sim.train(config) for config in configs]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_sweep, "check_machine", lambda *arguments: None)
    monkeypatch.setattr(_workers, "_train", train)
    sim.sweep([BASE], root="data", jobs=1)
    assert roots == [str(tmp_path / "data")]


def test_a_folder_that_is_removed_meanwhile(tmp_path):
    def remove(done, total, latest):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)

    # At the end everything is there; where a checkpoint was due, the error says what was not.
    assert sim.train(BASE, out=tmp_path / "run", progress=remove).status == "finished"
    assert load(tmp_path / "run").status == "finished"
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"out: .*, checkpoint\.pt could not be written"):
        sim.train(BASE, out=tmp_path / "run", progress=remove, checkpoint_steps=1)


@pytest.mark.parametrize("backend", ["threading", "multiprocessing", "sequential"])
def test_joblib_as_the_caller_has_set_it(backend):
    configs = grid(BASE, seed=range(2))
    alone = sim.sweep(configs, jobs=1).drop(columns="seconds")
    with joblib.parallel_config(backend=backend, n_jobs=2):
        found = sim.sweep(configs, jobs=1).drop(columns="seconds")
        assert found.equals(alone)
        if backend == "threading":  # the others start processes, which takes seconds
            assert sim.sweep(configs, jobs=2).drop(columns="seconds").equals(alone)


def test_a_backend_of_joblib_that_cannot():
    with (
        joblib.parallel_config(backend="multiprocessing"),
        _workers.workers(2, None) as (_, parallel),
    ):
        assert type(parallel(2)._backend).__name__ == "LokyBackend"


def test_a_grid_that_nobody_can_train():
    for values in (range(10**12), itertools.count(), itertools.repeat(1)):
        with pytest.raises(ValueError, match=r"^combinations: got 100001; give at most 100000$"):
            grid(BASE, seed=values)
    with pytest.raises(ValueError, match=r"^combinations: got 1000000; give at most 100000$"):
        grid(BASE, seed=range(1000), lr=[k / 1000 for k in range(1000)])


def test_signals_that_are_seen_to_already(monkeypatch):
    # Ctrl-C is ignored by what a shell runs in the background; a program that runs Python inside it
    # may have a handler that Python does not know and could not put back.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable(True):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert callable(signal.getsignal(signal.SIGTERM))
        known = signal.getsignal
        monkeypatch.setattr(
            signal, "getsignal", lambda n: None if n == signal.SIGTERM else known(n)
        )
        with stoppable(True):
            assert known(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("kind", ["closed", "gone"])
def test_progress_that_nobody_reads(monkeypatch, kind):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        if kind == "closed":
            stream.close()
        monkeypatch.setattr(sys, "stderr", stream)
        run = sim.train(BASE, progress=True)
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            stream.close()
    assert run.status == "finished"
