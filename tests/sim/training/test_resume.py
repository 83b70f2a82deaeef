"""A run that is killed, stopped, cut short by a full disk or by its loss."""

import errno
import fcntl
import json
import multiprocessing
import os
import random
import shutil
import signal
import time

import pandas as pd
import pytest
import torch

import sim
from sim.training import Interrupted, TrainConfig, grid, load
from sim.training.record import store as _store
from sim.training.record.columns import TABLES

CONFIG = TrainConfig(
    dataset="gaussian",
    dataset_options={"samples": 60, "features": 6, "classes": 3},
    model_options={"hidden": [8], "dropout": 0.3},
    batch_size=8,
    epochs=3,
    optimizer_options={"momentum": 0.9},
    decay={"kind": "cosine"},
    discard={"kind": "random", "share": 0.2},
    measure={"decrease_every": 2, "held_out": 9, "curvature_every": 5, "layers_every": 2},
)
RESNET = {
    "model": "resnet18", "model_options": {"width": 1 / 32}, "samples": 24, "epochs": 2,
    "batch_size": 8, "micro_batch": 5, "batch_norm": "ghost",
}  # fmt: skip


def same(a, b):
    assert (a.status, a.reason) == (b.status, b.reason)
    for table in TABLES:
        left, right = (
            getattr(run, table).drop(columns="seconds", errors="ignore") for run in (a, b)
        )
        pd.testing.assert_frame_equal(left, right, check_exact=True)
    assert set(a.weights) == set(b.weights)
    for name, value in b.weights.items():
        assert a.weights[name].numpy().tobytes() == value.numpy().tobytes()


class Stop(Exception):
    pass


def stopping_after(steps):
    """A watcher that breaks a run off without any warning."""
    left = iter(range(steps, 0, -1))

    def watch(done, total, latest):
        if next(left) == 1:
            raise Stop

    return watch


def pieces(config, folder, length, **options):
    """A run in pieces of so many steps, each from the last checkpoint."""
    for _ in range(200):
        try:
            return sim.train(config, out=folder, progress=stopping_after(length), **options)
        except Stop:
            continue
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        CONFIG.replace(optimizer="cblr", lr=1e-3, **{"optimizer_options.refresh_interval": 3}),
        CONFIG.replace(optimizer="adam", lr=1e-2, optimizer_options={}),
        CONFIG.replace(optimizer="lamb", lr=1e-2),
        CONFIG.replace(**{"discard_gradients.share": 0.2, "discard_gradients.kind": "random"}),
        TrainConfig.read(RESNET),
        TrainConfig.read(
            {**RESNET, "model": "lenet", "batch_norm": None, "model_options": {}}
        ).replace(augment={"crop": 2}, optimizer_options={"momentum": 0.9}),
    ],
    ids=["sgd", "cblr", "adam", "lamb", "entries", "resnet", "augmented"],
)
@pytest.mark.parametrize("every", [1, 4])
def test_resumed_is_uninterrupted_bit_for_bit(config, every, tmp_path):
    whole = sim.train(config)
    found = pieces(config, tmp_path, 5, checkpoint_steps=every)
    same(found, whole)
    same(load(tmp_path), whole)


