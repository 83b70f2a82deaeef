"""What somebody who watches a run or a sweep sees, on a terminal and in a file."""

import io
import re
import sys

import pytest

import sim
from sim.training.record import progress as _progress

CONFIG = {"samples": 64, "batch_size": 16, "epochs": 2, "model_options": {"hidden": [4]}}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal(monkeypatch):
    """Standard error as a terminal; pytest puts its own there before each test."""
    for name, value in {"COLUMNS": "80", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def drawn(stream):
    """The lines that were drawn over one another, without colours and movements."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def test_a_terminal_of_80_columns_shows_the_time_that_is_left(monkeypatch):
    """The values are cut off, not the count and the time."""
    stream = terminal(monkeypatch)
    config = sim.TrainConfig.read(CONFIG)
    sim.train(config, progress=True)
    last = drawn(stream)[-1]
    assert last.startswith(config.hash)
    assert re.search(r" 8/8 0:00:0\d eta 0:00:00 train_loss ", last)
    assert last.endswith("…")
    assert all(len(line) <= 80 for line in drawn(stream))


def test_a_file_gets_lines_on_the_way(monkeypatch, capsys):
    monkeypatch.setattr(_progress, "PAUSE", 0.0)
    config = sim.TrainConfig.read(CONFIG)
    sim.train(config, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 8
    for number, line in enumerate(lines, start=1):
        assert re.match(rf"{config.hash} {number}/8 0:00:0\d eta ", line)
    assert "eta -:--:--" in lines[0]
    assert re.search(r"eta 0:00:00 train_loss [\d.]+ train_accuracy [\d.]+ test_acc", lines[-1])


def test_lines_are_some_seconds_apart(monkeypatch, capsys):
    """And the last one always comes, wherever the run ends."""
    now = [0.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    with _progress.shown(True, "title") as tell:
        for done in range(1, 9):
            tell(done, 20, {})
            now[0] += 4
    assert capsys.readouterr().err.splitlines() == [
        "title 4/20 0:00:12 eta 0:01:04",
        "title 7/20 0:00:24 eta 0:00:52",
        "title 8/20 0:00:28 eta 0:00:48",
    ]


def test_a_sweep_tells_how_many_runs_are_left(monkeypatch, capsys):
    monkeypatch.setattr(_progress, "PAUSE", 0.0)
    sim.sweep(sim.training.grid(CONFIG, seed=range(3)), jobs=1, progress=True)
    counts = [line.split()[1] for line in capsys.readouterr().err.splitlines()]
    assert counts == ["0/3", "1/3", "2/3", "3/3"]


def test_a_terminal_that_cannot_redraw_gets_lines(monkeypatch):
    stream = terminal(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    sim.train(CONFIG, progress=True)
    assert len(drawn(stream)) == 1
    assert " 8/8 0:00:0" in drawn(stream)[0]
    assert "━" not in stream.getvalue()


@pytest.mark.parametrize("where", ["terminal", "file"])
def test_what_is_refused_is_not_preceded_by_anything(where, monkeypatch, capsys):
    stream = terminal(monkeypatch) if where == "terminal" else None
    with pytest.raises(ValueError, match=r"^samples: got 99999"):
        sim.train({**CONFIG, "samples": 99999}, progress=True)
    assert (stream.getvalue() if stream else capsys.readouterr().err) == ""


def test_nothing_is_shown_unasked(capsys):
    sim.train(CONFIG)
    sim.sweep([sim.TrainConfig.read(CONFIG)], jobs=1)
    assert capsys.readouterr() == ("", "")
