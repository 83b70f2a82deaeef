"""The shared training runs, tiny: what they measure is judged and drawn without further ado."""

import json
import pkgutil
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from paper_checks.measurements.durations import estimates, needs
from paper_checks.papers.gao2020.figures import fig16
from paper_checks.papers.gao2020.measurements import training
from paper_checks.papers.gao2020.measurements.context import Context
from paper_checks.papers.gao2020.measurements.profile import Profile, profile
from paper_checks.registry import build
from paper_checks.result import plain
from paper_checks.verdicts import VERDICTS

READ_BY = {
    "first_epoch": ("fig4", "fig7"),
    "whole": ("fig5", "fig8", "claim-two-instabilities"),
    "tuned": (
        "fig1",
        "claim-gap-worsens",
        "claim-searching-space",
        "claim-training-stuck",
        "claim-training-longer",
        "claim-large-batch-doomed",
        "claim-global-rate-small-batch",
    ),
    "discarding": ("fig10", "claim-discarding-fades"),
    "schedules": (
        "fig11",
        "fig12",
        "fig13",
        "fig14",
        "claim-first-epoch-amplifies",
        "claim-schedule-is-step-length",
    ),
    "rules": ("fig16", "fig-cblr", "claim-mclr-falls-behind", "claim-layer-wise-necessary"),
    "warmup": ("fig-spread", "claim-warmup-flattens"),
    "sharp": ("claim-sharp-minima",),
}


PARTS = [
    import_module(f"{training.__name__}.{part.name}")
    for part in pkgutil.iter_modules(training.__path__)
]


def whole_run(run):
    """A run as it is, where a test reads it itself."""
    return run


def shrink(patch, **values):
    """Put other constants wherever the sweeps read them."""
    for name, value in values.items():
        holders = [module for module in (training, *PARTS) if hasattr(module, name)]
        assert holders, name
        for module in holders:
            patch.setattr(module, name, value)


@pytest.mark.parametrize("sweep", READ_BY)
def test_a_sweep_feeds_its_checks(tiny, sweep, monkeypatch):
    # Two rates instead of five: what is measured at each is the same.
    gammas = {k: v[1:3] for k, v in training.GAMMAS.items()}
    shrink(monkeypatch, FACTORS=(1.0, 10**0.5), GAMMAS=gammas)
    found = getattr(training, sweep)(tiny)
    assert found["rows"]
    assert found["seeds"]
    assert found == json.loads(json.dumps(found, allow_nan=False))
    from paper_checks.report.page import MOST_ROWS, grid

    shown = grid(found)
    assert 0 < len(shown["rows"]) <= MOST_ROWS
    assert shown["total"] == len(found["rows"])
    for name in READ_BY[sweep]:
        check = build(name)
        measurements = json.loads(json.dumps(plain(check.measure(tiny))))
        assert check.judge(measurements).verdict in VERDICTS
        if check.draw is not None:
            assert check.draw(measurements).svg.startswith("<svg")


def test_all_rules_choose_by_as_many_runs_and_read_on_other_seeds(tiny):
    from paper_checks.papers.gao2020.measurements.training._rules import arms, seeds_of

    found = replace(training.lab(tiny), seeds=tuple(range(16)))
    runs = {}
    for rule in training.GAMMAS:
        tuning, reading = seeds_of(found, rule, decisive=True)
        assert not set(tuning) & set(reading)
        runs[rule] = len(tuning) * len(arms(found, rule, 8, "epochs", 1))
    assert len(set(runs.values())) == 1


def test_what_decides_figure_16_has_more_seeds_where_they_cost_little(tiny):
    from paper_checks.papers.gao2020.measurements.training._rules import seeds_of

    found = replace(training.lab(tiny), seeds=tuple(range(16)))
    assert len(seeds_of(found, "mclr", decisive=True)[1]) == 16
    few = seeds_of(found, "mclr", decisive=False)
    assert few == seeds_of(found, "sgd", decisive=True)
    assert len(few[1]) == 10
    big = replace(found, vectorise=False)
    assert seeds_of(big, "lars", decisive=True) == few


def test_batch_sizes_are_the_papers_shares():
    lab = training.lab(Context(profile("quick", "digits")))
    assert lab.total == 1437
    assert [lab.n(n) for n in (32, 512, 8192, 49152)] == [1, 15, 235, 1413]
    # n / N within half a sample of the paper's.
    for n in training.FIRST_EPOCH:
        assert abs(lab.n(n) / lab.total - n / 50_000) <= 0.5 / lab.total + 1e-12


