"""The referee: its networks, its cells, which go on where they stood, its judges, which turn."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import hessian
from paper_checks.cli.commands import app
from paper_checks.errors import InputError
from paper_checks.own_network.curvature import CurvatureRequest
from paper_checks.referee import command, record, trust
from paper_checks.referee.cells import Cell, Sizes, measure, read, run
from paper_checks.referee.networks import NETWORKS, Task, task
from paper_checks.referee.page import TITLES
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE
from sim._measurements.estimates.catalogue import ESTIMATES

SMALL = Sizes(probes=2, draws=1)


def tiny(cell):
    torch.manual_seed(cell.seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    pair = torch.randn(6, 3), torch.randint(0, 2, (6,))
    return Task(model, torch.nn.functional.cross_entropy, pair)


# --- networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_seed_is_a_network_and_its_samples(name):
    first, again, other = (task(name, "initial", seed) for seed in (0, 0, 1))
    values = [t.loss(t.model(t.pair[0]), t.pair[1]).item() for t in (first, again, other)]
    assert np.isfinite(values).all()
    assert values[0] == values[1] != values[2]
    assert len(first.pair[0]) == NETWORKS[name].samples
    assert not first.model.training


def test_training_lowers_the_loss():
    before, after = (task("gpt2", state, 0) for state in ("initial", "trained"))
    losses = [t.loss(t.model(t.pair[0]), t.pair[1]).item() for t in (before, after)]
    assert losses[1] < losses[0] - 0.5
    assert all(p.grad is None for p in after.model.parameters())


def test_every_estimate_has_a_title():
    assert tuple(TITLES) == ESTIMATES


# --- cells ----------------------------------------------------------------------------------------


def test_a_run_that_was_stopped_goes_on(tmp_path):
    cells = [Cell("tiny", "initial", seed) for seed in range(3)]
    made = []

    def make(cell):
        if len(made) == 1:
            made.append("stopped")
            raise KeyboardInterrupt
        made.append(cell.seed)
        return tiny(cell)

    with pytest.raises(KeyboardInterrupt):
        list(run(cells, make, tmp_path, SMALL, lambda *_: None))
    assert read(cells[0].path(tmp_path, SMALL)) is not None
    assert read(cells[1].path(tmp_path, SMALL)) is None
    told = []
    done = list(run(cells, make, tmp_path, SMALL, lambda cell, new: told.append(new)))
    assert made == [0, "stopped", 1, 2]
    assert told == [False, True, True]
    assert [cell.seed for cell, _ in done] == [0, 1, 2]
    # A file that was cut short is measured again, and other sizes are other cells.
    cells[0].path(tmp_path, SMALL).write_text("{")
    assert read(cells[0].path(tmp_path, SMALL)) is None
    assert cells[0].path(tmp_path, SMALL) != cells[0].path(tmp_path, Sizes())


def test_a_cell_holds_the_traces_and_the_blocks_of_the_dense_hessian():
    subject = tiny(Cell("tiny", "initial", 3))
    cell = measure(subject, 3, SMALL)
    operator = hessian.operator(subject.model, subject.loss, subject.pair)
    dense = np.asarray(operator @ np.eye(operator.shape[0]))
    # E |Hz|^2 = |H|^2; 24 draws of it.
    drawn = (dense @ np.random.default_rng(3).choice([-1.0, 1.0], (len(dense), 4000))) ** 2
    error = 6 * drawn.sum(0).std() / 24**0.5
    assert cell["blocks"]["whole"] == pytest.approx((dense**2).sum(), abs=error)
    within = (dense[:16, :16] ** 2).sum() + (dense[16:, 16:] ** 2).sum()
    assert cell["blocks"]["within"] == pytest.approx(within, abs=error)
    assert cell["blocks"]["layers"] == 2
    assert len(cell["traces"]) == 2 * 4 * 2 + 2 * 2 * 2  # probes, draws, weights
    exact = hessian.diagonal(subject.model, subject.loss, subject.pair)
    generator = torch.Generator().manual_seed(3000)
    guess = hessian.estimate(subject.model, subject.loss, subject.pair, "hutchinson", 5, generator)[
        "0.weight"
    ]
    row = cell["traces"][0]
    trace = float(exact["0.weight"].sum())
    assert row["error"] == pytest.approx(abs(float(guess.sum()) / trace - 1), rel=1e-4)
    signs = np.where(np.random.default_rng(3).integers(0, 2, (12, 20)), 1.0, -1.0)
    block = dense[:12, :12]
    forms = [z @ block @ z for z in signs.T]
    alone = [r for r in cell["traces"] if r["way"] == "layer" and r["parameter"] == "0.weight"]
    expected = [np.mean(forms[a:b]) for a, b in ((0, 5), (10, 15), (0, 10), (10, 20))]
    for one, value in zip(alone, expected, strict=True):
        assert one["error"] == pytest.approx(abs(value / trace - 1), rel=1e-3)


# --- judges ---------------------------------------------------------------------------------------


def made_up(served, seeds=5, networks=6, estimate="k-fac"):
    """A table in which the estimate serves every purpose, in so many of the networks."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        for network in range(networks):
            good = rng.random() < served
            for parameter in ("w", "*"):
                rows.append({
                    "network": f"n{network}", "state": "initial", "seed": seed,
                    "parameter": parameter, "estimate": estimate,
                    "bias": 0.01, "trace_error": 0.05 if good else 0.5,
                    "pruning_overlap": 0.95 if good else 0.2,
                    "within_factor_2": 0.99 if good else 0.1,
                    "largest_ratio": 1.01 if good else 7.0,
                })  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("served", "verdict"), [(1.0, HOLDS), (0.0, CONTRADICTED), (0.8, INCONCLUSIVE)]
)
def test_an_estimate_is_trusted_where_it_serves(served, verdict):
    found = trust.judge_estimate(trust.shares(made_up(served), "k-fac"), 5)
    assert found.verdict == verdict


