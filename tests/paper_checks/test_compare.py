"""What changed since an older audit; the published schema of results.json; the estimates."""

import json
from dataclasses import replace
from importlib.resources import files

import jsonschema
import pytest
from typer.testing import CliRunner

import paper_checks
from paper_checks.cli import commands as cli
from paper_checks.measurements.durations import Estimate, estimates, needs, told
from paper_checks.papers.gao2020.measurements.context import Context
from paper_checks.papers.gao2020.measurements.profile import profile
from paper_checks.registry import IDS, build
from paper_checks.report.compare import Change, compare, lines
from paper_checks.result import read_results


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    return paper_checks.run(only=["eq4", "eq9", "fig6", "claim-other-enlargers"], out=out), out


def test_nothing_changed(audit):
    assert compare(*(2 * [audit[0]])) == []
    assert lines([], 4) == ["no change in 4 checks"]


def test_every_kind_of_change_is_told_verdicts_first(audit):
    old, new = audit[0], list(audit[0])
    low, high = old[0].interval
    new[0] = replace(old[0], measured=(low + high) / 2 + 1e-4)
    new[1] = replace(old[1], verdict="contradicted", criterion_hash="f" * 64, predicted=7.0)
    new[2] = replace(old[2], measured=old[2].measured * 1.01)
    found = compare(old, new[:3])
    assert [(change.id, change.what) for change in found] == [
        ("eq9", "verdict"),
        ("eq9", "criterion"),
        ("claim-other-enlargers", "check"),
        ("fig6", "measured"),
        ("eq9", "predicted"),
    ]
    assert found[0] == Change("eq9", "verdict", "holds", "contradicted")
    assert lines(found, 4)[0] == "5 changes in 3 checks"
    # Inside its old interval a measurement has not changed; beyond it, it has.
    assert compare(old, [replace(old[0], measured=high + (high - low)), *old[1:]])[0].id == "eq4"
    assert compare(old[:1], old)[0] == Change("eq9", "check", "not run", "holds")


def test_compare_on_the_command_line(audit, tmp_path):
    records = json.loads((audit[1] / "results.json").read_text(encoding="utf-8"))
    for record in records:
        if record["id"] == "eq9":
            record["verdict"] = "fails"
    old = tmp_path / "old.json"
    old.write_text(json.dumps(records), encoding="utf-8")
    command = ["audit", "--only", "eq9", "--out", str(tmp_path / "new"), "--compare", str(old)]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    assert "eq9  verdict: fails -> holds" in result.stdout
    assert "1 changes in 1 checks" in result.stdout
    (tmp_path / "table.json").write_text("{}", encoding="utf-8")
    for bad in (tmp_path / "none.json", tmp_path, tmp_path / "table.json"):
        result = CliRunner().invoke(cli.app, [*command[:-1], str(bad)])
        assert result.exit_code == 2
        assert "--compare" in result.stderr


def test_results_fit_the_published_schema(audit):
    schema = json.loads(files("paper_checks").joinpath("results.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    records = json.loads((audit[1] / "results.json").read_text(encoding="utf-8"))
    assert len(records) == 4
    jsonschema.validate(records, schema)
    shared = [records[0], records[1] | {"measurements": {"same_as": "eq4"}}]
    jsonschema.validate(shared, schema)
    for key, value in (
        ("measurements", {"same_as": "eq4", "rows": []}),
        ("measurements", {"same_as": 4}),
        ("verdict", "perhaps"),
        ("id", "fig17"),
        ("criterion_hash", "0"),
        ("seconds", -1),
        ("surplus", 1),
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate([records[0] | {key: value}], schema)
    for key in set(records[0]) - {"rest"}:  # which results of before do not have
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate([{k: v for k, v in records[0].items() if k != key}], schema)


def test_the_schema_knows_every_verdict():
    import theory
    from paper_checks.verdicts import VERDICTS

    schema = json.loads(files("paper_checks").joinpath("results.schema.json").read_text("utf-8"))
    known = set(schema["$defs"]["result"]["properties"]["verdict"]["enum"])
    assert known == {*VERDICTS, *(verdict.value for verdict in theory.Verdict)}


def test_an_older_file_without_the_new_fields_is_read(audit, tmp_path):
    records = json.loads((audit[1] / "results.json").read_text(encoding="utf-8"))
    for record in records:
        del record["kept"], record["code"]
    (tmp_path / "old.json").write_text(json.dumps(records), encoding="utf-8")
    assert [result.id for result in read_results(tmp_path / "old.json")] == [
        record["id"] for record in records
    ]


class TestEstimates:
    def test_every_check_has_one_and_shared_work_counts_once(self):
        context = Context(profile("quick", "digits"))
        found = estimates([build(name) for name in IDS], context)
        assert [each.id for each in found] == list(IDS)
        seconds = {each.id: each.seconds for each in found}
        assert all(value > 0 for value in seconds.values())
        # Figure 1 pays for the sweep that the claims then read.
        assert seconds["fig1"] > 1 > seconds["claim-gap-worsens"]
        alone = estimates([build("claim-gap-worsens")], context)[0].seconds
        assert alone > 1

    def test_what_is_kept_costs_nothing(self, tmp_path):
        context = Context(profile("quick", "digits"), folder=tmp_path)
        assert estimates([build("fig1")], context)[0].seconds > 1
        context.store.put("training-tuned", build, {"measurements": {}, "seconds": 1.0})
        assert estimates([build("fig1")], context)[0].seconds < 1

    @pytest.mark.parametrize(
        "name",
        ["fig10", *(pytest.param(f"fig{k}", marks=pytest.mark.slow) for k in (1, 5, 11, 16))],
    )
    def test_more_work_takes_longer(self, name):
        quick = profile("quick", "digits")
        contexts = Context(quick), Context(replace(quick, epochs=100 * quick.epochs))
        few, many = (estimates([build(name)], context)[0].seconds for context in contexts)
        assert many > 5 * few

    def test_every_need_is_something_that_is_measured(self):
        context = Context(profile("quick", "digits"))
        from paper_checks.papers.gao2020.measurements import training

        for name in IDS:
            for key in needs(build(name), context):
                if key.startswith("training-"):
                    assert hasattr(training, key.removeprefix("training-").replace("-", "_"))

    def test_times_are_told_in_fitting_units(self):
        text = told([Estimate("fig1", 7200.0), Estimate("fig2", 3e5), Estimate("eq1", 0.4)])
        assert text[0].endswith("2.0 h")
        assert text[1].endswith("3.5 d")
        assert text[-1].startswith("3 checks")

    def test_the_plan_on_the_command_line(self, tmp_path):
        result = CliRunner().invoke(
            cli.app,
            ["audit", "--plan", "--only", "eq4", "--only", "fig9", "--out", str(tmp_path / "r")],
        )
        assert result.exit_code == 0, result.output
        assert "eq4" in result.stdout
        assert "2 checks, about" in result.stdout
        assert not (tmp_path / "r").exists()

    def test_a_full_audit_says_beforehand_how_long_it_takes(self, tmp_path):
        command = ["audit", "--profile", "full", "--only", "eq9", "--out", str(tmp_path)]
        result = CliRunner().invoke(cli.app, command)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("1 checks, about ")
