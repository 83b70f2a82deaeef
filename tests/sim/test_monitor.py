"""Measurements along a training loop, beside closed forms and naive loops."""

import itertools
import math
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
import sim
from sim._measurements import monitor as _monitor
from sim._measurements.monitored import critical_rate as _critical_rate
from sim._measurements.monitored import measures as _measures
from sim._measurements.monitored import noise_scale as _noise_scale
from sim._measurements.monitored import state as _state
from sim._measurements.monitored import top_eigenvalue as _top_eigenvalue
from sim._measurements.per_sample import Objective

ALL = ("noise_scale", "trace", "sharpness", "critical_rate")
FINE = 1e-9  # of bisection
PAIR = (torch.zeros(1), torch.zeros(1))


class Quadratic(nn.Module):
    """L = w'Aw/2 + b'w, whatever the batch."""

    def __init__(self, a, start, b=0.0):
        super().__init__()
        self.a, self.b = torch.as_tensor(a), b
        self.w = nn.Parameter(torch.as_tensor(start).clone())

    def forward(self, x):
        return self.w @ self.a @ self.w / 2 + self.b * self.w.sum()


def value(output, target):
    return output


def symmetric(size=12, seed=0):
    root = np.random.default_rng(seed).standard_normal((size, 2 * size))
    return root @ root.T / size


def start(size=12, seed=1):
    return np.random.default_rng(seed).standard_normal(size)


def whole(watch, name):
    table = watch.table()
    return table[table.layer.isna() & (table.measure == name)].value.tolist()


def critical(model, optimizer, tolerance=FINE, loss=value):
    watch = sim.monitor(
        model, loss, PAIR, optimizer, measure=["critical_rate"], tolerance=tolerance
    )
    watch.measure()
    (rate,) = whole(watch, "critical_rate")
    return rate


# ---------------------------------------------------------------- the critical rate
# 2 gᵀd / dᵀHd to a relative 1e-8: bisection ends at 1e-9, and the loss is compared in float64.
NEAR = 1e-8


def along(g, d, a):
    return 2 * g @ d / (d @ a @ d)


def check_top(monitor=None):
    a = symmetric()
    values, vectors = np.linalg.eigh(a)
    for k in (-1, 0):  # the edge of stability, and the flattest direction
        model = Quadratic(a, vectors[:, k])
        rate = critical(model, torch.optim.SGD(model.parameters(), 1e-3))
        assert rate == pytest.approx(2 / values[k], rel=NEAR)


def test_descent_along_an_eigenvector_is_stable_to_two_over_its_eigenvalue():
    check_top()


@pytest.mark.parametrize("lr", [1e-6, 0.3, 50.0, 0.0])
def test_descent_from_anywhere_and_from_any_rate(lr):
    a, w = symmetric(), start()
    model = Quadratic(a, w)
    rate = critical(model, torch.optim.SGD(model.parameters(), lr, weight_decay=0.3))
    assert rate == pytest.approx(along(a @ w, a @ w + 0.3 * w, a), rel=NEAR)


def test_the_tolerance_is_that_of_the_rate():
    a, w = symmetric(), start()
    model = Quadratic(a, w)
    exact = along(a @ w, a @ w, a)
    for tolerance in (0.5, 0.05):
        rate = critical(model, torch.optim.SGD(model.parameters(), 0.1), tolerance)
        assert abs(math.log(rate / exact)) <= math.log(1 + tolerance) / 2 + 1e-9


def test_the_rate_of_last_time_saves_trials():
    a = symmetric()
    model = Quadratic(a, start())
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    watch = sim.monitor(model, value, PAIR, optimizer, measure=["critical_rate"])
    counts = []
    for _ in range(3):
        calls.clear()
        watch.measure()
        counts.append(len(calls))
    # The loss, the gradient, two ends of a bracket of four tolerances, and two halvings of it.
    assert counts[0] > 6 >= max(counts[1:])
    np.testing.assert_allclose(
        whole(watch, "critical_rate"), along(a @ start(), a @ start(), a), rtol=0.025
    )


