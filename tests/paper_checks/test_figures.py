"""The figures' verdicts turn with their measurements, and their pictures carry text."""

import copy
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

import hessian
from paper_checks.papers.gao2020.figures import fig2, fig3, fig_shortcut_alexnet
from paper_checks.papers.gao2020.figures._samples import deviations
from paper_checks.papers.gao2020.measurements.laws import layer_lines
from paper_checks.result import plain


@pytest.fixture(scope="module")
def two(tiny):
    return json.loads(json.dumps(plain(fig2.measure(tiny))))


@pytest.fixture(scope="module")
def three(tiny):
    return json.loads(json.dumps(plain(fig3.measure(tiny))))


def test_fig2_has_every_parameter_and_a_cross_check(two, tiny):
    assert two["parameters"] == sum(p.numel() for p in tiny.model(0).parameters())
    assert len(two["rows"]) == 16
    assert two["deviation"] < fig2.DEVIATION


def layers(two, weight, bias):
    """The measurements with given median radii for the weights and the biases, in turn."""
    changed = copy.deepcopy(two)
    for number, row in enumerate(changed["rows"]):
        median = weight(number) if row["parameter"].endswith("weight") else bias(number)
        row["radius"] = [median / 2, median, median * 2]
        row["ratio"] = [1.0, 2.0, 3.0]
        row["ratio_mean"] = 4.0
    medians = [(row["parameter"], row["radius"][1]) for row in changed["rows"]]
    of_weights = [median for name, median in medians if name.endswith("weight")]
    every = [median for _, median in medians]
    changed["ratios"] = {
        "weights": [max(of_weights) / min(of_weights)] * 3,
        "all": [max(every) / min(every)] * 3,
    }
    return changed


@pytest.mark.parametrize(
    ("weight", "bias", "verdict"),
    [
        (lambda k: 10.0**k, lambda k: 1.0, "holds"),
        (lambda k: 1.0 + k / 100, lambda k: 10.0**k, "holds in part"),
        (lambda k: 1.0 + k / 100, lambda k: 1.0, "contradicted"),
    ],
)
def test_fig2_turns_with_the_layers(two, weight, bias, verdict):
    assert fig2.judge(layers(two, weight, bias)).verdict == verdict


def test_fig2_needs_a_second_derivative_that_is_right(two):
    broken = layers(two, lambda k: 10.0**k, lambda k: 1.0)
    broken["deviation"] = 0.2
    assert fig2.judge(broken).verdict == "inconclusive"
    broken |= {"deviation": 1e-6, "ratios": {"weights": [], "all": []}}
    assert fig2.judge(broken).verdict == "inconclusive"


def synthetic(three, constant, floor=0.0):
    """Curves that follow `constant`·σ/√n above a floor, measured without error."""
    changed = copy.deepcopy(three)
    for curve in changed["curves"]:
        sigma = changed["moments"][curve["dropout"]]["sigma_mean"]
        curve["mean"] = [max(constant / n**0.5, floor) * sigma for n in changed["n"]]
        curve["standard_error"] = [0.0] * len(changed["n"])
    return changed


@pytest.mark.parametrize(
    ("constant", "floor", "verdict"),
    [
        (1.128, 0.0, "holds"),
        (0.798, 0.0, "holds in part"),
        # The means show from n = 64 on: early enough for the small share, so still in part.
        (0.798, 0.1, "holds in part"),
        (0.5, 0.0, "contradicted"),
        (0.798, 0.9, "contradicted"),
    ],
)
def test_fig3_turns_with_the_constant_and_the_floor(three, constant, floor, verdict):
    assert fig3.judge(synthetic(three, constant, floor)).verdict == verdict


def test_fig3_does_not_judge_noise(three):
    noisy = synthetic(three, 1.128)
    for curve in noisy["curves"]:
        curve["standard_error"] = [0.2 * mean for mean in curve["mean"]]
    assert fig3.judge(noisy).verdict == "inconclusive"


def test_fig3_judges_the_papers_protocol(three):
    """The curve without dropout, or with replacement, does not decide."""
    other = synthetic(three, 1.128)
    for curve in other["curves"]:
        if curve["dropout"] == "off" or curve["replacement"]:
            curve["mean"] = [10 * mean for mean in curve["mean"]]
    assert fig3.judge(other).verdict == "holds"


def test_fig3_finite_law_meets_the_whole_training_set(three):
    """At n = N without dropout nothing is random: E|g| is the mean |μ|, exactly."""
    curve = next(c for c in three["curves"] if c["dropout"] == "off" and not c["replacement"])
    assert curve["mean"][-1] == pytest.approx(three["moments"]["off"]["abs_mu_mean"], rel=1e-4)
    # The line is an average over a sample of the entries.
    assert three["lines"]["off"]["finite"][-1] == pytest.approx(curve["mean"][-1], rel=0.3)


def test_a_dead_entry_and_a_whole_population_are_the_mean():
    lines = layer_lines([[3.0, -1.0]], [[0.0, 0.0]], [1, 4], 4, entries=10).lines
    assert lines["finite"] == [2.0, 2.0]
    assert lines["means"] == [2.0, 2.0]


def test_a_sample_of_the_entries_is_scaled_to_the_layer():
    deviations = [float(k % 7 + 1) for k in range(5000)]
    found = layer_lines([0.0] * 5000, deviations, [9], 10**6, entries=100)
    assert found.lines["means"][0] == pytest.approx(found.lines["corrected"][0], rel=1e-12)
    assert found.moments["entries_used"] == 100


def test_batch_sizes_end_with_all_the_data():
    assert fig3.batch_sizes(50_000)[-2:] == [32768, 50_000]
    assert fig3.batch_sizes(20) == [20]


