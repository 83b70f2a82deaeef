"""The ledger of runs, in small: drawn images in CIFAR-10's layout, a network of few weights."""

import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import paper_checks
from paper_checks.campaign import progress
from paper_checks.campaign import recorder as making
from paper_checks.campaign.recorder import Recorder, Unmeasured
from paper_checks.errors import InputError
from paper_checks.ledger import lock
from paper_checks.ledger.rows import SUFFIX, Ledger, Row, apart, checked
from paper_checks.papers.gao2020.measurements import profile, training
from paper_checks.papers.gao2020.measurements.context import Context
from paper_checks.papers.gao2020.measurements.profile import Profile
from paper_checks.papers.gao2020.measurements.training import _rules, _tuned
from paper_checks.registry import IDS, build, rows_read
from paper_checks.report import beside as side
from paper_checks.running import runner
from paper_checks.running.monitor import Silent
from sim.data import _cifar10
from tests.paper_checks.test_training import shrink

RECORDS = 24
SMALL = Profile(
    name="cifar",
    width=0.02,
    sample=16,
    population=None,
    batches=2,
    entries=100,
    draws=1000,
    runs=2,
    epochs=1,
    images=None,
    trains="alexnet",
    compares="resnet18",
)


def row(**changes):
    """A sealed row that no run made."""
    values = {
        "sweep": "first-epoch",
        "config": {"measurement": "of nothing"},
        "seed": 0,
        "numerics": 3,
        "reading": 1,
        "measured": {"stride": 0.5},
        "commit": "abc",
        "torch": "2",
        "machine": "m",
        "threads": 1,
        "date": "2026-01-01T00:00:00Z",
        "seconds": 1.0,
        "data": "d",
    }
    return Row(**{**values, **changes}).sealed()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six files in the layout of CIFAR-10, with a few images each."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for names in _cifar10.FILES.values():
        for name in names:
            raw = rng.integers(0, 256, (RECORDS, _cifar10.RECORD), dtype=np.uint8)
            raw[:, 0] = np.arange(RECORDS) % 10
            raw.tofile(folder / name)
    return folder


