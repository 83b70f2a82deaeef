"""The command line: status codes, one-line messages, and a real process."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from typer.testing import CliRunner

from paper_checks.cli import commands as cli
from paper_checks.own_network.curvature import parse_memory
from paper_checks.result import read_results
from paper_checks.running import runner

SMALL = ("curvature", "mlp", "--samples", "16", "--width", "0.05")


def cblr(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def refused(result):
    """The one line of a refusal with status 2."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("cblr: ")
    return lines[0]


def test_an_audit_that_contradicts_the_paper_succeeds(tmp_path):
    out = tmp_path / "report"
    result = cblr("audit", "--only", "eq4", "--only", "eq9", "--out", out)
    assert result.exit_code == 0, result.output
    assert "wrong constant" in result.stdout
    assert "holds" in result.stdout
    assert result.stdout.rstrip().endswith("index.html")
    assert (out / "index.html").exists()


def test_a_check_that_cannot_be_completed_gives_status_1(tmp_path, monkeypatch, fake_check):
    def build(name, of):
        return fake_check(name, error=RuntimeError("broken") if name == "eq4" else None)

    monkeypatch.setattr(runner, "build", build)
    result = cblr("audit", "--only", "eq4", "--only", "eq9", "--out", tmp_path)
    assert result.exit_code == 1
    assert "could not be completed: eq4" in result.stderr
    assert "Traceback" in result.stderr
    assert "eq9" in result.stdout


def test_an_interrupt_gives_status_130_and_one_line(tmp_path, monkeypatch, fake_check):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr(
        runner, "build", lambda name, of: fake_check(name, act=stop if name == "eq9" else None)
    )
    result = cblr("audit", "--only", "eq4", "--only", "eq9", "--out", tmp_path)
    assert result.exit_code == 130
    assert result.stderr.strip().startswith("cblr: interrupted after 1 of 2 checks")
    assert "eq4" in (tmp_path / "results.json").read_text(encoding="utf-8")


