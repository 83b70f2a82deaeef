"""The command in surroundings that nobody chose: hosts, folders, full disks, other people's rc."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import pytest

import sim.data
from paper_checks import drawing
from paper_checks.cli import ending
from paper_checks.cli.streams import lenient
from paper_checks.running import runner

from .test_streams import TRAIN, cblr, run


def test_a_tilde_that_no_shell_has_seen_to(tmp_path, monkeypatch):
    # bash leaves it in --out=~/runs
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    done = run(*TRAIN, "--out=~/run", "-q")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "home" / "run" / "run.json").exists()
    assert os.listdir(tmp_path) == ["home"]
    done = run(*TRAIN, "--out=~nobody-of-this-name/run")
    assert done.exit_code == 2
    assert done.stderr.startswith("cblr: --out: '~nobody-of-this-name/run': ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "text", ["{[]}", "{{}}", "[" * 300, "(" * 20000, "9**99", "...", "b'x'", "1j"]
)
def test_a_value_that_is_none(text):
    done = run("train", "--epochs", 1, "--set", f"lr={text}")
    assert done.exit_code == 2
    assert done.stderr.startswith("cblr: lr: got ")
    assert done.stderr.rstrip().endswith("give a number at least 0 and finite")


def test_files_in_utf_16(tmp_path):
    # As PowerShell writes what is sent to a file.
    for encoding in ("utf-16", "utf-16-be"):
        mark = "\ufeff" if encoding == "utf-16-be" else ""
        (tmp_path / "a.toml").write_bytes(f"{mark}epochs = 0\r\n# γ\r\n".encode(encoding))
        done = run("train", tmp_path / "a.toml")
        assert done.stderr.startswith("cblr: epochs: got 0; give a whole number"), encoding
    (tmp_path / "a.toml").write_bytes("epochs = 0 # für\n".encode("latin-1"))
    done = run("train", tmp_path / "a.toml")
    assert done.exit_code == 2
    assert done.stderr.endswith("a.toml: cannot be read: save it as UTF-8\n")


def test_a_slow_reader_of_a_pipe_that_does_not_wait(tmp_path):
    # As the programs of a build server set it, or of an editor: 64 KiB, and then an error.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    words = [sys.executable, "-c", SPEAK]
    process = subprocess.Popen(words, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    time.sleep(1.0)  # until the pipe is full
    chunks = []
    while chunk := os.read(reading, 4096):
        chunks.append(chunk)
    os.close(reading)
    assert process.wait(60) == 0, process.stderr.read()
    process.stderr.close()
    assert b"".join(chunks) == b"".join(b"%06d\n" % k for k in range(57142))


SPEAK = """
from paper_checks.cli.streams import lenient
with lenient() as (output, _):
    for k in range(57142):
        print(f"{k:06d}")
    output.flush()
    raise SystemExit(output.error is not None)
