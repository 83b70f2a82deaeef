"""The law on real gradients: what is measured, how the verdict turns, and the picture."""

import copy
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from paper_checks.papers.gao2020.figures import fig_law
from paper_checks.papers.gao2020.measurements.context import Context
from paper_checks.report.page import grid
from paper_checks.result import plain
from sim.data import load
from sim.models import build


@pytest.fixture(scope="module")
def found(tiny):
    return json.loads(json.dumps(plain(fig_law.measure(tiny))))


def test_from_one_sample_to_all(found):
    fresh, trained = found["cases"]
    for case in found["cases"]:
        assert case["n"][0] == 1
        assert case["n"][-1] == case["samples"] == 1437
        assert len(case["mean"]) == len(case["batches"]) == len(case["n"])
        # The whole set leaves nothing to chance: the measured mean is that of |mu|, exactly.
        assert case["mean"][-1] == pytest.approx(case["moments"]["abs_mu_mean"], rel=1e-9)
        assert case["lines"]["finite"][-1] == pytest.approx(case["mean"][-1], rel=1e-9)
        # E|g_n| does not rise with n.
        assert case["mean"] == sorted(case["mean"], reverse=True)
    assert not fresh["trained"]
    assert trained["accuracy"] > 0.99
    assert trained["moments"]["sigma_mean"] < fresh["moments"]["sigma_mean"]


def test_at_initialisation_only_the_full_law_is_right(found):
    fresh = found["cases"][0]
    assert abs(fig_law.worst(fresh, "finite").value) < 0.03
    assert abs(fig_law.worst(fresh, "corrected").value) > 0.5
    assert abs(fig_law.worst(fresh, "printed").value) > 0.5
    assert abs(fig_law.worst(found["cases"][1], "means").value) > 0.5
    # With so few batches the trained network may be left open.
    assert fig_law.judge(found).verdict != "contradicted"


def test_the_moments_against_gradients_one_by_one(found):
    digits = load("digits")
    inputs, targets = digits.pair[0].double(), digits.pair[1]
    model = build("mlp", in_shape=digits.shape, classes=digits.classes, seed=0).double()
    rows = []
    for x, y in zip(inputs.split(1), targets.split(1), strict=True):
        (row,) = torch.autograd.grad(
            cross_entropy(model(x), y), [model.get_parameter("fc1.weight")]
        )
        rows.append(row.ravel()[::61])
    columns = torch.stack(rows).numpy()
    sigma = found["cases"][0]["moments"]["sigma_mean"]
    assert columns.std(axis=0).mean() == pytest.approx(sigma, rel=0.1)
    measured = found["cases"][0]["mean"][0]
    assert np.abs(columns).mean() == pytest.approx(measured, rel=0.1)


def exact(found, line="finite"):
    """As if what was measured were the full law itself, and `line` the one that is judged."""
    changed = copy.deepcopy(found)
    for case in changed["cases"]:
        case["mean"] = case["lines"]["finite"]
        case["standard_error"] = [0.0] * len(case["n"])
        case["lines"]["finite"] = case["lines"][line]
    return changed


def scaled(found, factor, trained=None):
    changed = exact(found)
    for case in changed["cases"]:
        if trained in (None, case["trained"]):
            case["lines"]["finite"] = [factor * value for value in case["lines"]["finite"]]
    return changed


def test_the_verdict_turns_with_the_law(found):
    assert fig_law.judge(exact(found)).verdict == "holds"
    # Without the finite population: the trained network's means are small, and it shows there.
    assert fig_law.judge(exact(found, "means")).verdict == "holds in part"
    assert fig_law.judge(exact(found, "corrected")).verdict == "contradicted"
    assert fig_law.judge(exact(found, "printed")).verdict == "contradicted"
    for factor in (2**0.5, 0.5**0.5, 1.11, 0.89, -1):
        assert fig_law.judge(scaled(found, factor)).verdict == "contradicted"
    assert fig_law.judge(scaled(found, 1.09)).verdict == "holds"
    assert fig_law.judge(scaled(found, 1.2, trained=True)).verdict == "holds in part"
    assert fig_law.judge(scaled(found, 1.2, trained=False)).verdict == "contradicted"


def test_noise_is_not_judged_and_small_batches_do_not_count(found):
    noisy = exact(found)
    noisy["cases"][1]["standard_error"][-2] = 0.2 * noisy["cases"][1]["mean"][-2]
    assert fig_law.judge(noisy).verdict == "inconclusive"
    small = exact(found)
    for case in small["cases"]:
        case["lines"]["finite"] = [
            (3 if n < 32 else 1) * v for n, v in zip(case["n"], case["mean"], strict=True)
        ]
    assert fig_law.judge(small).verdict == "holds"


def test_the_errors_are_in_the_table(found):
    shown = grid(found)
    assert len(shown["rows"]) == sum(len(case["n"]) for case in found["cases"])
    place = shown["columns"].index("printed: error in %")
    case = found["cases"][0]
    assert shown["rows"][3][place] == pytest.approx(
        100 * (case["lines"]["printed"][3] / case["mean"][3] - 1)
    )


def test_the_picture(found):
    drawing = fig_law.draw(found)
    root = ET.fromstring(drawing.svg)
    assert root.get("role") == "img"
    assert drawing.alt in [child.text for child in root]
    assert fig_law.draw(found).svg == drawing.svg
    ids = re.findall(r'\bid="([^"]+)"', drawing.svg)
    assert len(ids) == len(set(ids))
    assert "1,437" in drawing.caption


def test_alexnet_joins_where_cifar10_is_given(tiny, monkeypatch):
    """The images here are of digits; the name alone decides."""
    context = Context(tiny.profile, "digits")
    context.load()
    monkeypatch.setattr(context, "name", "cifar10")
    monkeypatch.setattr(fig_law, "EPOCHS", 0)
    monkeypatch.setattr(fig_law, "BATCHES", {None: 1})
    monkeypatch.setattr(fig_law, "LARGE_LAYER", 100)
    found = fig_law.measure(context)["cases"]
    assert [case["case"] for case in found][-1] == "AlexNet at initialisation"
    last = found[-1]
    assert last["parameter"] == "fc1.weight"
    assert last["n"][-1] == last["samples"] == 256
    # Three batches in the profile; 32 times as many up to n = 64, twice as many beyond.
    assert last["batches"] == [96] * 7 + [6] * 2
    assert last["mean"][-1] == pytest.approx(last["moments"]["abs_mu_mean"], rel=1e-3)