def check_momentum():
    a, w, lr = symmetric(), start(), 0.01
    model = Quadratic(a, w)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.8)
    velocity = np.zeros(12)
    for _ in range(3):
        g = a @ w
        model.w.grad = torch.as_tensor(g)
        optimizer.step()
        velocity = 0.8 * velocity + g
        w = w - lr * velocity
    g = a @ w
    assert critical(model, optimizer) == pytest.approx(along(g, 0.8 * velocity + g, a), rel=NEAR)


def test_momentum_counts():
    check_momentum()


def check_adam():
    a, w, lr = symmetric(), start(), 0.01
    model = Quadratic(a, w)
    optimizer = torch.optim.Adam(model.parameters(), lr, betas=(0.6, 0.9), eps=1e-3)
    first, second = np.zeros(12), np.zeros(12)

    def direction(g, k):
        return (first / (1 - 0.6**k)) / (np.sqrt(second / (1 - 0.9**k)) + 1e-3)

    for k in (1, 2, 3):
        g = a @ w
        first, second = 0.6 * first + 0.4 * g, 0.9 * second + 0.1 * g * g
        if k == 3:
            rate = critical(model, optimizer)
            assert rate == pytest.approx(along(g, direction(g, 3), a), rel=NEAR)
        model.w.grad = torch.as_tensor(g)
        optimizer.step()
        w = w - lr * direction(g, k)


def test_adam_goes_its_own_direction():
    check_adam()


def test_groups_keep_their_proportion():
    a = symmetric()

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.u, self.v = (nn.Parameter(torch.as_tensor(start())[s]) for s in HALVES)

        def forward(self, x):
            w = torch.cat([self.u, self.v])
            return w @ torch.as_tensor(a) @ w / 2

    model = Two()
    groups = [{"params": [model.u], "lr": torch.tensor(0.02)}, {"params": [model.v], "lr": 0.08}]
    g = a @ start()
    d = np.concatenate([g[:5] / 4, g[5:]])
    optimizer = torch.optim.SGD(groups)
    assert critical(model, optimizer) == pytest.approx(along(g, d, a), rel=NEAR)
    assert optimizer.param_groups[0]["lr"] is groups[0]["lr"]
    # A tensor of one float32 number.
    assert [float(group["lr"]) for group in optimizer.param_groups] == [np.float32(0.02), 0.08]


HALVES = (slice(0, 5), slice(5, 12))


def test_no_rate_is_too_large_or_every_one_is():
    down = Quadratic(np.zeros((3, 3)), start(3), b=1.0)
    assert critical(down, torch.optim.SGD(down.parameters(), 0.1)) == math.inf
    at_rest = Quadratic(symmetric(), np.zeros(12))
    assert critical(at_rest, torch.optim.SGD(at_rest.parameters(), 0.1)) == math.inf
    model = Quadratic(symmetric(), start())
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    optimizer.state[model.w]["momentum_buffer"] = torch.as_tensor(-100 * symmetric() @ start())
    assert critical(model, optimizer) == 0.0


def check_rounding():
    """In float32 a small enough step changes nothing, which is no descent."""
    a, w = symmetric().astype(np.float32), start().astype(np.float32)
    model = Quadratic(a, w)
    up = torch.optim.SGD(model.parameters(), 0.1, maximize=True)
    assert critical(model, up, 0.05) == 0.0
    back = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    back.state[model.w]["momentum_buffer"] = torch.as_tensor(-5 * a @ w)
    assert critical(model, back, 0.05) == 0.0
    lowest = np.float32(3.0)  # of a loss that is far from 0 at its minimum
    for distance in (1e-2, 5e-4, 1e-5):
        model = Quadratic(a, np.float32(distance) * w)
        model.register_forward_hook(lambda _, inputs, output: output + lowest)
        rate = critical(model, torch.optim.SGD(model.parameters(), 0.1), 0.05)
        if distance == 1e-2:  # L falls by some 1e-3, and its rounding is 2e-7
            assert rate == pytest.approx(along(a @ w, a @ w, a), rel=0.05)
        else:  # by some 1e-6 and 1e-9
            assert math.isnan(rate)


def test_a_rate_that_rounding_hides_is_not_told():
    check_rounding()