def test_a_finished_run_is_not_run_again(tmp_path):
    first = sim.train(CONFIG, out=tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    watched = []
    again = sim.train(CONFIG, out=tmp_path, progress=lambda *a: watched.append(a))
    assert watched == []
    same(first, again)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert before == after
    assert again.folder == tmp_path
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_folder_of_another_configuration(tmp_path):
    sim.train(CONFIG, out=tmp_path / "finished")
    with pytest.raises(Stop):
        sim.train(CONFIG, out=tmp_path / "begun", checkpoint_steps=1, progress=stopping_after(3))
    other = CONFIG.replace(lr=0.5, **{"measure.held_out": 3})
    for name in ("finished", "begun"):
        with pytest.raises(ValueError, match=r"^out: .* differs in lr, measure.held_out; give"):
            sim.train(other, out=tmp_path / name)


def test_a_finished_run_of_another_version(tmp_path):
    """Its results are not passed off as those of this one; to read it is another matter."""
    sim.train(CONFIG, out=tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    del record["files"], record["sha256"]  # that version kept no sums
    (tmp_path / "run.json").write_text(json.dumps({**record, "hash": "0123456789abcdef"}))
    with pytest.raises(ValueError, match=r"^out: .* holds a run that another version of cblr made"):
        sim.train(CONFIG, out=tmp_path)
    assert load(tmp_path).status == "finished"


def test_a_checkpoint_of_a_finished_run_is_removed(tmp_path):
    """The process was killed after the last file of the results, and before it could."""
    run = sim.train(CONFIG, out=tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    assert sim.train(CONFIG, out=tmp_path).steps.equals(run.steps)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_checkpoint_of_other_data(tmp_path):
    with pytest.raises(Stop):
        sim.train(CONFIG, out=tmp_path, checkpoint_steps=1, progress=stopping_after(3))
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save({**saved, "data": "0" * 64}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"^out: .* began with other data of gaussian; give the"):
        sim.train(CONFIG, out=tmp_path)


def test_a_checkpoint_of_another_version(tmp_path):
    with pytest.raises(Stop):
        sim.train(CONFIG, out=tmp_path, checkpoint_steps=1, progress=stopping_after(3))
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save({**saved, "version": 1}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"^out: .* a checkpoint that another version of cblr"):
        sim.train(CONFIG, out=tmp_path)


def test_ctrl_c_leaves_a_checkpoint(tmp_path):
    whole = sim.train(CONFIG)
    for number in (signal.SIGINT, signal.SIGTERM):
        folder = tmp_path / str(number)
        # Not that of the tests' own process, which may be one that ignores it.
        handler = signal.default_int_handler
        before = signal.signal(number, handler)

        def interrupt(done, total, latest, number=number):
            if done == 7:
                os.kill(os.getpid(), number)

        with pytest.raises(Interrupted, match=r"^interrupted after \d+ steps; start it again"):
            sim.train(CONFIG, out=folder, progress=interrupt)
        assert signal.signal(number, before) is handler
        assert torch.load(folder / "checkpoint.pt", weights_only=True)["done"] in (7, 8)
        same(sim.train(CONFIG, out=folder), whole)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    # The cube of a loss overflows soon at this rate.
    wild = CONFIG.replace(lr=1e30, loss="power", loss_options={"power": 3})
    run = sim.train(wild, out=tmp_path)
    assert run.status == "diverged"
    assert run.reason.startswith("the loss was not finite at step ")
    assert not pd.notna(run.steps.loss.iloc[-1]) or run.steps.loss.iloc[-1] == float("inf")
    assert run.steps.loss.iloc[:-1].notna().all()
    assert run.reason.endswith(f" {run.steps.step.iloc[-1]}")
    same(load(tmp_path), run)
    same(sim.train(wild, out=tmp_path), run)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "diverged"


@pytest.mark.parametrize("optimizer", ["sgd", "cblr"])
def test_a_run_that_diverges_in_pieces(optimizer, tmp_path):
    wild = CONFIG.replace(lr=1e30, optimizer=optimizer, optimizer_options={}, discard=None)
    same(pieces(wild, tmp_path, 2, checkpoint_steps=1), sim.train(wild))


def test_weights_that_overflow_at_the_last_step():
    config = TrainConfig(steps=1, samples=8, batch_size=8, lr=1e38, loss="power")
    run = sim.train(config.replace(**{"loss_options.power": 9}))
    assert (run.status, len(run.steps)) == ("diverged", 1)
    assert run.reason == "the weights were not finite after step 0"


def test_a_full_disk(tmp_path, monkeypatch):
    """Whatever write fails, what was there before is whole, and the run can go on."""
    whole = sim.train(CONFIG)
    fsync, failures = os.fsync, []
    generator = random.Random(0)

    def full(descriptor):
        if generator.random() < 0.3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    for _ in range(100):
        try:
            found = sim.train(CONFIG, out=tmp_path, checkpoint_steps=4)
            break
        except OSError as error:
            failures.append(error)
            left = list(tmp_path.glob(".*.tmp"))
            assert left == []
    assert {error.errno for error in failures} == {errno.ENOSPC}
    assert all("out: the disk is full, " in str(error) for error in failures)
    assert all("start the same run again" in str(error) for error in failures)
    assert len(failures) > 3
    same(found, whole)
    monkeypatch.undo()
    same(load(tmp_path), whole)


def test_a_file_is_whole_or_the_old_one(tmp_path):
    path = tmp_path / "file"
    _store.write(path, lambda file: file.write(b"old"))

    def broken(file):
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _store.write(path, broken)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_comes_to_its_place_whole_and_at_once(tmp_path, monkeypatch):
    path, done = tmp_path / "file", []
    path.write_bytes(b"old")
    replace, fsync = os.replace, os.fsync

    def replacing(source, target):
        done.append(("replace", source.read_bytes(), path.read_bytes()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", replacing)
    monkeypatch.setattr(os, "fsync", lambda d: (done.append("fsync"), fsync(d)))
    _store.write(path, lambda file: file.write(b"new"))
    # The content is on the disk before it has the name, and then the name is.
    assert done == ["fsync", ("replace", b"new", b"old"), "fsync"]
    assert path.read_bytes() == b"new"


def test_one_process_at_a_time(tmp_path):
    with (
        _store.locked(tmp_path),
        pytest.raises(BlockingIOError, match=r"^out: another process trains in"),
    ):
        sim.train(CONFIG, out=tmp_path)


def test_the_lock_is_that_of_the_folder_that_is_there(tmp_path, monkeypatch):
    """Whoever waited for a lock whose folder was removed meanwhile holds nothing."""
    folder = tmp_path / "run"
    flock, removed = fcntl.flock, []

    def late(descriptor, flags):
        flock(descriptor, flags)
        if not removed:
            removed.append(shutil.rmtree(folder))

    monkeypatch.setattr(fcntl, "flock", late)
    with _store.locked(folder):
        monkeypatch.undo()
        assert (folder / ".lock").exists()
        with (
            pytest.raises(BlockingIOError, match=r"^out: another process trains in"),
            _store.locked(folder),
        ):
            pass
    assert removed == [None]


def test_a_folder_in_which_nothing_was_kept_is_not_left(tmp_path):
    with pytest.raises(ValueError, match=r"^samples: got 61"):
        sim.train(CONFIG.replace(samples=61), out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match=r"^samples: got 61"):
        sim.train(CONFIG.replace(samples=61), out=tmp_path / "mine")
    assert (tmp_path / "mine").is_dir()


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError, match=r"out: no run can be kept in .* give a folder that can"):
            sim.train(CONFIG, out=out)


def test_a_write_that_fails_says_what_was_kept(tmp_path, monkeypatch):
    """Not every disk says that it is full: a limit on the size of files has a number of its own."""
    monkeypatch.setattr(
        os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EFBIG, "File too large"))
    )
    with pytest.raises(OSError, match=r"out: File too large, config.json could not be") as caught:
        sim.train(CONFIG, out=tmp_path)
    assert caught.value.errno == errno.EFBIG
    assert "start the same run again to go on" in str(caught.value)


@pytest.mark.parametrize("name", ["run.json", "steps.parquet", "weights.pt"])
def test_a_finished_run_of_which_a_file_is_damaged(name, tmp_path):
    sim.train(CONFIG, out=tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    for reads in (load, lambda folder: sim.train(CONFIG, out=folder)):
        with pytest.raises(ValueError, match=rf"^out: '.*{name}' is damaged, and not by a run th"):
            reads(tmp_path)


def test_a_checkpoint_that_is_damaged(tmp_path):
    with pytest.raises(Stop):
        sim.train(CONFIG, out=tmp_path, checkpoint_steps=1, progress=stopping_after(3))
    (tmp_path / "checkpoint.pt").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"^out: '.*checkpoint.pt' is damaged.*to start anew"):
        sim.train(CONFIG, out=tmp_path)


def test_what_a_killed_write_left_is_swept_away(tmp_path):
    (tmp_path / ".steps.parquet.123.tmp").write_bytes(b"half")
    sim.train(CONFIG, out=tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^folder: .* holds no run that has come to its"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint_steps": 0}, r"^checkpoint_steps: got 0"),
        ({"checkpoint_seconds": -1}, r"^checkpoint_seconds: got -1"),
    ],
)
def test_arguments_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sim.train(CONFIG, **options)


