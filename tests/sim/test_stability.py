"""λ_max of the scaled Hessian beside a dense one; the bound it gives; what breaks beyond it."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
import sim
from hessian._spectrum import views
from sim.optimizers import CBLR


class Quadratic(nn.Module):
    """L = w'Aw/2, whatever the batch."""

    def __init__(self, a, scale=1e-6):
        super().__init__()
        self.a = a
        start = torch.linspace(1.0, 2.0, len(a), dtype=torch.float64)
        self.w = nn.Parameter(scale * start)

    def forward(self, x):
        return self.w @ self.a @ self.w / 2 + 0 * x.sum()


class Diagonal(nn.Module):
    """L = Σ a w²/2."""

    def __init__(self, a):
        super().__init__()
        self.a = a
        self.w = nn.Parameter(torch.zeros_like(a))

    def forward(self, x):
        return (self.a * self.w**2).sum() / 2 + 0 * x.sum()


def value(output, target):
    return output


PAIR = (torch.zeros(1), torch.zeros(1))


def symmetric(size=12, seed=0):
    root = np.random.default_rng(seed).standard_normal((size, 2 * size))
    return torch.tensor(root @ root.T / size)


def network(seed=0, hidden=(32,)):
    data = sim.data.load("digits")
    model = sim.models.build("mlp", in_shape=data.shape, hidden=hidden, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    rows = [torch.randint(len(data), (128,), generator=generator) for _ in range(20)]
    return model, [(data.inputs[r], data.targets[r]) for r in rows], data


def dense_top(model, loss, pair, rates):
    """The largest real part of the eigenvalues of ρH, not symmetrised, from a dense Hessian."""
    names = [name for name, _ in model.named_parameters()]
    start = [p.detach().double() for p in model.parameters()]
    sizes = [p.numel() for p in start]

    def function(flat):
        parts = [f.view_as(p) for f, p in zip(flat.split(sizes), start, strict=True)]
        values = dict(zip(names, parts, strict=True))
        output = torch.func.functional_call(model, values, (pair[0].double(),))
        return loss(output, pair[1])

    h = torch.autograd.functional.hessian(function, torch.cat([p.flatten() for p in start]))
    rho = np.concatenate([np.ravel(rates[name].double()) for name in names])
    return max(np.linalg.eigvals(rho[:, None] * h.numpy()).real)


def check_against_dense(sharpness):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    pair = torch.randn(20, 5), torch.randint(3, (20,))
    rates = {name: torch.rand_like(p) * 10 for name, p in model.named_parameters()}
    rates["2.bias"][0] = 0.0  # a parameter that stays
    got = sharpness(model, F.cross_entropy, pair, rates, tolerance=1e-4)
    # In float32, to a relative 1e-4.
    assert got == pytest.approx(dense_top(model, F.cross_entropy, pair, rates), rel=3e-4)


def test_sharpness_is_that_of_the_dense_hessian():
    check_against_dense(sim.sharpness)


def test_a_wrong_scaling_is_caught(monkeypatch):
    right = views.roots

    def squared(*arguments):  # ρ for ρ^½
        return {name: root**2 for name, root in right(*arguments).items()}

    monkeypatch.setattr(views, "roots", squared)
    with pytest.raises(AssertionError):
        check_against_dense(sim.sharpness)


def test_few_parameters_are_solved_densely():
    model = nn.Linear(2, 1, bias=False)
    pair = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]])
    assert sim.sharpness(model, F.mse_loss, pair) == pytest.approx(10.0)


@pytest.mark.parametrize("tolerance", [0.02, 0.05])
def test_beside_a_far_larger_negative_curvature(tolerance):
    """The largest eigenvalue is 1/1000 of the smallest in size, or negative like all others."""
    draws = np.random.default_rng(0)
    for trial in range(3):
        basis = np.linalg.qr(draws.standard_normal((60, 60)))[0]
        below = -np.exp(draws.uniform(0, 7, 59))
        for top in (1.0, -0.9):
            matrix = (basis * np.concatenate([[top], below])) @ basis.T
            model = Quadratic(torch.from_numpy(matrix))
            got = sim.sharpness(model, value, PAIR, tolerance=tolerance)
            assert abs(got - top) <= tolerance * abs(top), (trial, top)