def test_beyond_the_rate_the_loss_rises_on_a_network():
    model, pair = network(p=0.0), batch()
    for make in (torch.optim.SGD, torch.optim.Adam, sim.optimizers.LARS, sim.optimizers.MCLR):
        optimizer = make(model.parameters(), lr=0.1)
        watch = sim.monitor(model, F.cross_entropy, pair, optimizer, measure=["critical_rate"])
        watch.measure()
        (rate,) = whole(watch, "critical_rate")
        losses = {}
        kept = {name: v.clone() for name, v in model.state_dict().items()}
        for factor in (0.9, 1.1):  # the tolerance is 5 %
            model.load_state_dict(kept)
            trial = make(model.parameters(), lr=factor * rate)
            trial.zero_grad()
            before = F.cross_entropy(model(pair[0]), pair[1])
            before.backward()
            trial.step()
            losses[factor] = F.cross_entropy(model(pair[0]), pair[1]).item() - before.item()
        model.load_state_dict(kept)
        assert losses[0.9] < 0 < losses[1.1]


def test_cblr_gets_the_curvature_that_its_step_needs():
    a, w = np.diag([1.0, 4.0]), np.array([0.5, 0.25])
    model = Quadratic(a, w)
    optimizer = sim.optimizers.CBLR(model.named_parameters(), 0.1)
    g = a @ w
    d = (1 + g * g) ** 1.5 / np.diag(a) * g
    assert critical(model, optimizer) == pytest.approx(along(g, d, a), rel=NEAR)
    assert optimizer.due
    assert not optimizer.state


# ---------------------------------------------------------------- curvature


def check_curvature():
    a = symmetric()
    model = Quadratic(a, start())
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    watch = sim.monitor(
        model, value, PAIR, optimizer, measure=["trace", "sharpness"], tolerance=1e-6
    )
    for _ in range(3):
        watch.measure()
    # In float64; the residual is below 1e-6 of the eigenvalue, whose error is of its square.
    top = np.linalg.eigvalsh(a)[-1]
    np.testing.assert_allclose(whole(watch, "sharpness"), 3 * [top], rtol=1e-9)
    np.testing.assert_allclose(whole(watch, "trace"), 3 * [np.trace(a)], rtol=1e-12)


def test_trace_and_largest_eigenvalue_of_a_quadratic():
    check_curvature()


@pytest.mark.parametrize("size", [1, 3, 8, 9])
def test_small_hessians_and_indefinite_ones(size):
    a = symmetric(size) - 3 * np.eye(size)
    model = Quadratic(a, start(size))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    watch = sim.monitor(model, value, PAIR, optimizer, measure=["sharpness"], tolerance=1e-6)
    watch.measure()
    # The largest, not the largest in size.
    assert whole(watch, "sharpness")[0] == pytest.approx(np.linalg.eigvalsh(a)[-1], rel=1e-6)


def test_the_eigenvector_of_last_time_saves_products_and_is_left_when_another_overtakes(
    monkeypatch,
):
    products = 0
    multiply = hessian.Hessian._matvec

    def counted(self, vector):
        nonlocal products
        products += 1
        return multiply(self, vector)

    monkeypatch.setattr(hessian.Hessian, "_matvec", counted)
    spectrum = np.linspace(0.1, 4.0, 60)
    spectrum[0], spectrum[1] = 10.0, 5.0
    model = Quadratic(np.diag(spectrum), start(60))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    watch = sim.monitor(model, value, PAIR, optimizer, measure=["sharpness"])
    counts = []
    for first, second in ((10.0, 5.0), (10.5, 5.5), (10.0, 12.0), (1.0, 12.0)):
        model.a[0, 0], model.a[1, 1] = first, second
        products = 0
        watch.measure()
        counts.append(products)
        # Residual within 5 %; the two are at least as far apart.
        assert whole(watch, "sharpness")[-1] == pytest.approx(max(first, second), rel=0.05)
    # One more than the vectors it keeps, so no restart.
    assert counts[0] <= _top_eigenvalue.COLD + 1
    assert max(counts[1], counts[3]) <= _top_eigenvalue.WARM + 1


def test_parameters_may_be_frozen_on_the_way():
    model, pair = network(p=0.0), batch()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch = sim.monitor(model, F.cross_entropy, pair, optimizer)
    watch.measure()
    model[0].requires_grad_(False)
    watch.measure()
    fresh = sim.monitor(model, F.cross_entropy, pair, optimizer)
    fresh.measure()
    pd.testing.assert_series_equal(
        watch.table().value[-len(fresh.table()) :].reset_index(drop=True),
        fresh.table().value,
        rtol=0.05,  # the bracket of the critical rate begins elsewhere
    )
    assert set(fresh.table().layer) == {None, "3"}