def test_a_bug_shows_its_traceback(tmp_path, monkeypatch):
    def bug(*arguments, **options):
        raise KeyError("a bug")

    monkeypatch.setattr(runner, "run", bug)
    result = cblr("audit", "--out", tmp_path)
    assert isinstance(result.exception, KeyError)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--only", "fig22"), ("--only", "fig22", "fig2")),
        (("--profile", "slow"), ("--profile", "slow", "quick")),
        (("--dataset", "mnist"), ("--dataset", "mnist", "cifar10")),
        (("--device", "abacus"), ("--device", "abacus", "cpu")),
        (("--dataset", "cifar10", "--data", "no/such/folder"), ("--data: ", "no/such/folder")),
        # Nothing would be read from it in this profile.
        (("--evidence", "."), ("--evidence: .: only --profile cifar goes by a ledger",)),
        (
            ("--profile", "cifar", "--plan", "--evidence", __file__),
            (f"--evidence: {__file__}: {__file__} is not a folder",),
        ),
        (("--lock", "--evidence", f"{__file__}/below"), ("--evidence: ", "is not a folder")),
    ],
)
def test_audit_refuses_bad_input(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    line = refused(cblr("audit", *arguments))
    assert all(word in line for word in words), line
    assert os.listdir(tmp_path) == []


def test_audit_refuses_a_truncated_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("data")
    for number in range(1, 6):
        (tmp_path / "data" / f"data_batch_{number}.bin").write_bytes(b"short")
    line = refused(cblr("audit", "--dataset", "cifar10", "--data", "data", "--only", "fig2"))
    assert "truncated" in line
    assert not (tmp_path / "report").exists()


def test_audit_refuses_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    line = refused(cblr("audit", "--only", "eq1", "--out", tmp_path / "taken"))
    assert "--out" in line
    assert "not a folder" in line


OWN_DATA = """
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x, labels=None):
            return {"logits": torch.relu(self.fc(x))}

    def model(): return Model()
    def loss(output, target): return nn.functional.cross_entropy(output["logits"], target)

    X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    Y = torch.arange(20) % 3
    pair = X, Y
    one_mapping = {"x": X, "labels": Y}
    rows = TensorDataset(X, Y)
    dicts = [{"x": x, "labels": int(y)} for x, y in zip(X, Y)]
    splits = {"train": (X, Y), "test": (X, Y)}
    def batches(): return ({"x": X[k:k + 4], "labels": Y[k:k + 4]} for k in range(0, 20, 4))
    def loader(): return DataLoader(rows, batch_size=7)
    def by_split(split): return {"train": (X, Y)}[split]
    def failing(): raise KeyError("file")
    number = 3
    empty = []
"""


class TestCurvature:
    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path, monkeypatch):
        # The page goes to the folder `curvature` here unless --out says otherwise.
        monkeypatch.chdir(tmp_path)

    def test_it_prints_the_plan_and_the_table_and_writes_both_files(self, tmp_path):
        import pandas as pd

        table, other = tmp_path / "t.csv", tmp_path / "t.parquet"
        result = cblr(*SMALL, "--verify", 2, "--csv", table, "--parquet", other)
        assert result.exit_code == 0, result.output
        assert "affine" in result.stdout
        assert "exact second derivatives on 16 samples" in result.stdout
        frame = pd.read_csv(table)
        assert list(frame["parameter"])[:2] == ["fc1.weight", "fc1.bias"]
        looked_at = frame["deviation"].dropna()  # two entries of the network
        assert len(looked_at) == 2
        assert (looked_at < 1e-4).all()
        assert len(pd.read_parquet(other)) == len(frame)

    @pytest.mark.parametrize("option", ["--data", "--dataset"])
    @pytest.mark.parametrize(
        "data", ["batches", "loader", "rows", "pair", "one_mapping", "splits", "by_split", "dicts"]
    )
    def test_own_model_data_and_loss(self, tmp_path, monkeypatch, option, data):
        (tmp_path / "own_data.py").write_text(textwrap.dedent(OWN_DATA), encoding="utf-8")
        monkeypatch.delitem(sys.modules, "own_data", raising=False)
        monkeypatch.syspath_prepend(str(tmp_path))
        names = ("own_data:model", option, f"own_data:{data}", "--loss", "own_data:loss")
        if option == "--dataset" and data != "batches":
            names += ("--plan",)
        result = cblr("curvature", *names, "--samples", 10)
        assert result.exit_code == 0, result.output
        assert "fc.weight" in result.stdout
        if "--plan" in names:
            return
        assert f"15 exact second derivatives on 10 samples of own_data:{data}" in result.stdout
        page = (tmp_path / "curvature" / "index.html").read_text(encoding="utf-8")
        assert "<h1>Curvature of own_data:model</h1>" in page
        assert f"cblr curvature own_data:model --data own_data:{data}" in page

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            ("missing", ("--data", "no 'missing'")),
            ("number", ("--data", "number", "name a pair")),
            ("failing", ("--data", "failing", "KeyError")),
            ("empty", ("--data", "empty")),
        ],
    )
    def test_own_data_that_are_none(self, tmp_path, monkeypatch, data, words):
        (tmp_path / "own_data.py").write_text(textwrap.dedent(OWN_DATA), encoding="utf-8")
        monkeypatch.delitem(sys.modules, "own_data", raising=False)
        monkeypatch.syspath_prepend(str(tmp_path))
        line = refused(cblr("curvature", "own_data:model", "--data", f"own_data:{data}"))
        assert all(word in line for word in words), line

    def test_a_built_in_network_on_own_data(self, tmp_path, monkeypatch):
        (tmp_path / "own_data.py").write_text(textwrap.dedent(OWN_DATA), encoding="utf-8")
        monkeypatch.delitem(sys.modules, "own_data", raising=False)
        monkeypatch.syspath_prepend(str(tmp_path))
        names = ("mlp", "--data", "own_data:pair", "--width", "0.05", "--plan")
        result = cblr("curvature", *names)
        assert result.exit_code == 0, result.output
        assert "6x4" in result.stdout  # the data's features

    def test_the_plan_alone(self):
        result = cblr(*SMALL, "--plan")
        assert result.exit_code == 0, result.output
        assert "fc1.weight" in result.stdout
        assert "exact second derivatives on" not in result.stdout

    def test_a_network_of_ones_own(self, tmp_path, monkeypatch):
        (tmp_path / "own_network.py").write_text(
            "from torch import nn\n"
            "def make():\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Tanh(),"
            " nn.Linear(3, 10))\n"
            "def rows(output, target):\n"
            "    return nn.functional.cross_entropy(output, target, reduction='none')\n"
            "def undefined(output, target):\n"
            "    return output.sum() * float('nan')\n"
            "def number():\n"
            "    return 3\n"
            "constant = 4\n",
            encoding="utf-8",
        )
        (tmp_path / "broken_network.py").write_text("import no_such_module\n", encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        own = ("curvature", "own_network:make", "--samples", "8")
        result = cblr(*own)
        assert result.exit_code == 0, result.output
        assert "3.weight" in result.stdout
        for arguments, words in (
            ((*own, "--loss", "own_network:rows"), ("loss", "scalar")),
            ((*own, "--loss", "own_network:undefined"), ("loss", "finite")),
            ((*own, "--loss", "nothing"), ("--loss", "nothing")),
            (("curvature", "own_network:number"), ("int", "torch.nn.Module")),
            (("curvature", "own_network:constant"), ("constant", "function")),
            (("curvature", "own_network:missing"), ("missing",)),
            (("curvature", "broken_network:make"), ("cannot be imported", "no_such_module")),
        ):
            line = refused(cblr(*arguments))
            assert all(word in line for word in words), line

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("alexnett",), ("MODEL", "alexnett", "alexnet")),
            ((":make",), ("MODEL", "package.module:name")),
            (("no_such_package:make",), ("no_such_package", "cannot be imported")),
            (("mlp", "--samples", "0"), ("--samples", "0")),
            (("mlp", "--samples", "99999"), ("--samples", "1437")),
            (("mlp", "--verify", "-1"), ("--verify", "-1")),
            (("mlp", "--memory", "much"), ("--memory", "much", "512MiB")),
            (("mlp", "--width", "0"), ("width", "0")),
            (("mlp", "--dataset", "mnist"), ("--dataset", "mnist")),
            (("mlp", "--memory", "0.1B"), ("--memory", "0.1B", "512MiB")),
            (("mlp", "--csv", "no/such/folder/t.csv"), ("--csv: no/such/folder",)),
            (("mlp", "--parquet", "no/folder/t"), ("--parquet: no/folder",)),
            (("mlp", "--csv", "t", "--parquet", "./t"), ("--parquet: t: is the file of --csv",)),
            (
                ("mlp", "--dataset", "cifar10", "--data", "mine:rows"),
                ("--dataset: 'cifar10': --data mine:rows names the data; give one",),
            ),
            (
                ("torch.nn:ReLU", "--width", "0.5"),
                ("--width: 0.5: it is for built-in networks", "leave it out"),
            ),
            (("mlp", "--dataset", "cifar10", "--data", "no/such"), ("no/such",)),
            (("mlp", "--device", "abacus"), ("--device", "abacus")),
        ],
    )
    def test_it_refuses_bad_input(self, arguments, words):
        line = refused(cblr("curvature", *arguments))
        assert all(word in line for word in words), line

    def test_a_nan_in_the_input_is_named(self, monkeypatch):
        import dataclasses

        import sim.data

        clean = sim.data.load("digits")
        inputs = clean.inputs.clone()
        inputs[:, 0, 0, 0] = float("nan")
        dirty = dataclasses.replace(clean, inputs=inputs)
        monkeypatch.setattr(sim.data, "load", lambda *arguments, **options: dirty)
        line = refused(cblr(*SMALL))
        assert "nan" in line.lower() or "finite" in line.lower()


