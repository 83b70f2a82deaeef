"""`cblr train`, `cblr sweep` and `cblr data` as a user meets them."""

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from paper_checks.cli.commands import app
from paper_checks.cli.configurations import grid_of, merged
from sim.training.record import store as _store

GRID = """
[base]
dataset = "gaussian"
dataset_options = {samples = 60, features = 5, classes = 3}
model_options = {hidden = [6]}
batch_size = 8
epochs = 3
[grid]
lr = [0.1, 0.2]
seed = [0, 1]
optimizer_options.momentum = [0.9]
"""
SMALL = [
    *("--dataset", "gaussian", "-s", "dataset_options.samples=40"),
    *("-s", "model_options.hidden=[4]", "-s", "batch_size=8"),
]


def cblr(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def refused(result):
    """Bad input: one line on standard error, status 2."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("cblr: ")
    return lines[0]


def test_train_from_options(tmp_path):
    result = cblr("train", *SMALL, "--epochs", 2, "--lr", 0.2, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "test_accuracy" in result.stdout
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["config"]["lr"]) == ("finished", 0.2)
    assert record["config"]["model_options"] == {"hidden": [4]}
    before = (tmp_path / "run" / "run.json").stat().st_mtime_ns
    again = cblr("train", *SMALL, "--epochs", 2, "--lr", 0.2, "--out", tmp_path / "run")
    assert again.stdout == result.stdout
    assert (tmp_path / "run" / "run.json").stat().st_mtime_ns == before
    other = cblr("train", *SMALL, "--epochs", 2, "--lr", 0.3, "--out", tmp_path / "run")
    assert "which differs in lr" in refused(other)


def test_train_from_a_file_with_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text("steps = 3\nbatch_size = 4\n[dataset_options]\nsamples = 20\n")
    result = cblr("train", "c.toml", "--dataset", "gaussian", "--seed", 3, "-s", "lr=0.5", "-q")
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "runs").iterdir()
    config = json.loads((folder / "config.json").read_text())
    assert (config["steps"], config["batch_size"], config["seed"], config["lr"]) == (3, 4, 3, 0.5)
    assert f"Run: runs/{folder.name}" in result.stdout
    (tmp_path / "c.json").write_text(json.dumps({"steps": 3}))
    result = cblr("train", "c.json", *SMALL, "--epochs", 1, "--out", tmp_path / "x", "-q")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "x" / "config.json").read_text())["steps"] is None


def test_a_run_that_diverges_could_not_be_completed(tmp_path):
    wild = ["--epochs", 2, "--lr", 1e30, "--set", "loss=power", "--out", tmp_path, "-q"]
    result = cblr("train", *SMALL, *wild)
    assert result.exit_code == 1
    assert "cblr: diverged: the loss was not finite at step" in result.stderr
    assert (tmp_path / "run.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((), ("--epochs", "not given")),
        (("--epochs", "0"), ("epochs: got 0",)),
        (("--epochs", "1", "--model", "resnet"), ("model: unknown", "did you mean 'resnet18'?")),
        (("--epochs", "1", "-s", "batchsize=3"), ("batchsize: no such", "'batch_size'?")),
        (("--epochs", "1", "-s", "batch_size"), ("--set: batch_size: give FIELD=VALUE",)),
        (("--epochs", "1", "-s", "lr.x=3", "-s", "lr=3", "-s", "lr.x=1"), ("--set: lr.x=1: lr",)),
        (("--epochs", "1", "--device", "cuda:77"), ("device: 'cuda:77' cannot be used here",)),
        (("--epochs", "1", "--batch-size", "9999"), ("batch_size: got 9999",)),
        (("--epochs", "1", "--dataset", "cifar10", "--data", "no/such"), ("--data: ", "no/such")),
        (("--epochs", "1", "-s", ".lr=3"), ("--set: .lr=3: give FIELD=VALUE",)),
        (("--epochs", "1", "-s", "measure=none"), ("measure: got None",)),
        (("--epochs", "1", "-s", "model_options.hidden=8"), ("model_options.hidden: got 8",)),
        (("--epochs", "1", "--data", "here"), ("--data: got 'here', but digits needs no files",)),
        (("none.toml",), ("none.toml: No such file",)),
        (("none.yaml",), ("file: none.yaml: give a .toml or a .json file",)),
    ],
)
def test_train_refuses(arguments, parts, tmp_path):
    line = refused(cblr("train", *arguments, "--out", tmp_path / "run"))
    assert all(part in line for part in parts), line


def test_files_that_cannot_be_read(tmp_path):
    texts = {"a.toml": b"x = ", "a.json": b"{", "b.json": b"[1]", "b.toml": b"\xff\xff"}
    texts["c.toml"] = GRID.encode()
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
        line = refused(cblr("train", tmp_path / name, "--epochs", 1))
        assert line.startswith("cblr: file: ")
        assert name in line


def test_a_path_that_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    line = refused(cblr("train", *SMALL, "--epochs", 1, "--out", tmp_path / "file"))
    assert "out: no run can be kept in" in line


def test_the_length_that_is_said_last(tmp_path):
    assert merged({"steps": 3}, ["epochs=2"], {}) == {"epochs": 2}
    assert merged({"epochs": 3}, ["epochs=2"], {"steps": 4}) == {"steps": 4}
    assert merged({"epochs": 3}, ["lr=2"], {}) == {"epochs": 3, "lr": 2}
    assert "give either" in refused(cblr("train", "--epochs", 1, "--steps", 3, "-q"))


def test_a_full_disk_is_a_run_that_could_not_be_completed(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    result = cblr("train", *SMALL, "--epochs", 1, "--out", tmp_path, "-q")
    assert result.exit_code == 1
    assert "out: the disk is full, " in result.stderr
    assert "start the same run again to go on" in result.stderr


def test_sweep(tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    options = ["--out", tmp_path / "runs", "-j", 1, "--csv", tmp_path / "t.csv", "-q"]
    result = cblr("sweep", tmp_path / "grid.toml", *options, "--parquet", tmp_path / "t.parquet")
    assert result.exit_code == 0, result.output
    frame = pd.read_csv(tmp_path / "t.csv")
    pairs = [[0.1, 0], [0.1, 1], [0.2, 0], [0.2, 1]]
    assert sorted(frame[["lr", "seed"]].values.tolist()) == pairs
    assert pd.read_parquet(tmp_path / "t.parquet").hash.tolist() == frame.hash.tolist()
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == sorted(frame.hash)
    steps = cblr("sweep", tmp_path / "grid.toml", *options[:4], "--table", "steps", "-q")
    assert "further rows" in steps.stdout
    lanes = cblr(
        "sweep", tmp_path / "grid.toml", "--out", tmp_path / "lanes", "--vectorise", "-j", 1, "-q"
    )
    assert lanes.exit_code == 0, lanes.output


def test_sweep_with_a_run_that_fails(tmp_path):
    (tmp_path / "grid.toml").write_text(GRID.replace("lr = [0.1, 0.2]", "samples = [20, 600]"))
    result = cblr("sweep", tmp_path / "grid.toml", "--out", tmp_path / "runs", "-j", 1, "-q")
    assert result.exit_code == 1
    assert result.stderr.count("failed: ValueError: samples: got 600") == 2


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[bas]\nepochs = 1", "file: bas: a grid file has the tables [base] and [grid] only"),
        ("[base]\nepochs = 1", "file: [grid]: give lists of values"),
        ("[base]\nepochs = 1\n[grid]\nlr = 3", "lr: got 3; give a list of values"),
        ("[base]\nepochs = 1\n[grid]\nlrr = [3]", "lrr: no such field"),
        ("grid = [1]", "file: [grid]: got [1]; give a table of fields"),
        ("base = 3\n[grid]\nlr = [3]", "file: [base]: got 3; give a table of fields"),
    ],
)
def test_sweep_refuses(text, part, tmp_path):
    (tmp_path / "grid.toml").write_text(text)
    assert part in refused(cblr("sweep", tmp_path / "grid.toml", "--out", tmp_path / "runs"))


def test_what_a_sweep_would_ignore_or_find_out_too_late(tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    command = ["sweep", tmp_path / "grid.toml", "--out", tmp_path / "runs", "-j", 1, "-q"]
    assert "--set: lr=3: the grid varies lr" in refused(cblr(*command, "-s", "lr=3"))
    assert "the grid varies optimizer_options.momentum" in refused(
        cblr(*command, "-s", "optimizer_options.momentum=0")
    )
    for option in ("--csv", "--parquet"):
        line = refused(cblr(*command, option, tmp_path / "none" / "t"))
        assert line.endswith("give a file in a folder that is there")
        assert option in refused(cblr(*command, option, tmp_path))
    one = tmp_path / "t"
    assert "--parquet" in refused(cblr(*command, "--csv", one, "--parquet", one))
    assert not (tmp_path / "runs").exists()


def test_a_sweep_that_cannot_begin_is_refused_in_one_line(tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    command = ["sweep", tmp_path / "grid.toml", "-j", 1]
    for more, part in (
        (["-s", "device=hpu", "--out", tmp_path / "runs"], "device: 'hpu' cannot be used here"),
        (["--data", "here", "--out", tmp_path / "runs"], "--data: got 'here', but gaussian needs"),
        (["--checkpoint", -1, "--out", tmp_path / "runs"], "checkpoint_seconds: got -1"),
        (["--out", tmp_path / "grid.toml"], "out: no run can be kept in"),
    ):
        assert part in refused(cblr(*command, *more))


def test_later_words_go_first():
    found = merged({"lr": 1, "steps": 3}, ["lr=2", "optimizer=lars"], {"lr": 3, "epochs": 4})
    assert found == {"lr": 3, "optimizer": "lars", "epochs": 4}
    configs = grid_of({"base": {"epochs": 1}, "grid": {"discard": {"share": [0.1]}}}, ["seed=4"])
    assert (configs[0].seed, configs[0].discard.share) == (4, 0.1)


def test_the_grid_of_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", text, flags=re.S)
    configs = grid_of(tomllib.loads(block), [])
    assert len({config.hash for config in configs}) == 3 * 2 * 3
    assert {config.optimizer_options["momentum"] for config in configs} == {0, 0.9}


def test_no_help_has_brackets():
    """They are marks of a style there, and vanish."""
    commands = typer.main.get_command(app).commands
    for name, command in commands.items():
        for parameter in command.params:
            assert "[" not in (getattr(parameter, "help", None) or ""), (name, parameter.name)


def test_data(tmp_path):
    assert cblr("data", "digits").stdout.startswith("digits: 1,437 samples")
    assert "--download: digits: it is for cifar10" in refused(cblr("data", "digits", "--download"))
    assert "--download" in refused(cblr("data", "cifar10", "--download"))


def start(folder, grid, jobs, output=subprocess.PIPE):
    command = [sys.executable, "-m", "paper_checks.cli", "sweep", grid, "--out", folder]
    return subprocess.Popen(
        [*command, "-j", str(jobs), "--checkpoint", "0", "-q"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=output,
        stderr=output,
        text=True,
        start_new_session=True,
        # Where the tests run in a shell's background, SIGINT is ignored and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize(
    ("number", "jobs"),
    [
        (signal.SIGINT, 1),
        (signal.SIGTERM, 1),
        pytest.param(signal.SIGTERM, 2, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_sweep_leaves_what_can_go_on(number, jobs, tmp_path):
    long = GRID.replace("epochs = 3", "epochs = 4000")
    (tmp_path / "grid.toml").write_text(long)
    process = start(tmp_path / "runs", str(tmp_path / "grid.toml"), jobs)
    # However long that takes on a loaded machine: the suite's own limit ends a test that hangs.
    while len(list((tmp_path / "runs").glob("*/checkpoint.pt"))) < jobs:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1].endswith("start the same sweep again to go on")
    assert "Traceback" not in errors
    # Nobody trains any more.
    for folder in (tmp_path / "runs").iterdir():
        while True:
            try:
                with _store.locked(folder):
                    break
            except BlockingIOError:
                time.sleep(0.1)
    assert list((tmp_path / "runs").glob("*/checkpoint.pt"))


def test_terminated_before_there_is_a_run(tmp_path):
    """While the packages are imported or the data are read: the same line and the same status."""
    command = [sys.executable, "-m", "paper_checks.cli", "train", "--epochs", "9999", "-q"]
    process = subprocess.Popen(
        [*command, "--out", tmp_path / "run"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert errors.startswith(b"cblr: interrupted")
    assert len(errors.splitlines()) == 1


def test_ctrl_c_is_one_line_wherever_it_comes(tmp_path, monkeypatch):
    def pressed(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("sim.training.engine.samples.load", pressed)
    (tmp_path / "grid.toml").write_text(GRID)
    for command, again in (
        (["train", "--epochs", 1], "start it again with the same folder to go on"),
        (["sweep", tmp_path / "grid.toml", "-j", 1], "start the same sweep again to go on"),
    ):
        result = cblr(*command, "--out", tmp_path / "runs", "-q")
        assert result.exit_code == 130
        assert result.stderr.startswith("cblr: interrupted; ")
        assert result.stderr.rstrip().endswith(again)


def state_of(folder):
    """What has been written so far, and when."""
    try:
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    except FileNotFoundError:  # a file was put in its place meanwhile
        return None


def killed(folder, grid, generator):
    """Start the sweep and kill all its processes; whether it was killed before its end.

    One time in four at any moment of the start, else at one after it has come to write.
    """
    process = start(folder, grid, 2, subprocess.DEVNULL)
    try:
        before, deadline = state_of(folder), time.monotonic() + 120
        if generator.random() < 0.25:
            deadline = time.monotonic() + generator.uniform(0, 5)
        while process.poll() is None and time.monotonic() < deadline:
            if state_of(folder) != before:
                break
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 0.7))
        running = process.poll() is None
        assert running or process.returncode == 0
        return running
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_9_of_real_processes_twenty_times(tmp_path):
    """The command with two worker processes, all of them killed, at random moments."""
    grid = str(tmp_path / "grid.toml")
    (tmp_path / "grid.toml").write_text(GRID.replace("epochs = 3", "epochs = 25"))
    assert start(tmp_path / "whole", grid, 2, subprocess.DEVNULL).wait(timeout=120) == 0
    generator, hits, number, begun = random.Random(0), 0, 0, 0
    while hits < 20:
        folder = tmp_path / f"killed{number}"
        if killed(folder, grid, generator):
            hits += 1
            begun += bool(list(folder.glob("*/checkpoint.pt")))
        else:  # it came to its end: another sweep, for the kills that are left
            number += 1
    # Most of the kills hit a run that had begun and had not come to its end.
    assert begun >= 8
    last = start(tmp_path / f"killed{number}", grid, 2, subprocess.DEVNULL)
    assert last.wait(timeout=120) == 0
    for folder in tmp_path.glob("killed*"):
        expected_files = {
            p.relative_to(tmp_path / "whole")
            for p in (tmp_path / "whole").rglob("*.*")
            if p.is_file()
        }
        assert {p.relative_to(folder) for p in folder.rglob("*.*") if p.is_file()} == expected_files
        for path in (tmp_path / "whole").glob("*/*.parquet"):
            found = pd.read_parquet(folder / path.relative_to(tmp_path / "whole"))
            expected = pd.read_parquet(path)
            pd.testing.assert_frame_equal(
                found.drop(columns="seconds", errors="ignore"),
                expected.drop(columns="seconds", errors="ignore"),
                check_exact=True,
            )