def test_without_curvature_it_is_zero():
    flat = Quadratic(np.zeros((12, 12)), start(), b=1.0)
    watch = sim.monitor(
        flat, value, PAIR, torch.optim.SGD(flat.parameters(), 0.1), measure=["sharpness", "trace"]
    )
    watch.measure()
    assert whole(watch, "sharpness") == [0.0]
    assert whole(watch, "trace") == [0.0]


def test_traces_by_layer_are_those_of_a_dense_hessian():
    model, (x, y) = network(p=0.0), batch()
    watch = sim.monitor(
        model, F.cross_entropy, (x, y), torch.optim.SGD(model.parameters(), 0.1), measure=["trace"]
    )
    watch.measure()
    table = watch.table()
    table = table[table.measure == "trace"].set_index("layer").value
    names = [name for name, _ in model.named_parameters()]
    values = [p.detach().double() for p in model.parameters()]

    def function(*parts):
        named = dict(zip(names, parts, strict=True))
        return F.cross_entropy(torch.func.functional_call(model, named, (x.double(),)), y)

    blocks = torch.autograd.functional.hessian(function, tuple(values))
    traces = {}
    for k, name in enumerate(names):
        size = values[k].numel()
        layer = name.rpartition(".")[0]
        trace = float(blocks[k][k].reshape(size, size).trace())
        traces[layer] = traces.get(layer, 0.0) + trace
    # Sums of float32 entries.
    for layer, trace in traces.items():
        assert table[layer] == pytest.approx(trace, rel=1e-4)
    assert table[table.index.isna()].item() == pytest.approx(sum(traces.values()), rel=1e-4)


# ---------------------------------------------------------------- the noise scale


