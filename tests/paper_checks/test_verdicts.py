"""Every verdict is read from stored measurements, and turns when they are broken.

The measurements here are made up: small, exact where the law holds, and then broken in one way at
a time. What is measured on real networks is tested beside the measuring.
"""

import copy
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from paper_checks.claims import claim_check
from paper_checks.figures import figure_check

rng = np.random.default_rng(0)


def judged(name, measurements):
    make = claim_check if name.startswith("claim-") else figure_check
    return make(name).judge(measurements).verdict


def drawn(name, measurements):
    """The picture of `measurements`: whole and with its text."""
    found = figure_check(name).draw(measurements)
    root = ET.fromstring(found.svg)
    assert root.get("role") == "img"
    assert found.alt in [child.text for child in root]
    ids = re.findall(r'\bid="([^"]+)"', found.svg)
    assert len(ids) == len(set(ids))
    assert found.caption
    return found


def around(value, count=4, spread=0.01):
    """Values with a known mean and a small spread, so that intervals are narrow but not empty."""
    shape = np.resize([-1.0, 1.0], count)
    return [float(value * (1 + spread * s)) for s in shape]


BASE = {"seeds": [0, 1, 2, 3], "samples": 1437, "network": "mlp"}
SIZES = [4, 16, 64, 256]


# ---- sketches -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fig6", "fig15"])
def test_a_sketch_is_an_illustration_only_if_it_is_right(name):
    right = figure_check(name).measure(None)
    assert judged(name, right) == "illustration"
    drawn(name, right)
    if name == "fig6":
        # Equation 8's decrease drawn as if it were exact; a step uphill; another rate.
        for key, value in (
            ("loss_after", right["loss_before"] - right["lr"] * right["gradient"] ** 2),
            ("after", 2 * right["w"] - right["after"]),
            ("lr", 2 * right["lr"]),
        ):
            assert judged(name, right | {key: value}) == "inconclusive"
    else:
        # A parabola of twice the curvature, and one that opens downwards.
        a, d = right["a"], np.array(right["distance"])
        wrong = np.abs(np.array(right["error"]) + a * d**2)
        assert judged(name, right | {"a": 2 * a, "error": wrong.tolist()}) == "inconclusive"
        assert judged(name, right | {"a": -a}) == "inconclusive"


# ---- figure 1 -------------------------------------------------------------------------------


def test_the_rate_is_chosen_on_other_seeds_than_it_is_read_on():
    """A rate that is lucky on the choosing seeds alone gets its bad luck back."""
    from paper_checks.training import best

    lucky, steady = {"accuracy": [1.0, 0.1] * 3}, {"accuracy": [0.6, 0.6] * 3}
    assert best([lucky, steady])[1] == [0.1, 0.1, 0.1]


# ---- figures 4 and 7 ------------------------------------------------------------------------


# ---- figures 5 and 8 ------------------------------------------------------------------------


def test_the_fluctuation_is_of_the_noise_and_not_of_the_trend():
    from paper_checks.training import fluctuation

    steep, noise = np.linspace(9, 0, 4000), rng.normal(0, 0.3, 4000)
    found = fluctuation(steep + noise)["absolute"]
    # The root mean square of 2000 deviations: a relative standard error of 3 per cent.
    assert found == pytest.approx(0.3, rel=0.1)
    assert fluctuation([1.0] * 5) == {"absolute": None, "relative": None}


# ---- figure 9 -------------------------------------------------------------------------------


def discarded(small, random=lambda p: 1.0, fixed=None):
    from paper_checks.figures.fig9 import SHARES

    batches = 6
    values = {
        kind: [[f * law(p) for p in SHARES] for f in around(1.0, batches)]
        for kind, law in (("small", small), ("random", random), ("large", lambda p: 1 - p / 2))
    }
    kept = [round(100 * (1 - p)) for p in SHARES]
    case = {"case": "net", "samples": 1000, "n": 100, "batches": batches, "kept": kept}
    return {"seeds": [0], "samples": 1000, "cases": [case | {"values": values}]}


