import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import vmap

import sim
from sim._measurements import gradient_moments, mean_abs_gradient, per_sample

from .samplewise import C, D, N, batch_normalised, drawn, perceptron


@pytest.fixture
def data():
    return drawn()


def gradients(model, loss, x, y, parameter):
    """The oracle: one backward pass for each sample, as a NumPy array [N, ...]."""
    weight = dict(model.named_parameters())[parameter]
    rows = []
    for k in range(len(y)):
        (row,) = torch.autograd.grad(loss(model(x[k : k + 1]), y[k : k + 1]), weight)
        rows.append(row.numpy())
    return np.stack(rows)


def is_outer(model, loss, data, parameter):
    objective = per_sample.Objective(model, loss)
    return per_sample.outer_product(objective, *data, parameter) is not None


class Tied(nn.Module):
    """One linear layer used twice."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(D, D)
        self.out = nn.Linear(D, C)

    def forward(self, x):
        return self.out(torch.tanh(self.fc(torch.tanh(self.fc(x)))))


class Shared(nn.Module):
    """A linear layer, called once, whose weight is also used without the layer."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(D, D)
        self.out = nn.Linear(D, C)

    def forward(self, x):
        return self.out(torch.tanh(self.fc(x)) @ self.fc.weight)


class Tokens(nn.Module):
    """A linear layer over a sequence made of the features."""

    def __init__(self, flat):
        super().__init__()
        self.fc = nn.Linear(1, 3)
        self.out = nn.Linear(3, C)
        self.flat = flat

    def forward(self, x):
        tokens = x.reshape(-1, 1) if self.flat else x.unsqueeze(-1)
        return self.out(torch.tanh(self.fc(tokens)).reshape(len(x), D, 3).sum(1))


