"""An equation's verdict is theory's, and stands only while derivation and experiment bear it."""

import copy
import dataclasses
import json
import types

import pytest

import theory
from paper_checks.equations.checks import judge, measure
from paper_checks.papers.gao2020.experiments import EXPERIMENTS, circle_radius
from paper_checks.registry import build
from paper_checks.result import plain

LABELS = [str(number) for number in range(1, 29)]


def measured(context, label):
    """What an audit measures of an equation, theory's as it is now."""
    return plain(measure(context, theory.EQUATIONS[label], EXPERIMENTS.get(label)))


@pytest.fixture(scope="module")
def stored(tiny):
    """The measurements of all 28 equations as they are read back from results.json."""
    return {label: json.loads(json.dumps(measured(tiny, label))) for label in LABELS}


@pytest.mark.parametrize("label", LABELS)
def test_the_verdict_is_theorys_and_the_experiment_agrees(stored, label):
    judgement = judge(stored[label])
    assert judgement.verdict == theory.EQUATIONS[label].verdict.value, judgement.reason
    assert judgement.predicted is not None
    assert judgement.measured is not None


@pytest.mark.parametrize("label", LABELS)
def test_a_failed_step_turns_the_verdict(stored, label):
    broken = copy.deepcopy(stored[label])
    broken["derivation"]["steps"][-1]["checked"] = False
    assert judge(broken).verdict == "inconclusive"


@pytest.mark.parametrize("label", sorted(EXPERIMENTS, key=int))
def test_an_experiment_that_misses_the_derivation_turns_the_verdict(stored, label):
    broken = copy.deepcopy(stored[label])
    low, high = broken["numbers"]["interval"]
    shift = 2 * (high - low) + abs(low)
    broken["numbers"]["interval"] = [low + shift, high + shift]
    broken["numbers"]["measured"] += shift
    judgement = judge(broken)
    assert judgement.verdict == "inconclusive"
    assert "contradicts our own derivation" in judgement.reason


@pytest.mark.parametrize("label", ["2", "3", "4", "5", "6", "11", "28"])
def test_a_printed_value_that_fits_turns_a_verdict_against_it(stored, label):
    broken = copy.deepcopy(stored[label])
    broken["numbers"]["printed"] = broken["numbers"]["measured"]
    judgement = judge(broken)
    assert judgement.verdict == "inconclusive"
    assert "cannot tell" in judgement.reason


@pytest.mark.parametrize("label", ["9", "13", "14", "15", "16", "26"])
def test_a_printed_value_that_misses_turns_a_verdict_for_it(stored, label):
    broken = copy.deepcopy(stored[label])
    broken["numbers"]["printed"] *= 1.1
    assert judge(broken).verdict == "inconclusive"


def test_another_constant_than_the_found_one_turns_the_verdict(stored):
    broken = copy.deepcopy(stored["4"])
    broken["factor"] *= 1.01
    assert "constant factor" in judge(broken).reason


@pytest.mark.parametrize("label", ["9", "13", "14", "16", "26"])
def test_a_printed_form_that_is_altered_no_longer_holds(tiny, monkeypatch, label):
    right = theory.EQUATIONS[label]
    wrong = dataclasses.replace(right, printed=2 * right.printed)
    changed = types.MappingProxyType({**theory.EQUATIONS, label: wrong})
    monkeypatch.setattr(theory, "EQUATIONS", changed)
    assert judge(measured(tiny, label)).verdict == "wrong constant"


def test_a_printed_form_that_is_corrected_holds(tiny, monkeypatch):
    wrong = theory.EQUATIONS["4"]
    right = dataclasses.replace(wrong, printed=wrong.derived)
    changed = types.MappingProxyType({**theory.EQUATIONS, "4": right})
    monkeypatch.setattr(theory, "EQUATIONS", changed)
    assert judge(measured(tiny, "4")).verdict == "holds"


def test_the_absent_equation_says_so():
    check = build("eq7")
    assert check.latex is None
    assert "no such equation" in check.statement


def test_the_circle_knows_a_parabola():
    # At the bottom of a·w² the radius is 1/(2a).
    assert circle_radius(lambda w: 3 * w * w, 0.0) == pytest.approx(1 / 6, rel=1e-4)
