"""Minimisers along single weights: closed forms, and a dense grid that shares no code."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hessian
from hessian import _descent

from .networks import NETWORKS, build, l2, mlp

ALL = 10**6  # every coordinate


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def linear(inputs=3, n=12, seed=0):
    torch.manual_seed(seed)
    model = nn.Linear(inputs, 1).double()
    return model, torch.randn(n, inputs).double(), torch.randn(n, 1).double()


class Point(nn.Module):
    """One weight and nothing else, for losses that are functions of it."""

    def __init__(self, value):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([value], dtype=torch.float64))

    def forward(self, x):
        return self.w * x


def along(value, function, **options):
    data = (torch.ones(1, dtype=torch.float64), torch.zeros(1))
    return hessian.coordinate_minimum(
        Point(value), lambda w, _: function(w).sum(), data, **options
    )["w"]


# ------------------------------------------------------------------------ closed forms


def test_a_quadratic_has_its_minimum_where_newton_says():
    model, x, y = linear()
    found = hessian.coordinate_minimum(model, F.mse_loss, (x, y), ALL)
    exact = hessian.diagonal(model, F.mse_loss, (x, y))
    for name, c in found.items():
        g, h = exact.gradient[name].reshape(-1), exact[name].reshape(-1)
        assert torch.allclose(c.newton, -g / h, rtol=1e-12)
        assert torch.allclose(c.displacement, -g / h, rtol=1e-7)  # √eps, as stated
        assert torch.allclose(c.decrease, g**2 / (2 * h), rtol=1e-9)
        assert not c.kink.any()
        assert torch.equal(c.weight, dict(model.named_parameters())[name].detach().reshape(-1))


def weighted_median(slopes, zeros):
    """The minimiser of Σ |s_i| |t - z_i|."""
    order = np.argsort(zeros)
    mass = np.cumsum(np.abs(slopes)[order])
    return zeros[order][np.searchsorted(mass, mass[-1] / 2)]


def test_the_absolute_loss_has_its_minimum_at_a_weighted_median():
    """Piecewise linear: h is zero nearly everywhere and the parabola says infinity."""
    model, x, y = linear(n=11)
    found = hessian.coordinate_minimum(model, F.l1_loss, (x, y), ALL)
    residual = (y - model(x)).detach().numpy()[:, 0]
    for name, columns in (("weight", x.numpy().T), ("bias", np.ones((1, 11)))):
        want = [weighted_median(c, residual / c) for c in columns]
        assert np.allclose(found[name].displacement, want, rtol=1e-7)
        assert found[name].kink.all()
        assert found[name].newton.isinf().all()
        assert torch.equal(found[name].newton.sign(), found[name].displacement.sign())


def test_the_hinge_loss():
    """Σ max(0, 1 - y f) is convex with kinks: its minimum along a weight is at one of them."""
    model, x, y = linear(n=9, seed=3)
    y = y.sign()
    loss = lambda f, t: (1 - t * f).clamp_min(0).mean()  # noqa: E731
    found = hessian.coordinate_minimum(model, loss, (x, y), ALL)["weight"]
    w, b = model.weight.detach().numpy()[0], float(model.bias.detach())
    for i, t in enumerate(found.displacement.tolist()):
        xs, ys = x.numpy(), y.numpy()[:, 0]

        def value(s, i=i, xs=xs, ys=ys):
            return np.maximum(0, 1 - ys * (xs @ w + s * xs[:, i] + b)).mean()

        kinks = (ys - (xs @ w + b)) / xs[:, i]  # 1 = y f, and 1/y = y
        assert value(t) == pytest.approx(min(map(value, kinks)), rel=1e-7)
        assert float(found.decrease[i]) == pytest.approx(value(0) - value(t), rel=1e-6, abs=1e-12)


def test_a_relu_between_here_and_where_newton_goes():
    """(relu(w) + 1)² at w = 1: the parabola's minimum is w = -1, the loss is flat below w = 0."""
    found = along(1.0, lambda w: (w.relu() + 1) ** 2)
    assert float(found.newton) == pytest.approx(-2, rel=1e-12)
    assert float(found.displacement) == pytest.approx(-1, rel=1e-7)
    assert float(found.decrease) == pytest.approx(3, rel=1e-7)
    assert bool(found.kink)