@pytest.mark.parametrize(("module", "name"), [(fig2, "two"), (fig3, "three")])
def test_the_pictures(module, name, request):
    measurements = request.getfixturevalue(name)
    drawing = module.draw(measurements)
    root = ET.fromstring(drawing.svg)
    assert root.get("role") == "img"
    texts = [child.text for child in root if child.tag.endswith(("title", "desc"))]
    assert drawing.alt in texts
    # The same measurements give the same bytes; no day or program is named.
    assert module.draw(measurements).svg == drawing.svg
    assert "<metadata" not in drawing.svg
    ids = re.findall(r'\bid="([^"]+)"', drawing.svg)
    assert len(ids) == len(set(ids))
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', drawing.svg)
    assert {a or b for a, b in used} <= set(ids)
    assert re.search(r"\d", drawing.caption)


def test_fresh_masks_are_not_exhausted_by_a_whole_training_set():
    """At n = N only the masks' part is left: E|N(0, m/√N)|, m the masks' deviation."""
    from math import pi, sqrt

    rng = np.random.default_rng(0)
    total, passes, mask = 100, 2, 0.6
    noise = rng.normal(0, mask / sqrt(passes * total), 200_000)
    found = layer_lines(
        noise, np.ones(noise.size), [total], total, noise.size,
        mask_deviation=np.full(noise.size, mask), passes=passes,
    )  # fmt: skip
    expected = sqrt(2 / pi) * mask / sqrt(total)
    assert found.lines["finite"][0] == pytest.approx(expected, rel=0.01)
    # Unlimited data: the whole σ counts, less what the mean over two passes still carries.
    assert found.lines["means"][0] == pytest.approx(sqrt(2 / pi) / sqrt(total), rel=0.01)


@pytest.mark.parametrize("layer", ["0", "3"])
def test_gradients_of_single_samples_are_those_of_autograd(layer):
    """A convolution with stride and padding, and a linear layer, sample by sample."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, stride=2, padding=1),
        torch.nn.Tanh(),
        torch.nn.Flatten(),
        torch.nn.Linear(27, 4),
    ).double()
    x, y = torch.randn(5, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    weight = model.get_submodule(layer).weight
    spread, slopes = deviations(model, (x, y), layer)
    samples = []
    for k in range(5):
        loss = torch.nn.functional.cross_entropy(model(x[k : k + 1]), y[k : k + 1])
        samples.append(torch.autograd.grad(loss, weight)[0].flatten())
    expected = torch.stack(samples)
    index = np.arange(weight.numel())[::-1].copy()
    assert torch.allclose(slopes(index), expected[:, index], rtol=1e-10, atol=1e-14)
    # Of a difference of squares in double precision eight digits are left.
    assert torch.allclose(spread, expected.std(0, correction=0), rtol=1e-6, atol=1e-8)


def test_the_law_on_convolutions_has_the_population_moments_and_its_batches():
    """Batches of all samples but two are nearly the mean gradient itself, and the law says so."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 3)
    ).double()
    pair = torch.randn(130, 1, 6, 6, dtype=torch.float64), torch.arange(130) % 3
    rows = fig_shortcut_alexnet.of_network(model, pair, 0)
    assert [(row["parameter"], row["n"]) for row in rows] == [
        (name, n) for name in ("0.weight", "3.weight") for n in fig_shortcut_alexnet.SIZES
    ]
    for layer, name in ((0, "0.weight"), (3, "3.weight")):
        weight = model[layer].weight
        losses = torch.nn.functional.cross_entropy(model(pair[0]), pair[1], reduction="none")
        samples = torch.stack(
            [torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in losses]
        )
        mean, sigma = samples.mean(0), samples.std(0, correction=0)
        h = hessian.diagonal(model, torch.nn.functional.cross_entropy, pair)[name]
        whole = float(((weight / mean).abs() * h)[h > 0].detach().quantile(0.5))
        (row,) = (row for row in rows if row["parameter"] == name and row["n"] == 128)
        # Two of 130 are left out: s/|μ| is some 0.01 to 0.1 in the typical entry.
        assert row["measured"] == pytest.approx(whole, rel=0.1)
        assert row["law"] == pytest.approx(whole, rel=0.1)
        alive = (h > 0) & (sigma > 0)
        noise = float((sigma.square() / h)[alive].log().mean().exp())
        assert row["noise"] == pytest.approx(noise, rel=1e-5)


def test_a_median_that_is_infinite_at_every_seed_has_the_p_of_the_signs():
    """Three seeds cannot carry it to a verdict, eight can: of two cases each, 2 · 2^-7 = 0.016.

    At one of the seeds it decides nothing, and holds no more.
    """
    rows = [
        {"epochs": epochs, "seed": seed, "parameter": "conv1.weight", "n": 8}
        | {"measured": 1.0 + 0.01 * seed, "law": 1.0, "free": 1.0, "share": 0.3, "slope": 0.5}
        for epochs in (0, 4)
        for seed in range(8)
    ]
    thresholds = {"factor": 1.5, "free": 2.0, "seeds": 3}
    judge = fig_shortcut_alexnet.judge
    assert judge({"rows": rows}, thresholds).verdict == "holds"
    endless = [dict(row, measured=None) if row["epochs"] else row for row in rows]
    found = judge({"rows": endless}, thresholds)
    assert found.verdict == "contradicted"
    assert found.p == pytest.approx(2 * 2.0**-7)
    assert "In 1 of 2 cases" in found.reason
    three = [row for row in endless if row["seed"] < 3]
    assert judge({"rows": three}, thresholds).verdict == "inconclusive"
    assert judge({"rows": [*rows[:-1], endless[-1]]}, thresholds).verdict == "inconclusive"