def network(p=0.2, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    layers = [nn.Linear(6, 9), nn.ReLU(), nn.Dropout(p), nn.Linear(9, 4)]
    return nn.Sequential(*layers).to(dtype)


def batch(samples=24, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 6, generator=generator, dtype=dtype)
    return x, torch.randint(4, (samples,), generator=generator)


def single_gradients(model, x, y):
    """Layer → the gradients of single samples, one after the other."""
    gradients = {}
    for k in range(len(y)):
        loss = F.cross_entropy(model(x[k : k + 1]), y[k : k + 1])
        model.zero_grad()
        loss.backward()
        for name, p in model.named_parameters():
            gradients.setdefault(name.rpartition(".")[0], {}).setdefault(k, []).append(
                p.grad.flatten().numpy().copy()
            )
    model.zero_grad()
    return {
        layer: np.stack([np.concatenate(parts) for parts in samples.values()])
        for layer, samples in gradients.items()
    }


def noise_table(model, pair, micro_batches):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch = sim.monitor(
        model,
        F.cross_entropy,
        pair,
        optimizer,
        measure=["noise_scale"],
        micro_batches=micro_batches,
    )
    watch.measure()
    table = watch.table()
    return {
        (None if layer is None else layer, row): v
        for row, layer, v in zip(table.measure, table.layer, table.value, strict=True)
    }


def check_noise(micro_batches, samples=24):
    model = network(p=0.0, dtype=torch.float64)
    pair = batch(samples, dtype=torch.float64)
    layers = single_gradients(model, *pair)
    layers[None] = np.concatenate(list(layers.values()), axis=1)
    table = noise_table(model, pair, micro_batches)
    for layer, g in layers.items():
        drawn = torch.randperm(samples, generator=torch.Generator().manual_seed(0)).numpy()
        parts = np.array_split(drawn, micro_batches)
        mean = g.mean(0)
        between = sum(len(p) * ((g[p].mean(0) - mean) ** 2).sum() for p in parts)
        covariance = between / (micro_batches - 1)
        squared = (mean**2).sum() - covariance / samples
        # Float64, and a difference of squares: some hundred roundings.
        assert table[layer, "gradient_covariance"] == pytest.approx(covariance, rel=1e-10)
        assert table[layer, "gradient_squared"] == pytest.approx(squared, rel=1e-10, abs=1e-13)
        assert table[layer, "noise_scale"] == pytest.approx(
            covariance / squared if squared > 0 else math.nan, rel=1e-9, nan_ok=True
        )


@pytest.mark.parametrize("micro_batches", [2, 5, 8, 24])
def test_noise_scale_beside_gradients_of_single_samples(micro_batches):
    check_noise(micro_batches)


def test_with_one_sample_each_it_is_the_covariance_of_samples():
    model, pair = network(p=0.0, dtype=torch.float64), batch(dtype=torch.float64)
    layers = single_gradients(model, *pair)
    table = noise_table(model, pair, 24)
    for layer, g in layers.items():
        assert table[layer, "gradient_covariance"] == pytest.approx(
            g.var(axis=0, ddof=1).sum(), rel=1e-10
        )


def test_samples_that_are_sorted_by_class_change_nothing():
    # Of the same samples in two orders: one class after another, and mixed.
    x, y = batch(64, dtype=torch.float64)
    x = x + 3 * F.one_hot(y, 6)
    model = network(p=0.0, dtype=torch.float64)
    exact = sum(g.var(axis=0, ddof=1).sum() for g in single_gradients(model, x, y).values())
    order = y.argsort(stable=True)
    traces = [
        noise_table(model, (x[index], y[index]), 8)[None, "gradient_covariance"]
        for index in (order, torch.arange(64))
    ]
    # Seven degrees of freedom in many directions; by class it would be ten times as much.
    assert all(0.5 * exact < trace < 2 * exact for trace in traces)


@pytest.mark.parametrize("micro_batches", [2, 3])
def test_both_parts_are_unbiased(micro_batches):
    # Over all orders of four samples, in parts of equal and of unequal sizes.
    model, (x, y) = network(p=0.0, dtype=torch.float64), batch(4, dtype=torch.float64)
    parameters = dict(model.named_parameters())
    sums = np.zeros((len(parameters), 2))
    orders = list(itertools.permutations(range(4)))
    for order in orders:
        pair = (x[list(order)], y[list(order)])
        found = _noise_scale.noise_scale(
            Objective(model, F.cross_entropy), pair, parameters, micro_batches
        )
        sums += np.array(list(found.values()))
    single = _noise_scale.noise_scale(Objective(model, F.cross_entropy), (x, y), parameters, 4)
    np.testing.assert_allclose(sums / len(orders), np.array(list(single.values())), rtol=1e-10)


def test_a_trace_that_takes_a_product_for_each_of_many_entries_is_refused():
    wide = nn.Sequential(nn.Linear(6, 900), nn.BatchNorm1d(900), nn.Linear(900, 4))
    optimizer = torch.optim.SGD(wide.parameters(), 0.1)
    with pytest.raises(
        ValueError, match=r"takes 1\d,\d{3} backward passes every time, most of .*'0.w"
    ):
        sim.monitor(wide, F.cross_entropy, batch(), optimizer, measure=["trace"])
    sim.monitor(wide, F.cross_entropy, batch(), optimizer, measure=["trace"], evaluation=True)
    sim.monitor(wide, F.cross_entropy, batch(), optimizer, measure=["sharpness"])


def test_sparse_gradients_are_those_of_a_dense_embedding():
    x, y = torch.randint(7, (24, 3), generator=torch.Generator().manual_seed(0)), batch()[1]
    values = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(7, 5, sparse=sparse), nn.Flatten(), nn.Linear(15, 4))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        names = ("noise_scale", "critical_rate")
        watch = sim.monitor(model, F.cross_entropy, (x, y), optimizer, measure=names)
        watch.measure()
        values.append(watch.table().value)
    pd.testing.assert_series_equal(*values)


def test_gradients_of_sixteen_bits_are_summed_in_thirty_two():
    pair = batch()
    half = network(p=0.0).bfloat16()
    full = network(p=0.0).float()
    full.load_state_dict(half.state_dict())
    tables = [
        noise_table(model, (pair[0].bfloat16().to(dtype), pair[1]), 8)
        for model, dtype in ((half, torch.bfloat16), (full, torch.float32))
    ]
    # Eight bits of each gradient; of two numbers that do not cancel.
    for key in [(None, "gradient_covariance"), ("0", "gradient_covariance")]:
        assert tables[0][key] == pytest.approx(tables[1][key], rel=0.02)