def test_the_full_profile_trains_the_papers_networks():
    context = Context(replace(profile("full", "cifar10"), images=None), "cifar10")
    context.__dict__["dataset"] = np.empty(50_000)
    lab = training.lab(context)
    assert lab.base.model == "alexnet"
    assert dict(lab.base.model_options) == {"width": 1.0}
    assert lab.sizes(training.SIZES) == sorted(training.SIZES)
    assert lab.base.epochs == 100
    assert not lab.vectorise
    compared = training.lab(context, context.profile.compares).base
    assert (compared.model, dict(compared.model_options)) == ("resnet18", {"width": 1.0})
    # At the paper's 1024 the parts change nothing.
    assert (compared.micro_batch, compared.batch_norm) == (1024, "ghost")


def test_the_same_seeds_give_the_same_measurements(tiny):
    again = Context(tiny.profile, "digits")
    assert training.warmup(again) == training.warmup(tiny)


def test_the_runs_of_a_sweep_are_asked_for_at_once_so_that_all_cores_train(tiny, monkeypatch):
    """Once those that choose, of all cells, and once those of what was chosen."""
    cells = [
        training.Cell([training.Arm({"arm_of": k}, tiny_arm(tiny, k, lr)) for lr in (0.1, 0.2)],
                      (2, 3), (0, 1))
        for k in (8, 16)
    ]  # fmt: skip
    asked = []

    def trained(lab, configs, read):
        asked.append([(config.batch_size, config.lr, config.seed) for config in configs])
        return [{"accuracy": config.lr, "status": "finished"} for config in configs]

    monkeypatch.setattr("paper_checks.measurements.cells.trained", trained)
    sweep = training.Sweep("any", lambda context: cells, None)
    made = training.rows(Context(tiny.profile, "digits"), training.lab(tiny), sweep)
    assert [len(configs) for configs in asked] == [8, 4]
    assert {lr for _, lr, _ in asked[1]} == {0.2}
    places = [(row["arm_of"], row["arm"], row["seed"], row["stage"]) for row in made]
    assert places == [
        (k, arm, seed, stage)
        for k in (8, 16)
        for arm, stages in ((0, {0: "tuning", 1: "tuning"}),
                            (1, {0: "tuning", 1: "tuning", 2: "reading", 3: "reading"}))
        for seed, stage in stages.items()
    ]  # fmt: skip


def tiny_arm(tiny, batch_size, lr):
    return training.lab(tiny).base.replace(batch_size=batch_size, lr=lr)


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
    first = training.trained(real, grid(real.base, seed=[0]), whole_run)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.parquet")}
    again = training.trained(real, grid(real.base, seed=[0, 1]), whole_run)
    assert kept
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert [run.config.seed for run in again] == [0, 1]
    assert again[0].epochs.test_loss[0] == first[0].epochs.test_loss[0]


# ---- the full profile, small: the paper's networks on a handful of digits ----------------------

FULL = Profile(
    name="full",
    width=0.02,
    sample=32,
    population=128,
    batches=2,
    entries=200,
    draws=2000,
    seeds=(0, 1),
    batch_sizes=(8, 128),
    runs=2,
    epochs=1,
    images=64,
    trains="alexnet",
    compares="resnet18",
)


@pytest.fixture(scope="module")
def shrunken(tmp_path_factory):
    """The full profile's own path: runs in folders, AlexNet and ResNet-18, few of everything."""
    small = {
        "FACTORS": (1.0, 10**0.5),
        "GAMMAS": {k: v[1:3] for k, v in training.GAMMAS.items()},
        "RULE_SIZES": (8192, 32768),
        "SIZES": (8192, 32768),
        "FIRST_EPOCH": (8192, 32768),
        "ENTRIES": 9,
        "SAMPLED": 12,
    }
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch, **small)
        yield Context(FULL, "digits", folder=tmp_path_factory.mktemp("full"))


# Those that take 10 s and more; their reading and their judges are tried in small elsewhere too.
LONG = ("sharp", "compared")