@pytest.mark.parametrize(
    ("small", "random", "verdict"),
    [
        # More than the smaller count explains: the sum itself grows.
        (lambda p: 1.2 ** (10 * p) / (1 - p), lambda p: 1.0, "holds"),
        # The mean over fewer samples grows, the sum does not.
        (lambda p: 1 + p / 2, lambda p: 1.0, "holds in part"),
        # Random discarding does the same.
        (lambda p: 1 + p / 2, lambda p: 1 + p / 2, "contradicted"),
        (lambda p: 1 - p / 2, lambda p: 1.0, "contradicted"),
    ],
)
def test_fig9(small, random, verdict):
    measurements = discarded(small, random)
    assert judged("fig9", measurements) == verdict
    if verdict == "holds":
        drawn("fig9", measurements)
    measurements["cases"][0]["batches"] = 3
    assert judged("fig9", measurements) == "inconclusive"


def test_fig9_turns_when_the_controls_are_swapped():
    swapped = discarded(lambda p: 1.2 ** (10 * p) / (1 - p))
    values = swapped["cases"][0]["values"]
    values["small"], values["random"] = values["random"], values["small"]
    assert judged("fig9", swapped) == "contradicted"


# ---- figure 10 ------------------------------------------------------------------------------


# ---- figures 11 to 14 -----------------------------------------------------------------------


OURS = "first epoch 512 / 0.005"
CONTROLS = ("only the rate", "only the batch", "as many steps more", "warm-up")


# ---- figure 16 and CBLR ---------------------------------------------------------------------


# ---- curvature spread -----------------------------------------------------------------------


def warmed(warm=(0.6, 0.3), full=(0.6, 0.5), slow=(0.6, 0.59), layers=((-1.0, 0.0), (-2.0, -2.0))):
    rows = []
    for protocol, ends in (
        ("warm-up", warm),
        ("full rate", full),
        ("rate of the warm-up's start", slow),
    ):
        for seed, factor in enumerate(around(1.0)):
            for place, step in enumerate((0, 30)):
                rows.append(
                    {
                        "protocol": protocol,
                        "seed": seed,
                        "step": step,
                        "spread": factor * ends[place],
                        "layers": {
                            f"fc{k}.weight": factor * layer[place] for k, layer in enumerate(layers)
                        },
                    }
                )
    return BASE | {"n": [235], "steps": 30, "lr": 0.2, "rows": rows}


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        ({}, "holds"),
        # The full rate does the same, so it is not the warm-up.
        ({"full": (0.6, 0.3)}, "holds in part"),
        ({"warm": (0.3, 0.6)}, "contradicted"),
        ({"warm": (0.6, 0.6)}, "inconclusive"),
    ],
)
def test_fig_spread(measured, verdict):
    measurements = warmed(**measured)
    assert judged("fig-spread", measurements) == verdict
    if verdict == "holds":
        drawn("fig-spread", measurements)
    measurements["rows"] = [row for row in measurements["rows"] if row["seed"] < 2]
    assert judged("fig-spread", measurements) == "inconclusive"


# ---- beyond the paper, without training -----------------------------------------------------


def entries(relation):
    """Weights, gradients and curvatures with 1/|h| = relation(|w|, |g|)."""
    generator = np.random.default_rng(1)
    w, g = generator.standard_normal((2, 4000)) * 1e-2
    return w, g, 1 / relation(np.abs(w), np.abs(g))


def ranked(relation, tensors=4):
    from paper_checks.figures.fig_radius import ranks

    rows = [
        {"seed": 0, "parameter": f"fc{k}.weight"} | ranks(*entries(relation), seed=k)
        for k in range(tensors)
    ]
    density = {
        "exact": [0.0, 1.0, 2.0],
        "ratio": [0.0, 1.0, 2.0],
        "counts": [[1, 0], [2, 3]],
        "entries": 6,
        "left_out": 1,
    }
    return {"seeds": [0], "samples": 1, "network": "net", "rows": rows, "density": density}


@pytest.mark.parametrize(
    ("relation", "verdict"),
    [
        (lambda w, g: w / g, "holds"),
        # Equal in order, a hundred times too small.
        (lambda w, g: 100 * w / g, "holds in part"),
        (lambda w, g: 1 / g, "holds in part"),
        # The radius has nothing to do with either.
        (lambda w, g: np.random.default_rng(2).uniform(1, 2, w.size), "contradicted"),
        (lambda w, g: g / w, "contradicted"),
    ],
)
def test_fig_radius(relation, verdict):
    measurements = ranked(relation)
    assert judged("fig-radius", measurements) == verdict
    if verdict == "holds":
        drawn("fig-radius", measurements)
    assert judged("fig-radius", ranked(relation, 2)) == "inconclusive"


