"""The runner keeps what is finished, survives what breaks, and refuses what cannot work."""

import json
import os
import socket
from pathlib import Path

import pytest

import paper_checks
from paper_checks.errors import InputError
from paper_checks.files import writable, write_atomically
from paper_checks.registry import IDS, build, resolve
from paper_checks.result import plain, read_results
from paper_checks.running.monitor import Lines, Silent
from paper_checks.running.runner import Interrupted, execute, rejudge

FIELDS = {
    "id",
    "kind",
    "verdict",
    "statement",
    "criterion",
    "predicted",
    "measured",
    "interval",
    "tolerance",
    "reason",
    "seeds",
    "seconds",
    "figure",
    "environment",
}


def stored(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_only_some_checks_run_and_are_returned_as_stored(tmp_path):
    out = tmp_path / "deep" / "report"
    results = paper_checks.run(only=["eq14", "eq9"], out=out)
    assert [result.id for result in results] == ["eq9", "eq14"]
    assert [record["id"] for record in stored(out)] == ["eq9", "eq14"]
    assert set(stored(out)[0]) >= FIELDS
    assert (out / "index.html").exists()
    assert not [name for name in os.listdir(out) if name.startswith(".")]


def test_the_environment_names_versions_but_no_host_and_no_folder(tmp_path):
    paper_checks.run(only="eq14", out=tmp_path / "report")
    text = (tmp_path / "report" / "results.json").read_text(encoding="utf-8")
    environment = json.loads(text)[0]["environment"]
    assert environment["versions"]["torch"]
    assert environment["hardware"]["cores"] >= 1
    assert socket.gethostname() not in json.dumps(environment)
    for folder in (tmp_path, Path.cwd(), Path.home()):
        assert str(folder) not in text or str(folder) == "/"


def test_results_are_written_after_every_check(tmp_path, tiny, fake_check):
    seen = []

    class Watch(Silent):
        def finished(self, result):
            seen.append([record["id"] for record in stored(tmp_path)])

    checks = [fake_check("eq1"), fake_check("fig2", draw=True)]
    execute(checks, tiny, tmp_path, Watch())
    assert seen == [["eq1"], ["eq1", "fig2"]]
    assert (tmp_path / "fig2.svg").read_text(encoding="utf-8").startswith("<svg")
    assert stored(tmp_path)[1]["figure"] == "fig2.svg"
    assert stored(tmp_path)[0]["seeds"] == [7]


def test_an_interrupt_keeps_every_finished_check(tmp_path, tiny, fake_check):
    def stop():
        raise KeyboardInterrupt

    checks = [fake_check("eq1"), fake_check("eq2"), fake_check("eq3", act=stop)]
    with pytest.raises(Interrupted, match="after 2 of 3") as caught:
        execute(checks, tiny, tmp_path, Silent())
    assert [result.id for result in caught.value.results] == ["eq1", "eq2"]
    assert [record["id"] for record in stored(tmp_path)] == ["eq1", "eq2"]
    assert "eq2" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_an_interrupt_while_the_page_is_written_keeps_everything(
    tmp_path, tiny, fake_check, monkeypatch
):
    from paper_checks.report import page as report

    right, calls = report.render, []

    def render(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return right(*arguments)

    monkeypatch.setattr(report, "render", render)
    with pytest.raises(Interrupted, match="after 2 of 2"):
        execute([fake_check("eq1"), fake_check("eq2")], tiny, tmp_path, Silent())
    assert [record["id"] for record in stored(tmp_path)] == ["eq1", "eq2"]
    assert "eq2" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_a_broken_check_does_not_cost_the_others(tmp_path, tiny, fake_check, capsys):
    checks = [fake_check("eq1", error=RuntimeError("no\nluck")), fake_check("eq2")]
    results = execute(checks, tiny, tmp_path, Lines())
    assert [result.completed for result in results] == [False, True]
    assert results[0].verdict == "inconclusive"
    assert results[0].reason == "could not be completed: RuntimeError: no luck"
    printed = capsys.readouterr()
    assert "Traceback" in printed.err
    assert "[2/2] eq2: ✓ holds" in printed.out


def test_a_measurement_that_json_cannot_hold_is_a_broken_check(tmp_path, tiny, fake_check):
    (result,) = execute([fake_check(value=object())], tiny, tmp_path, Silent())
    assert not result.completed
    assert "object cannot be stored" in result.reason


def test_what_is_judged_is_what_is_stored(tmp_path, tiny, fake_check):
    """An infinite measurement is null in JSON; the judge must have seen the same."""
    (result,) = execute([fake_check(value=float("inf"))], tiny, tmp_path, Silent())
    assert result.measured is None
    assert stored(tmp_path)[0]["measurements"]["value"] is None


def test_what_checks_share_is_stored_once(tmp_path, tiny, fake_check):
    checks = [
        fake_check(name, value) for name, value in (("fig4", 2.0), ("fig7", 2.0), ("fig5", 3))
    ]
    results = execute(checks, tiny, tmp_path, Silent())
    kept = [record["measurements"] for record in stored(tmp_path)]
    assert kept == [results[0].measurements, {"same_as": "fig4"}, results[2].measurements]
    assert read_results(tmp_path / "results.json") == results
    # As files were before, with a copy for each, they are read the same.
    records = stored(tmp_path)
    records[1]["measurements"] = records[0]["measurements"]
    (tmp_path / "old.json").write_text(json.dumps(records), encoding="utf-8")
    assert read_results(tmp_path / "old.json") == results
    # Taken apart, the second has nothing to be judged by, and says whose it lacks.
    for part in (stored(tmp_path)[1:], [stored(tmp_path)[1] | {"id": "fig4"}]):
        (tmp_path / "part.json").write_text(json.dumps(part), encoding="utf-8")
        with pytest.raises(ValueError, match="measurements of 'fig4', which it does not hold"):
            read_results(tmp_path / "part.json")


def test_nothing_measured_is_not_shared(tmp_path, tiny, fake_check):
    broken = [fake_check(name, error=RuntimeError("no")) for name in ("fig4", "fig7")]
    execute(broken, tiny, tmp_path, Silent())
    assert [record["measurements"] for record in stored(tmp_path)] == [{}, {}]


def test_a_stopped_training_run_is_no_broken_check(tmp_path, tiny, fake_check):
    """It takes the signal itself, to write its checkpoint, and says so by an exception."""
    from sim.training import Interrupted as Stopped

    checks = [fake_check("eq1"), fake_check("fig5", error=Stopped(tmp_path, 7))]
    with pytest.raises(Interrupted, match="after 1 of 2"):
        execute(checks, tiny, tmp_path, Silent())
    assert [record["id"] for record in stored(tmp_path)] == ["eq1"]


def test_stored_measurements_give_their_verdicts_again(tmp_path):
    paper_checks.run(only=["eq4", "eq20"], out=tmp_path)
    pairs = rejudge(tmp_path / "results.json")
    assert [(old.verdict, new.verdict) for old, new in pairs] == [
        ("wrong constant", "wrong constant"),
        ("ambiguous", "ambiguous"),
    ]
    assert pairs[0][1].measured == pairs[0][0].measured


def test_the_same_seeds_give_the_same_numbers(tmp_path):
    first, second = (
        paper_checks.run(only=["eq4", "eq28"], out=tmp_path / name) for name in ("a", "b")
    )
    assert [r.measured for r in first] == [r.measured for r in second]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("eq44", "--only: 'eq44': no such check; did you mean eq4"),
        ("Fig2", "did you mean fig2"),
        ("claim-majority", "did you mean claim-majority-inaccurate"),
        ("zzz", "there are eq1 to eq28"),
        ([], "name at least one"),
    ],
)
def test_an_unknown_check_is_refused_with_its_neighbours(asked, message):
    with pytest.raises(InputError, match=message):
        resolve(asked)