def test_a_maximum_is_left_downhill():
    """(w² - 1)² at w = 0.1 has h < 0: -g/h goes up, to the maximum; the minimum is at w = 1."""
    found = along(0.1, lambda w: (w**2 - 1) ** 2)
    assert float(found.curvature) < 0
    assert float(found.newton) < 0
    assert float(found.displacement) == pytest.approx(0.9, rel=1e-7)
    assert not found.kink


def test_nearest_and_lowest():
    """A tilted double well: the nearer minimum is the higher one. Roots of 4w³ - 4w + 0.3."""
    tilted = lambda w: (w**2 - 1) ** 2 + 0.3 * w  # noqa: E731
    roots = np.sort(np.roots([4, 0, -4, 0.3]).real)
    near = along(1.2, tilted)
    assert float(near.displacement) == pytest.approx(roots[2] - 1.2, rel=1e-6)
    low = along(1.2, tilted, search="lowest", reach=10.0)
    assert float(low.displacement) == pytest.approx(roots[0] - 1.2, rel=1e-6)
    assert float(low.decrease) > float(near.decrease)
    # With a reach that ends before the other well there is only the near one.
    short = along(1.2, tilted, search="lowest", reach=1.0)
    assert float(short.displacement) == pytest.approx(roots[2] - 1.2, rel=1e-6)


@pytest.mark.parametrize("start", np.linspace(-3, 3, 7))
def test_a_coarse_grid_still_ends_in_a_minimum(start):
    """Several ridges between two grid points: values, not slopes alone, must keep the bracket."""
    wavy = lambda w: w**2 / 200 + torch.cos(9 * w)  # noqa: E731
    found = along(float(start), wavy, search="lowest", reach=6.0, points=5)
    w = torch.tensor([start + float(found.displacement)], dtype=torch.float64, requires_grad=True)
    value = wavy(w)
    (slope,) = torch.autograd.grad(value.sum(), w, create_graph=True)
    assert abs(float(slope.detach())) < 1e-5
    assert float(torch.autograd.grad(slope.sum(), w)[0]) > 0
    grid = start + torch.linspace(-6, 6, 5, dtype=torch.float64)
    assert float(value.detach()) <= float(wavy(grid).min())


def test_a_bracket_whose_far_end_falls_too():
    """t/2 - sin 2πt on [0, 4]: slopes at 0, 2 and 4 all lead on, and only values tell that the
    first minimum, where cos 2πt = 1/4π, is behind."""

    def ask(lanes, t):
        turn = 2 * torch.pi
        return t / 2 - torch.sin(turn * t), 0.5 - turn * torch.cos(turn * t)

    ends = torch.tensor([[0.0], [4.0]], dtype=torch.float64)
    (va, vb), (sa, sb) = ask(None, ends)
    search = _descent.Search(ask, sa, sa, 0.0, _descent.Limits(4.0, 1.0, 1e-8, 1e-15, 500))
    search._begin()
    t, _, kink, ended = search._close(
        ends[0], va, sa, ends[1], vb, sb, torch.ones(1).double(), torch.tensor([True])
    )
    assert float(t) == pytest.approx(np.arccos(1 / (4 * np.pi)) / (2 * np.pi), rel=1e-7)
    assert not kink
    assert ended


@pytest.mark.parametrize("search", ["nearest", "lowest"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_loss_that_falls_without_bound(sign, search):
    found = along(0.5, lambda w: F.softplus(-sign * w), search=search, reach=20.0)
    assert float(found.displacement) == sign * float("inf")
    want = float(F.softplus(torch.tensor(-0.5 * sign)) - F.softplus(torch.tensor(-0.5 * sign - 20)))
    assert float(found.decrease) == pytest.approx(want, rel=1e-6)
    assert found.reach == 20.0


def test_an_overflow_is_uphill():
    found = along(1.0, lambda w: torch.exp(w**2) - 4 * w, reach=1e6)
    # 2w exp(w²) = 4
    w = 1 + float(found.displacement)
    assert 2 * w * np.exp(w**2) == pytest.approx(4, rel=1e-6)


def test_a_stationary_point_and_a_parameter_without_use_stay():
    found = along(0.0, lambda w: w**2)
    assert float(found.displacement) == float(found.newton) == float(found.decrease) == 0

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(6, 4), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    x, y = torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 0])
    idle = hessian.coordinate_minimum(Net(), F.cross_entropy, (x, y), 2)["idle.weight"]
    assert not idle.displacement.any()
    assert not idle.newton.any()