def test_a_device_that_is_not_there():
    missing = "meta" if torch.cuda.is_available() else "cuda"
    with pytest.raises(ValueError, match=rf"^device: '{missing}' cannot be used here .*: cpu"):
        sim.train(CONFIG.replace(device=missing))


def test_devices_whose_absence_is_told_otherwise():
    for name in ("hpu", "xla"):
        with pytest.raises(ValueError, match=rf"^device: '{name}' cannot be .* has: cpu") as caught:
            sim.train(CONFIG.replace(device=name))
        assert len(str(caught.value)) < 250


@pytest.mark.parametrize("options", [{"hidden": [10**7, 10**8]}, {"hidden": [4]}])
def test_what_does_not_fit_into_memory(options, tmp_path):
    # Beyond what an address can reach, so that no system promises it.
    samples = 60 if options["hidden"][0] > 4 else 10**15
    config = CONFIG.replace(model_options=options, **{"dataset_options.samples": samples})
    with pytest.raises(MemoryError, match=r"^out of memory on cpu \(.*give a smaller micro_batch"):
        sim.train(config, out=tmp_path / "run")
    (row,) = sim.sweep([config], jobs=1).itertuples()
    assert (row.status, row.reason[:28]) == ("failed", "MemoryError: out of memory o")


def test_a_watcher_that_cannot_be_called():
    with pytest.raises(TypeError, match=r"^progress: got 3; give True, False or a function"):
        sim.train(CONFIG, progress=3)