def test_every_equation_figure_and_section_has_its_check():
    from paper_checks.papers.gao2020.claims import CLAIMS

    assert set(IDS) >= {f"eq{k}" for k in range(1, 29)} | {f"fig{k}" for k in range(1, 17)}
    assert len([name for name in IDS if name.startswith("claim-")]) >= 20
    sections = {claim.section for claim in CLAIMS.values()}
    assert sections >= {"2.1", "2.2", "2.3", "3.1", "3.2", "4.1", "4.2", "4.3", "5.1", "5.2", "6"}


def test_every_id_can_be_built():
    assert len(IDS) == len(set(IDS))
    for name in IDS:
        check = build(name)
        assert check.id == name
        assert check.criterion
        assert check.statement


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"profile": "fast"}, "--profile: 'fast'"),
        ({"dataset": "mnist"}, "--dataset: 'mnist'"),
        ({"device": "abacus"}, "--device: 'abacus'"),
        ({"only": "eq99"}, "--only: 'eq99'"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_written(tmp_path, argument, message):
    with pytest.raises(InputError, match=message):
        paper_checks.run(out=tmp_path / "report", **argument)
    assert os.listdir(tmp_path) == []


def test_an_unwritable_folder_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="is not a folder"):
            paper_checks.run(only="eq1", out=out)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_a_protected_folder_is_refused(tmp_path, monkeypatch):
    # Not by its mode: root, whom a container often runs as, may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(InputError, match="may not be written"):
        writable(tmp_path / "report")


def test_missing_data_is_refused_with_nothing_written(tmp_path):
    out = tmp_path / "report"
    with pytest.raises(FileNotFoundError):
        paper_checks.run(only="fig2", dataset="cifar10", data=tmp_path / "none", out=out)
    assert not out.exists()


def test_equations_need_no_data(tmp_path):
    (result,) = paper_checks.run(
        only="eq1", dataset="cifar10", data=tmp_path / "none", out=tmp_path / "report"
    )
    assert "data" not in result.environment


def test_an_atomic_write_leaves_the_old_file_when_it_fails(tmp_path):
    target = tmp_path / "x.json"
    write_atomically(target, "old")
    with pytest.raises(TypeError):
        write_atomically(target, 3)
    assert target.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_foreign_results_file_is_refused(tmp_path):
    for text in ("{", '[{"id": "eq1"}]', "[{}]", "[3]", "3"):
        (tmp_path / "r.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"not a results\.json"):
            read_results(tmp_path / "r.json")


def test_plain_refuses_what_json_has_no_word_for():
    with pytest.raises(TypeError, match="set cannot be stored"):
        plain({"a": {1}})