class Branching(nn.Module):
    """A branch on a value, which vmap cannot follow."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(D))
        self.out = nn.Linear(D, C)

    def forward(self, x):
        y = x * self.scale
        return self.out(y.tanh() if y.abs().sum() > 0 else y.sin())


def convolutional():
    return nn.Sequential(
        nn.Unflatten(1, (1, D)), nn.Conv1d(1, 3, 2), nn.GELU(), nn.Flatten(), nn.Linear(12, C)
    )


def in_place():
    return nn.Sequential(nn.Linear(D, 6), nn.ReLU(inplace=True), nn.Linear(6, C))


MODELS = [
    (perceptron, "fc1.weight", True),
    (perceptron, "fc1.bias", False),
    (perceptron, "fc2.weight", True),
    (in_place, "0.weight", True),
    (batch_normalised, "0.weight", True),
    (batch_normalised, "1.weight", False),
    (convolutional, "1.weight", False),
    (Tied, "fc.weight", False),
    (Shared, "fc.weight", False),
    (lambda: Tokens(True), "fc.weight", False),
    (lambda: Tokens(False), "fc.weight", False),
]


@pytest.mark.parametrize(("make", "parameter", "outer"), MODELS)
def test_moments_against_one_backward_a_sample(make, parameter, outer, data, monkeypatch):
    torch.manual_seed(0)
    model = make().double()
    assert is_outer(model, F.cross_entropy, data, parameter) == outer
    rows = gradients(model, F.cross_entropy, *data, parameter)
    # None of these should need a backward pass for each sample.
    monkeypatch.setattr(per_sample, "gradient_sum", None)
    moments = sim.gradient_moments(model, F.cross_entropy, data, parameter)
    # Sums of N float64 products, in another order; σ² loses digits where σ is small.
    np.testing.assert_allclose(moments.mean.numpy(), rows.mean(0), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(moments.std.numpy(), rows.std(0), rtol=1e-7, atol=1e-9)
    assert (moments.parameter, moments.samples) == (parameter, N)
    assert not moments.mean.requires_grad


def test_a_branching_model_goes_sample_by_sample(data):
    torch.manual_seed(0)
    model = Branching().double()
    with pytest.raises(RuntimeError):
        vmap(lambda x: model(x))(data[0])
    rows = gradients(model, F.cross_entropy, *data, "scale")
    one_by_one = sim.gradient_moments(model, F.cross_entropy, data, "scale")
    np.testing.assert_allclose(one_by_one.std.numpy(), rows.std(0), rtol=1e-8)


@pytest.mark.parametrize("parameter", ["fc1.weight", "fc2.bias"])
def test_a_loss_that_reads_the_parameters(parameter, data):
    model = perceptron()

    def loss(output, target):
        decay = sum(p.square().sum() for p in model.parameters())
        return 3 * F.cross_entropy(output, target, label_smoothing=0.1) + 0.7 * decay

    rows = gradients(model, loss, *data, parameter)
    assert not is_outer(model, loss, data, parameter)
    moments = sim.gradient_moments(model, loss, data, parameter)
    np.testing.assert_allclose(moments.mean.numpy(), rows.mean(0), rtol=1e-10)
    np.testing.assert_allclose(moments.std.numpy(), rows.std(0), rtol=1e-7, atol=1e-9)


def test_regression_losses(data):
    x, _ = data
    y = torch.randn(N, C, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = perceptron()
    for loss in (F.mse_loss, F.huber_loss, nn.SmoothL1Loss()):
        rows = gradients(model, loss, x, y, "fc1.weight")
        moments = sim.gradient_moments(model, loss, (x, y), "fc1.weight")
        np.testing.assert_allclose(moments.mean.numpy(), rows.mean(0), rtol=1e-10, atol=1e-15)


def test_memory_and_chunks_change_nothing(data, monkeypatch):
    model = perceptron()
    whole = sim.gradient_moments(model, F.cross_entropy, data, "fc1.bias")
    small = sim.gradient_moments(model, F.cross_entropy, data, "fc1.bias", memory=1)
    torch.testing.assert_close(small.std, whole.std, rtol=1e-10, atol=1e-14)
    whole = sim.gradient_moments(model, F.cross_entropy, data, "fc1.weight")
    monkeypatch.setattr(gradient_moments, "CHUNK", 7)
    small = sim.gradient_moments(model, F.cross_entropy, data, "fc1.weight")
    torch.testing.assert_close(small.std, whole.std, rtol=1e-8, atol=1e-12)


def test_the_forms_of_data(data):
    x, y = data
    model = perceptron()
    set_ = sim.data.Dataset(x, y, "toy", C, "train")
    forms = [[x, y], [(x[:9], y[:9]), (x[9:], y[9:])], set_, set_.batches(10)]
    whole = sim.gradient_moments(model, F.cross_entropy, data, "fc1.weight")
    for form in forms:
        again = sim.gradient_moments(model, F.cross_entropy, form, "fc1.weight")
        torch.testing.assert_close(again.mean, whole.mean, rtol=1e-10, atol=1e-15)


# E|g| against n


def test_nested_batches_equal_separate_ones(data):
    model, sizes = perceptron(), [1, 3, 10, 16, N]
    rows = gradients(model, F.cross_entropy, *data, "fc1.weight")
    frame = sim.mean_abs_gradient(
        model, F.cross_entropy, data, "fc1.weight", sizes[::-1], repeats=3, seed=4
    )
    values = np.array(frame.attrs["repeats"])
    for repeat in range(3):
        order = np.random.default_rng([4, repeat]).permutation(N)
        for column, n in enumerate(sizes):
            expected = np.abs(rows[order[:n]].mean(0)).mean()
            assert values[repeat, column] == pytest.approx(expected, rel=1e-10)
    assert frame.batch_size.tolist() == sizes
    np.testing.assert_allclose(frame.mean_abs_gradient, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(
        frame.standard_error, values.std(0, ddof=1) / math.sqrt(3), rtol=1e-12
    )
    assert frame.standard_error.iloc[-1] < 1e-15
    first = frame.iloc[0]
    assert [first[k] for k in ("repeats", "population", "size", "seed")] == [3, N, 6 * D, 4]
    assert not first.replacement
    assert not first.dropout
    assert set(frame.parameter) == {"fc1.weight"}


def test_with_replacement_a_batch_may_exceed_the_set(data):
    model, n = perceptron(), 3 * N
    rows = gradients(model, F.cross_entropy, *data, "fc1.weight")
    frame = sim.mean_abs_gradient(
        model, F.cross_entropy, data, "fc1.weight", [5, n], replacement=True, repeats=2
    )
    for repeat, values in enumerate(frame.attrs["repeats"]):
        order = np.random.default_rng([0, repeat]).integers(N, size=n)
        assert len(set(order.tolist())) < n
        for value, k in zip(values, (5, n), strict=True):
            assert value == pytest.approx(np.abs(rows[order[:k]].mean(0)).mean(), rel=1e-10)
    assert frame.replacement.all()


@pytest.mark.parametrize("parameter", ["fc1.weight", "fc1.bias"])
def test_cached_and_direct_sums_agree(parameter, data, monkeypatch):
    model = perceptron()
    arguments = (model, F.cross_entropy, data, parameter, [2, 9, N])
    cached = sim.mean_abs_gradient(*arguments)
    monkeypatch.setattr(mean_abs_gradient, "CHUNK", 4)
    monkeypatch.setattr(mean_abs_gradient, "ROWS", 5)
    chunked = sim.mean_abs_gradient(*arguments)
    monkeypatch.setattr(mean_abs_gradient, "outer_product", lambda *_: None)
    direct = sim.mean_abs_gradient(*arguments)
    for other in (chunked, direct):
        np.testing.assert_allclose(other.mean_abs_gradient, cached.mean_abs_gradient, rtol=1e-10)


def test_sizes_are_listed_once_in_order(data):
    frame = sim.mean_abs_gradient(
        perceptron(), F.cross_entropy, data, "fc1.weight", (8, 2, 8), repeats=1
    )
    assert frame.batch_size.tolist() == [2, 8]
    assert frame.standard_error.isna().all()


# dropout


def inverted_input(dropout):
    """One linear layer under dropout of its input: g_i is known but for the mask."""
    model = nn.Sequential(nn.Dropout(dropout), nn.Linear(D, 1, bias=False)).double()
    nn.init.zeros_(model[1].weight)
    return model


class Scaled(nn.Module):
    """The same for a parameter that is no linear layer's."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(D, dtype=torch.float64))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return (self.dropout(x) * self.scale).sum(1, keepdim=True)


