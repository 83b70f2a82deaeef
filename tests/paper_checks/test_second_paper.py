"""The second paper: its equations, its measurements against naive oracles, and judges that turn."""

import dataclasses
import inspect
import json
import re
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import paper_checks
from paper_checks import summary
from paper_checks.cli import commands
from paper_checks.equations.checks import judge, measure
from paper_checks.errors import InputError
from paper_checks.judges import declared
from paper_checks.ledger import lock
from paper_checks.measurements.branching import runs
from paper_checks.measurements.branching.characters import characters
from paper_checks.measurements.branching.moments import moments
from paper_checks.measurements.branching.scales import noise_scale
from paper_checks.measurements.branching.steps import single_steps
from paper_checks.measurements.branching.task import Task
from paper_checks.measurements.store import source_path
from paper_checks.papers import NAMES, paper
from paper_checks.papers.mccandlish2018.claims import points
from paper_checks.papers.mccandlish2018.claims.branches import fit, overhead
from paper_checks.papers.mccandlish2018.equations import EQUATIONS
from paper_checks.papers.mccandlish2018.experiments import EXPERIMENTS
from paper_checks.papers.mccandlish2018.measurements.profile import MULTIPLES
from paper_checks.papers.mccandlish2018.measurements.runs import estimates
from paper_checks.papers.mccandlish2018.measurements.shared import MEASURES
from paper_checks.papers.mccandlish2018.statements import CLAIMS, PROTOCOLS
from paper_checks.registry import build, rows_read
from paper_checks.report.beside import Beside
from paper_checks.report.page import render
from paper_checks.result import Result, plain

NAME = "mccandlish2018"
SECOND = paper(NAME)
VERDICTS = {
    **dict.fromkeys(("1", "3", "4", "5", "6", "7", "8"), "holds"),
    "2": "approximation",
    **dict.fromkeys(("9", "10"), "absent"),
}


# ---- equations ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored():
    """What is measured of each equation, as results.json has it."""
    here = SimpleNamespace(profile=SimpleNamespace(draws=20_000))
    return {
        label: json.loads(json.dumps(plain(measure(here, each, EXPERIMENTS.get(label)))))
        for label, each in EQUATIONS.items()
    }


@pytest.mark.parametrize("label", EQUATIONS)
def test_every_equation_has_its_verdict_and_every_step_is_right(stored, label):
    judgement = judge(stored[label])
    assert judgement.verdict == VERDICTS[label], judgement.reason
    steps = stored[label]["derivation"]["steps"]
    assert steps
    assert all(step["checked"] for step in steps)


@pytest.mark.parametrize("label", ["1", "3", "4", "5", "6", "8"])
def test_another_printed_form_turns_the_verdict(label):
    right = EQUATIONS[label]
    wrong = dataclasses.replace(right, printed=2 * right.printed)
    assert wrong.verdict.value in ("wrong constant", "fails")


@pytest.mark.parametrize("label", EXPERIMENTS)
def test_an_experiment_that_misses_turns_the_verdict(stored, label):
    broken = json.loads(json.dumps(stored[label]))
    low, high = broken["numbers"]["interval"]
    shift = 2 * (high - low) + abs(low)
    broken["numbers"]["interval"] = [low + shift, high + shift]
    assert judge(broken).verdict == "inconclusive"


# ---- measurements ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    """A network of 17 parameters on twelve samples."""

    def fresh(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 2, generator=generator, dtype=torch.float64)
    return Task(fresh(0), inputs, (inputs[:, 0] > 0.2).long(), fresh)


def value(task, flat, k=None):
    """The loss, with the parameters put in by hand."""
    network = task.fresh(0)
    nn.utils.vector_to_parameters(flat, network.parameters())
    part = slice(None) if k is None else slice(k, k + 1)
    with torch.no_grad():
        return float(cross_entropy(network(task.inputs[part]), task.targets[part]))