def test_memory_in_words():
    assert parse_memory("3") == 3
    assert parse_memory("2gib") == 2**31
    for text in ("", "0", "-1GiB", "1.5 parsec", "GiB"):
        with pytest.raises(ValueError, match="--memory"):
            parse_memory(text)


def test_data_tells_its_provenance(tmp_path):
    result = cblr("data", "digits")
    assert result.exit_code == 0
    assert "1,437 samples of shape 1×8×8" in result.stdout
    assert "sha256" in result.stdout
    assert "mnist" in refused(cblr("data", "mnist"))
    assert "none" in refused(cblr("data", "cifar10", "--data", tmp_path / "none"))


def test_help_and_version():
    assert "audit" in cblr("--help").stdout
    assert cblr("--version").stdout.startswith("cblr ")


def python(*arguments, **options):
    return [sys.executable, "-m", "paper_checks.cli", *map(str, arguments)]


def test_a_real_process(tmp_path):
    command = python("audit", "--only", "eq14", "--out", tmp_path / "report")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert (tmp_path / "report" / "results.json").exists()


def stopped(command, number, when):
    """Start a process, send it a signal once `when(process)` holds, and wait for its end.

    However long that takes on a loaded machine: the suite's own limit ends a test that hangs.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Where the tests run in a shell's background, SIGINT is ignored and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        while not when(process) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(b"\n")
    return process.returncode, errors.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_real_interrupt(tmp_path, number):
    """Ctrl-C or SIGTERM during the long part keeps the equation before it."""
    out = tmp_path / "report"
    command = python("audit", "--only", "eq14", "--only", "fig3", "--fresh", "--out", out)
    seen = []

    def at_work(process):
        # Once the equation is stored the figure is at work; half a second later all the more.
        if (out / "results.json").exists():
            seen.append(time.monotonic())
        return bool(seen) and seen[-1] - seen[0] > 0.5

    status, errors = stopped(command, number, at_work)
    assert status == 130, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("cblr: interrupted after 1 of 2")
    # Not --fresh, which would begin again.
    assert last.endswith(f"resume with: cblr audit --only eq14 --only fig3 --out {out}")
    assert "eq14" in (out / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_an_interrupt_while_it_is_still_importing_is_one_line(module, tmp_path):
    """Ctrl-C in the first half second: no traceback, whatever is being imported."""
    (tmp_path / f"{module}.py").write_text(
        'import sys\nprint("here", flush=True)\nsys.stdin.readline()\n'
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom paper_checks.cli import main\n"
    code += "sys.argv = ['cblr', 'audit', '--only', 'eq14']; main()"
    status, errors = stopped(
        [sys.executable, "-c", code],
        signal.SIGINT,
        lambda process: b"here\n" in iter(process.stdout.readline, b""),
    )
    assert status == 130, errors
    assert errors.splitlines()[-1].startswith("cblr: interrupted")
    assert len(errors.splitlines()) == 1


# The full profile on the digits, small: AlexNet, whose runs stand in folders and go on one by one.
FULL = """
import sys
from paper_checks.papers.gao2020.measurements import profile
from paper_checks.cli import main
from paper_checks.papers.gao2020.measurements.training import _whole
_whole.SIZES = (8192, 32768)
profile._PROFILES["full", "digits"] = profile.Profile(
    "full", 0.02, 16, 64, 2, 100, 1000, seeds=(0,), runs=2, epochs=2, images=128, trains="alexnet"
)
words = ["audit", "--profile", "full", "--only", "eq14", "--only", "fig8", "--out", sys.argv[1]]
"""
# In the second step of the second run it says so, and waits for a word.
WAITING = """
import pathlib
from sim.training.engine.state import State
step, told, out = State._step, [], pathlib.Path(sys.argv[1])
def waiting(state, each, number, *others):
    if number == 1 and not told and any(out.rglob("run.json")):
        told.append(print("here", flush=True))
        sys.stdin.readline()
    return step(state, each, number, *others)
