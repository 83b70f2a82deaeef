"""The oracle itself: closed forms, kinks, flat zeros, noise. A wrong step or factor fails here."""

import math
import random

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._verification.differences import noise, second_difference
from hessian.testing import assert_exact, differences

from .networks import StraightThrough

# name: (function of t by any library of functions, error that is reached at least)
SMOOTH = {
    "exp": (lambda m, t: m.exp(t), 1e-10),
    "sine": (lambda m, t: m.sin(1 + t), 1e-10),
    "small beside a constant": (lambda m, t: 1 + m.sin(1 + t) / 10**6, 1e-12),
    "steep": (lambda m, t: m.tanh(5 * t + 0.25), 1e-8),
    "a pole nearby": (lambda m, t: 1 / (1 + 100 * t * t), 1e-7),
    "fast": (lambda m, t: m.sin(1000 * t + 1), 1e-3),
    "parabola": (lambda m, t: 3 * t * t - t + 2, 1e-12),
    "fourth power": (lambda m, t: (t + 0.5) ** 4, 1e-10),
}


@pytest.mark.parametrize("unit", [0.02, 1.0])
@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_functions_within_the_error_reported(name, unit):
    function, reached = SMOOTH[name]
    with mpmath.workdps(40):
        true = float(mpmath.diff(lambda t: function(mpmath, t), 0, 2))
    found = second_difference(lambda t: function(math, t), unit)
    assert found.word == "smooth"
    assert abs(found.value - true) <= found.error <= reached * max(1, (0.02 / unit) ** 2 * 2500)


@pytest.mark.parametrize("enough", [1e-4, 1e-7])
def test_it_stops_where_the_error_is_enough(enough):
    rough, fine = (second_difference(math.exp, 1.0, enough=e) for e in (enough, 0.0))
    assert abs(rough.value - 1) <= rough.error <= enough
    assert rough.evaluations < fine.evaluations