def test_a_model_for_other_inputs():
    with pytest.raises(
        ValueError, match=r"^model: 'lenet' cannot take the inputs of gaussian; in_s"
    ):
        sim.train(CONFIG.replace(model="lenet", model_options={}))


def test_more_samples_than_there_are():
    with pytest.raises(ValueError, match=r"^samples: got 61, but gaussian has 60 training samples"):
        sim.train(CONFIG.replace(samples=61))


# kill -9

SWEEP = grid(CONFIG.replace(epochs=2), lr=[0.05, 0.1], seed=range(2))


def _sweep(folder):
    torch.set_num_threads(1)
    sim.sweep(SWEEP, out=folder, jobs=1, checkpoint_steps=2)


def test_kill_9_at_twenty_random_moments_of_a_sweep(tmp_path):
    """Forked, so that each start costs nothing; the kills go on until twenty have hit."""
    expected = {table: sim.sweep(SWEEP, jobs=1, table=table) for table in ("runs", *TABLES)}
    context = multiprocessing.get_context("fork")
    began = time.monotonic()
    sim.sweep(SWEEP, out=tmp_path / "timed", jobs=1, checkpoint_steps=2)
    length = time.monotonic() - began
    generator = random.Random(1)
    hits = broken = 0
    folder = tmp_path / "killed"
    while hits < 20:
        process = context.Process(target=_sweep, args=(folder,))
        process.start()
        process.join(generator.uniform(0, length / 4))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            hits += 1
        else:  # it came to its end: another sweep, for the kills that are left
            assert process.exitcode == 0
            folder = tmp_path / f"killed{hits}"
        # Whatever is there under its own name can be read as a whole.
        for path in folder.rglob("*"):
            if path.suffix == ".parquet":
                pd.read_parquet(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".pt":
                broken += not isinstance(torch.load(path, weights_only=True), dict)
    assert broken == 0
    for killed in tmp_path.glob("killed*"):
        for table, frame in expected.items():
            found = sim.sweep(SWEEP, out=killed, jobs=1, table=table)
            pairs = (each.drop(columns="seconds", errors="ignore") for each in (found, frame))
            pd.testing.assert_frame_equal(*pairs, check_exact=True)