def test_one_purpose_is_a_part_and_each_has_its_own_column():
    table = made_up(1.0)
    for purpose, column, bad in (
        ("learning rate", "trace_error", 0.2),
        ("pruning", "pruning_overlap", 0.5),
        ("Laplace posterior", "within_factor_2", 0.5),
        ("sharpness", "largest_ratio", 2.0),
    ):
        shares = trust.shares(table.assign(**{column: bad}), "k-fac")
        assert {name for name, each in shares.items() if each.value == 0} == {purpose}
        assert trust.judge_estimate(shares, 5).verdict == IN_PART


def test_what_cannot_be_computed_serves_nothing_and_one_seed_decides_nothing():
    table = pd.concat([made_up(1.0), made_up(1.0, networks=20, estimate="other")])
    assert trust.shares(table, "k-fac")["pruning"].value == pytest.approx(6 / 20)
    few = trust.judge_estimate(trust.shares(made_up(1.0, seeds=1), "k-fac"), 1)
    assert few.verdict == INCONCLUSIVE


def traces(error):
    rng = np.random.default_rng(1)
    return [
        {"seed": seed, "probes": probes, "way": "layer", "error": abs(rng.normal()) * error(probes)}
        for seed in range(5)
        for probes in (5, 10)
        for _ in range(60)
    ]


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (lambda probes: 0.01, HOLDS),
        (lambda probes: 0.5 if probes == 5 else 0.01, IN_PART),
        (lambda probes: 0.5, CONTRADICTED),
        (lambda probes: 0.0608, INCONCLUSIVE),  # 90 % of |N(0, 0.0608)| lie below a tenth
    ],
)
def test_the_sentence_on_traces_turns(error, verdict):
    assert trust.judge_traces(traces(error)).verdict == verdict


def blocks(middle, width=0.02, small=0):
    rng = np.random.default_rng(2)
    return [
        {"seed": seed, "whole": 1.0,
         "within": 1 - (0.2 if network < small else middle + width * rng.normal()) ** 2}
        for seed in range(5)
        for network in range(10)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        (blocks(0.8), HOLDS),
        (blocks(0.8, small=4), IN_PART),
        (blocks(0.05, 0.005), CONTRADICTED),
        (blocks(0.25), INCONCLUSIVE),
        (blocks(1 / 3, 0.05), INCONCLUSIVE),
        (blocks(0.8)[:20], INCONCLUSIVE),
    ],
)
def test_the_sentence_on_blocks_turns(rows, verdict):
    assert trust.judge_blocks(rows).verdict == verdict


# --- the command ----------------------------------------------------------------------------------


def test_the_command_writes_page_table_and_results_and_reads_them_again(tmp_path):
    line = ["referee", "--only", "mlp-tanh", "--seeds", "1", "--probes", "2"]
    line += ["--out", str(tmp_path)]
    first = CliRunner().invoke(app, line)
    assert first.exit_code == 0, first.output
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Which estimate of curvature may be trusted" in page
    assert page.count("<svg") >= 3
    table = pd.read_parquet(tmp_path / "table.parquet")
    assert set(table["estimate"]) == set(ESTIMATES)
    assert set(table["state"]) == {"initial", "trained"}
    results = json.loads((tmp_path / "results.json").read_text())
    assert {r["id"] for r in results} >= {"referee-traces", "referee-blocks", "referee-k-fac"}
    assert all(r["verdict"] == INCONCLUSIVE for r in results)  # of one seed
    again = CliRunner().invoke(app, line)
    assert "seed 0" not in again.output
    assert pd.read_parquet(tmp_path / "table.parquet").equals(table)