@pytest.mark.parametrize("distance", [0.5, 0.1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("jump", [1.0, 1e-3])
@pytest.mark.parametrize("enough", [0.0, 1e-6])
def test_a_kink_beside_the_point_makes_the_steps_smaller(distance, jump, enough):
    found = second_difference(lambda t: jump * max(t - distance, 0.0) + math.cos(t), enough=enough)
    assert found.word == "smooth"
    assert found.step <= distance
    # Rounding of 2 in float64, by 4/s² at the step that is left, with what extrapolation adds.
    assert abs(found.value + 1) <= found.error <= 1e-10 + 1e-13 / distance**2


KINKS = {
    "absolute value": abs,
    "relu in a smooth sum": lambda t: 1e-3 * max(t, 0.0) + math.exp(t),
    "step": lambda t: float(t >= 0) + t * t,
    "square of relu": lambda t: max(t, 0.0) ** 2,
    "signed square": lambda t: t * abs(t) + t * t,
}


@pytest.mark.parametrize("name", KINKS)
def test_at_a_kink_there_is_no_second_derivative(name):
    found = second_difference(KINKS[name])
    assert found.word == "kink"
    assert math.isnan(found.value)
    assert math.isinf(found.error)


@pytest.mark.parametrize("distance", [0.1, 1e-3, 1e-5])
def test_a_step_beside_the_point_is_none_at_it(distance):
    found = second_difference(lambda t: float(t >= distance) + t * t, enough=1e-4)
    assert found.word == "smooth"
    assert found.step < distance
    assert abs(found.value - 2) <= found.error <= 1e-10 + 1e-13 / distance**2


def test_several_kinks_around_the_point():
    places = (0.01, 0.02, 0.05, 0.3, -0.013, -0.07, -0.3)
    found = second_difference(
        lambda t: sum(abs(t - d) for d in places) / 100 + math.cos(t), enough=1e-7
    )
    assert abs(found.value + 1) <= found.error < 1e-7
    assert found.step <= 0.01


def test_flat_zero():
    for function in (lambda t: 3.0, lambda t: 3.0 + max(t - 0.3, 0.0) ** 2):
        found = second_difference(function)
        assert found.value == 0
        assert found.word == "smooth"
        assert found.error < 1e-12


@pytest.mark.parametrize("size", [1e-10, 1e-8, 1e-6])
def test_noise_is_measured_and_counted(size):
    draw = random.Random(0)
    estimate = noise([math.exp(1e-6 * k) + size * draw.gauss(0, 1) for k in range(9)])
    assert size / 4 < estimate < 4 * size
    for seed in range(20):
        draw = random.Random(seed)
        found = second_difference(lambda t, d=draw: math.exp(t) + size * d.gauss(0, 1))
        assert abs(found.value - 1) <= found.error < 1e4 * size


def test_rounding_to_float32_on_the_way_is_seen():
    found = second_difference(lambda t: float(torch.tensor(math.exp(t), dtype=torch.float32)))
    assert abs(found.value - 1) <= found.error
    assert 1e-8 < found.error < 1e-4


def test_no_error_where_no_steps_agree():
    found = second_difference(lambda t: math.sqrt(abs(t)))
    assert found.word != "smooth" or found.error > abs(found.value)


def test_steps_out_of_the_domain_are_shrunk():
    found = second_difference(lambda t: math.log(0.001 + t) if t > -0.001 else math.nan)
    assert abs(found.value + 1e6) <= found.error < 1e-2
    assert found.step < 0.001


# ------------------------------------------------------------------ of networks


def net(dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)
    return model, (torch.randn(5, 3, dtype=dtype), torch.tensor([0, 1, 2, 1, 0]))


def test_the_second_derivative_of_a_closed_form():
    """L = mean (w·x - y)²: d²L/dw_i² = 2 mean x_i², by float32 data in float64."""
    model = nn.Linear(3, 1, bias=False)
    x, y = torch.randn(7, 3), torch.randn(7, 1)
    for r in differences(model, F.mse_loss, (x, y), entries="all"):
        true = float(2 * x.double()[:, r.index].square().mean())
        assert abs(r.value - true) <= r.error < 1e-9


def test_batches_are_weighted():
    model, (x, y) = net()
    pairs = [(x[:3], y[:3]), (x[3:], y[3:])]
    whole = differences(model, F.cross_entropy, (x, y), entries=6)
    apart = differences(model, F.cross_entropy, pairs, entries=6)
    for a, b in zip(whole, apart, strict=True):
        assert abs(a.value - b.value) <= a.error + b.error
    summed = nn.CrossEntropyLoss(reduction="sum")
    total = differences(model, summed, pairs, entries=6, weight="sum")
    for a, b in zip(whole, total, strict=True):
        assert abs(5 * a.value - b.value) <= 5 * a.error + b.error


def test_a_budget_goes_round_the_tensors():
    model, data = net()
    found = differences(model, F.cross_entropy, data, entries=4)
    assert {r.name for r in found} == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert len(differences(model, F.cross_entropy, data, entries=1000)) == 31
    assert [r.name for r in differences(model, F.cross_entropy, data, entries={"0.bias": [2]})] == [
        "0.bias"
    ]


@pytest.mark.parametrize("entries", [0, -1, 1.5, "some", {"3.weight": [0]}, {"0.bias": [4]}])
def test_entries_that_are_none(entries):
    model, data = net()
    with pytest.raises(ValueError, match="entries"):
        differences(model, F.cross_entropy, data, entries=entries)


class Counts(nn.Module):
    """Draws, counts in a buffer, writes to a parameter, and asks whether gradients are on."""

    def __init__(self):
        super().__init__()
        self.a, self.key = nn.Linear(3, 3), nn.Linear(3, 3)
        self.key.requires_grad_(False)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        with torch.no_grad():
            self.key.weight.lerp_(self.a.weight, 0.1)
            self.calls += 1
        scale = 2.0 if torch.is_grad_enabled() else 1.0
        return F.dropout(self.a(x), 0.5) * scale + self.key(x) * self.calls


def test_every_call_meets_the_same_state():
    torch.manual_seed(0)
    model = Counts().double()
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(4)
    found = differences(model, F.mse_loss, (x, y), entries={"a.bias": [0, 1, 2]})
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    torch.manual_seed(4)
    kept = F.dropout(torch.ones(5, 3, dtype=torch.float64), 0.5)
    for r in found:  # twice the kept entries, squared, over 15
        true = float(2 * (2 * kept[:, r.index]).square().sum() / 15)
        assert abs(r.value - true) <= r.error < 1e-9


def test_a_model_that_differentiates_inside():
    """Forces from an energy: the call needs a tape of its own."""

    class Forces(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.5, -0.25], dtype=torch.float64))

        def forward(self, x):
            x = x.detach().requires_grad_()
            energy = (x.pow(3) * self.w).sum()
            return torch.autograd.grad(energy, x, create_graph=True)[0]

    x = torch.randn(4, 2, dtype=torch.float64)
    for r in differences(Forces(), F.mse_loss, (x, torch.zeros_like(x)), entries="all"):
        true = float(2 * 9 * x[:, r.index].pow(4).sum() / 8)
        assert abs(r.value - true) <= r.error < 1e-8


def test_kinks_are_named():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    x = torch.randn(5, 2, dtype=torch.float64)
    found = differences(model, F.mse_loss, (x, x[:, :1]), entries="all")
    assert {r.word for r in found if r.name.startswith("0")} == {"kink"}
    assert {r.word for r in found if r.name.startswith("2")} == {"smooth"}


