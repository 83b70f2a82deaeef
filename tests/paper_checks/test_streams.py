"""Terminals that are none, readers that go away, full devices, and files nobody meant."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paper_checks import drawing
from paper_checks.cli.commands import app
from paper_checks.cli.streams import Stream, lenient

TRAIN = [
    *("train", "--dataset", "gaussian", "-s", "dataset_options.samples=40"),
    *("-s", "model_options.hidden=[4]", "-s", "batch_size=8", "--epochs", "1"),
]
MAIN = "import sys; from paper_checks.cli import main; sys.argv[0] = 'cblr'; main()"


def cblr(*arguments, encoding="utf-8", **options):
    """The command in a process of its own."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "100"}
    environment |= options.pop("environment", {})
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    words = [sys.executable, "-c", MAIN, *map(str, arguments)]
    return subprocess.run(words, env=environment, check=False, **options)


def run(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


SLOW = pytest.mark.slow  # each process takes seconds to start


@pytest.mark.parametrize(
    "encoding", ["ascii", pytest.param("latin-1", marks=SLOW), pytest.param("cp1252", marks=SLOW)]
)
def test_output_in_other_encodings(tmp_path, encoding):
    for words in (["train", "--help"], [*TRAIN, "--out", tmp_path / "run"]):
        done = cblr(*words, encoding=encoding)
        assert (done.returncode, done.stderr.count(b"Error")) == (0, 0), done.stderr
        assert done.stdout.decode(encoding)
    assert (tmp_path / "run" / "run.json").exists()


def test_an_audit_in_ascii(tmp_path):
    done = cblr("audit", "--only", "eq4", "--out", tmp_path, encoding="ascii")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").exists()


def test_a_reader_that_goes_away(tmp_path):
    # As `| head -1`, which is gone after the first line; here before it.
    for words in (["--help"], ["data"], [*TRAIN, "--out", tmp_path / "run"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = cblr(*words, stdout=writing)
        os.close(writing)
        assert done.returncode == 0
        assert b"Traceback" not in done.stderr
        assert b"Broken pipe" not in done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"


def test_nobody_reads_what_goes_wrong(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = cblr("train", "--epochs", "0", stderr=writing)
    assert done.returncode == 2
    done = cblr(*TRAIN, "--lr", "1e30", "--out", tmp_path, stderr=writing, stdout=writing)
    os.close(writing)
    assert done.returncode == 1
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "diverged"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_device(tmp_path):
    with open("/dev/full", "w") as full:
        done = cblr(*TRAIN, "--out", tmp_path, stdout=full)
        assert done.returncode == 1
        lines = done.stderr.decode().strip().splitlines()
        assert lines[-1].startswith("cblr: standard output: No space left on device; what was")
        assert "Traceback" not in done.stderr.decode()
        # Where the end of it is said there is nothing to be said, and the work is done.
        done = cblr(*TRAIN, "--out", tmp_path / "other", stderr=full)
        assert done.returncode == 0
    for folder in (tmp_path, tmp_path / "other"):
        assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_no_output_at_all(tmp_path):
    words = [sys.executable, "-c", MAIN, *TRAIN, "--out", str(tmp_path)]
    line = '"$0" "$@" >&- 2>&- <&-'
    done = subprocess.run(["sh", "-c", line, *words], check=False, capture_output=True)
    assert done.returncode == 0
    assert (tmp_path / "run.json").exists()


@pytest.mark.parametrize("term", ["dumb", "xterm", pytest.param("", marks=SLOW)])
def test_a_terminal(tmp_path, term):
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    words = [*TRAIN, "--out", tmp_path / "run"]
    environment = {"TERM": term}
    done = cblr(*words, stdout=follower, stderr=follower, environment=environment)
    os.close(follower)
    text = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:
            break
        if not part:
            break
        text += part
    os.close(leader)
    assert done.returncode == 0
    assert b"test_accuracy" in text
    assert b"Traceback" not in text
    if term == "dumb":
        assert b"\x1b[" not in text


def test_a_stream():
    reading, writing = os.pipe()
    stream = Stream(os.fdopen(writing, "w"))
    os.close(reading)
    assert stream.write("a") == 1
    stream.flush()
    assert isinstance(stream.error, BrokenPipeError)
    assert stream.failed is None
    stream.writelines(["more"])
    stream.flush()
    stream.close()
    with lenient() as (output, _):
        assert sys.stdout is output
    assert sys.stdout is not output


@pytest.mark.parametrize(
    "words",
    [
        *(["train", "--epochs", "1", option] for option in ("--out", "--data", "--tensorboard")),
        *(["sweep", "g.toml", option] for option in ("--out", "--data", "--csv", "--parquet")),
        *(["curvature", "mlp", option] for option in ("--out", "--data", "--csv", "--parquet")),
        *(["audit", option] for option in ("--out", "--data", "--compare")),
        ["data", "digits", "--data"],
    ],
)
@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_text_is_no_path(tmp_path, monkeypatch, words, text):
    monkeypatch.chdir(tmp_path)
    result = run(*words, text)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line == f"cblr: {words[-1]}: {text!r}: give a path, '.' for the folder that you are in"
    assert os.listdir(tmp_path) == []


FIELDS = """
[base]
samples = 64
batch_size = 32
epochs = 1
[grid]
seed = [0]
"""


def test_files_with_a_byte_order_mark(tmp_path):
    (tmp_path / "g.toml").write_text(FIELDS.lstrip(), encoding="utf-8-sig")
    content = {"base": {"samples": 64, "batch_size": 32, "epochs": 1}, "grid": {"seed": [0]}}
    (tmp_path / "g.json").write_text(json.dumps(content), encoding="utf-8-sig")
    for name in ("g.toml", "g.json"):
        result = run("sweep", tmp_path / name, "--jobs", 1, "-q", "--out", tmp_path / "runs")
        assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("depth", [500, 100_000])
def test_a_file_that_is_nested_too_deeply(tmp_path, depth):
    path = tmp_path / "c.json"
    path.write_text('{"model_options": ' + '{"a": ' * depth + "1" + "}" * depth + "}")
    result = run("train", path, "--epochs", 1, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_name_that_comes_twice(tmp_path):
    path = tmp_path / "c.json"
    path.write_text('{"lr": 0.1, "epochs": 1, "lr": 0.2}')
    result = run("train", path, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "'lr' comes 2 times" in result.stderr


NETWORKS = r"""
import sys
import time
import torch
from torch import nn

NET = nn.Linear(64, 10)
number = 3

def wants(n):
    return NET

def raises():
    raise KeyError("two\nlines")

def recurses():
    return recurses()

def exits():
    sys.exit("bye")

def leaves():
    sys.exit(0)

class Odd(nn.Module):
    def __init__(self, name=r"$\frac{$"):
        super().__init__()
        values = {name: 0.1 * torch.randn(10, 64), "_b": torch.randn(10)}
        self.parts = nn.ParameterDict(values)
        self.name = name

    def forward(self, x):
        return x.flatten(1) @ self.parts[self.name].T + self.parts["_b"]

def unprintable():
    return Odd("a\ud800")

class Broken(Odd):
    def forward(self, x):
        raise KeyError("inside")

class Leaves(Odd):
    def forward(self, x):
        sys.exit(0)
"""
ENDS = {
    "NET": "it is a module; name a function",
    "number": "it is int; name a function",
    "wants": "this one ended in TypeError",
    "raises": "this one ended in KeyError",
    "recurses": "this one ended in RecursionError",
    "exits": "this one ended in SystemExit: bye",
    "leaves": "this one ended in SystemExit: 0",
    "unprintable": "use signs that can be printed",
    "Broken": "inside",
    "Leaves": "SystemExit: 0",
}


@pytest.fixture
def networks(tmp_path, monkeypatch):
    (tmp_path / "odd_networks.py").write_text(NETWORKS)
    (tmp_path / "leaves_at_once.py").write_text("import sys; sys.exit(4)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "odd_networks", raising=False)
    return Path(tmp_path)


@pytest.mark.parametrize("name", ENDS)
def test_a_network_that_cannot_be_had(networks, name):
    result = run("curvature", f"odd_networks:{name}", "--samples", 8)
    assert result.exit_code == 2, result.exception
    (line,) = result.stderr.strip().splitlines()
    assert ENDS[name] in line
    assert not (networks / "curvature").exists()


def test_a_module_that_leaves_when_it_is_imported(networks):
    result = run("curvature", "leaves_at_once:f")
    assert result.exit_code == 2
    assert "cannot be imported (SystemExit: 4)" in result.stderr


def test_a_parameter_that_looks_like_a_formula(networks):
    result = run("curvature", "odd_networks:Odd", "--samples", 8, "--csv", "t.csv")
    assert result.exit_code == 0, result.stderr
    assert r"$\frac{$" in (networks / "t.csv").read_text()
    assert (networks / "curvature" / "own-hutchinson.svg").exists()


def test_formulas_of_our_own_stay_formulas():
    def made(text):
        with drawing.style("a"):
            chart = drawing.figure()
            chart.subplots().set_xlabel(text)
        return drawing.to_svg(chart, "a", "title", "alt")

    assert made("$x^2$") != made(r"\$x^2\$")
    assert made(r"$\frac{$ $x$").count("<path") > 0


LONG = [*TRAIN[:-1], "100000", "--checkpoint", "0.3"]


@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_is_closed(tmp_path, ignored):
    # SIGHUP keeps what was done, as SIGTERM does; under nohup it is ignored and stays so.
    handler = signal.SIG_IGN if ignored else signal.SIG_DFL
    words = [sys.executable, "-c", MAIN, *LONG, "--out", str(tmp_path / "run")]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, handler),
    ) as process:
        while not (tmp_path / "run" / "checkpoint.pt").exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGHUP)
        if ignored:
            time.sleep(1.0)
            assert process.poll() is None
            process.terminate()
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert b"start it again with the same folder to go on" in errors
    assert (tmp_path / "run" / "checkpoint.pt").exists()
