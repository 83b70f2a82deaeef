import math

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hessian
import sim

Q = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}


class Curvature(dict):
    """A stand-in for what hessian.diagonal returns."""

    def __init__(self, curvature, gradient):
        super().__init__(curvature)
        self.gradient = gradient
        self.loss = 1.25
        self.samples = 7


def single(w, g, h):
    """A model of one tensor, with a gradient and a curvature made to measure."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.tensor(w, dtype=torch.float64))
    tensors = ({"weight": torch.tensor(v, dtype=torch.float64)} for v in (h, g))
    return model, Curvature(*tensors)


def table(w, g, h, **options):
    model, curvature = single(w, g, h)
    return sim.compare_radii(model, None, None, curvature=curvature, **options)


# The naive oracle: Python loops over triples, quantiles by sorting.


def quantile(values, q):
    values = sorted(values)
    if not values:
        return math.nan
    position = q * (len(values) - 1)
    low, high = values[math.floor(position)], values[math.ceil(position)]
    if low == high:
        return low
    return low * (1 - position % 1) + high * (position % 1) if math.isfinite(high) else high


def over(a, b):
    if b:
        return abs(a / b)
    return math.inf if a else math.nan


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def oracle(w, g, h, beta):
    triples = list(zip(w, g, h, strict=True))
    expected = {}

    def spread(prefix, values):
        values = list(values)
        expected.update({f"{prefix}_{k}": quantile(values, q) for k, q in Q.items()})

    def med(values):
        return quantile(values, 0.5)

    radius = [math.sqrt((1 + b * b) ** 3) / abs(c) if c else math.inf for _, b, c in triples]
    spread("radius", radius)
    spread("radius_finite", (r for r in radius if r < math.inf))
    expected["radius_finite_mean"] = mean(r for r in radius if r < math.inf)
    ratio = [over(a, b) for a, b, _ in triples]
    spread("ratio", (r for r in ratio if not math.isnan(r)))
    expected["ratio_mean"] = mean(r for r in ratio if not math.isnan(r))
    expected["ratio_finite_mean"] = mean(r for r in ratio if math.isfinite(r))
    error = [
        math.log10(q / r)
        for q, r, (a, b, c) in zip(ratio, radius, triples, strict=True)
        if a and b and c
    ]
    spread("log10_error", error)
    expected["within_factor_2"] = mean(0.5 <= 10**e <= 2 for e in error)
    expected["error_count"] = len(error)

    expected["eq20_signed"] = over(med(w), med(g))
    expected["eq20_absolute"] = over(med(map(abs, w)), med(map(abs, g)))
    expected["eq20_ratio"] = expected["ratio_q50"]
    expected["eq22_signed"] = over(med(w), med(g) + beta * med(w))
    expected["eq22_absolute"] = over(med(map(abs, w)), med(map(abs, g)) + beta * med(map(abs, w)))
    decayed = [over(a, b + beta * a) for a, b, _ in triples]
    expected["eq22_ratio"] = med([r for r in decayed if not math.isnan(r)])
    expected["eq23"] = over(math.hypot(*w), math.hypot(*g))
    relative = [over(b, a) if b else 0.0 for a, b, _ in triples]
    expected["eq24"] = over(len(w), sum(relative))
    nonzero = [r for r, a in zip(relative, w, strict=True) if a]
    expected["eq24_nonzero"] = over(len(nonzero), sum(nonzero))

    n = len(w)
    expected["share_zero_weight"] = sum(a == 0 for a in w) / n
    expected["share_zero_gradient"] = sum(b == 0 for b in g) / n
    expected["share_zero_curvature"] = sum(c == 0 for c in h) / n
    expected["share_negative_curvature"] = sum(c < 0 for c in h) / n
    expected["share_dead"] = sum(b == 0 == c for _, b, c in triples) / n
    expected["gradient_squared_median"] = med([b * b for b in g])
    expected["gradient_squared_q99"] = quantile([b * b for b in g], 0.99)
    expected["gradient_squared_max"] = max(b * b for b in g)
    expected["weight_median"], expected["weight_abs_median"] = med(w), med(map(abs, w))
    expected["gradient_median"], expected["gradient_abs_median"] = med(g), med(map(abs, g))
    expected["curvature_abs_median"] = med(map(abs, h))
    expected["curvature_abs_mean"] = mean(map(abs, h))

    curved = [(a, a - b / c, c) for a, b, c in triples if c]
    expected["b_count"] = len(curved)
    expected["b_share_minimum"] = mean(c > 0 for *_, c in curved)
    spread("b", (b for _, b, _ in curved))
    expected["b_abs_median"] = med([abs(b) for _, b, _ in curved])
    expected["b_relative_median"] = med(
        [r for r in (over(b, a) for a, b, _ in curved) if not math.isnan(r)]
    )
    expected["b_share_nearer"] = mean(abs(b) < abs(a) for a, b, _ in curved)
    expected["b_share_tenth"] = mean(10 * abs(b) < abs(a) for a, b, _ in curved)
    expected["distance_abs_median"] = med([abs(a - b) for a, b, _ in curved])
    expected["size"] = n
    return expected


def assert_matches(row, expected):
    wrong = {
        name: (row[name], value)
        for name, value in expected.items()
        # Cancellation in w - g/h costs digits that the statistics then share.
        if not np.isclose(row[name], value, rtol=1e-9, atol=1e-12, equal_nan=True)
    }
    assert wrong == {}


RANKS = {"rank_correlation", "rank_low", "rank_high", "rank_count"}
RANKS |= {"rank_inverse_gradient", "rank_distance"}
IDENTITY = {"parameter", "layer", "kind"}


def test_every_column_against_the_oracle():
    rng = np.random.default_rng(0)
    w, g, h = rng.standard_normal((3, 203)) * [[1], [0.7], [2]] + [[0.1], [0.05], [0.4]]
    row = table(w, g, h, weight_decay=0.3).iloc[0]
    expected = oracle(w.tolist(), g.tolist(), h.tolist(), 0.3)
    assert_matches(row, expected)
    assert set(row.index) == set(expected) | RANKS | IDENTITY
    # No column is there by accident: in this draw all of these differ from one another.
    distinct = [row[f"eq{k}"] for k in ("20_signed", "20_absolute", "20_ratio", "22_signed")]
    distinct += [row[f"eq{k}"] for k in ("22_absolute", "22_ratio", "23", "24")]
    assert len({round(v, 6) for v in distinct}) == 8


def test_every_column_against_the_oracle_with_dead_and_flat_entries():
    rng = np.random.default_rng(1)
    w, g, h = rng.standard_normal((3, 300))
    w[:40] = 0
    g[20:90] = 0
    h[30:120] = 0
    row = table(w, g, h, weight_decay=0.01).iloc[0]
    assert_matches(row, oracle(w.tolist(), g.tolist(), h.tolist(), 0.01))
    assert row.eq24 == 0
    assert row.eq24_nonzero > 0
    assert row.ratio_mean == math.inf
    assert 0 < row.share_dead < row.share_zero_gradient < 1


numbers = st.sampled_from([0.0, -0.5, 0.25, 1.0, -3.0, 1e-3])


@settings(max_examples=60)
@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=12))
def test_small_tensors_with_zeros_anywhere(triples):
    w, g, h = (list(v) for v in zip(*triples, strict=True))
    assert_matches(table(w, g, h, weight_decay=0.5).iloc[0], oracle(w, g, h, 0.5))


def test_rank_correlations_are_scipys_over_the_entries_with_finite_values():
    rng = np.random.default_rng(2)
    w, g, h = rng.standard_normal((3, 500))
    w = w + 0.5 * g / h
    g[:50], h[30:100] = 0, 0
    row = table(w, g, h).iloc[0]
    w, g, h = w[100:], g[100:], h[100:]
    radius = (1 + g**2) ** 1.5 / np.abs(h)
    for column, a, b in (
        ("rank_correlation", np.abs(w / g), radius),
        ("rank_inverse_gradient", 1 / np.abs(g), radius),
        ("rank_distance", np.abs(w), np.abs(g / h)),
    ):
        wanted = scipy.stats.spearmanr(a, b).statistic
        assert row[column] == pytest.approx(wanted, abs=1e-12), column
    assert row.rank_count == 400
    r = row.rank_correlation
    half = 1.959963984540054 * math.sqrt((1 + r * r / 2) / 397)
    assert math.atanh(row.rank_high) - math.atanh(r) == pytest.approx(half, rel=1e-9)
    assert math.atanh(r) - math.atanh(row.rank_low) == pytest.approx(half, rel=1e-9)


def test_the_ranked_sample_is_seeded_and_representative():
    rng = np.random.default_rng(3)
    w, g = rng.standard_normal((2, 5000))
    h = g * np.exp(rng.standard_normal(5000))
    whole = table(w, g, h).iloc[0]
    rows = [table(w, g, h, rank_sample=800, seed=s).iloc[0] for s in (0, 0, 1)]
    assert rows[0].rank_correlation == rows[1].rank_correlation != rows[2].rank_correlation
    assert [row.rank_count for row in rows] == [800] * 3
    assert whole.rank_count == 5000
    # Four standard errors of Fisher's z at n = 800.
    assert abs(math.atanh(rows[0].rank_correlation) - math.atanh(whole.rank_correlation)) < 0.15


def test_a_parabola_is_known_exactly():
    # L = Σ a (w - b)²: equation 16 with the true b is the exact radius.
    w, a, b = (np.array(v) for v in ([1.0, 2.0, -3.0], [0.5, 2.0, 1.0], [0.25, 0.25, 0.25]))
    g, h = 2 * a * (w - b), 2 * a
    row = table(w, g, h).iloc[0]
    assert row.b_q05 == row.b_q95 == row.b_q50 == 0.25
    assert row.b_share_minimum == 1
    assert row.distance_abs_median == pytest.approx(1.75)
    at_zero = table(w, 2 * a * w, h).iloc[0]
    assert at_zero.b_abs_median == 0
    assert at_zero.b_share_tenth == at_zero.b_share_nearer == 1


def test_extreme_values_stay_quiet():
    tiny = np.finfo(float).tiny
    row = table([1.0, 1.0, 1.0], [1e-320, 1e200, 1.0], [1e-320, tiny, 1.0]).iloc[0]
    assert row.ratio_q95 == math.inf
    assert row.gradient_squared_max == math.inf
    assert row.distance_abs_median == 1


# names and real models


def naive_diagonal(model, loss, x, y):
    """First and second derivatives, coordinate by coordinate."""
    value = loss(model(x), y)
    names, parameters = zip(*model.named_parameters(), strict=True)
    first = torch.autograd.grad(value, parameters, create_graph=True)
    second = []
    for p, g in zip(parameters, first, strict=True):
        entries = []
        for k in range(p.numel()):
            (row,) = torch.autograd.grad(g.reshape(-1)[k], p, retain_graph=True, allow_unused=True)
            entries.append(0.0 if row is None else row.reshape(-1)[k].item())
        second.append(entries)
    return names, parameters, first, second, value.item()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_network_against_double_backward(activation):
    model = sim.models.build(
        "mlp", in_shape=(4,), classes=3, hidden=(6,), activation=activation, seed=0
    ).double()
    data = sim.data.load("gaussian", samples=16, features=4, classes=3)
    x, y = data.inputs.double(), data.targets
    names, parameters, first, second, value = naive_diagonal(model, F.cross_entropy, x, y)
    frame = sim.compare_radii(model, F.cross_entropy, [(x[:10], y[:10]), (x[10:], y[10:])])
    assert frame.parameter.tolist() == list(names)
    assert frame.layer.tolist() == ["fc1", "fc1", "fc2", "fc2"]
    assert frame.kind.tolist() == ["weight", "bias"] * 2
    assert frame.attrs["samples"] == 16
    assert frame.attrs["loss"] == pytest.approx(value, rel=1e-12)
    for (_, row), p, g, h in zip(frame.iterrows(), parameters, first, second, strict=True):
        flat = [v.detach().reshape(-1).tolist() for v in (p, g)]
        # Signed zeros and cancellation aside: float64 against float64.
        expected = oracle(*flat, h, 0.0)
        for name in ("radius_q50", "ratio_q50", "b_q25", "eq23", "curvature_abs_mean"):
            assert row[name] == pytest.approx(expected[name], rel=1e-7), name


def test_a_data_set_and_a_ready_curvature_give_the_same():
    data = sim.data.load("digits").subset(24)
    model = sim.models.build("mlp", in_shape=data.shape, hidden=(5,), seed=0)
    curvature = hessian.diagonal(model, F.cross_entropy, data.pair)
    a = sim.compare_radii(model, F.cross_entropy, data)
    b = sim.compare_radii(model, None, None, curvature=curvature)
    # The same pass in the same order: equal to the last bit.
    assert a.equals(b)
    assert a.attrs == b.attrs


def test_kinds_of_parameters():
    model = nn.Sequential(nn.Embedding(3, 2), nn.LayerNorm(2), nn.Linear(2, 1))
    model.scale = nn.Parameter(torch.ones(()))
    model[2].bias.requires_grad_(False)
    values = {n: torch.ones_like(p) for n, p in model.named_parameters() if p.requires_grad}
    frame = sim.compare_radii(model, None, None, curvature=Curvature(values, values))
    assert frame[["parameter", "layer", "kind", "size"]].to_numpy().tolist() == [
        ["scale", "", "scale", 1],
        ["0.weight", "0", "embedding", 6],
        ["1.weight", "1", "norm-weight", 2],
        ["1.bias", "1", "norm-bias", 2],
        ["2.weight", "2", "weight", 2],
    ]


def test_reduced_precision_is_summarised_in_float64():
    w, g, h = (torch.tensor(v, dtype=torch.bfloat16) for v in ([1.0, 2.0], [0.5, 0.5], [2.0, 2.0]))
    model = nn.Module()
    model.weight = nn.Parameter(w)
    row = sim.compare_radii(
        model, None, None, curvature=Curvature({"weight": h}, {"weight": g})
    ).iloc[0]
    assert row.radius_q50 == pytest.approx(1.25**1.5 / 2, rel=1e-15)


def test_progress_goes_to_standard_error(capsys):
    table([1.0], [1.0], [1.0], progress=True)
    assert capsys.readouterr().out == ""


# refusals


def spoiled(**changes):
    values = {"weight": torch.ones(2)}
    parts = {"curvature": dict(values), "gradient": dict(values)}
    for part, change in changes.items():
        parts[part].update(change)
        parts[part] = {k: v for k, v in parts[part].items() if v is not None}
    return Curvature(**parts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_decay": -0.1}, r"^weight_decay: got -0.1; give a number at least 0 and finite$"),
        ({"weight_decay": math.inf}, r"^weight_decay: got inf; give a number"),
        ({"rank_sample": 3}, r"^rank_sample: got 3; give a whole number at least 4$"),
        ({"seed": -1}, r"^seed: got -1; give a whole number"),
        ({"curvature": {"weight": torch.ones(2)}}, r"^curvature: got dict; pass what hessian.diag"),
        ({"curvature": 3}, r"^curvature: got int; pass what hessian.diagonal"),
        (
            {"curvature": spoiled(curvature={"weight": None})},
            r"^curvature: the parameter 'weight' is missing; recompute it",
        ),
        (
            {"curvature": spoiled(gradient={"weight": None})},
            r"^curvature.gradient: the parameter 'weight' is missing; recompute it",
        ),
        (
            {"curvature": spoiled(curvature={"other": torch.ones(2)})},
            r"^curvature: the model has no parameter 'other'; recompute it",
        ),
        (
            {"curvature": spoiled(gradient={"weight": torch.ones(3)})},
            r"^curvature.gradient: 'weight' has shape \(3,\) where the model has \(2,\)",
        ),
        (
            {"curvature": spoiled(curvature={"weight": torch.tensor([1.0, math.nan])})},
            r"^curvature: 'weight' holds a value that is not finite; check the data",
        ),
    ],
)
def test_refusals(options, message):
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=message):
        sim.compare_radii(model, None, None, **({"curvature": spoiled()} | options))


def test_a_model_with_nothing_to_differentiate():
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match=r"^model: it has no parameter that requires a gradient"):
        sim.compare_radii(model, F.mse_loss, (torch.ones(1, 2), torch.ones(1, 2)))