def test_shuffled_weights_are_seen_where_the_weight_matters():
    from paper_checks.figures.fig_radius import ranks

    found = ranks(*entries(lambda w, g: w / g))
    assert found["rank"] > 0.999
    assert found["rank_shuffled"] < 0.8
    idle = ranks(*entries(lambda w, g: 1 / g))
    assert abs(idle["rank"] - idle["rank_shuffled"]) < 0.05


def placed(distance, tensors=5):
    """Minima at w + distance, so that b = w + distance."""
    from paper_checks.figures.fig_b import place

    generator = np.random.default_rng(1)
    rows = []
    for k in range(tensors):
        w = generator.standard_normal(500)
        h = np.full(500, 1e-3 if callable(distance) else 1.0)
        offset = distance(w) if callable(distance) else distance
        rows.append({"seed": 0, "parameter": f"fc{k}.weight"} | place(w, -h * offset, h))
    return {"seeds": [0], "samples": 1, "rows": rows}


@pytest.mark.parametrize(
    ("distance", "verdict"),
    [
        (lambda w: -w + 1e-3, "holds"),
        # Far away, but decay is as strong as the curvature.
        (lambda w: -w + 1.2 * np.abs(w), "holds in part"),
        (lambda w: 50.0 + 0 * w, "contradicted"),
    ],
)
def test_fig_b(distance, verdict):
    measurements = placed(distance)
    assert judged("fig-b", measurements) == verdict
    if verdict == "holds":
        drawn("fig-b", measurements)
    assert judged("fig-b", placed(distance, 3)) == "inconclusive"


def stepped(quotient, kink=False, count=60):
    generator = np.random.default_rng(3)
    points = []
    for k in range(count):
        true = float(generator.uniform(0.1, 2) * (-1) ** k)
        points.append(
            {
                "network": "MLP at initialisation" if k % 2 else "MLP trained",
                "parameter": "fc1.weight",
                "weight": float(generator.standard_normal()),
                "true": true,
                "newton": true * quotient(k),
                "gradient": -true,
                "kink": kink,
            }
        )
    return {"seeds": [0], "samples": 1, "points": points}


@pytest.mark.parametrize(
    ("quotient", "verdict"),
    [
        (lambda k: 1.1, "holds"),
        (lambda k: 1.1 if k % 3 else 50.0, "holds in part"),
        (lambda k: 30.0, "contradicted"),
        (lambda k: 0.1, "contradicted"),
    ],
)
def test_fig_minimum(quotient, verdict):
    measurements = stepped(quotient)
    assert judged("fig-minimum", measurements) == verdict
    if verdict == "holds":
        drawn("fig-minimum", measurements)
    assert judged("fig-minimum", stepped(quotient, count=20)) == "inconclusive"


def convergent():
    from paper_checks.figures import fig_convergence as module

    generator = np.random.default_rng(0)
    shape = (2, 400 * 1024)
    cases = [module.case("independent Gaussians", *generator.standard_normal(shape), 0)]
    cases.append(module.case("layer", *generator.standard_normal(shape), 1))
    sizes = cases[0]["size"]
    law = {rule: [float(module._law(rule, k)) for k in sizes] for rule in module.SETTLE}
    return {"seeds": [0], "samples": 1, "cases": cases, "law_size": sizes, "law": law}


def test_fig_convergence():
    settled = convergent()
    assert judged("fig-convergence", settled) == "holds"
    drawn("fig-convergence", settled)

    def changed(place, factor):
        found = copy.deepcopy(settled)
        spread = found["cases"][place]["spread"]
        for rule in spread:
            spread[rule] = [
                value * factor(k)
                for value, k in zip(spread[rule], found["cases"][place]["size"], strict=True)
            ]
        return found

    # A layer three times as noisy as the law; one whose spread does not fall; a wrong law.
    assert judged("fig-convergence", changed(1, lambda k: 3.0)) == "holds in part"
    assert judged("fig-convergence", changed(1, lambda k: k**0.4)) == "contradicted"
    assert judged("fig-convergence", changed(0, lambda k: 2**0.5)) == "inconclusive"
    wrong = copy.deepcopy(settled)
    wrong["law"] = {rule: [2 * v for v in values] for rule, values in settled["law"].items()}
    assert judged("fig-convergence", wrong) == "inconclusive"