# ------------------------------------------------------------------ assert_exact


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_assert_exact_reports(dtype):
    model, data = net(dtype)
    report = assert_exact(model, F.cross_entropy, data)
    assert report.entries == 31
    assert report.kinks == report.unclear == 0
    assert report.gap < (1e-8 if dtype == torch.float64 else 1e-4)
    assert report.runs[0] == "auto"
    assert report.runs[-1] == "auto in parts"


@pytest.mark.parametrize("factor", [1.001, 0.5, 2.0, -1.0])
def test_assert_exact_sees_a_wrong_factor(factor, monkeypatch):
    model, data = net()
    whole = hessian._batch.analysis.Analysis.run

    def wrong(self, tick):
        h, g = whole(self, tick)
        if "0.weight" in h:
            h["0.weight"][1, 2] *= factor
        return h, g

    monkeypatch.setattr(hessian._batch.analysis.Analysis, "run", wrong)
    with pytest.raises(AssertionError, match=r"0\.weight +5 .*smooth") as failure:
        assert_exact(model, F.cross_entropy, data)
    assert "0.bias" not in str(failure.value)


def test_assert_exact_sees_a_wrong_loss(monkeypatch):
    model, data = net()
    call = hessian._call.objective.Objective.scalar
    monkeypatch.setattr(
        hessian._call.objective.Objective, "scalar", lambda self, *given: call(self, *given) + 1e-3
    )
    with pytest.raises(AssertionError, match="L is"):
        assert_exact(model, F.cross_entropy, data, methods=["auto"])


def test_a_loss_that_changes_from_call_to_call():
    model, data = net()
    calls = []

    def loss(output, target):
        calls.append(1)
        return F.cross_entropy(output, target) + 1e-3 * len(calls)

    with pytest.raises(ValueError, match=r"at one call and .* at the next"):
        differences(model, loss, data)


def test_assert_exact_says_where_nothing_can_be_compared():
    class Kink(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3, dtype=torch.float64))

        def forward(self, x):
            return (x * self.w).abs().sum(1)

    x = torch.randn(5, 3, dtype=torch.float64)
    with pytest.raises(AssertionError, match="no entry could be compared"):
        assert_exact(Kink(), lambda o, t: (o - t).mean(), (x, x[:, 0]))


def test_a_surrogate_gradient_is_not_the_values_own():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.b(StraightThrough.apply(self.a(x)))

    torch.manual_seed(0)
    model = Steps().double()
    data = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    with pytest.raises(AssertionError, match=r"a\.weight"):
        assert_exact(model, F.cross_entropy, data)
    assert assert_exact(model, F.cross_entropy, data, names=["b.weight", "b.bias"]).entries == 12


@pytest.mark.parametrize("how", ["detach", "no_grad", "item", "padding"])
def test_detached_numbers_may_be_held(how):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows, self.a = nn.Embedding(4, 3, padding_idx=0), nn.Linear(3, 3)
            nn.init.normal_(self.rows.weight)

        def forward(self, index):
            z = torch.tanh(self.a(self.rows(index)))
            if how == "detach":
                z = z * z.detach()
            elif how == "no_grad":
                with torch.no_grad():
                    scale = z.exp()
                z = z * scale
            elif how == "item":
                z = z / z.abs().max().item()
            return z

    torch.manual_seed(0)
    model = Net().double()
    index, y = torch.tensor([0, 1, 2, 0, 3, 1]), torch.tensor([0, 1, 2, 1, 0, 2])
    report = assert_exact(model, F.cross_entropy, (index, y))
    assert report.entries == 24
    free = differences(model, F.cross_entropy, (index, y), entries="all")
    held = differences(model, F.cross_entropy, (index, y), entries="all", detached="held")
    apart = [a for a, b in zip(free, held, strict=True) if abs(a.value - b.value) > 1e-6]
    assert len(apart) > 2
    if how == "padding":
        assert {(r.name, r.index) for r in apart} == {("rows.weight", i) for i in range(3)}


@pytest.mark.parametrize("enough", [0.0, 1e-6])
@pytest.mark.parametrize("decimals", [2, 3])
def test_rounding_on_the_way_is_no_smooth_function(decimals, enough):
    """At powers of two round(t, 3) is t itself, and chance makes a few of many cells agree."""
    for seed in range(40):
        start = random.Random(seed).uniform(-1, 1)
        found = second_difference(
            lambda t, w=start: math.exp(round(w + t, decimals)), enough=enough
        )
        assert found.word == "kink" or abs(found.value) <= found.error
