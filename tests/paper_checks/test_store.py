"""What is kept is read again by the same configuration and code, and by nothing else."""

import json

import pytest

import paper_checks
from paper_checks.measurements import store as module
from paper_checks.measurements.store import Store, source_path
from paper_checks.papers.gao2020.measurements.context import Context
from paper_checks.papers.gao2020.measurements.profile import Profile
from paper_checks.running.monitor import Silent
from paper_checks.running.runner import execute
from paper_checks.shared import Shared, reads

SMALL = Profile("quick", 0.05, 16, 64, 2, 100, 1000, seeds=(0,), runs=2, epochs=1, images=32)


def make(context):
    return {"value": 1.5}


def test_a_value_comes_back_as_json_holds_it(tmp_path):
    kept = Store(tmp_path, {"a": 1})
    assert kept.get("x", make) is None
    kept.put("x", make, {"value": float("nan"), "list": (1, 2)})
    assert kept.get("x", make) == {"value": None, "list": [1, 2]}
    assert Store(tmp_path, {"a": 1}).get("x", make) == {"value": None, "list": [1, 2]}


def test_another_configuration_or_code_reads_nothing(tmp_path, monkeypatch):
    Store(tmp_path, {"a": 1}).put("x", make, {"value": 1})
    assert Store(tmp_path, {"a": 2}).get("x", make) is None
    assert Store(tmp_path, {"a": 1}).get("y", make) is None
    monkeypatch.setattr(module, "common_source", lambda of: "edited")
    assert Store(tmp_path, {"a": 1}).get("x", make) is None


def test_the_code_that_measures_is_part_of_the_key(tmp_path, monkeypatch):
    kept = Store(tmp_path, {})
    before = kept.path("x", make)
    monkeypatch.setattr(module, "source", lambda function: "edited")
    assert kept.path("x", make) != before


def test_what_several_checks_reduce_with_counts_too():
    names = {"/".join(path.parts[-2:]) for path in module.shared_files()}
    assert {"figures/_reducers.py", "figures/_entries.py", "training/_lab.py"} <= names


def test_one_diagonal_serves_every_figure_of_single_entries(tmp_path, monkeypatch):
    """Ranks, b, convergence, failures and the tensors' statistics: measured once a seed."""
    from paper_checks.registry import build

    context = Context(SMALL, "digits", folder=tmp_path)
    measured = []
    right = Context._measure
    monkeypatch.setattr(
        Context, "_measure", lambda self, seed: (measured.append(seed), right(self, seed))[1]
    )
    for name in (
        "fig2",
        "fig-radius",
        "fig-b",
        "fig-convergence",
        "claim-same-failure-conditions",
        "claim-lars-special-case",
    ):
        build(name).measure(context)
    # Figure 2's own, of the first seed, is still in memory when the entries are asked for.
    assert measured == [0]


def test_half_a_file_is_no_measurement(tmp_path):
    kept = Store(tmp_path, {})
    kept.put("x", make, {"value": 1})
    path = kept.path("x", make)
    path.write_text(path.read_text(encoding="utf-8")[:-3], encoding="utf-8")
    assert kept.get("x", make) is None


def test_no_folder_keeps_nothing():
    kept = Store(None, {})
    kept.put("x", make, {"value": 1})
    assert kept.get("x", make) is None


def test_shared_measures_once_and_a_new_context_not_at_all(tmp_path):
    calls = []

    def measure(context):
        calls.append(1)
        return {"value": float("inf")}

    first = Context(SMALL, "digits", folder=tmp_path)
    assert first.shared("k", measure) == first.shared("k", measure) == {"value": None}
    second = Context(SMALL, "digits", folder=tmp_path)
    assert second.has("k")
    assert second.shared("k", measure) == {"value": None}
    assert len(calls) == 1
    assert second.kept_seconds > 0
    fresh = Context(SMALL, "digits", folder=tmp_path)
    fresh.fresh = True
    assert not fresh.has("k")
    fresh.shared("k", measure)
    assert len(calls) == 2


def test_a_killed_audit_goes_on_where_it_was(tmp_path, fake_check):
    """The second check dies; the next run measures only what is missing."""
    seen = []

    def checks(broken):
        def one(name):
            def measure(context):
                def measuring(context):
                    seen.append(name)
                    if broken and name == "fig3":
                        raise KeyboardInterrupt
                    return {"value": 1.0, "seeds": [0]}

                return context.shared(name, measuring)

            from dataclasses import replace

            return replace(fake_check(name), measure=reads(Shared.under(name))(measure))

        return [one("fig2"), one("fig3")]

    context = Context(SMALL, "digits", folder=tmp_path / "measurements")
    with pytest.raises(KeyboardInterrupt):
        execute(checks(True), context, tmp_path, Silent())
    again = Context(SMALL, "digits", folder=tmp_path / "measurements")
    results = execute(checks(False), again, tmp_path, Silent())
    assert seen == ["fig2", "fig3", "fig3"]
    assert [result.kept for result in results] == [True, False]


def test_a_second_run_measures_nothing_and_judges_the_same(tmp_path):
    first = paper_checks.run(only="claim-other-enlargers", out=tmp_path)
    second = paper_checks.run(only="claim-other-enlargers", out=tmp_path)
    assert [r.kept for r in first + second] == [False, True]
    assert first[0].measurements == second[0].measurements
    assert first[0].verdict == second[0].verdict
    assert second[0].seconds >= 0.5 * first[0].seconds
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "measured in an earlier run" in page
    anew = paper_checks.run(only="claim-other-enlargers", out=tmp_path, fresh=True)
    assert not anew[0].kept
    assert anew[0].measurements == first[0].measurements


def test_the_code_is_named_from_its_package_on():
    assert source_path(Store.get) == "paper_checks/measurements/store.py"
    assert source_path(json.dumps).endswith("__init__.py")