def test_an_eigenvalue_that_does_not_come_within_the_tolerance(monkeypatch):
    few = functools.partialmethod(hessian.Hessian.top, products=10)
    monkeypatch.setattr(hessian.Hessian, "top", few)
    model = Diagonal(-(torch.linspace(1e-3, 1.0, 300, dtype=torch.float64) ** 2))
    with pytest.warns(RuntimeWarning), pytest.raises(RuntimeError, match=r"^tolerance: after 10 "):
        sim.sharpness(model, value, PAIR, tolerance=0.01)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_bound_is_tight(momentum):
    # Near the minimum of a quadratic R is 1/diag A, and a step converges below 2(1 + m)/λ_max and
    # diverges above it. 5% beyond it the top direction grows by a factor of at least 1.05 a step
    # without momentum, slower with it.
    a = symmetric()
    for share, grows in ((0.95, False), (1.05, True)):
        model = Quadratic(a)
        optimizer = CBLR(model.named_parameters(), lr=0.0, momentum=momentum, max_radius=1e9)
        h = hessian.diagonal(model, value, PAIR)
        top = sim.sharpness(model, value, PAIR, optimizer.radius(h), tolerance=1e-6)
        optimizer.param_groups[0]["lr"] = share * 2 * (1 + momentum) / top
        first = size = float(model.w.detach().norm())
        for _ in range(2000):
            optimizer.zero_grad()
            model(PAIR[0]).backward()
            optimizer.step(h)
            h = None
            size = float(model.w.detach().norm())
            if not first / 100 < size < 100 * first:
                break
        assert (size > 100 * first) == grows
        assert (size < first / 100) != grows


def test_it_is_the_curvature_of_the_whole_over_its_diagonal():
    # P parameters that do the same have λ_max = P; independent ones 1.
    ones = torch.ones(10, 10, dtype=torch.float64)
    for a, want in ((ones, 10.0), (torch.eye(10, dtype=torch.float64), 1.0)):
        model = Quadratic(a)
        optimizer = CBLR(model.named_parameters(), lr=0.1)
        h = hessian.diagonal(model, value, PAIR)
        got = sim.sharpness(model, value, PAIR, optimizer.radius(h))
        assert got == pytest.approx(want, rel=1e-6)


@pytest.fixture(scope="module")
def found():
    torch.set_num_threads(1)
    model, batches, data = network()
    before = [p.detach().clone() for p in model.parameters()]
    state = torch.get_rng_state()
    result = sim.stable_gamma(
        model, F.cross_entropy, iter(batches), max_radius=(100.0, 1e4), momentum=0.9
    )
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    return result, model, data


def test_every_trial_says_what_it_is(found):
    result, _, _ = found
    limit = 0.5 * 2 * 1.9
    for trial in result.trials:
        within = [trial.gamma * top <= limit for top in trial.sharpness]
        assert all(within) if trial.stable else not within[-1]
        assert all(0 <= share <= 1 for share in trial.capped)
    chosen = [t for t in result.trials if t.stable and t.refresh_interval == 1]
    assert result.max_radius == min(chosen, key=lambda t: t.final).max_radius
    # A larger cap leaves more parameters to their own radius, and asks for a smaller γ.
    gamma = {t.max_radius: t.gamma for t in chosen}
    assert gamma[1e4] < gamma[100.0]
    # Old curvature is sharper: the same γ is stable for so many steps and no more.
    assert result.refresh_interval < 10
    assert not result.trials[-1].stable
    assert result.trials[-1].refresh_interval > result.refresh_interval


def train(model, data, steps=60, **options):
    """The loss on all the data afterwards, on other batches than those of the trials."""
    model = copy.deepcopy(model)
    optimizer = CBLR(model.named_parameters(), **options)
    generator = torch.Generator().manual_seed(99)
    for _ in range(steps):
        rows = torch.randint(len(data), (128,), generator=generator)
        x, y = data.inputs[rows], data.targets[rows]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        if not loss.isfinite():
            return math.inf
        h = hessian.diagonal(model, F.cross_entropy, (x, y)) if optimizer.due else None
        loss.backward()
        optimizer.step(h)
    with torch.no_grad():
        return F.cross_entropy(model(data.inputs), data.targets).item()


def test_what_it_finds_trains_and_what_fails_without_it(found):
    result, model, data = found
    options = result.options
    # ln 10 = 2.303 is chance.
    assert train(model, data, **options) < 0.3
    fresh = options | {"refresh_interval": 1}
    assert train(model, data, **fresh) < 0.3
    assert train(model, data, **fresh | {"lr": 10 * result.gamma}) > 1.0  # beyond the bound
    assert train(model, data, **fresh | {"lr": 1.0}) > 2.0  # right in one dimension
    assert train(model, data, **fresh | {"max_radius": 1e30}) > 2.0  # no cap