def slopes(task, flat, k=None, apart=1e-5):
    """Central differences of the loss's value; their error is of the order apart²."""
    units = apart * torch.eye(flat.numel(), dtype=flat.dtype)
    return np.array(
        [(value(task, flat + u, k) - value(task, flat - u, k)) / (2 * apart) for u in units]
    )


def test_the_exact_scales_are_those_of_differences(tiny):
    flat = tiny.start(0)
    found = moments(tiny, flat)
    samples = np.stack([slopes(tiny, flat, k) for k in range(12)])
    units = 1e-4 * torch.eye(flat.numel(), dtype=flat.dtype)
    curvature = np.stack([(slopes(tiny, flat + u) - slopes(tiny, flat - u)) / 2e-4 for u in units])
    full, spread = samples.mean(0), np.cov(samples.T, bias=True)
    expected = {
        "slope": full @ full,
        "curved": full @ curvature @ full,
        "noise": np.trace(spread),
        "curved_noise": np.trace(curvature @ spread),
        "trace": np.trace(curvature),
    }
    # Differences of differences in double precision are right to five digits or so.
    for name, number in expected.items():
        assert found[name] == pytest.approx(number, rel=1e-4, abs=1e-7), name
    assert (
        noise_scale(found) == pytest.approx(expected["curved_noise"] / expected["curved"], rel=1e-3)
        or expected["curved"] <= 0
    )


def test_a_small_step_does_what_the_model_says(tiny):
    flat = tiny.start(0)
    exact = {"slope": 1.0, "curved": 1.0, "curved_noise": 0.0}
    samples = tiny.per_sample(flat)
    exact = moments(tiny, flat) | {"curved": 1e3, "curved_noise": 1e3}
    rows = single_steps(tiny, flat, samples, exact, (4, 32, 256), MULTIPLES, 24)
    # So small a step sees the slope alone: half of it is what the model's best step leaves.
    small = [row for row in rows if row["multiple"] == 0.25]
    for row in small:
        assert row["measured"] / row["predicted"] == pytest.approx(8 / 7, rel=2e-2)