# ----------------------------------------------------------------------- a dense grid


def value_at(model, loss, x, y, name, entry, t):
    other = copy.deepcopy(model)
    with torch.no_grad():
        dict(other.named_parameters())[name].view(-1)[entry] += t
    torch.manual_seed(5)
    return float(loss(other(x), y).detach())


def first_minimum(model, loss, x, y, name, entry, way, far, points=70):
    """The first grid point downhill from which the loss falls no further; `None` for none."""
    grid = np.geomspace(far / 1e4, far, points)
    values = [value_at(model, loss, x, y, name, entry, way * s) for s in (0.0, *grid)]
    for k in range(points):
        if values[k + 1] >= values[k] - 1e-15:
            return grid[k]
    return None


# Networks whose loss is the same at every call: no batch norm in training mode.
STEADY = [n for n in NETWORKS if n != "residual-bn-train" and n != "custom-function"]


@pytest.mark.parametrize("network", STEADY)
def test_against_a_dense_grid(network):
    model, inputs = build(network)
    x, y = inputs(5, generator()), torch.tensor([0, 1, 2, 3, 0])
    torch.manual_seed(5)
    found = hessian.coordinate_minimum(model, F.cross_entropy, (x, y), 1, generator(2), reach=30.0)
    for name, c in found.items():
        for i, entry in enumerate(c.index.tolist()):
            t, g = float(c.displacement[i]), float(c.gradient[i])
            if abs(g) < 1e-12:
                continue
            assert np.sign(t) == -np.sign(g)
            place = first_minimum(model, F.cross_entropy, x, y, name, entry, -np.sign(g), 30.0)
            if np.isinf(t):
                assert place is None
                continue
            at = value_at(model, F.cross_entropy, x, y, name, entry, t)
            here = value_at(model, F.cross_entropy, x, y, name, entry, 0.0)
            assert float(c.decrease[i]) == pytest.approx(here - at, rel=1e-6, abs=1e-13)
            # A local minimum: no lower on either side, to the rounding of the loss.
            for s in (1e-3, -1e-3):
                aside = value_at(model, F.cross_entropy, x, y, name, entry, t * (1 + s))
                assert aside >= at - 1e-15
            # And the first: none of the grid's is nearer (one that the grid missed may be).
            # Far out on a saturated unit, both are the same to rounding.
            if place is not None and abs(t) > place:
                there = value_at(model, F.cross_entropy, x, y, name, entry, np.sign(t) * place)
                assert there - at <= 1e-13


def test_lowest_is_as_low_as_a_dense_grid():
    model, inputs = build("tanh-mlp")
    x, y = inputs(5, generator()), torch.tensor([0, 1, 2, 3, 0])
    found = hessian.coordinate_minimum(
        model, F.cross_entropy, (x, y), 1, generator(2), search="lowest", reach=8.0
    )
    for name, c in found.items():
        for i, entry in enumerate(c.index.tolist()):
            grid = np.linspace(-8, 8, 200)
            least = min(value_at(model, F.cross_entropy, x, y, name, entry, s) for s in grid)
            here = value_at(model, F.cross_entropy, x, y, name, entry, 0.0)
            assert here - float(c.decrease[i]) <= least + 1e-12


# ------------------------------------------------------------ data, losses, state, errors


def close(a, b, rtol=1e-6):
    for name in a:
        assert torch.equal(a[name].index, b[name].index)
        assert torch.allclose(a[name].displacement, b[name].displacement, rtol=rtol, atol=1e-9)