"""


def test_a_pipe_is_left_as_it_was(monkeypatch):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(writing, "w") as stream, open(reading):
        monkeypatch.setattr(sys, "stdout", stream)
        with lenient() as (output, _):
            assert os.get_blocking(writing)
            # Somebody who shares it changes it meanwhile.
            os.set_blocking(writing, False)
            output._lost(BlockingIOError(errno.EAGAIN, "write could not complete"))
            assert os.get_blocking(writing)
            assert output.error is None
        assert not os.get_blocking(writing)
        monkeypatch.undo()


NETWORK = """
import os, torch
os.chdir("/")
def NET(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""
PYTHONS = ("calendar", "profile", "cProfile", "statistics", "numbers", "html", "secrets", "code")


def test_files_of_the_reader_that_are_called_as_pythons(tmp_path):
    for name in (*PYTHONS, "report", "utils", "models"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('{name} of the reader')")
    (tmp_path / "mynet.py").write_text(NETWORK)
    done = cblr(
        *("curvature", "mynet:NET", "--samples", "8", "--out", "page", "--csv", "a.csv"),
        cwd=tmp_path,
        environment={"PYTHONSAFEPATH": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "page" / "index.html").exists()
    assert (tmp_path / "a.csv").exists()


def test_a_matplotlibrc_of_the_reader(tmp_path):
    def chart():
        with drawing.style("a"):
            figure = drawing.figure()
            axes = figure.subplots()
            axes.plot([1, 2], [3, 4])
            axes.set_title("γ of $R$")
            return drawing.to_svg(figure, "a", "a title", "a text")

    expected = chart()
    theirs = {"text.usetex": True, "font.family": "monospace", "axes.facecolor": "red"}
    with matplotlib.rc_context(theirs):
        assert chart() == expected
        assert matplotlib.rcParams["text.usetex"] is True


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_table_that_does_not_fit_on_the_disk(tmp_path):
    (tmp_path / "grid.toml").write_text(
        "[base]\nepochs = 1\nsamples = 64\nbatch_size = 32\nmodel_options.hidden = [4]\n"
        "[grid]\nseed = [0, 1]\n"
    )
    sweep = ("sweep", tmp_path / "grid.toml", "-j", 1, "-q", "--out", tmp_path / "runs")
    curvature = ("curvature", "mlp", "--samples", 8, "--out", tmp_path / "page")
    for words in (sweep, curvature):
        done = run(*words, "--csv", "/dev/full")
        assert done.exit_code == 1, "a full disk is not the user's input"
        line = done.stderr.splitlines()[-1]
        assert line.startswith("cblr: /dev/full: No space left on device; free some and start")
        assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == 2


@pytest.mark.parametrize("at", ["measurement", "results.json", "index.html"])
def test_a_disk_that_is_full_in_an_audit(tmp_path, monkeypatch, at):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "measurements"))

    def measure(context):
        raise full

    performed, replaced = runner.perform, os.replace

    def perform(check, *others):
        if check.id == "eq9" and at == "measurement":
            check = dataclasses.replace(check, measure=measure)
        return performed(check, *others)

    def replace(one, other):
        if Path(other).name == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replaced(one, other)

    monkeypatch.setattr(runner, "perform", perform)
    monkeypatch.setattr(os, "replace", replace)
    done = run("audit", "--only", "eq4", "--only", "eq9", "--out", tmp_path)
    assert done.exit_code == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"cblr: {tmp_path}/")
    assert "No space left on device" in done.stderr.splitlines()[-1]


def test_only_wrong_paths_are_bad_input():
    assert not {errno.ENOSPC, errno.EDQUOT, errno.EIO} & ending.BAD_PATH


BARE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.nothing = nn.Parameter(torch.ones(10)), nn.Parameter(torch.ones(0, 3))

    def forward(self, x):
        return self.w * x.flatten(1)[:, :10]

class Flat(Net):
    def forward(self, x):
        return super().forward(x).detach()

def meta():
    with torch.device("meta"):
        return Net()

def linear(output, target):
    return output.sum()
"""


@pytest.fixture
def bare(tmp_path, monkeypatch):
    (tmp_path / "bare_networks.py").write_text(BARE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bare_networks", raising=False)


@pytest.mark.parametrize(
    ("name", "loss"), [("Net", "cross_entropy"), ("Flat", "cross_entropy"), ("Net", "linear")]
)
def test_networks_of_which_there_is_little_to_say(bare, name, loss):
    # A tensor without entries, no curvature at all, nothing that depends on a parameter.
    loss = f"bare_networks:{loss}" if loss == "linear" else loss
    done = run("curvature", f"bare_networks:{name}", "--loss", loss, "--samples", 8)
    assert done.exit_code == 0, done.exception
    assert Path("curvature/index.html").exists()


def test_a_network_without_memory(bare):
    done = run("curvature", "bare_networks:meta", "--samples", 8)
    assert done.exit_code == 2
    assert done.stderr.startswith("cblr: MODEL: 'bare_networks:meta': it cannot be put on cpu (")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("words", [["data", "digits"], ["curvature", "mlp"]], ids=lambda w: w[0])
def test_commands_that_are_stopped(tmp_path, monkeypatch, number, words):
    def load(*arguments, **options):
        os.kill(os.getpid(), number)

    def outside(*arguments):  # in the place of what would end the tests' own process
        raise AssertionError("the command has no handler of its own")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sim.data, "load", load)
    interrupt = signal.default_int_handler
    before = signal.signal(number, interrupt if number == signal.SIGINT else outside)
    try:
        done = run(*words)
    finally:
        signal.signal(number, before)
    assert done.exit_code == 130, done.exception
    (line,) = done.stderr.splitlines()
    assert line.startswith("cblr: interrupted; ")


INTERRUPTED = """
import sys
from paper_checks.cli import data
from paper_checks.cli import main

def describe(*arguments):
    exec("raise KeyboardInterrupt")

data.describe = describe
sys.argv = ["cblr", "data"]
main()
"""


def test_the_status_of_an_interrupt_wherever_it_comes(tmp_path):
    # Within a dataclass that is being made, for instance.
    (tmp_path / "interrupted_there.py").write_text(INTERRUPTED)
    here = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "interrupted_there"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": here},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1].startswith("cblr: interrupted; start it again")