def test_pairs_of_batches_find_the_simple_scale(tiny):
    samples = torch.randn(64, 5, generator=torch.Generator().manual_seed(1)).double() + 0.2
    # Twenty repetitions of a hundred pairs: of a relative error of some 10 % a fourth is left.
    assert np.mean(estimates(samples)) == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize(("rule", "peer"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_rules_step_as_their_peers(tiny, rule, peer):
    lanes = tiny.start(0)[None].clone()
    weight = nn.Parameter(lanes[0].clone())
    theirs, ours = peer([weight], lr=0.03), runs.Rule(rule, tiny)
    for k in range(4):
        index = torch.tensor([[k, k + 1]])
        weight.grad = tiny.gradients(weight.detach()[None], index)[0]
        theirs.step()
        lanes = ours(lanes, tiny.gradients(lanes, index), torch.tensor([0.03], dtype=torch.float64))
    assert torch.allclose(lanes[0], weight.detach(), rtol=1e-9, atol=1e-12)


def test_layer_wise_steps_are_as_long_as_the_weights(tiny):
    lanes = tiny.start(0)[None]
    index = torch.arange(12)[None]
    moved = runs.Rule("lars", tiny)(lanes, tiny.gradients(lanes, index), torch.ones(1).double())
    for name, step in tiny.parts((moved - lanes)[0]).items():
        assert float(step.norm()) == pytest.approx(float(tiny.parts(lanes[0])[name].norm()))


def test_a_branch_reaches_its_target_sooner_with_larger_batches(tiny):
    starts = torch.stack([tiny.start(seed) for seed in (1, 2)])
    rows = runs.branch(tiny, starts, "sgd", (1, 12), 1, 2, 500)["rows"]
    assert [row["batch"] for row in rows] == [1, 12]
    assert all(all(row["steps"]) for row in rows)
    assert np.mean(rows[1]["steps"]) < np.mean(rows[0]["steps"])


def test_the_hyperbola_gives_its_parts_back():
    batches = [2, 4, 8, 16, 32, 64, 128, 256]
    steps = [7 * (1 + 40 / b) for b in batches]
    least, bend, misfit = fit(batches, steps)
    assert (least, bend) == pytest.approx((7, 40), rel=1e-4)
    assert misfit < 1e-6
    # Examples are (B + 40)·7, at the least 42·7: 1.2 times that at B = 10.4; a chord of the curve
    # between the logarithms of 8 and 16 lies above it by less than a twentieth.
    assert overhead(batches, steps) == pytest.approx(10.4, rel=0.05)
    assert fit(batches, [1 / b**2 for b in batches])[2] > 0.2
    assert overhead([1, 2], [2.0, 1.0]) is None


def test_characters_are_those_of_a_text():
    inputs, targets, shape = characters(32)
    assert inputs.shape == (32, *shape["in_shape"])
    assert torch.equal(inputs.sum(1), torch.ones(32, 1, 16).double())
    assert int(targets.max()) < shape["classes"]


# ---- judges ------------------------------------------------------------------------------------

SEEDS = [0, 1, 2, 3]
LEVELS = (1.0, 0.5, 0.2)


def made_points(
    rng,
    spread=0.02,
    quotient=1.0,
    growth=2.0,
    excess=10.0,
    layers=4.0,
    step=1.0,
    power=0.0,
    error=0.1,
    fall=None,
):
    """Points of two networks; every number has a scatter of `spread` in its logarithm."""

    def near(number, relative=spread):
        return number * float(np.exp(relative * rng.standard_normal()))

    def point(number):
        simple = near(20 * growth**number)
        noise = near(simple * quotient) if fall is None else near(20 * fall**number)
        curved = near(excess)
        rows = [
            {
                "batch": b,
                "multiple": m,
                "predicted": m * (2 - m) if m != 2 else 0.0,
                # A parabola whose vertex is at `step` in units of the predicted best rate.
                "measured": near(2 * m - m * m / (step * b**power)),
            }
            for b in (4, 32, 256)
            for m in MULTIPLES
        ]
        return {
            "loss": 2.0 * LEVELS[number],
            "slope": 1.0,
            "noise": simple,
            "parameters": 10,
            "trace": 10.0,
            "curved": curved,
            "curved_noise": curved * noise,
            "layers": {"a": near(1.0), "b": near(layers)},
            "steps": rows,
            "estimates": [1 + error, 1 - error, near(1 + error)],
        }

    networks = {
        name: {
            "levels": [
                {"level": level, "points": [point(number) for _ in SEEDS]}
                for number, level in enumerate(LEVELS)
            ]
        }
        for name in ("x", "y")
    }
    return {"seeds": SEEDS, "samples": 512, "networks": networks}


def made_branches(
    rng, spread=0.02, bend=50.0, noise=50.0, adaptive=1.0, wide=1.0, shape=1.0, below=1.0, above=0.0
):
    """Ten settings of SGD and three of other rules, on a hyperbola with some scatter."""
    batches = (2, 4, 8, 16, 32, 64, 128, 256)

    def near(number):
        return number * float(np.exp(spread * rng.standard_normal()))

    def setting(network, level, rule, at):
        tuned = [b**below if b <= noise else noise**below * (b / noise) ** above for b in batches]
        return {
            "network": network,
            "level": level,
            "rule": rule,
            "loss": [1.0] * len(SEEDS),
            "noise_scales": [[near(noise) for _ in SEEDS] for _ in range(2)],
            "rows": [
                {
                    "batch": b,
                    "rate": near(rate),
                    "steps": [near(6 * (1 + (at / b) ** shape)) for _ in SEEDS],
                }
                for b, rate in zip(batches, tuned, strict=True)
            ],
        }

    places = [(n, level) for n in ("mlp16", "mlp32", "mlp64") for level in (0.65, 0.35, 0.15)]
    every = [
        setting(n, level, "sgd", bend * (wide if n == "mlp64" else 1.0))
        for n, level in [*places, ("tanh32", 0.35)]
    ]
    every += [setting("mlp32", 0.35, rule, bend * adaptive) for rule in ("adam", "lars", "lamb")]
    return {"seeds": SEEDS, "samples": 512, "settings": every}


def made_heat(rng, spread=0.02, ratio=0.5):
    """B_simple at two temperatures."""
    low = [20 * float(np.exp(spread * rng.standard_normal())) for _ in SEEDS]
    high = [ratio * v * float(np.exp(spread * rng.standard_normal())) for v in low]
    return {"seeds": SEEDS, "samples": 512, "high": high, "low": low}


# Of each claim: how its measurements are made up; where it is true, where the opposite is, and a
# scatter that hides it.
CASES = {
    "claim-one-step": (made_points, {}, {"step": 0.1}, {"spread": 0.8}),
    "claim-best-rate": (made_points, {}, {"step": 0.4}, {"step": 1.5}),
    "claim-simple-for-noise": (made_points, {}, {"quotient": 5.0}, {"quotient": 2.0}),
    "claim-move-together": (made_points, {}, {"fall": 0.5}, {"spread": 3.0, "growth": 1.0}),
    "claim-anisotropy": (made_points, {}, {"excess": 1.0}, {"excess": 2.0}),
    "claim-scale-grows": (made_points, {}, {"growth": 0.5}, {"growth": 1.0}),
    "claim-layers-differ": (made_points, {}, {"layers": 1.2}, {"layers": 2.0}),
    "claim-temperature": (made_heat, {}, {"ratio": 2.0}, {"ratio": 1.0}),
    "claim-two-batches": (made_points, {}, {"error": 0.5}, {"error": 0.3}),
    "claim-hyperbola": (made_branches, {}, {"shape": 4.0}, {"spread": 0.255}),
    "claim-critical-is-noise": (made_branches, {}, {"bend": 300.0}, {"bend": 100.0}),
    "claim-overhead-predicted": (made_branches, {}, {"noise": 300.0}, {"noise": 104.0}),
    "claim-overhead-literal": (
        made_branches,
        {"noise": 11.0},
        {"noise": 60.0},
        {"noise": 21.0},
    ),
    "claim-width": (made_branches, {}, {"wide": 5.0}, {"wide": 2.0}),
    "claim-adaptive": (made_branches, {}, {"adaptive": 5.0}, {"adaptive": 2.0}),
    "claim-doubling": (
        made_branches,
        {},
        {"below": 0.0, "above": 1.0},
        {"below": 0.5, "above": 0.5},
    ),
}


def verdict(name, **options):
    make, *_ = CASES[name]
    made = plain(make(np.random.default_rng(1), **options))
    return build(name, NAME).judge(made)


@pytest.mark.parametrize("name", CASES)
def test_the_judge_turns(name):
    _, true, false, noise = CASES[name]
    judged = {
        end: verdict(name, **options)
        for end, options in {"holds": true, "contradicted": false, "inconclusive": noise}.items()
    }
    assert {end: each.verdict for end, each in judged.items()} == {end: end for end in judged}, {
        end: each.reason for end, each in judged.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_a_single_seed_decides_nothing(name):
    make, true, *_ = CASES[name]
    made = json.loads(json.dumps(plain(make(np.random.default_rng(1), **true))))
    made["seeds"] = [0]
    for network in made.get("networks", {}).values():
        for level in network["levels"]:
            level["points"] = level["points"][:1]
    for each in made.get("settings", []):
        each["loss"] = each["loss"][:1]
        each["noise_scales"] = [scale[:1] for scale in each["noise_scales"]]
        for row in each["rows"]:
            row["steps"] = row["steps"][:1]
    for side in ("high", "low"):
        made[side] = made[side][:1] if side in made else []
    # The powers of the rate are read over settings, not seeds.
    assert build(name, NAME).judge(made).verdict == "inconclusive" or name == "claim-doubling"


@pytest.mark.parametrize("name", [name for name in CASES if build(name, NAME).draw])
def test_pictures_are_drawn_of_what_was_measured(name):
    make, true, *_ = CASES[name]
    drawn = build(name, NAME).draw(plain(make(np.random.default_rng(0), **true)))
    assert drawn.svg.startswith("<svg")
    assert drawn.alt
    assert drawn.caption


def test_a_page_shows_every_claim():
    results = []
    for name, (make, true, *_) in CASES.items():
        check, made = build(name, NAME), plain(make(np.random.default_rng(0), **true))
        judgement = check.judge(made)
        result = Result(
            name, "claim", judgement.verdict, check.statement, check.criterion, *[None] * 9
        )
        known = {"reason": judgement.reason, "environment": {"paper": NAME}, "seeds": [0]}
        results.append(dataclasses.replace(result, seconds=0.0, measurements=made, **known))
    page = render(results, {})
    assert SECOND.overview.meaning in page
    for name in CASES:
        assert SECOND.words[name].sentence in page


def test_the_results_that_are_kept_give_their_verdicts_again():
    (path,) = SECOND.evidence.glob("*.json")
    schema = files("paper_checks").joinpath("results.schema.json").read_text("utf-8")
    jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), json.loads(schema))
    pairs = paper_checks.rejudge(path)
    assert [old.id for old, _ in pairs] == list(SECOND.ids)
    for old, new in pairs:
        assert (old.verdict, old.reason) == (new.verdict, new.reason), old.id
        assert old.criterion_hash == build(old.id, NAME).criterion_hash
    assert f"`{path.name}`" in (SECOND.evidence / "README.md").read_text(encoding="utf-8")
    assert summary.table([old for old, _ in pairs], Beside()) in PAGE


# ---- the engine --------------------------------------------------------------------------------


def test_every_claim_has_a_case_words_and_a_locked_criterion():
    assert set(CASES) == set(CLAIMS)
    assert tuple(SECOND.words) == SECOND.ids
    assert {each["check"] for each in SECOND.overview.advice} <= set(SECOND.ids)
    assert set(SECOND.overview.statements) <= set(SECOND.ids)
    locked = lock.read(SECOND.evidence)
    for name, claim in CLAIMS.items():
        assert [entry.hash for entry in locked[name]] == [claim.hash], name
        assert all(entry.sound for entry in locked[name])
        assert rows_read(name, NAME) == ()


def test_the_engine_names_no_paper_but_the_usual_one():
    root = Path(paper_checks.__file__).parent
    engine = [path for path in root.rglob("*.py") if "papers" not in path.relative_to(root).parts]
    assert len(engine) > 40
    for name in NAMES:
        where = [str(path) for path in engine if name in path.read_text(encoding="utf-8")]
        # A reader's own network is measured with the first paper's figures.
        allowed = [path for path in where if "own_network" in path or "durations" in path]
        assert where == allowed, name


STATEMENTS = {"equations.py", "statements.py", "measurements/profile.py"}


def test_the_second_paper_takes_at_most_800_lines_outside_statements_and_data():
    folder = ROOT / "paper_checks" / "papers" / NAME
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*.py")}
    assert set(files) > STATEMENTS
    lines = {
        name: len(path.read_text(encoding="utf-8").splitlines())
        for name, path in files.items()
        if name not in STATEMENTS
    }
    assert 0 < sum(lines.values()) <= 800, lines
    assert all(f"`{name}`" in PAGE for name in STATEMENTS)


def test_quotients_that_are_not_positive_are_counted_and_leave_their_seed_out():
    made = plain(made_points(np.random.default_rng(1)))
    trained = made["networks"]["x"]["levels"][1]["points"]
    trained[0]["curved"] = -trained[0]["curved"]
    one = build("claim-anisotropy", NAME).judge(made)
    assert "1 of 32 quotients are not positive" in one.reason
    whole = verdict("claim-anisotropy")
    assert "0 of 32 quotients" in whole.reason
    # Of the gradient three seeds are read, of four.
    assert one.p > whole.p
    trained[1]["curved_noise"] = trained[2]["curved_noise"] = -1.0
    two = build("claim-anisotropy", NAME).judge(made)
    assert (two.verdict, two.reason) == ("inconclusive", "There are 2 values, and 3 are needed.")


def test_the_code_of_a_claim_is_where_it_is_read():
    for name, module in (
        ("claim-width", "branches"),
        ("claim-overhead-literal", "branches"),
        ("claim-anisotropy", "points"),
    ):
        path = source_path(build(name, NAME).judge)
        assert path == f"paper_checks/papers/{NAME}/claims/{module}.py"


def test_a_claim_that_is_declared_wrongly_is_refused():
    claim = CLAIMS["claim-temperature"]
    for change, says in (
        ({"core": {"quotient": "> error"}}, "'> error' is not one of"),
        ({"core": {"quotient": "about ratio"}}, "'about ratio' is not one of"),
        ({"controls": {"quotient": "< none"}}, "'< none' is not one of"),
        ({"verdict": "holds"}, "judge has no verdict; choose of"),
    ):
        wrong = dataclasses.replace(claim, judge={**claim.judge, **change})
        with pytest.raises(ValueError, match=re.escape(f"claim-temperature: {says}")):
            declared(wrong, points, MEASURES, PROTOCOLS)


def test_an_audit_of_the_second_paper_writes_its_own_page(tmp_path):
    results = paper_checks.run(only=["eq4", "eq9"], out=tmp_path, paper=NAME)
    assert [(each.id, each.verdict, each.paper) for each in results] == [
        ("eq4", "holds", NAME),
        ("eq9", "absent", NAME),
    ]
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "An Empirical Model of Large-Batch Training" in page
    assert f"--paper {NAME}" in page
    assert "CIFAR-10" not in page
    assert [judged.verdict for _, judged in paper_checks.rejudge(tmp_path / "results.json")] == [
        "holds",
        "absent",
    ]


def test_a_paper_that_is_none_is_refused_before_any_work(tmp_path):
    with pytest.raises(InputError, match=r"^--paper: 'nobody2000': choose one of gao2020, mccan"):
        paper_checks.run(only="eq4", out=tmp_path / "out", paper="nobody2000")
    assert not (tmp_path / "out").exists()


# ---- the page ----------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "auditing-a-paper.md").read_text(encoding="utf-8")
# A path at the end of a line, and the block after it.
SHOWN = re.findall(r"`(paper_checks/[^`]+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_is_in_the_site():
    assert "auditing-a-paper.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize(("path", "block"), SHOWN)
def test_what_the_page_shows_is_what_is_there(path, block):
    assert block in (ROOT / path).read_text(encoding="utf-8")


def test_the_page_names_files_and_commands_that_exist():
    assert len(SHOWN) == 4
    folder = ROOT / "paper_checks" / "papers" / NAME
    for name in re.findall(r"^\| `([a-z/.]+)`", PAGE, re.MULTILINE):
        assert (folder / name).exists(), name
    for name in re.findall(r"--paper (\w+)", PAGE):
        assert name in NAMES
    for name in re.findall(r"--only (\S+)", PAGE):
        assert name in SECOND.ids
    options = inspect.signature(commands.audit).parameters
    assert {name.lstrip("-") for name in re.findall(r" --([a-z]+)", PAGE)} <= set(options)