@pytest.fixture(scope="module", autouse=True)
def small():
    """The profile `cifar` on 120 images, two batch sizes, two seeds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cifar10, "RECORDS", RECORDS)
        patch.setitem(profile._PROFILES, ("cifar", "cifar10"), SMALL)
        shrink(patch, FIRST_EPOCH=(16384, 49152), RECORDED_SIZES=(16384, 49152))
        patch.setattr(_tuned, "RECORDED_EPOCHS", 1)
        patch.setattr(_tuned, "FACTORS", (1.0, 3.0))
        patch.setattr(_tuned, "LONG_SIZES", (16384, 49152))
        patch.setattr(_tuned, "LONG_FACTORS", dict.fromkeys((16384, 49152), (1.0, 3.0)))
        patch.setattr(_tuned, "LONG_STEPS", 3)
        patch.setattr(_rules, "RECORDED_EPOCHS", 1)
        yield


@pytest.fixture(scope="module")
def made(images, tmp_path_factory):
    """A ledger with all runs of figure 4, as the audit made it."""
    folder = tmp_path_factory.mktemp("made")
    results = audit(images, folder, "fig4")
    return folder, results


def audit(images, folder, *only, **options):
    return paper_checks.run(
        "cifar",
        only,
        folder / "report",
        data=images,
        evidence=folder / "evidence",
        **options,
    )


@pytest.fixture
def copy(made, tmp_path):
    """The ledger of `made`, to be changed."""
    shutil.copytree(made[0] / "evidence", tmp_path / "evidence")
    return tmp_path / "evidence"


def context(folder, **options):
    recorder = Recorder(Ledger(folder), **options)
    return Context(profile.profile("cifar", "cifar10"), "cifar10", ledger=recorder)


def lines(folder, sweep="first-epoch"):
    return (folder / f"{sweep}{SUFFIX}").read_text(encoding="utf-8").splitlines()


def test_every_run_is_a_row_that_says_what_made_it(made, images):
    from sim import train
    from sim.training import TrainConfig

    folder, _ = made
    rows = Ledger(folder / "evidence").rows
    assert len(rows) == len(lines(folder / "evidence")) == 2 * 2
    assert {(row.config["batch_size"], row.seed) for row in rows} == {
        (n, seed) for n in (39, 118) for seed in (0, 1)
    }
    for each in rows:
        assert each.config["model_options"] == {"width": 0.02, "dropout": 0.5}
        assert each.numerics == Recorder(Ledger(folder)).numerics
        assert all((each.commit, each.torch, each.machine, each.data, each.date))
        assert each.seconds > 0
        assert len(each.line()) < 4000
    # The configuration is whole: the run can be made from the row alone, to the last digit kept.
    one = rows[0]
    again = train(TrainConfig.read(one.config), root=images)
    layer = again.layer_epochs[again.layer_epochs.parameter == "fc1.weight"].iloc[0]
    assert one.measured["stride"] == pytest.approx(float(layer.stride) / one.config["lr"], 1e-6)
    assert not list((folder / "evidence").glob("*.pt"))


def test_rows_are_the_measurements_of_the_checks_and_nothing_is_trained_again(
    made, images, monkeypatch
):
    folder, results = made
    assert [result.id for result in results] == ["fig4"]
    assert results[0].environment["profile"] == "cifar"
    monkeypatch.setattr("sim.training.train", None)
    (again,) = audit(images, folder, "fig4")
    assert again.measurements == results[0].measurements
    # Without data, as `make audit` reads them; figure 7 has the same runs.
    measured = build("fig7").measure(context(folder / "evidence"))
    assert measured["rows"] == results[0].measurements["rows"]


def test_seconds_count_where_a_check_reads_the_runs_and_only_there(made):
    here = context(made[0] / "evidence")
    runner._record([build("fig4")], here, Silent())
    assert here.ledger.taken() == 0
    training.first_epoch(here)
    assert here.kept_seconds == pytest.approx(sum(row.seconds for row in here.ledger.ledger.rows))


def test_where_nothing_may_be_trained_a_missing_run_is_said(tmp_path):
    with pytest.raises(Unmeasured, match="2 runs of first-epoch are not in the ledger"):
        training.first_epoch(context(tmp_path))


class Stops(Silent):
    """Stops the audit when so many runs are made."""

    def __init__(self, after):
        self.left = after

    def recorded(self, row):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_an_audit_that_is_stopped_between_runs_goes_on(made, images, tmp_path):
    with pytest.raises(paper_checks.Interrupted):
        audit(images, tmp_path, "fig4", monitor=Stops(3))
    before = lines(tmp_path / "evidence")
    assert len(before) == 3
    (result,) = audit(images, tmp_path, "fig4")
    after = lines(tmp_path / "evidence")
    assert set(before) < set(after)
    assert len(after) == 4
    assert result.measurements == made[1][0].measurements


def test_a_run_that_is_killed_in_its_middle_goes_on_from_its_checkpoint(
    made, images, tmp_path, monkeypatch
):
    import sim.training

    train = sim.training.train

    def struck(config, **options):
        def strike(done, total, latest):
            if total > 1 and done == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        return train(config, progress=strike, **options)

    monkeypatch.setattr("sim.training.train", struck)
    with pytest.raises(paper_checks.Interrupted):
        audit(images, tmp_path, "fig4")
    assert list((tmp_path / "report").rglob("checkpoint.pt"))
    assert not (tmp_path / "evidence").exists()
    monkeypatch.setattr("sim.training.train", train)
    (result,) = audit(images, tmp_path, "fig4")
    assert result.measurements == made[1][0].measurements
    # Only a run that was made in one go says what it takes.
    rows = Ledger(tmp_path / "evidence").rows
    assert sum(row.processor_seconds is None for row in rows) == 1


def test_a_run_at_which_another_process_is_is_left_to_it(made, images, tmp_path, monkeypatch):
    """The first run's folder is locked; when all others are made, its row comes from elsewhere."""
    from sim.training import TrainConfig
    from sim.training.record import store as _store

    other = Ledger(made[0] / "evidence")
    plan = training.SWEEPS["first-epoch"].cells(context(tmp_path / "evidence"))
    first = plan[0].first()[0]
    theirs = next(r for r in other.rows if TrainConfig.read(r.config) == first.config)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        Ledger(tmp_path / "evidence").append(theirs)

    monkeypatch.setattr(making.time, "sleep", wait)
    folder = tmp_path / "report" / "measurements" / "runs" / first.config.hash
    folder.mkdir(parents=True)
    with _store.locked(folder):
        audit(images, tmp_path, "fig4")
    assert waits == [making.PATIENCE]
    rows = Ledger(tmp_path / "evidence").rows
    assert len(rows) == 4
    assert theirs in rows