def bent(factor=1.0, interval=True):
    sizes = [2**k for k in range(14)]
    cases = []
    for k, scale in enumerate((40.0, 400.0)):
        mean = np.sqrt(1 / np.array(sizes) + 1 / scale)
        cases.append(
            {
                "case": f"layer {k}",
                "n": sizes,
                "mean": mean.tolist(),
                "bend": scale * factor if interval else None,
                "interval": [0.9 * scale * factor, 1.1 * scale * factor] if interval else None,
                "noise_scale": scale,
                "crossing": scale,
                "level": float(1 / np.sqrt(scale)),
            }
        )
    return {"seeds": [0], "samples": 100, "cases": cases}


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1.0, "holds"), (2.0, "holds in part"), (0.4, "holds in part"), (5.0, "contradicted")],
)
def test_fig_bend(factor, verdict):
    measurements = bent(factor)
    assert judged("fig-bend", measurements) == verdict
    if verdict == "holds":
        drawn("fig-bend", measurements)


def test_fig_bend_without_a_bend():
    assert judged("fig-bend", bent(interval=False)) == "inconclusive"


def critical(mclr=3, lars=3, runs=5):
    """Which place of n is the first where training fails; 5 for none."""
    sizes, start = [4, 16, 64, 256, 1024], 2.3
    cases = [
        {
            "rule": rule,
            "gamma": 0.01,
            "sharpness": [10.0 * 2**k for k in range(5)],
            "losses": [[start + 1 if k >= first else 1.0] * runs for k in range(5)],
        }
        for rule, first in (("MCLR", mclr), ("LARS", lars))
    ]
    facts = {"seeds": [0], "samples": 1024, "n": sizes, "predicted": 128.0, "start": start}
    return facts | {"cases": cases}


@pytest.mark.parametrize(
    ("places", "verdict"),
    [
        ((3, 3), "holds"),
        ((3, 5), "holds in part"),
        ((5, 3), "contradicted"),
        ((0, 0), "contradicted"),
    ],
)
def test_fig_mclr_batch(places, verdict):
    measurements = critical(*places)
    assert judged("fig-mclr-batch", measurements) == verdict
    if verdict == "holds":
        drawn("fig-mclr-batch", measurements)
    assert judged("fig-mclr-batch", critical(*places, runs=2)) == "inconclusive"


def test_a_run_that_is_not_finite_failed():
    broken = critical(5, 5)
    for case in broken["cases"]:
        case["losses"][3] = [None] * 5
        case["losses"][4] = [None] * 5
    assert judged("fig-mclr-batch", broken) == "holds"


def shaped(excess, trained=None):
    rows = [
        {
            "network": network,
            "parameter": f"fc{k}.weight",
            "samples": 1437,
            "excess": [v - 0.2, v - 0.1, v, v + 0.1, v + 0.2],
            "absolute": 0.9,
            "pooled_excess": 2 * v,
            "mean_over_sigma": 0.1,
            "sigma": 0.01,
            "dead": 0.0,
        }
        for network, v in (
            ("MLP at initialisation", excess),
            ("MLP trained", 10.0 if trained is None else trained),
        )
        for k in (1, 2)
    ]
    return {"seeds": [0], "samples": 1437, "rows": rows}


@pytest.mark.parametrize(
    ("excess", "verdict"),
    [(0.3, "holds"), (-0.9, "holds"), (20.0, "holds in part"), (100.0, "contradicted")],
)
def test_fig_gaussian(excess, verdict):
    measurements = shaped(excess)
    assert judged("fig-gaussian", measurements) == verdict
    if verdict == "holds":
        drawn("fig-gaussian", measurements)
    for row in measurements["rows"]:
        row["samples"] = 8
    assert judged("fig-gaussian", measurements) == "inconclusive"


def test_the_moments_of_outer_products_are_those_of_their_entries():
    from scipy.stats import kurtosis

    from paper_checks.figures.fig_gaussian import moments

    generator = np.random.default_rng(0)
    a, delta = generator.exponential(size=(500, 3)), generator.standard_normal((500, 2))
    direct = np.einsum("no,nk->nok", delta, a).reshape(500, -1)
    found = moments(a, delta)
    assert found["excess"][2] == pytest.approx(np.median(kurtosis(direct, axis=0)), rel=1e-9)
    assert found["sigma"] == pytest.approx(direct.std(axis=0).mean(), rel=1e-9)


# ---- claims on shared measurements ----------------------------------------------------------


