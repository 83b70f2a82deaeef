"""Files of finished runs: vouched for, nobody else's are touched, and one may only read them."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import sim
from sim.training import Unfinished, grid, load
from sim.training.engine.loop import CHECKPOINT
from sim.training.record import store as _store
from sim.training.record.columns import TABLES, columns

BASE = {"model_options": {"hidden": [4]}, "samples": 64, "epochs": 1, "batch_size": 32}


def config(**changes):
    return sim.TrainConfig.read({**BASE, **changes})


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        sim.train(config(seed=seed), out=out / f"{seed}")
    return out


def same(a, b):
    assert (a.config, a.status, a.reason, a.seconds) == (b.config, b.status, b.reason, b.seconds)
    assert (a.data, a.shape, a.classes, a.environment) == (
        b.data,
        b.shape,
        b.classes,
        b.environment,
    )
    assert all(torch.equal(value, b.weights[name]) for name, value in a.weights.items())
    for table in TABLES:
        pd.testing.assert_frame_equal(getattr(a, table), getattr(b, table))


def refusal(read):
    """The error of a read, if it is refused."""
    try:
        read()
    except ValueError as error:
        return error
    return None


FILES = ["run.json", "config.json", "weights.pt", *(f"{table}.parquet" for table in TABLES)]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit(kept, tmp_path, name):
    # Whatever bit of whatever file it is: refused, or (white space in JSON) the same run.
    whole = load(kept / "0")
    shutil.copytree(kept / "0", tmp_path / "run")
    path = tmp_path / "run" / name
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    places = generator.choice(len(content), min(40, len(content)), replace=False)
    refused = 0
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(changed)
        error = refusal(lambda: same(whole, load(tmp_path / "run")))
        if error is not None:
            assert str(error).startswith(f"out: {str(path)!r} is damaged")
            assert "\n" not in str(error)
            refused += 1
    assert refused == len(places) or name == "run.json"
    assert refused >= len(places) / 2


@pytest.mark.parametrize("name", [name for name in FILES if name != "run.json"])
def test_a_file_of_another_run(kept, tmp_path, name):
    shutil.copytree(kept / "0", tmp_path / "run")
    shutil.copy(kept / "1" / name, tmp_path / "run" / name)
    if (kept / "1" / name).read_bytes() == (kept / "0" / name).read_bytes():
        pytest.skip("the two are equal")  # an empty table
    with pytest.raises(ValueError, match=r"is damaged, and not by .* another run"):
        load(tmp_path / "run")
    with pytest.raises(ValueError, match=r"is damaged, and not by .* another run"):
        sim.train(config(seed=0), out=tmp_path / "run")


def test_a_file_that_is_missing(kept, tmp_path):
    shutil.copytree(kept / "0", tmp_path / "run")
    (tmp_path / "run" / "weights.pt").unlink()
    with pytest.raises(ValueError, match=r"weights\.pt' is damaged"):
        load(tmp_path / "run")


def test_a_record_from_before_there_were_sums(kept, tmp_path):
    shutil.copytree(kept / "0", tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    files = record.pop("files")
    del record["sha256"]
    assert set(files) == {name for name in FILES if name != "run.json"}
    path.write_text(json.dumps(record))
    same(load(kept / "0"), load(tmp_path / "run"))
    # A changed name of the sums is no such record.
    path.write_text(json.dumps({**record, "fires": files, "sha256": "0"}))
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path / "run")


def test_a_flipped_bit_in_a_checkpoint(tmp_path):
    path = tmp_path / CHECKPOINT
    value = {"weights": torch.arange(500.0), "done": 3}
    _store.write_tensors(path, value)
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    for place in generator.choice(len(content), 80, replace=False):
        changed = bytearray(content)
        changed[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(changed)
        error = refusal(lambda: _store.read_tensors(path))
        if error is not None:
            assert "damaged" in str(error)
            continue
        got = _store.read_tensors(path)  # padding
        assert got["done"] == 3
        assert torch.equal(got["weights"], value["weights"])


def test_checksums_are_written_whatever_the_user_has_switched_off(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        _store.write_tensors(tmp_path / CHECKPOINT, {"w": torch.ones(3)})
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(_store.read_tensors(tmp_path / CHECKPOINT)["w"], torch.ones(3))


def test_nobody_elses_files_are_removed(tmp_path):
    theirs = [
        *(".thesis.tmp", ".notes.2024.tmp", "a.tmp", ".config.json.bak", ".weights.pt.tmp"),
        *(".my.weights.pt.12.tmp", ".run.json.x.tmp", ".steps.csv.12.tmp", "checkpoint.pt.old"),
    ]
    ours = [
        ".weights.pt.123.tmp",
        ".steps.parquet.7.tmp",
        ".run.json.5.tmp",
        ".checkpoint.pt.9.tmp",
    ]
    for name in (*theirs, *ours):
        (tmp_path / name).write_text("precious")
    sim.train(BASE, out=tmp_path)
    there = os.listdir(tmp_path)
    assert [name for name in theirs if name not in there] == []
    assert [name for name in ours if name in there] == []


@pytest.mark.parametrize("out", ["", "  ", "a\0b", Path("a\0b")])
def test_no_folder(monkeypatch, tmp_path, out):
    monkeypatch.chdir(tmp_path)
    for function, first in ((sim.train, BASE), (sim.sweep, [BASE])):
        with pytest.raises(ValueError, match=r"^out: got .*; give a folder, '\.' for the one"):
            function(first, out=out)
    with pytest.raises(TypeError, match=r"^out: got 3; give a folder"):
        sim.train(BASE, out=3)
    assert os.listdir(tmp_path) == []


def test_finished_runs_need_no_lock(kept, monkeypatch):
    def never(*args):
        raise AssertionError("locked")

    monkeypatch.setattr(_store, "locked", never)
    same(sim.train(config(seed=0), out=kept / "0"), load(kept / "0"))


def test_finished_runs_while_another_process_is_there(kept):
    with _store.locked(kept / "0"):
        same(sim.train(config(seed=0), out=kept / "0"), load(kept / "0"))


READ_ONLY = """
import sys, sim
from sim.training import grid
configs = grid({base!r}, seed=range(2))
runs = sim.sweep(configs, out={out!r}, jobs=1)
steps = sim.sweep(configs, out={out!r}, jobs=1, table="steps")
one = sim.train(configs[0], out={out!r} + "/" + configs[0].hash)
print(runs.status.tolist(), len(steps), one.status)
"""


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv to lose the right to write")
def test_a_folder_that_one_may_only_read(tmp_path):
    out = tmp_path / "runs"
    configs = grid(BASE, seed=range(2))
    sim.sweep(configs, out=out, jobs=1)
    (out / configs[0].hash / CHECKPOINT).write_text("left by a process that was killed")
    for folder, _, names in list(os.walk(out))[::-1]:
        for name in names:
            os.chmod(os.path.join(folder, name), 0o444)
        os.chmod(folder, 0o555)
    rights = "-dac_override,-dac_read_search,-fowner"
    command = [sys.executable, "-c", READ_ONLY.format(base=BASE, out=str(out))]
    if os.geteuid() == 0:
        command = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        for folder, _, _ in os.walk(out):
            os.chmod(folder, 0o755)
    assert done.stdout.strip() == "['finished', 'finished'] 4 finished", done.stderr


RUNS = [
    *("hash", "status", "reason", "steps_taken", "epochs_taken", "train_loss", "train_accuracy"),
    *("test_loss", "test_accuracy", "best_test_accuracy", "seconds"),
]


def failing(tmp_path, count):
    """Configurations whose folders cannot be made."""
    configs = grid(BASE, seed=range(count))
    for each in configs:
        (tmp_path / each.hash).write_text("a file where the folder should be")
    return configs


def test_the_columns_of_a_sweep_whose_runs_all_failed(tmp_path):
    frame = sim.sweep(failing(tmp_path, 2), out=tmp_path, jobs=1)
    good = sim.sweep(grid(BASE, seed=range(1)), jobs=1)
    assert [*frame.columns] == ["seed", *RUNS]
    assert set(good.columns) == set(frame.columns)
    assert frame.status.tolist() == ["failed", "failed"]
    assert frame.steps_taken.tolist() == [0, 0]
    assert frame.test_accuracy.isna().all()
    assert [row["hash"] for row in frame.attrs["unfinished"]] == frame.hash.tolist()


@pytest.mark.parametrize("table", TABLES)
def test_other_tables_say_what_failed(tmp_path, table):
    configs = failing(tmp_path, 1)
    with pytest.warns(Unfinished, match=rf"1 of 1 runs did not finish, and '{table}'.*failed \(Fi"):
        frame = sim.sweep(configs, out=tmp_path, jobs=1, table=table)
    assert len(frame) == 0
    good = getattr(sim.train(BASE), table)
    assert [*frame.columns] == ["seed", *good.columns, "hash"]
    assert columns(table) == tuple(good.columns)
    (left,) = frame.attrs["unfinished"]
    assert left["hash"] == configs[0].hash
    assert left["status"] == "failed"


@pytest.mark.parametrize("table", ["runs", "steps"])
def test_some_runs_that_diverge(table):
    configs = grid({**BASE, "epochs": 5}, lr=[0.1, 1e30])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        frame = sim.sweep(configs, jobs=1, table=table)
    (left,) = frame.attrs["unfinished"]
    assert (left["hash"], left["status"]) == (configs[1].hash, "diverged")
    assert "was not finite at step" in left["reason"]
    assert sum(issubclass(each.category, Unfinished) for each in said) == (table != "runs")


def test_a_sweep_in_which_all_is_well_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = sim.sweep([BASE], jobs=1, table="epochs")
    assert frame.attrs["unfinished"] == []