WRITER = """
import json, sys
from pathlib import Path
from paper_checks.ledger.rows import Ledger, Row
ledger = Ledger(Path(sys.argv[1]))
for k in range(int(sys.argv[2]), int(sys.argv[2]) + 30):
    values = {**json.loads(sys.argv[3]), "config": {"measurement": str(k)}, "date": sys.argv[2]}
    ledger.append(Row(**values))
"""


def test_two_processes_write_one_ledger(tmp_path):
    """Thirty rows each, ten of them the same runs: each run once, and no line is torn."""
    values = json.dumps(asdict(row()))
    commands = [
        (sys.executable, "-c", WRITER, str(tmp_path), first, values) for first in ("0", "20")
    ]
    both = [subprocess.Popen(command) for command in commands]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    ledger = Ledger(tmp_path)
    assert not ledger.problems
    assert len(ledger.rows) == len(lines(tmp_path)) == 50
    assert lines(tmp_path) == sorted(lines(tmp_path))


def test_a_file_is_written_with_the_folder_locked(tmp_path, monkeypatch):
    from paper_checks.ledger import rows

    write, tried = rows.write_atomically, []

    def watched(path, text):
        other = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
        tried.append(path)
        write(path, text)

    monkeypatch.setattr(rows, "write_atomically", watched)
    Ledger(tmp_path).append(row())
    assert tried == [tmp_path / f"first-epoch{SUFFIX}"]


def git(folder, *words):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ("git", "-C", folder, *identity, *words), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_rows_of_two_machines_merge_without_a_conflict(tmp_path, clock):
    attributes = Path(paper_checks.__file__).parent / "evidence" / ".gitattributes"
    shutil.copy(attributes, tmp_path)
    git(tmp_path, "init", "-b", "main")
    Ledger(tmp_path).append(row())
    lock.lock([build("eq1")], tmp_path)
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-m", "a")
    for branch, count in (("left", 5), ("right", 3)):
        git(tmp_path, "checkout", "-b", branch, "main")
        for k in range(count):
            Ledger(tmp_path).append(row(config={"measurement": f"{branch} {k}"}))
        lock.lock([build("eq4" if branch == "left" else "eq9")], tmp_path)
        git(tmp_path, "commit", "-am", branch)
    git(tmp_path, "merge", "-m", "both", "left")
    ledger = Ledger(tmp_path)
    assert not ledger.problems
    assert len(ledger.rows) == 1 + 5 + 3
    assert set(lock.read(tmp_path)) == {"eq1", "eq4", "eq9"}


def test_a_run_that_two_machines_made_counts_once(tmp_path):
    early = row(date="2026-01-01T00:00:00Z")
    late = row(date="2026-01-02T00:00:00Z", measured={"stride": 0.501})
    other = row(date="2026-01-03T00:00:00Z", measured={"stride": 0.9})
    path = tmp_path / f"first-epoch{SUFFIX}"
    path.write_text(f"{late.line()}\n{early.line()}\n", encoding="utf-8")
    ledger = Ledger(tmp_path)
    assert ledger.rows == [early]
    assert not ledger.problems
    path.write_text(f"{early.line()}\n{other.line()}\n", encoding="utf-8")
    assert Ledger(tmp_path).rows == [early]
    assert "with other numbers; the earlier counts" in str(Ledger(tmp_path).problems[0])


def test_what_other_rounding_can_do_is_not_apart():
    assert not apart({"a": [1.0, None]}, {"a": [1.01, None]})
    assert apart({"a": [1.0, None]}, {"a": [1.0, 2.0]})
    assert apart({"status": "finished"}, {"status": "diverged"})


