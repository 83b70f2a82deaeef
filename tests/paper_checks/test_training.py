"""The shared training runs, tiny: what they measure is judged and drawn without further ado."""

import json
from dataclasses import replace

import numpy as np
import pytest

from paper_checks import training
from paper_checks.context import Context
from paper_checks.profile import profile
from paper_checks.registry import build
from paper_checks.result import plain
from paper_checks.verdicts import VERDICTS

READ_BY = {
    "first_epoch": ("fig4", "fig7"),
    "whole": ("fig5", "fig8", "claim-two-instabilities"),
    "tuned": ("fig1", "claim-gap-worsens", "claim-searching-space", "claim-training-stuck"),
    "discarding": ("fig10", "claim-discarding-fades"),
    "schedules": ("fig11", "fig12", "fig13", "fig14", "claim-first-epoch-amplifies"),
    "rules": ("fig16", "fig-cblr", "claim-mclr-falls-behind"),
    "warmup": ("fig-spread", "claim-warmup-flattens"),
    "sharp": ("claim-sharp-minima",),
}


@pytest.mark.parametrize("sweep", READ_BY)
def test_a_sweep_feeds_its_checks(tiny, sweep, monkeypatch):
    # Two rates instead of five: what is measured at each is the same.
    monkeypatch.setattr(training, "FACTORS", (1.0, 10**0.5))
    monkeypatch.setattr(training, "GAMMAS", {k: v[1:3] for k, v in training.GAMMAS.items()})
    found = getattr(training, sweep)(tiny)
    assert found["rows"]
    assert found["seeds"]
    assert found == json.loads(json.dumps(found, allow_nan=False))
    from paper_checks.report import MOST_ROWS, grid

    shown = grid(found)
    assert 0 < len(shown["rows"]) <= MOST_ROWS
    assert shown["total"] == len(found["rows"])
    for name in READ_BY[sweep]:
        check = build(name)
        measurements = json.loads(json.dumps(plain(check.measure(tiny))))
        assert check.judge(measurements).verdict in VERDICTS
        if check.draw is not None:
            assert check.draw(measurements).svg.startswith("<svg")


def test_batch_sizes_are_the_papers_shares():
    lab = training.lab(Context(profile("quick", "digits")))
    assert lab.total == 1437
    assert [lab.n(n) for n in (32, 512, 8192, 49152)] == [1, 15, 235, 1413]
    # n / N within half a sample of the paper's.
    for n in training.FIRST_EPOCH:
        assert abs(lab.n(n) / lab.total - n / 50_000) <= 0.5 / lab.total + 1e-12


def test_the_full_profile_trains_the_papers_network():
    context = Context(replace(profile("full", "cifar10"), images=None), "cifar10")
    context.__dict__["dataset"] = np.empty(50_000)
    lab = training.lab(context)
    assert lab.base.model == "alexnet"
    assert dict(lab.base.model_options) == {"width": 1.0}
    assert lab.sizes(training.SIZES) == sorted(training.SIZES)
    assert lab.base.epochs == 100
    assert not lab.vectorise


def test_the_same_seeds_give_the_same_measurements(tiny):
    again = Context(tiny.profile, "digits")
    assert training.warmup(again) == training.warmup(tiny)


def test_the_full_profiles_runs_resume_one_by_one(tiny, tmp_path):
    """AlexNet through the same path, as small as can be: kept runs are read, not repeated."""
    from sim.training import grid

    lab = training.lab(tiny)
    real = replace(
        lab,
        base=lab.base.replace(
            model="alexnet", model_options={"width": 0.02}, samples=16, batch_size=8, epochs=1
        ),
        runs=tmp_path / "runs",
        vectorise=False,
        jobs=1,
    )
    first = training.tables(real, grid(real.base, seed=[0]), "runs", "epochs")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.parquet")}
    again = training.tables(real, grid(real.base, seed=[0, 1]), "runs", "epochs")
    assert kept
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(first[0]) == 1
    assert len(again[0]) == 2
    assert again[0].test_loss[0] == first[0].test_loss[0]
