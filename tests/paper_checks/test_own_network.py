"""The page of a reader's own network: what may be trusted is told from exact values."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import hessian
from paper_checks.numbers import short
from paper_checks.own_network.page import (
    ESTIMATORS,
    estimate_rows,
    judge_estimate,
    judge_square,
    judge_statistic,
    write_page,
)
from sim import compare_radii


def tensors(error, rank=1.0, count=10):
    rows = [{"parameter": f"p{k}", "error": error, "rank": rank} for k in range(count)]
    return {"kind": "hutchinson", "reason": "", "tensors": rows}


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (tensors(0.01), "holds"),
        (tensors(3.0), "holds in part"),
        (tensors(3.0, 0.1), "contradicted"),
        (tensors(0.01, count=0), "inconclusive"),
        (tensors(0.01) | {"reason": "not for this layer", "tensors": []}, "skipped"),
    ],
)
def test_an_estimate_is_judged_by_its_error_and_its_order(row, verdict):
    assert judge_estimate(row).verdict == verdict


@pytest.mark.parametrize(
    ("statistic", "verdict"),
    [
        (lambda k: 0.01 * 10.0**k, "holds"),
        (lambda k: 2.0**k, "holds in part"),
        (lambda k: 10.0**-k, "contradicted"),
    ],
)
def test_a_statistic_is_judged_up_to_one_factor(statistic, verdict):
    rows = [{"radius_finite_q50": 10.0**k, "eq23": statistic(k)} for k in range(8)]
    assert judge_statistic(rows, "eq23").verdict == verdict
    assert judge_statistic(rows[:3], "eq23").verdict == "inconclusive"


@pytest.mark.parametrize(
    ("largest", "typical", "verdict"),
    [(1e-4, 1e-6, "holds"), (1.0, 1e-6, "holds in part"), (1.0, 0.5, "contradicted")],
)
def test_the_square_is_judged(largest, typical, verdict):
    rows = [{"gradient_squared_max": largest, "gradient_squared_q99": typical}]
    assert judge_square(rows).verdict == verdict


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)).double()
    pair = torch.randn(40, 12, dtype=torch.float64), torch.randint(4, (40,))
    loss = nn.functional.cross_entropy
    return model, loss, pair, hessian.diagonal(model, loss, pair)


def test_the_exact_value_in_place_of_an_estimate_is_trusted_and_a_scaled_one_is_not(network):
    found = network[3]
    exact, double, noise = estimate_rows(
        found,
        lambda kind: {
            "exact": found,
            "double": {name: 2 * h for name, h in found.items()},
            "noise": {name: torch.randn_like(h) for name, h in found.items()},
        }[kind],
        ("exact", "double", "noise"),
    )
    assert judge_estimate(exact).verdict == "holds"
    assert judge_estimate(double).verdict == "holds in part"
    assert judge_estimate(noise).verdict == "contradicted"


def test_the_page(network, tmp_path):
    model, loss, pair, found = network
    frame = compare_radii(model, loss, pair, curvature=found)
    entries = {
        name: tuple(x.detach().numpy().ravel() for x in (w, found.gradient[name], found[name]))
        for name, w in model.named_parameters()
    }
    estimates = estimate_rows(
        found, lambda kind: hessian.estimate(model, loss, pair, kind, probes=8)
    )
    facts = {
        "versions": {}, "hardware": {}, "dataset": "toy", "command": "cblr curvature toy:net",
        "network": "toy:net", "samples": 40,
    }  # fmt: skip
    results = write_page(tmp_path, frame, entries, estimates, facts)
    verdicts = {result.id: result.verdict for result in results}
    # A ReLU network: the Gauss-Newton diagonal is the Hessian's, the empirical Fisher is not.
    assert verdicts["own-gauss-newton"] == "holds"
    assert verdicts["own-empirical-fisher"] != "holds"
    assert set(verdicts) >= {f"own-{kind}" for kind in ESTIMATORS} | {"own-radius", "own-b"}
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count("<article") == len(results)
    assert "cblr curvature toy:net" in page
    # It speaks of this network: its name on top, its curvature first, then what to trust.
    assert "<h1>Curvature of toy:net</h1>" in page
    places = [page.index(text) for text in ("<h1>", 'id="layers"', "Which estimate of the", "LARS")]
    assert places == sorted(places)
    h = found["0.weight"]
    row = page[page.index("<td>0.weight</td>") :].split("</tr>")[0]
    assert f">{short(float(h.sum()))}<" in row
    assert f">{short(float(np.median(h.abs().numpy())))}<" in row
    assert f">{100 * float((h == 0).double().mean()):.0f} %<" in row
    for word in ("Gao", "the paper", "equation", "eq24", "eq23", "contradicted ", "the audit"):
        assert word not in page.replace("contradicted otherwise", "").replace(
            "contradicted if", ""
        ), word
    trusted = page[page.index("The Gauss-Newton diagonal</a>") :].split("</tr>")[0]
    assert ">values<" in trusted
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    stored = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [record["id"] for record in stored] == list(verdicts)
    assert np.isfinite(stored[2]["measured"])