CHANGES = {
    "measured": lambda values: values["measured"].update(stride=0.123),
    "config": lambda values: values["config"].update(lr=0.5),
    "seconds": lambda values: values.update(seconds=99.0),
    "date": lambda values: values.update(date="2020-01-01T00:00:00Z"),
    "key": lambda values: values.update(key="0" * 16),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_that_was_changed_by_hand_is_no_evidence(copy, change):
    whole = lines(copy)
    values = json.loads(whole[0])
    CHANGES[change](values)
    text = "\n".join([json.dumps(values), *whole[1:]])
    (copy / f"first-epoch{SUFFIX}").write_text(text, encoding="utf-8")
    ledger = Ledger(copy)
    assert len(ledger.rows) == 3
    (problem,) = ledger.problems
    assert "was changed after it was written" in str(problem)
    assert f"first-epoch{SUFFIX}, row {values['key']}" in str(problem)
    beside = side.beside(["fig4"], copy)
    assert beside.entries["fig4"].verdict == "unfinished"
    assert beside.problems == [problem]
    assert str(problem) in "\n".join(beside.lines())


@pytest.mark.parametrize("line", ["no JSON", "[1]", '{"sweep": "a"}', '{"a": 1}'])
def test_a_line_that_is_no_row_is_said(tmp_path, line):
    (tmp_path / f"a{SUFFIX}").write_text(f"{line}\n", encoding="utf-8")
    (problem,) = Ledger(tmp_path).problems
    assert str(problem) == (
        f"a{SUFFIX}, row 1: is no row of this version; take it out or put it back as it was"
    )


def test_a_row_with_a_right_checksum_but_another_key_or_file_is_said():
    sound = row()
    forged = replace(sound, config={"measurement": "of another thing"})
    forged = replace(forged, sha256=forged.checksum())
    assert "not that of its configuration" in checked("first-epoch", forged.line())[1]
    assert checked("whole", sound.line())[1] == f"belongs to first-epoch{SUFFIX}"
    assert checked("first-epoch", sound.line()) == (sound, "")


def test_a_row_whose_configuration_is_not_in_the_plan_is_said(copy):
    ledger = Ledger(copy)
    known = ledger.rows[0]
    ledger.append(replace(known, config={**known.config, "lr": 0.7}))
    ledger.append(replace(known, numerics=2))
    ledger.append(replace(known, config={**known.config, "lr": -1.0}, date="2020"))
    reasons = sorted(problem.reason for problem in progress.problems(context(copy)))
    assert len(reasons) == 3
    assert reasons[0] == "its configuration is not in the plan; no judge reads it"
    assert reasons[1].startswith("its configuration is refused: lr: ")
    assert reasons[2].startswith("made with version 2 of the numerics and 1 of the reading, where")


def test_code_that_moves_invalidates_nothing_but_other_numerics_do(copy, monkeypatch):
    """A field that came after the row stands at its default; a default that changed does not."""
    path = copy / f"first-epoch{SUFFIX}"
    older = []
    for line in lines(copy):
        known = Row(**json.loads(line))
        config = {name: value for name, value in known.config.items() if name != "compile"}
        older.append(replace(known, config=config).sealed().line())
    path.write_text("\n".join(older), encoding="utf-8")
    assert training.first_epoch(context(copy))["rows"]
    changed = []
    for line in lines(copy):
        known = Row(**json.loads(line))
        changed.append(replace(known, config={**known.config, "drop_last": False}).sealed().line())
    path.write_text("\n".join(changed), encoding="utf-8")
    with pytest.raises(Unmeasured):
        training.first_epoch(context(copy))
    path.write_text("\n".join(older), encoding="utf-8")
    monkeypatch.setattr("sim.training.config.train_config.VERSION", 99)
    with pytest.raises(Unmeasured):
        training.first_epoch(context(copy))


def test_runs_on_other_images_are_not_mixed_with_those_that_are_there(copy, images, tmp_path):
    others = tmp_path / "others"
    shutil.copytree(images, others)
    raw = bytearray((others / "data_batch_1.bin").read_bytes())
    raw[5] ^= 1
    (others / "data_batch_1.bin").write_bytes(bytes(raw))
    ledger = Ledger(copy)
    path = copy / f"first-epoch{SUFFIX}"
    path.write_text("\n".join(lines(copy)[1:]), encoding="utf-8")
    with pytest.raises(InputError, match=r"--data: sha256 .*the ledger's runs were made on images"):
        audit(others, tmp_path, "fig4")
    assert len(Ledger(copy).rows) == len(ledger.rows) - 1


# ---- plan -------------------------------------------------------------------------------------


def test_the_plan_says_what_is_done_and_needs_no_data(copy, tmp_path):
    path = copy / f"first-epoch{SUFFIX}"
    path.write_text("\n".join(lines(copy)[1:]), encoding="utf-8")
    told = runner.planned("cifar", ["fig4", "fig7", "fig10"], tmp_path / "report", evidence=copy)
    text = "\n".join(told)
    assert "first-epoch    3 of   4 runs done" in text
    assert ": fig4, fig7" in told[0], "the most verdicts for an hour come first"
    assert "discarding     0 of  64 runs done" in text
    assert told[-1].startswith("3 checks, 3 of 68 runs done, about ")
    assert not (tmp_path / "report").exists()


def test_hours_follow_from_the_rows(copy):
    """Rows a hundred times as slow make what is left a hundred times as long."""
    path = copy / f"first-epoch{SUFFIX}"
    whole = [Row(**json.loads(line)) for line in lines(copy)]
    left = {}
    for factor in (1, 100):
        slow = [
            replace(each, processor_seconds=factor * each.processor_seconds).sealed()
            for each in whole[1:]
        ]
        path.write_text("\n".join(each.line() for each in slow), encoding="utf-8")
        here = context(copy)
        left[factor] = progress.progress(here.ledger, "first-epoch", here)
    assert left[1].done == left[100].done == 3
    assert left[100].seconds == pytest.approx(100 * left[1].seconds, rel=1e-3)
    assert left[100].spent == pytest.approx(100 * left[1].spent, rel=1e-3)


def test_a_rate_is_chosen_on_seeds_that_are_not_read(images, tmp_path):
    (result,) = audit(images, tmp_path, "fig1")
    seeds = {"epochs": _tuned.RECORDED_SEEDS, "steps": _tuned.LONG_SEEDS}
    sweeps = {"epochs": "tuned", "steps": "long"}
    assert result.measurements["series"] == ["epochs", "steps"]
    for series, n in itertools.product(seeds, result.measurements["n"]):
        tuning, reading = seeds[series]
        of_n = [
            each
            for each in Ledger(tmp_path / "evidence").rows
            if each.sweep == sweeps[series] and each.config["batch_size"] == n
        ]
        rates = {each.config["lr"] for each in of_n if each.seed in reading}
        assert len(rates) == 1
        assert len({each.config["lr"] for each in of_n}) == 2
        means = {
            each.config["lr"]: np.mean(
                [o.measured["accuracy"] for o in of_n
                 if o.seed in tuning and o.config["lr"] == each.config["lr"]]
            )
            for each in of_n
        }  # fmt: skip
        assert means[rates.pop()] == max(means.values())
        arms = [
            row for row in result.measurements["rows"] if (row["n"], row["series"]) == (n, series)
        ]
        for each in arms:
            assert len(each["seeds"]) == len(each["stage"]) == len(each["accuracy"])
        chosen, read = training.best(arms)
        assert chosen["seeds"] == [*tuning, *reading]
        assert read == [v for v, s in zip(chosen["accuracy"], chosen["seeds"], strict=True)
                        if s in reading]  # fmt: skip


def test_all_rules_of_the_ledger_choose_by_as_many_runs():
    here = context(Path("nowhere"))
    counts = {
        cell.arms[0].labels["rule"]: len(cell.first())
        for cell in training.SWEEPS["rules"].cells(here)
    }
    assert counts == dict.fromkeys(("sgd", "lars", "mclr", "cblr"), 12)


def test_every_sweep_of_the_ledger_has_readers():
    read = {row for name in IDS for row in rows_read(name)}
    assert set(training.SWEEPS) <= read
    assert read - set(training.SWEEPS) == set(progress.once(context(Path("nowhere"))))


def test_measurements_without_training_are_one_row_each(images, tmp_path, monkeypatch):
    (result,) = audit(images, tmp_path, "fig2")
    rows = sorted(Ledger(tmp_path / "evidence").rows, key=lambda row: row.seed)
    assert [(row.sweep, row.seed, row.config["measurement"]) for row in rows] == [
        ("measured", seed, f"snapshot-{seed}") for seed in SMALL.seeds
    ]
    assert {row.config["width"] for row in rows} == {SMALL.width}
    assert all(len(row.line()) < 40_000 for row in rows)
    assert progress.problems(context(tmp_path / "evidence")) == []
    assert not result.kept, "what was made now takes its time now"
    monkeypatch.setattr(Context, "_measure", None)
    (again,) = audit(images, tmp_path, "fig2")
    assert again.measurements == result.measurements
    assert again.kept
    entry = side.beside(["fig2"], tmp_path / "evidence").entries["fig2"]
    assert (entry.verdict, entry.done, entry.total) == (result.verdict, 3, 3)
    monkeypatch.setitem(profile._PROFILES, ("cifar", "cifar10"), replace(SMALL, sample=17))
    assert side.beside(["fig2"], tmp_path / "evidence").entries["fig2"].verdict == "not run"


# ---- side by side ------------------------------------------------------------------------------


def test_what_was_not_run_is_not_run_and_a_part_is_unfinished(made, copy, tmp_path):
    nothing = side.beside(["fig4", "eq4"], tmp_path / "empty")
    assert set(nothing.entries) == {"fig4"}
    assert nothing.entries["fig4"].verdict == "not run"
    assert nothing.entries["fig4"].reason == "None of its 4 runs were made."
    path = copy / f"first-epoch{SUFFIX}"
    whole = lines(copy)
    path.write_text("\n".join(whole[:3]), encoding="utf-8")
    part = side.beside(["fig4"], copy).entries["fig4"]
    assert part.verdict == "unfinished"
    assert part.reason == "3 of 4 runs were made; it is judged when all are."
    path.write_text("\n".join(whole), encoding="utf-8")
    every = side.beside(["fig4"], copy).entries["fig4"]
    assert (every.verdict, every.reason) == (made[1][0].verdict, made[1][0].reason)
    assert (every.done, every.total, every.seeds) == (4, 4, (0, 1))


def test_the_page_shows_both_verdicts_and_a_word_where_they_differ(made):
    from paper_checks.report.page import render

    (result,) = made[1]
    quick = replace(result, environment={**result.environment, "profile": "quick"}, verdict="holds")
    found = side.Beside(
        {"fig4": side.Entry("fig4", "contradicted", "Because.", 1.5, done=4, total=4)},
        deviations=[lock.Deviation("fig4", "2026-01-01", "its criterion was changed")],
        rows=4,
    )
    assert found.word(quick) == "differs: holds here, contradicted on CIFAR-10"
    page = render([quick], {}, others={}, ledger=found)
    assert "<dt>On CIFAR-10</dt>" in page
    assert "(differs: holds here, contradicted on CIFAR-10)" in page
    assert "its criterion was changed" in page
    assert found.word(replace(quick, verdict="contradicted")) == "the same"
    partly = side.Beside({"fig4": side.Entry("fig4", "unfinished", "", done=1, total=4)})
    assert partly.word(quick) == "", "what was not run does not differ"
    assert "On CIFAR-10" not in render([result], {}, others={}), "not beside itself"


def test_the_readmes_table_has_both_columns(made, tmp_path):
    from paper_checks import summary

    (result,) = made[1]
    quick = {"profile": "quick", "dataset": "digits"}
    here = replace(result, verdict="holds", environment=quick, measured=0.5, interval=None)
    other = replace(here, id="fig7", title="E|g|", verdict="contradicted")
    third = replace(here, id="fig10")
    entries = {
        "fig4": side.Entry("fig4", "contradicted", "", 1.5, (1.0, 2.0), done=4, total=4),
        "fig10": side.Entry("fig10", "unfinished", "", done=3, total=64),
    }
    text = summary.table([here, other, third], side.Beside(entries, rows=7))
    assert text.splitlines() == [
        "1 contradicted, 2 holds on digits. 1 contradicted, 1 unfinished on CIFAR-10, from 7 rows.",
        "",
        "| | digits | CIFAR-10 | |",
        "|---|---|---|---|",
        f"| fig4: {here.title} | holds: 0.5 | contradicted: 1.5 [1, 2] | differs |",
        "| fig7: E\\|g\\| | contradicted: 0.5 |  | |",
        f"| fig10: {here.title} | holds: 50 points | unfinished (3 of 64 runs) | |",
    ]
    assert summary.numbers([here, other, third], side.Beside(entries, rows=7)).splitlines() == [
        "||contradicted|holds|unfinished|",
        "|---|---|---|---|",
        "|digits|1|2|0|",
        "|CIFAR-10|1|0|1|",
    ]
    page = tmp_path / "README.md"
    page.write_text(f"a\n{summary.BEGIN}\nold\n{summary.END}\nb\n", encoding="utf-8")
    summary.put(page, text)
    summary.put(page, text)
    assert page.read_text(encoding="utf-8") == (f"a\n{summary.BEGIN}\n{text}\n{summary.END}\nb\n")
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(InputError, match=r"page: README.md: needs the lines"):
        summary.put(page, text)


def test_the_table_says_what_became_of_the_rest_and_what_is_fragile(made):
    """Of two p corrected for their number 0.04 does not stand, here or in the ledger."""
    from paper_checks import summary

    (result,) = made[1]
    part = replace(result, verdict="holds in part", rest="refuted", measured=1.0, interval=None)
    part = replace(part, environment={"profile": "quick", "dataset": "digits"})
    sure, weak = replace(part, p=0.001), replace(part, id="fig7", p=0.04)
    entries = {
        "fig4": side.Entry("fig4", "contradicted", "", 2.0, p=0.04, done=4, total=4),
        "fig7": side.Entry("fig7", "holds in part", "", 3.0, p=0.001, rest="open", done=4, total=4),
    }
    text = summary.table([sure, weak], side.Beside(entries, rows=8)).splitlines()
    refuted = "holds in part, the rest refuted"
    assert text[4:] == [
        f"| fig4: {part.title} | {refuted}: 1 | contradicted †: 2 | differs |",
        f"| fig7: {part.title} | {refuted} †: 1 | holds in part, the rest open: 3 | |",
        "",
        summary.FRAGILE,
    ]


def test_a_judge_that_breaks_down_is_said_and_costs_no_other(copy, monkeypatch):
    def broken(name, of):
        check = build(name, of)
        return replace(check, judge=lambda m: m["nothing"]) if name == "fig4" else check

    monkeypatch.setattr(side, "build", broken)
    found = side.beside(["fig4", "fig7"], copy).entries
    assert found["fig4"].verdict == "inconclusive"
    assert found["fig4"].reason == "could not be judged: KeyError: 'nothing'"
    assert "could not" not in found["fig7"].reason


def test_the_committed_ledger_is_sound():
    """Every row of this package is evidence, and every lock has the hash of its words."""
    folder = Path(paper_checks.__file__).parent / "evidence"
    assert [str(problem) for problem in Ledger(folder).problems] == []
    assert all(entry.sound for entries in lock.read(folder).values() for entry in entries)


# ---- lock and deviations -----------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Locks at a time that a test sets, from a clean commit."""
    times = {"now": "2026-01-01T00:00:00Z"}
    monkeypatch.setattr(lock, "now", lambda: times["now"])
    monkeypatch.setattr(lock, "commit", lambda: "0123456789ab")
    return times


def rows_on(*dates):
    return {"fig4": [row(date=date) for date in dates]}


def test_a_criterion_that_was_locked_before_the_runs_is_no_deviation(tmp_path, clock):
    check = build("fig4")
    told = lock.lock([check, build("fig7")], tmp_path)
    assert told[-1] == "2 criteria locked, 0 stood already"
    assert lock.lock([check], tmp_path)[-1] == "0 criteria locked, 1 stood already"
    locked = lock.read(tmp_path)
    (entry,) = locked["fig4"]
    assert (entry.hash, entry.commit) == (check.criterion_hash, "0123456789ab")
    assert entry.criterion == check.criterion
    assert lock.deviations([check], rows_on("2026-01-02T00:00:00Z"), locked) == []
    assert lock.deviations([check], {}, {}) == [], "without runs there is nothing to deviate"


def test_every_deviation_is_said_with_its_date(tmp_path, clock):
    check = build("fig4")
    dates = ("2026-01-02T00:00:00Z", "2026-01-04T00:00:00Z")
    (never,) = lock.deviations([check], rows_on(*dates), {})
    assert never.what == "its runs began, but its criterion was never locked"
    clock["now"] = "2026-01-03T00:00:00Z"
    lock.lock([check], tmp_path)
    (late,) = lock.deviations([check], rows_on(*dates), lock.read(tmp_path))
    assert late.what.startswith("1 of 2 runs were made before its criterion was locked")
    changed = replace(check, criterion="Anything goes.", criterion_hash="")
    clock["now"] = "2026-01-05T00:00:00Z"
    unlocked = lock.deviations([changed], rows_on(dates[1]), lock.read(tmp_path))
    assert "is another than the one locked on this date" in unlocked[0].what
    lock.lock([changed], tmp_path)
    (moved,) = lock.deviations([changed], rows_on(dates[1]), lock.read(tmp_path))
    assert moved.date == "2026-01-05T00:00:00Z"
    assert moved.what.startswith("its criterion was changed after 1 of 1 runs; locked on 2026-")
    assert check.criterion in moved.what


def test_a_lock_that_was_changed_by_hand_is_said(tmp_path, clock):
    check = build("fig4")
    lock.lock([check], tmp_path)
    path = tmp_path / lock.CRITERIA
    path.write_text(path.read_text(encoding="utf-8").replace("-0.5", "-0.4"), encoding="utf-8")
    found = lock.deviations([check], rows_on("2026-01-02T00:00:00Z"), lock.read(tmp_path))
    assert [each.what for each in found] == ["the words of its lock do not have their hash"]
    path.write_text("nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"criteria.lock: line 1: is no locked criterion"):
        lock.read(tmp_path)


def test_what_is_not_committed_cannot_be_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "commit", lambda: "0123456789ab+")
    with pytest.raises(InputError, match=r"--lock: .*code was changed since this commit"):
        lock.lock([build("fig4")], tmp_path)
    assert not (tmp_path / lock.CRITERIA).exists()


def test_the_command_line_plans_and_locks(copy, tmp_path, clock):
    from typer.testing import CliRunner

    from paper_checks.cli import commands as cli

    def said(*words):
        command = ["audit", *words, "--evidence", str(copy), "--out", str(tmp_path / "report")]
        done = CliRunner().invoke(cli.app, command)
        return done.exit_code, done.output

    status, output = said("--profile", "cifar", "--plan", "--only", "fig4")
    assert status == 0, output
    assert "first-epoch    4 of   4 runs done" in output
    assert output.splitlines()[-1] == "1 checks, 4 of 4 runs done, about 0.0 s left on one core"
    status, output = said("--lock", "--only", "fig4", "--only", "fig7")
    assert status == 0, output
    assert output.splitlines()[-1] == "2 criteria locked, 0 stood already"
    assert set(lock.read(copy)) == {"fig4", "fig7"}
    status, output = said("--profile", "cifar", "--only", "eq4")
    assert (status, output.startswith("cblr: --only: eq4: has no runs in the ledger")) == (2, True)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "eq4"}, "--only: eq4: has no runs in the ledger; those are: fig1"),
        ({"only": "fig4", "device": "cuda"}, "--device: cuda: the ledger's runs are made on the"),
        ({"only": "fig4", "fresh": True}, "--fresh: given: a finished run stays in the ledger"),
        ({"only": "fig4", "dataset": "digits"}, "--dataset: 'digits': the profile cifar is on"),
    ],
)
def test_what_the_ledger_cannot_have_is_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        paper_checks.run("cifar", out=tmp_path / "report", evidence=tmp_path, **options)
    assert not (tmp_path / "report").exists()


def test_a_row_survives_its_own_line():
    one = row()
    assert Row(**json.loads(one.line())) == one
    assert asdict(one)["sha256"] == one.checksum()