def test_coupled_samples_and_sums_are_refused():
    coupled = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    optimizer = torch.optim.SGD(coupled.parameters(), 0.1)
    with pytest.raises(ValueError, match="'1' normalises over the batch"):
        sim.monitor(coupled, F.cross_entropy, batch(), optimizer)
    watch = sim.monitor(coupled, F.cross_entropy, batch(), optimizer, evaluation=True)
    watch.measure()
    assert coupled.training
    assert not watch.table().value.isna().all()
    model = network()
    with pytest.raises(ValueError, match="as the mean of their own losses"):
        sim.monitor(
            model,
            nn.CrossEntropyLoss(reduction="sum"),
            batch(),
            torch.optim.SGD(model.parameters()),
        )


# ---------------------------------------------------------------- leaving no trace


def generators():
    return torch.rand(3).tolist() + np.random.rand(3).tolist() + [random.random()]


OPTIMIZERS = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), 0.1, momentum=0.9, nesterov=True),
    "adam": lambda m: torch.optim.Adam(m.parameters(), 0.01, amsgrad=True),
    "capturable rate": lambda m: torch.optim.Adam(m.parameters(), torch.tensor(0.01)),
    "rprop": lambda m: torch.optim.Rprop(m.parameters(), 0.01),
    "lamb": lambda m: sim.optimizers.LAMB(m.parameters(), 0.01),
    "cblr": lambda m: sim.optimizers.CBLR(m.named_parameters(), 1e-4, momentum=0.9),
}


class Counting(nn.Module):
    """Batch norm, dropout, and an attribute that every pass changes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.calls = 0
        self.first, self.second = nn.Linear(6, 9), nn.Linear(9, 4)
        self.norm, self.drop = nn.BatchNorm1d(9), nn.Dropout(0.3)

    def forward(self, x):
        self.calls += 1
        self.last = x
        return self.second(self.drop(torch.relu(self.norm(self.first(x)))))


# What the network has; batch norm in training mode has no noise scale.
KINDS = {
    "dropout": (lambda: network(p=0.3), {}),
    "evaluation": (Counting, {"evaluation": True}),
    "batch norm": (Counting, {"measure": ("critical_rate", "sharpness", "trace")}),
}


def train(optimizer_name, kind, monitored, steps=6):
    """All that a run leaves behind."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(1)
    make, options = KINDS[kind]
    model = make()
    data = batch(60, seed=5)
    optimizer = OPTIMIZERS[optimizer_name](model)
    hooked = []
    optimizer.register_step_post_hook(lambda *_: hooked.append(1))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    torch.manual_seed(7)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*data), batch_size=15, shuffle=True
    )
    watch = None
    if monitored:
        watch = sim.monitor(model, F.cross_entropy, loader, optimizer, every=2, **options)
    losses, count = [], 0
    while count < steps:
        for x, y in loader:
            optimizer.zero_grad()
            curvature = hessian.diagonal(model, F.cross_entropy, (x, y))
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step(curvature) if optimizer_name == "cblr" else optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if watch is not None:
                watch.step()
            count += 1
    state = {
        "losses": losses,
        "model": model.state_dict(),
        "gradients": [p.grad for p in model.parameters()],
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "random": generators(),
        "modes": [m.training for m in model.modules()],
        "calls": getattr(model, "calls", None),
        "hooked": len(hooked),
    }
    return state, watch