def test_a_network_of_ones_own(tmp_path):
    line = ["referee", "mlp", "--samples", "16", "--width", "0.1", "--quick", "--probes", "1"]
    done = CliRunner().invoke(app, [*line, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert set(pd.read_parquet(tmp_path / "table.parquet")["network"]) == {"own"}


def test_cells_of_an_edited_network_are_measured_anew(tmp_path, monkeypatch):
    """They lie in a folder that the file of the reader's module names, too."""
    monkeypatch.chdir(tmp_path)
    request = CurvatureRequest(model="edited_network:model")
    words = []
    for width in (3, 4, 3):
        text = f"from torch import nn\ndef model():\n    return nn.Linear({width}, 2)\n"
        (tmp_path / "edited_network.py").write_text(text, encoding="utf-8")
        words.append(command._word(request))
        sys.modules.pop("edited_network")
    assert words[0] == words[2] != words[1]
    assert command._word(CurvatureRequest()) != command._word(CurvatureRequest(samples=3))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["--seeds", "0"], "--seeds: 0: give 1 or more"),
        (["--only", "gpt3"], "--only: 'gpt3': choose among"),
        (["mlp", "--only", "gpt2"], "--only: gpt2: leave it out with a network"),
        (["--probes", "0"], "--probes: 0: give 1 or more"),
        (["nothing"], "MODEL: 'nothing': choose one of"),
        (["--samples", "0"], "--samples: 0: it is for a network of your own; name that as MODEL"),
        (["--quick", "--loss", "mse_loss"], "--loss: mse_loss: it is for a network of your own"),
        (["torch.nn:ReLU", "--width", "3"], "--width: 3.0: it is for built-in networks"),
    ],
)
def test_bad_input_exits_two_in_one_line(tmp_path, line, says):
    done = CliRunner().invoke(app, ["referee", *line, "--out", str(tmp_path / "new")])
    assert done.exit_code == 2
    assert says in done.output


def test_without_transformers_its_networks_are_left_out(monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    cells, absent = command.planned(command.Request(seeds=1))
    assert "gpt2" not in {cell.network for cell in cells}
    assert "gpt2 is left out: pip install transformers" in absent
    with pytest.raises(InputError, match=r"^--seeds"):
        command.planned(command.Request(seeds=0))


# --- the record -----------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]


def test_the_tables_of_the_page_are_the_records():
    frame = pd.read_parquet(ROOT / "benchmarks" / "results" / "referee.parquet")
    told = json.loads((ROOT / "benchmarks" / "results" / "referee.json").read_text())
    page = (ROOT / "docs" / "referee.md").read_text(encoding="utf-8")
    assert page.split(record.BEGIN)[1].split(record.END)[0].strip() == record.page(frame, told)
    assert set(frame["network"]) == set(NETWORKS)
    assert frame["seed"].nunique() >= 5
    for purpose in trust.PURPOSES.values():
        assert purpose.criterion in page
    size = (ROOT / "benchmarks" / "results" / "referee.parquet").stat().st_size
    assert size < 1_000_000


def test_a_record_is_of_whole_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "NETWORKS", {"tiny": NETWORKS["mlp-tanh"]})
    cells = [Cell("tiny", state, seed) for seed in (0, 1) for state in ("initial", "trained")]
    list(run(cells[:3], tiny, tmp_path, SMALL, lambda *_: None))
    whole = record.cells_of(tmp_path, SMALL)
    assert [cell.seed for cell, _ in whole] == [0, 0]
    frame, told = record.compact(whole), record.facts(whole)
    assert len(frame) == sum(len(measured["rows"]) for _, measured in whole)
    assert len(told["blocks"]) == 2
    assert "`hutchinson`" in record.page(frame, told)


def test_a_record_says_what_it_took():
    """Seconds add over states, and the network that took the most of them is named."""
    rows = [
        {"network": name, "state": "initial", "seed": seed, "seconds": seconds}
        for seed in (0, 1)
        for name, seconds in (("gpt2", 90.0), ("resnet18", 10.0), ("resnet18", 110.0))
    ]
    sentence = record._cost(rows)
    assert "7.0 minutes for 2 seeds, 210 seconds each; 57 % of it for ResNet-18" in sentence


def test_a_table_is_kept_to_four_digits(tmp_path):
    values = np.random.default_rng(0).lognormal(0, 9, 1000).astype(np.float32)
    values[:3] = 0.0, np.nan, np.inf
    short = record.rounded(values)
    assert np.array_equal(short[:3], values[:3], equal_nan=True)
    assert np.abs(short[3:] / values[3:] - 1).max() < 2**-13.9
    frame = pd.read_parquet(ROOT / "benchmarks" / "results" / "referee.parquet")
    record.write(frame, tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), frame)