def test_dropout_moments_are_those_of_fresh_masks():
    # At w = 0, ℓ = (w·x - y)² has g = -2 y x m with m = Bernoulli(1/2)/(1/2): mean 1, variance 1.
    x = torch.full((500, D), 2.0, dtype=torch.float64)
    y = torch.ones(500, 1, dtype=torch.float64)
    model = inverted_input(0.5)
    moments = sim.gradient_moments(model, F.mse_loss, (x, y), "1.weight", passes=4)
    # 2000 draws: standard error 4/sqrt(2000) = 0.09 of the mean; σ is 4 sqrt(1 - mean²/16).
    assert float((moments.mean + 4).abs().max()) < 5 * 0.09
    torch.testing.assert_close(moments.std, (16 - (moments.mean + 4) ** 2).sqrt())
    assert moments.passes == 4
    off = sim.gradient_moments(model, F.mse_loss, (x, y), "1.weight", dropout=False)
    assert (off.mean == -4).all()
    assert (off.std == 0).all()


@pytest.mark.parametrize("parameter", ["1.weight", "scale"])
@pytest.mark.parametrize("passes", [2, 4])
def test_masks_and_samples_are_told_apart(parameter, passes):
    # As above with y = ±1 + 0.5: over the samples the mean gradient is 4y, its deviation 4, and
    # over the masks |4y| has the mean square 16 (1 + 1/4).
    x = torch.full((2000, D), 2.0, dtype=torch.float64)
    y = 0.5 + torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(1000)[:, None]
    model = inverted_input(0.5) if parameter == "1.weight" else Scaled()
    moments = sim.gradient_moments(model, F.mse_loss, (x, y), parameter, passes=passes)
    assert moments.mask_std is not None
    mask, total = moments.mask_std.square(), moments.std.square()
    # Standard errors of about 1% each at 2000 samples.
    torch.testing.assert_close(mask, torch.full_like(mask, 20.0), rtol=0.1, atol=0)
    torch.testing.assert_close(total - mask, torch.full_like(mask, 16.0), rtol=0.15, atol=0)
    one = sim.gradient_moments(model, F.mse_loss, (x, y), parameter)
    assert one.mask_std is None
    still = sim.gradient_moments(model, F.mse_loss, (x, y), parameter, passes=2, dropout=False)
    assert still.mask_std is not None
    assert float(still.mask_std.max()) < 1e-6
    torch.testing.assert_close(still.std, torch.full_like(still.std, 4.0))