@pytest.mark.parametrize("make", [l2, lambda _: F.cross_entropy])
def test_batches_and_a_loss_that_reads_the_parameters(make):
    torch.manual_seed(0)
    model = mlp(nn.Tanh).double()
    x, y = torch.randn(7, 6).double(), torch.randint(0, 4, (7,))
    loss = make(model)
    whole = hessian.coordinate_minimum(model, loss, (x, y), 3, generator())
    loader = DataLoader(TensorDataset(x, y), batch_size=3)
    close(hessian.coordinate_minimum(model, loss, loader, 3, generator()), whole)
    close(hessian.coordinate_minimum(model, loss, iter(list(loader)), 3, generator()), whole)
    for name, c in whole.items():
        for i, entry in enumerate(c.index.tolist()):
            other = copy.deepcopy(model)
            p = dict(other.named_parameters())[name]
            if c.displacement[i].isinf():
                continue
            with torch.no_grad():
                p.view(-1)[entry] += float(c.displacement[i])
            (g,) = torch.autograd.grad(make(other)(other(x), y), p)
            assert abs(float(g.view(-1)[entry])) <= 1e-6 * abs(float(c.gradient[i]))


def test_coordinates_together_and_one_by_one_agree():
    """Little memory takes one coordinate a pass; the line is the same."""
    model, inputs = build("relu-cnn")
    x, y = inputs(5, generator()), torch.tensor([0, 1, 2, 3, 0])
    together = hessian.coordinate_minimum(model, F.cross_entropy, (x, y), 4, generator())
    alone = hessian.coordinate_minimum(model, F.cross_entropy, (x, y), 4, generator(), memory=1)
    close(together, alone)
    assert together.loss == pytest.approx(float(F.cross_entropy(model(x), y).detach()), rel=1e-14)


def test_a_forward_that_keeps_the_parameters_to_itself():
    """Copies of the parameters are not seen by it; the comparison with the live model tells."""
    model, x, y = linear()
    kept = model.weight
    hidden = lambda m, inputs: inputs @ kept.T + m.bias  # noqa: E731
    got = hessian.coordinate_minimum(model, F.mse_loss, (x, y), 3, generator(), forward=hidden)
    close(got, hessian.coordinate_minimum(model, F.mse_loss, (x, y), 3, generator()))


@pytest.mark.parametrize("network", ["residual-bn-train", "dropout-train"])
def test_everything_is_left_as_found(network):
    model, inputs = build(network)
    x, y = inputs(4, generator()), torch.tensor([0, 1, 2, 3])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    first = hessian.coordinate_minimum(model, F.cross_entropy, (x, y), 2, generator())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    close(hessian.coordinate_minimum(model, F.cross_entropy, (x, y), 2, generator()), first)


def test_an_interrupt_leaves_the_weight_in_its_place():
    model, x, y = linear()
    before, calls = model.weight.detach().clone(), []

    def loss(output, target):
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return F.mse_loss(output, target) + 0 * model.weight.sum()

    with pytest.raises(KeyboardInterrupt):
        hessian.coordinate_minimum(model, loss, (x, y))
    assert torch.equal(model.weight, before)


def test_float32_and_computing_in_float64():
    model, x, y = linear()
    exact = hessian.coordinate_minimum(model, F.mse_loss, (x, y), ALL)
    single = copy.deepcopy(model).float()
    rough = hessian.coordinate_minimum(single, F.mse_loss, (x.float(), y.float()), ALL)
    assert rough["weight"].displacement.dtype == torch.float32
    # the square root of float32's precision, as stated
    assert torch.allclose(
        rough["weight"].displacement.double(), exact["weight"].displacement, rtol=1e-3
    )