def assert_same(a, b):
    """Bit for bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def check_no_trace(name, kind):
    without, _ = train(name, kind, False)
    with_it, watch = train(name, kind, True)
    assert_same(without, with_it)
    table = watch.table()
    assert sorted(table.step.unique()) == [2, 4, 6, 8]
    assert set(watch.measures) < set(table.measure)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_with_it_is_training_without(name, kind):
    check_no_trace(name, kind)


def test_tensors_stay_the_same_objects():
    model, pair = network(), batch()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    F.cross_entropy(model(pair[0]), pair[1]).backward()
    optimizer.step()

    def objects():
        state = [v for entries in optimizer.state.values() for v in entries.values()]
        gradients = [p.grad for p in model.parameters()]
        return [*map(id, state + gradients), *(p.data_ptr() for p in model.parameters())]

    before = objects()
    sim.monitor(model, F.cross_entropy, pair, optimizer).measure()
    assert objects() == before


@pytest.mark.parametrize("failing", range(1, 30, 4))
def test_a_failure_on_the_way_leaves_all_as_found(failing):
    model, pair = network(), batch()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    calls = None

    def loss(output, target):
        nonlocal calls
        if calls is not None:
            calls += 1
            if calls == failing:
                raise KeyboardInterrupt
        return F.cross_entropy(output, target)

    loss(model(pair[0]), pair[1]).backward()
    optimizer.step()
    measures = ("critical_rate", "noise_scale")
    watch = sim.monitor(model, loss, pair, optimizer, measure=measures)
    kept = [v.clone() for v in model.state_dict().values()]
    velocities = [s["momentum_buffer"].clone() for s in optimizer.state.values()]
    rates, torch_state = optimizer.param_groups[0]["lr"], torch.get_rng_state()
    calls = 0
    try:
        watch.measure()
    except KeyboardInterrupt:
        assert watch.table().empty
    assert_same(kept, list(model.state_dict().values()))
    assert_same(velocities, [s["momentum_buffer"] for s in optimizer.state.values()])
    assert optimizer.param_groups[0]["lr"] == rates
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.fixture
def one_process(tmp_path):
    """A group of processes that is this one."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_wrapped_networks_go_on_training(one_process):
    model, (x, y) = network(p=0.0), batch()
    compiled = torch.compile(model, backend="eager")
    for wrapped in (nn.parallel.DistributedDataParallel(model), compiled):
        optimizer = torch.optim.SGD(wrapped.parameters(), 0.1)
        watch = sim.monitor(wrapped, F.cross_entropy, (x, y), optimizer, every=1)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(wrapped(x), y).backward()
            optimizer.step()
            watch.step()
        assert set(watch.table().layer) == {None, "0", "3"}