def test_wrong_arguments():
    model, batches, _ = network()
    call = {"model": model, "loss": F.cross_entropy, "data": batches}
    for argument, given in [
        ("max_radius", [0.0]),
        ("max_radius", [math.inf]),
        ("refresh_interval", [0]),
        ("momentum", 1.0),
        ("margin", 1.0),
        ("every", 0),
    ]:
        with pytest.raises(ValueError, match=rf"^{argument}: got .*; give a .*number"):
            sim.stable_gamma(**call | {argument: given})
    for argument in ("data", "max_radius"):
        with pytest.raises(ValueError, match=rf"^{argument}: got none; give at least one"):
            sim.stable_gamma(**call | {argument: []})
    with pytest.raises(ValueError, match=r"^tolerance: got 0; give a number above 0 and"):
        sim.sharpness(model, F.cross_entropy, batches[0], tolerance=0)


def test_a_concave_loss_bounds_nothing():
    model = Quadratic(-torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"^data: the loss has no positive curvature"):
        sim.stable_gamma(model, value, [PAIR], max_radius=[1.0])


def test_no_gamma_at_all(monkeypatch):
    model, batches, _ = network()
    monkeypatch.setattr(sim._measurements.stable_gamma, "sharpness", lambda *a, **k: next(growing))
    growing = iter(10.0**k for k in range(300))
    with pytest.raises(RuntimeError, match=r"^no stable gamma: not with max_radius \[10\.0\]"):
        sim.stable_gamma(model, F.cross_entropy, batches, max_radius=[10.0])


def test_wrong_rates():
    model = nn.Linear(2, 1)
    pair = torch.zeros(1, 2), torch.zeros(1, 1)
    good = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    for rates, message in [
        ({"weight": good["weight"]}, r"^radius: the parameter 'bias' is missing; give"),
        (good | {"bias": torch.ones(2)}, r"^radius: 'bias' has shape \(2,\) .* \(1,\); give"),
        (good | {"bias": -torch.ones(1)}, r"^radius: 'bias' holds a negative or infinite rate; c"),
        (good | {"bias": torch.tensor([math.inf])}, r"^radius: 'bias' holds a negative or inf"),
        (good | {"bias": torch.tensor([math.nan])}, r"^radius: 'bias' holds a negative or inf"),
    ]:
        with pytest.raises(ValueError, match=message):
            sim.sharpness(model, F.mse_loss, pair, rates)


def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = torch.randn(32, 4), torch.randint(3, (32,))
    return model, nn.functional.cross_entropy, [(x[:16], y[:16]), (x[16:], y[16:])]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, r"^data: got None; give a list"),
        ({"data": "digits"}, r"^data: got 'digits'; give a list"),
        ({"max_radius": 10.0}, r"^max_radius: got 10\.0; give a list"),
        ({"refresh_interval": 2}, r"^refresh_interval: got 2; give a list"),
        ({"nesterov": True}, r"^nesterov: no such option of a trial; its options are: min_curv"),
        ({"lr": 0.1}, r"^lr: no such option of a trial"),
        ({"dampin": 0.1}, r"did you mean 'damping'\?$"),
        ({"model": [nn.Linear(1, 1)]}, r"^model: got list; give a torch\.nn\.Module$"),
    ],
)
def test_wrong_arguments_of_a_search(changes, message):
    model, loss, batches = small()
    arguments = {"model": model, "loss": loss, "data": batches, **changes}
    with pytest.raises(TypeError, match=message):
        sim.stable_gamma(**arguments)


def test_no_curvature():
    # Lanczos has no vector to begin with.
    model, _, batches = small()
    zero = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    assert sim.sharpness(model, nn.functional.cross_entropy, batches[0], zero) == 0.0
    assert sim.sharpness(model, lambda output, target: 0 * output.sum(), batches[0]) == 0.0
    with pytest.raises(ValueError, match=r"^data: the loss has no positive curvature on the first"):
        sim.stable_gamma(model, lambda output, target: 0 * output.sum(), batches)


def test_a_model_that_fails_in_the_search():
    # In the last trial it would pass for an interval that is too long.
    model, loss, batches = small()
    calls = []

    def forward(model, x):
        if limit is not None and len(calls) >= limit:
            raise RuntimeError("the device is lost")
        calls.append(bool((x[0] == batches[1][0][0]).all()))
        return model(x)

    limit = None
    options = {"max_radius": [10.0], "refresh_interval": [1, 2], "forward": forward}
    sim.stable_gamma(model, loss, batches, **options)
    before = [p.detach().clone() for p in model.parameters()]
    limit = len(calls) - calls[::-1].index(False)  # the last time that the second batch begins
    calls.clear()
    with pytest.raises(ValueError, match=r"^data: batch 1 of 2: .*the device is lost"):
        sim.stable_gamma(model, loss, batches, **options)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), before, strict=True))