BAD = [
    ({"per_parameter": 0}, "per_parameter must be"),
    ({"search": "far"}, "search must be 'nearest' or 'lowest', got 'far'"),
    ({"reach": -1.0}, "reach must be a positive number"),
    ({"points": 2}, "points must be"),
    ({"tolerance": 2.0}, "tolerance must be"),
    ({"names": ["nope"]}, "'nope' is not a parameter"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options(options, message):
    model, x, y = linear()
    with pytest.raises(ValueError, match=message):
        hessian.coordinate_minimum(model, F.mse_loss, (x, y), **options)


# ------------------------------------------------------------------------ slopes that lie


class Through(torch.autograd.Function):
    """Rounding to steps, with a derivative of one: a straight-through estimator."""

    @staticmethod
    def forward(ctx, w, steps):
        return (w * steps).round() / steps

    @staticmethod
    def backward(ctx, g):
        return g, None


def detached(w, steps):
    return w + ((w * steps).round() / steps - w).detach()


@pytest.mark.parametrize("search", ["nearest", "lowest"])
@pytest.mark.parametrize("steps", [0.5, 1000])
@pytest.mark.parametrize("rounding", [Through.apply, detached])
def test_evaluations_are_bounded_behind_a_straight_through_estimator(rounding, steps, search):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3)).double()
    x, y = torch.randn(8, 3).double(), torch.arange(8) % 3

    def forward(m, inputs):
        h = torch.tanh(F.linear(inputs, rounding(m[0].weight, steps), m[0].bias))
        return F.linear(h, rounding(m[2].weight, steps), m[2].bias)

    minima = hessian.coordinate_minimum(
        model,
        F.cross_entropy,
        (x, y),
        2,
        generator(),
        forward=forward,
        search=search,
        points=9,
        most=200,
        names=["0.weight", "2.weight"],
    )
    lines = sum(len(c.index) for c in minima.values())
    each = 200 if search == "nearest" else 400 + 9
    assert minima.evaluations <= lines * each
    for name, c in minima.items():
        p = dict(model.named_parameters())[name]
        for i, t, less in zip(c.index.tolist(), c.displacement.tolist(), c.decrease.tolist(),
                              strict=True):  # fmt: skip
            if not np.isfinite(t):
                continue
            before = p.data.view(-1)[i].item()
            p.data.view(-1)[i] += t
            value = F.cross_entropy(forward(model, x), y).item()
            p.data.view(-1)[i] = before
            assert value <= minima.loss + 1e-12
            assert abs(minima.loss - value - less) <= 1e-12


def test_a_search_that_is_cut_says_so_and_keeps_the_least_value_it_saw():
    def far(w):
        return (w - 50).square()

    c = along(0.1, far, most=3)
    assert not c.converged.item()
    assert c.decrease.item() > 0
    at = torch.tensor(0.1, dtype=torch.float64)
    value = far(at) - far(at + c.displacement)
    assert abs(float(value - c.decrease)) < 1e-12


def test_values_that_rise_where_the_slope_falls():
    class Backwards(torch.autograd.Function):
        @staticmethod
        def forward(ctx, w):
            return w.square()

        @staticmethod
        def backward(ctx, g):
            return -g

    c = along(1.0, Backwards.apply)
    assert c.displacement.abs().item() < 1e-6
    assert not c.converged.item()
    assert c.decrease.item() >= 0


def test_flat_values_under_a_slope():
    class Flat(torch.autograd.Function):
        @staticmethod
        def forward(ctx, w):
            return torch.ones_like(w)

        @staticmethod
        def backward(ctx, g):
            return g

    for search in ("nearest", "lowest"):
        c = along(1.0, Flat.apply, search=search)
        assert not c.converged.item()
        assert c.decrease.item() == 0


@pytest.mark.parametrize("search", ["nearest", "lowest"])
def test_values_that_are_not_numbers_are_no_way_out(search):
    """√(w - 1) - w/4 beyond 1, nothing below; and a slope that is infinite at the point itself."""
    c = along(1.01, lambda w: (w - 1).sqrt() + w.square() / 100, search=search)
    assert -0.01 <= c.displacement.item() <= -0.0099
    assert c.converged.item()
    with pytest.raises(ValueError, match="not finite"):
        along(1.0, lambda w: (w - 1).abs().sqrt(), search=search)


def test_most_and_converged():
    with pytest.raises(ValueError, match="most must be an integer >= 1, got 0"):
        along(1.0, torch.square, most=0)
    c = along(1.0, torch.square)
    assert c.converged.item()
    assert c.displacement.item() == pytest.approx(-1, abs=1e-7)
    assert along(0.0, torch.square).converged.item()  # nothing to do
    assert along(1.0, lambda w: w).converged.item()  # falls as far as was looked