@pytest.mark.parametrize("parameter", ["1.weight", "scale"])
def test_every_sample_has_its_own_mask(parameter):
    # With y and x constant, only the masks tell samples apart: E|g| falls with n towards |mean|.
    x = torch.ones(400, D, dtype=torch.float64)
    y = torch.ones(400, 1, dtype=torch.float64)
    model = inverted_input(0.5) if parameter == "1.weight" else Scaled()
    moments = sim.gradient_moments(model, F.mse_loss, (x, y), parameter)
    assert float((moments.std - 2).abs().max()) < 0.1
    frame = sim.mean_abs_gradient(
        model, F.mse_loss, (x, y), parameter, [1, 400], repeats=40, dropout=None
    )
    assert frame.dropout.all()
    singles = {v[0] for v in frame.attrs["repeats"]}
    assert len(singles) > 2
    # 400 masks of deviation 2: 0.1 an entry, 40 x 5 of them.
    assert abs(frame.mean_abs_gradient[1] - 2) < 5 * 0.1 / math.sqrt(200)
    assert frame.standard_error[1] > 0


def test_dropout_is_switched_and_put_back(data):
    model = perceptron(dropout=0.5)
    model.dropout1.eval()
    kept = {n: m.training for n, m in model.named_modules()}
    arguments = (model, F.cross_entropy, data, "fc2.weight", [4, N])
    frames = {
        on: sim.mean_abs_gradient(*arguments, dropout=on, repeats=2) for on in (True, False, None)
    }
    assert {on: bool(f.dropout.any()) for on, f in frames.items()} == {
        True: True,
        False: False,
        None: False,
    }
    assert frames[False].mean_abs_gradient.equals(frames[None].mean_abs_gradient)
    assert not frames[True].mean_abs_gradient.equals(frames[None].mean_abs_gradient)
    assert {n: m.training for n, m in model.named_modules()} == kept


def test_seeds_fix_the_masks_and_the_global_state_stays(data):
    model = perceptron(dropout=0.5)
    arguments = (model, F.cross_entropy, data, "fc1.weight")
    torch.manual_seed(1)
    state = torch.get_rng_state()

    def moments(seed):
        return sim.gradient_moments(*arguments, seed=seed).std

    def values(seed):
        return sim.mean_abs_gradient(*arguments, [2, 9], repeats=2, seed=seed).attrs["repeats"]

    assert torch.equal(moments(0), moments(0))
    assert not torch.equal(moments(0), moments(1))
    assert values(0) == values(0) != values(1)
    more = sim.mean_abs_gradient(*arguments, [2, 9], repeats=3).attrs["repeats"]
    assert more[:2] == values(0)
    assert torch.equal(state, torch.get_rng_state())


def test_progress_goes_to_standard_error(data, capsys):
    for measure, more in ((sim.gradient_moments, ()), (sim.mean_abs_gradient, ([2],))):
        measure(perceptron(), F.cross_entropy, data, "fc1.weight", *more, progress=True)
    assert capsys.readouterr().out == ""


def test_gradients_of_the_model_are_left_alone(data):
    model = perceptron()
    sim.gradient_moments(model, F.cross_entropy, data, "fc1.weight")
    sim.mean_abs_gradient(model, F.cross_entropy, data, "fc1.weight", [3])
    assert all(p.grad is None for p in model.parameters())
    assert not model.fc1._forward_hooks