@pytest.mark.parametrize(
    ("trained", "verdict"), [(10.0, "holds"), (1.05, "contradicted"), (0.1, "contradicted")]
)
def test_gaussian_initially(trained, verdict):
    assert judged("claim-gaussian-initially", shaped(1.0, trained)) == verdict


def test_one_layer_more_gaussian_is_a_part():
    mixed = shaped(1.0, 10.0)
    mixed["rows"][2]["excess"] = mixed["rows"][0]["excess"]
    assert judged("claim-gaussian-initially", mixed) == "holds in part"
    assert judged("claim-gaussian-initially", mixed | {"rows": []}) == "inconclusive"


@pytest.mark.parametrize(
    ("sigmas", "verdict"),
    [
        ((0.011, 0.009), "holds"),
        ((0.011, 0.001), "holds in part"),
        ((0.001, 0.1), "contradicted"),
    ],
)
def test_sigma_constant(sigmas, verdict):
    measurements = shaped(1.0)
    for row, sigma in zip(measurements["rows"][2:], sigmas, strict=True):
        row["sigma"] = sigma
    assert judged("claim-sigma-constant", measurements) == verdict
    assert judged("claim-sigma-constant", measurements | {"rows": []}) == "inconclusive"


@pytest.mark.parametrize(
    ("ranks", "verdict"),
    [
        ((0.8, 0.9), "holds"),
        ((0.8, 0.2), "holds in part"),
        # Shuffled norms.
        ((0.0, 0.0), "contradicted"),
        ((-0.5, -0.1), "contradicted"),
    ],
)
def test_high_loss(ranks, verdict):
    cases = [
        {"case": f"net {k}", "ranks": around(rank, 6), "ranks_shuffled": [0.1, -0.1] * 3}
        for k, rank in enumerate(ranks)
    ]
    measurements = {"seeds": [0], "samples": 1, "cases": cases}
    assert judged("claim-high-loss-larger-gradients", measurements) == verdict
    cases[0]["ranks"] = [0.9]
    assert judged("claim-high-loss-larger-gradients", measurements) == "inconclusive"


def test_loss_and_gradient_of_real_samples_go_together_until_shuffled():
    """The measurement itself: shuffling the samples takes the correlation away."""
    import torch

    from paper_checks.figures import fig9

    losses = torch.linspace(0, 3, 400)
    norms = losses.exp()
    assert fig9._rank(losses, norms) == pytest.approx(1)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    # Three standard errors of a rank correlation of 400.
    assert abs(fig9._rank(losses, norms[order])) < 0.15


@pytest.mark.parametrize("rule", ["lars", "percentdelta"])
def test_special_cases(rule):
    name = f"claim-{rule}-special-case"
    rows = [{"seed": 0, "parameter": f"fc{k}.weight", "spread": 1.5} for k in range(4)]
    right = {"seeds": [0], "samples": 1, "rule": rule, "even": 1e-5, "uneven": 3.0, "rows": rows}
    assert judged(name, right) == "holds"
    wide = copy.deepcopy(right)
    wide["rows"][1]["spread"] = 100.0
    assert judged(name, wide) == "holds in part"
    # A wrong constant in the rule.
    assert judged(name, right | {"even": 2**0.5 - 1}) == "contradicted"
    assert judged(name, right | {"rows": rows[:2]}) == "inconclusive"


@pytest.mark.parametrize("rule", ["lars", "percentdelta"])
def test_the_rules_equal_the_exact_radius_where_they_must(rule):
    from paper_checks.claims._special_case import rate

    w = rng.standard_normal(100) * 1e-4
    assert rate(rule, w, 2.0 * w) == pytest.approx(0.5, rel=1e-12)
    assert rate(rule, w, 2.0 * w) != pytest.approx(0.5 * 2**0.5, rel=0.1)


def test_failure_conditions():
    from paper_checks.claims.same_failure_conditions import changes

    w, g = rng.standard_normal((2, 1000))
    name = "claim-same-failure-conditions"
    found = changes(w, g)
    measurements = {"seeds": [0], "samples": 1, "parameter": "fc1", "entries": 1000}
    assert judged(name, measurements | {"changes": found}) == "holds in part"
    assert judged(name, measurements | {"changes": dict.fromkeys(found, 1e9)}) == "holds"
    assert judged(name, measurements | {"changes": dict.fromkeys(found, 1.0)}) == "contradicted"
    few = measurements | {"entries": 10, "changes": found}
    assert judged(name, few) == "inconclusive"