@pytest.mark.parametrize(
    "sweep",
    [
        pytest.param(sweep, marks=[pytest.mark.slow] if sweep in LONG else [])
        for sweep in (*READ_BY, "compared")
    ],
)
def test_the_full_profile_in_small(shrunken, sweep):
    found = getattr(training, sweep)(shrunken)
    assert found["network"] == (
        "resnet18 (width 0.02)" if sweep == "compared" else "alexnet (width 0.02)"
    )
    assert found["rows"]
    read_by = ("fig16", "claim-mclr-falls-behind") if sweep == "compared" else READ_BY[sweep]
    for name in {*read_by} - ({"fig16", "claim-mclr-falls-behind"} if sweep == "rules" else set()):
        check = build(name)
        assert f"training-{sweep.replace('_', '-')}" in needs(check, shrunken)
        assert estimates([check], shrunken)[0].seconds < 1, "kept, yet estimated as to be done"
        measurements = json.loads(json.dumps(plain(check.measure(shrunken))))
        assert measurements["rows"] == found["rows"]
        assert check.judge(measurements).verdict in VERDICTS
        if check.draw is not None:
            assert check.draw(measurements).svg.startswith("<svg")


def test_figure_16_has_exact_radii_where_true_cblr_is_out_of_reach(shrunken):
    import torch
    from torch.nn.functional import cross_entropy

    from sim.models import build as network

    found = training.compared(shrunken)
    assert {row["rule"] for row in found["rows"]} == {"sgd", "lars", "mclr", "percent-delta"}
    ends = {
        at: [row for row in found["radii"] if row["at"] == at]
        for at in ("at initialisation", "trained")
    }
    assert [len(rows) for rows in ends.values()] == [21, 21]
    assert ends["trained"][0]["mclr"] != ends["at initialisation"][0]["mclr"]
    # A tensor of no more entries than are drawn, entry by entry, batch norm in training mode.
    model = network("resnet18", in_shape=(1, 8, 8), classes=10, seed=0, width=0.02).train()
    pair = shrunken.dataset.subset(12, 0).pair
    w = dict(model.named_parameters())["conv1.weight"]
    (g,) = torch.autograd.grad(cross_entropy(model(pair[0]), pair[1]), [w], create_graph=True)
    flat = g.reshape(-1)
    h = torch.stack(
        [
            torch.autograd.grad(each, w, retain_graph=True)[0].reshape(-1)[k]
            for k, each in enumerate(flat)
        ]
    )
    radius = (1 + flat.detach().double() ** 2) ** 1.5 / h.abs().double()
    row = ends["at initialisation"][0]
    assert row["parameter"] == "conv1.weight"
    assert w.numel() <= training.ENTRIES
    # Single precision, through second derivatives of batch norm.
    assert row["radius"] == pytest.approx(float(radius.quantile(0.5)), rel=1e-2)
    assert row["radius_low"] == row["radius"] == row["radius_high"]
    assert row["mclr"] == pytest.approx(
        float((w.abs().median() / flat.abs().median()).detach()), rel=1e-4
    )
    assert "MCLR's median radius of a weight tensor over its exact one" in fig16.medians(found)
    drawing = build("fig16").draw(found)
    assert "the exact median" in drawing.caption


def test_a_run_that_fails_is_no_finding(tmp_path):
    """One image alone cannot go through batch norm: an error, where a divergence would count."""
    context = Context(replace(FULL, images=4), "digits", folder=tmp_path)
    found = training.lab(context, "resnet18")
    with pytest.raises(
        RuntimeError, match="2 of 2 runs failed, the first: ValueError: batch_size: "
    ):
        training.trained(
            found, [found.base.replace(batch_size=1, seed=k) for k in (0, 1)], whole_run
        )


def test_the_full_profile_has_the_seeds_that_its_criteria_ask_for():
    """Half of them choose a rate; where a criterion reads the others, there are enough."""
    from paper_checks.papers.gao2020.claims import CLAIMS
    from paper_checks.papers.gao2020.figures import FIGURES

    for name in ("quick", "full"):
        sizes = profile(name, "cifar10")
        for each in ("fig1", "fig16", "fig-cblr"):
            assert sizes.runs // 2 >= FIGURES[each].thresholds["seeds"]
        for each in ("large-batch-doomed", "training-stuck", "training-longer", "gap-worsens"):
            assert sizes.runs // 2 >= CLAIMS[f"claim-{each}"].thresholds["seeds"]
        tuning = min(6, sizes.runs // 2)
        read = min(sizes.runs - tuning, training.EXACT_SEEDS)
        assert read >= FIGURES["fig-cblr"].thresholds["seeds"]
        assert min(sizes.runs, 5) >= CLAIMS["claim-sharp-minima"].thresholds["seeds"]