State._step = waiting
"""
GO = """
sys.argv = ["cblr", *words]
main()
"""


@pytest.mark.slow
def test_a_training_check_that_is_terminated_goes_on_where_it_was(tmp_path):
    out = tmp_path / "report"

    def finished():
        return sorted(out.glob("measurements/runs/*/run.json"))

    def within_the_second_run(process):
        return b"here\n" in iter(process.stdout.readline, b"")

    command = [sys.executable, "-c", FULL + WAITING + GO, str(out)]
    status, errors = stopped(command, signal.SIGTERM, within_the_second_run)
    assert status == 130, errors
    assert "Traceback" not in errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("cblr: interrupted after 1 of 2 checks")
    assert "resume with: cblr audit --profile full --only eq14 --only fig8 --out" in last
    records = read_results(out / "results.json")
    assert [(record.id, record.completed) for record in records] == [("eq14", True)]
    before = {path: path.stat().st_mtime_ns for path in finished()}
    assert len(before) == 1
    assert len(list(out.glob("measurements/runs/*/checkpoint.pt"))) == 1
    command = [sys.executable, "-c", FULL + GO, str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [record.id for record in read_results(out / "results.json")] == ["eq14", "fig8"]
    assert len(finished()) > 1
    assert {path: path.stat().st_mtime_ns for path in before} == before