@pytest.mark.parametrize(
    ("far", "verdict"), [(0.0, "holds"), (0.3, "holds in part"), (1.0, "contradicted")]
)
def test_centre_on_minimum(far, verdict):
    measurements = stepped(lambda k: 1.0, count=80)
    points = measurements["points"]
    for k, point in enumerate(points):
        point["network"] = "MLP at initialisation"
        point["true"] = 1e-4 if k >= far * len(points) else 5.0
    assert judged("claim-centre-on-minimum", measurements) == verdict
    for point in points:
        point["true"] = None
    assert judged("claim-centre-on-minimum", measurements) == "contradicted"
    measurements["points"] = points[:5]
    assert judged("claim-centre-on-minimum", measurements) == "inconclusive"


@pytest.mark.parametrize(
    ("near", "far", "verdict"),
    [(1.1, 9.0, "holds"), (9.0, 1.1, "contradicted"), (9.0, 9.0, "contradicted")],
)
def test_morse_validated(near, far, verdict):
    measurements = stepped(lambda k: 1.0, count=80)
    points = sorted(measurements["points"], key=lambda point: abs(point["true"]))
    for k, point in enumerate(points):
        point["newton"] = point["true"] * (near if k < 40 else far)
    assert judged("claim-morse-validated", measurements) == verdict
    measurements["points"] = points[:10]
    assert judged("claim-morse-validated", measurements) == "inconclusive"


def test_morse_is_a_part_where_nearness_only_helps():
    measurements = stepped(lambda k: 1.0, count=200)
    points = sorted(measurements["points"], key=lambda point: abs(point["true"]))
    for k, point in enumerate(points):
        point["newton"] = point["true"] * (9.0 if k >= 50 or k % 3 == 0 else 1.1)
    assert judged("claim-morse-validated", measurements) == "holds in part"


def enlarged(*factors):
    from paper_checks.claims.other_enlargers import METHODS

    values = {"plain": around(1.0, 6)}
    for k, (name, factor) in enumerate(zip(METHODS, factors, strict=True)):
        values[name] = [v * (1 + 1e-3 * k * (-1) ** i) for i, v in enumerate(around(factor, 6))]
    return {"seeds": [0], "samples": 1, "n": 235, "values": values}


@pytest.mark.parametrize(
    ("factors", "verdict"),
    [
        ((2.0, 2.0, 2.0), "holds"),
        ((2.0, 2.0, 0.9), "holds in part"),
        ((0.9, 0.9, 0.9), "contradicted"),
        ((1.0, 1.0, 1.0), "contradicted"),
    ],
)
def test_other_enlargers(factors, verdict):
    measurements = enlarged(*factors)
    assert judged("claim-other-enlargers", measurements) == verdict
    measurements["values"]["plain"] = [1.0]
    assert judged("claim-other-enlargers", measurements) == "inconclusive"


# ---- claims on training ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("growth", "verdict"), [(20.0, "holds"), (10.0, "contradicted"), (2.0, "contradicted")]
)
def test_mclr_because_gradients_shrink(growth, verdict):
    measurements = critical()
    for case, factor in zip(measurements["cases"], (growth, 10.0), strict=True):
        case["sharpness"] = [1.0, 1.0, 1.0, 1.0, factor]
    assert judged("claim-mclr-because-gradients-shrink", measurements) == verdict
    for case in measurements["cases"]:
        case["single"] = around(1.0, 4, 0.02 if case["rule"] == "MCLR" else 0.01)
    found = claim_check("claim-mclr-because-gradients-shrink").judge(measurements)
    assert found.interval[0] < growth / 10 < found.interval[1]
    few = measurements | {"n": [4, 8]}
    assert judged("claim-mclr-because-gradients-shrink", few) == "inconclusive"


@pytest.mark.parametrize(
    ("layers", "verdict"),
    [
        (((1.0, -1.0), (-2.0, -2.0)), "holds"),
        # It gets sharper; it falls with the others, and less than they do.
        (((1.0, 2.0), (-2.0, -2.0)), "contradicted"),
        (((1.0, 0.5), (-2.0, -5.0)), "contradicted"),
    ],
)
def test_warmup_flattens(layers, verdict):
    measurements = warmed(layers=layers)
    assert judged("claim-warmup-flattens", measurements) == verdict
    measurements["rows"] = [row for row in measurements["rows"] if row["seed"] < 2]
    assert judged("claim-warmup-flattens", measurements) == "inconclusive"