def test_sharded_parameters_are_refused(one_process):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(network(), mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(ValueError, match="model: its parameters are spread over processes"):
        sim.monitor(model, F.cross_entropy, batch(), torch.optim.SGD(model.parameters(), 0.1))


# ---------------------------------------------------------------- the loop and the table


def test_in_a_context_the_optimizer_steps_it():
    model, pair = network(), batch()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch = sim.monitor(model, F.cross_entropy, pair, optimizer, every=3, measure=["noise_scale"])
    assert watch.table().empty
    with watch as same:
        assert same is watch
        for _ in range(7):
            F.cross_entropy(model(pair[0]), pair[1]).backward()
            optimizer.step()
    optimizer.step()
    assert watch.steps == 7
    assert sorted(watch.table().step.unique()) == [3, 6]
    assert not watch.step()
    assert watch.step()
    for callback in (watch, lambda *_: None):
        callback(optimizer, (), {})
    assert watch.steps == 10


def test_the_table_is_long_and_typed():
    model, pair = network(), batch()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch = sim.monitor(model, F.cross_entropy, pair, optimizer)
    for _ in range(2):
        frame = watch.table()
        assert frame.dtypes.astype(str).to_dict() == {
            "step": "int64", "measure": "object", "layer": "object", "value": "float64"
        }  # fmt: skip
        assert frame.attrs == {"samples": 24, "every": 50}
        watch.measure()
    assert not frame.duplicated(["step", "measure", "layer"]).any()
    wide = frame[frame.layer.isna()].pivot(index="step", columns="measure", values="value")
    assert set(wide.columns) == {*ALL, "loss", "gradient_covariance", "gradient_squared"}
    assert set(frame.layer) == {None, "0", "3"}
    assert watch.seconds.keys() == {"loss", *ALL}
    assert all(seconds > 0 for seconds in watch.seconds.values())


def test_a_run_that_has_diverged_goes_on():
    model, pair = network(), batch()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch = sim.monitor(model, F.cross_entropy, pair, optimizer)
    with torch.no_grad():
        model[0].weight.fill_(torch.inf)
    watch.measure()
    assert watch.table().value.isna().all()
    assert set(watch.table().measure) == {"loss", *ALL}


def refusals():
    model, pair = network(), batch()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    good = {"model": model, "loss": F.cross_entropy, "data": pair, "optimizer": optimizer}
    other = torch.optim.SGD(network().parameters(), 0.1)
    nan = (pair[0] * torch.nan, pair[1])
    lbfgs = torch.optim.LBFGS(model.parameters())
    return [
        (TypeError, "model: got int", {**good, "model": 3}),
        (TypeError, "loss: got str", {**good, "loss": "mse"}),
        (TypeError, "optimizer: got dict", {**good, "optimizer": {}}),
        (ValueError, "optimizer: it holds none", {**good, "optimizer": other}),
        (TypeError, "optimizer: a step of LBFGS needs a closure", {**good, "optimizer": lbfgs}),
        (ValueError, "every: got 0", {**good, "every": 0}),
        (TypeError, "measure: got 'trace'; give a list", {**good, "measure": "trace"}),
        (ValueError, "did you mean 'trace'", {**good, "measure": ["traces"]}),
        (ValueError, "each once", {**good, "measure": ["trace", "trace"]}),
        (ValueError, "measure: got \\(\\)", {**good, "measure": []}),
        (ValueError, "micro_batches: got 1", {**good, "micro_batches": 1}),
        (ValueError, "micro_batches: got 25 for 24 samples", {**good, "micro_batches": 25}),
        (ValueError, "tolerance: got 0", {**good, "tolerance": 0}),
        (ValueError, "memory: got 0", {**good, "memory": 0}),
        (ValueError, "evaluation: got 1", {**good, "evaluation": 1}),
        (ValueError, "loss: its value is nan", {**good, "data": nan}),
        (ValueError, "data: it holds no batch", {**good, "data": []}),
        (ValueError, "loss: it returned", {**good, "loss": lambda output, y: output}),
    ]


@pytest.mark.parametrize("case", range(len(refusals())))
def test_what_could_not_be_measured_is_refused_at_once(case):
    kind, message, arguments = refusals()[case]
    with pytest.raises(kind, match=message):
        sim.monitor(**arguments)


# ---------------------------------------------------------------- wrong on purpose

MUTANTS = {
    "criterion": (_critical_rate, "return not after <= before", "return after > 0", check_top),
    "no state of the optimizer": (
        _critical_rate,
        "state.restore()\n            restore()\n            for",
        "restore()\n            for",
        check_momentum,
    ),
    "edge of the bracket": (
        _critical_rate,
        "return math.sqrt(low * high)",
        "return low / 2",
        check_top,
    ),
    "moments left": (
        _state,
        "objects[key].data.copy_(value)",
        "pass",
        lambda: check_no_trace("adam", "dropout"),
    ),
    "roundings told": (_critical_rate, "NOISE = 16.0", "NOISE = 0.0", check_rounding),
    "uphill is unknown": (_critical_rate, "> 0 else math.nan", "> 1e9 else math.nan",
                          check_rounding),
    "hooks see the trials": (
        _state,
        'getattr(step, "__wrapped__", step) if getattr(step, "hooked", False) else step',
        "step",
        lambda: check_no_trace("sgd", "dropout"),
    ),
    "random state left": (_state, "for restore in self._torch:", "for restore in ():",
                          lambda: check_no_trace("sgd", "dropout")),
    "buffers left": (_state, "buffer.data.copy_(value)", "pass",
                     lambda: check_no_trace("sgd", "batch norm")),
    "divisor": (_noise_scale, "(len(parts) - 1)", "len(parts)", lambda: check_noise(5)),
    "biased signal": (_noise_scale, "whole - trace / samples", "whole", lambda: check_noise(5)),
    "unweighted": (
        _noise_scale,
        "within += len(index) * _squares",
        "within += samples / micro_batches * _squares",
        lambda: check_noise(5),
    ),
    "smallest": (_top_eigenvalue, 'which="LA"', 'which="SA"', check_curvature),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_measurement_is_caught(mutant, monkeypatch):
    module, right, wrong, check = MUTANTS[mutant]
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert right in source
    check()
    changed = {"__name__": module.__name__}
    exec(compile(source.replace(right, wrong), module.__file__, "exec"), changed)
    for user in (_monitor, _measures, _critical_rate):
        for name, value_ in vars(user).copy().items():
            if getattr(value_, "__module__", None) == module.__name__ and name in changed:
                monkeypatch.setattr(user, name, changed[name])
    with pytest.raises(AssertionError):
        check()
