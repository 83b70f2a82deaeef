"""Each cheap estimate against its definition, in loops over samples, entries and batches."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
import sim
from sim._measurements.estimates import catalogue, low_rank, moments
from sim._measurements.estimates.catalogue import Setting, factored_layers
from sim._measurements.estimates.columns import class_axis, loss_columns
from sim._measurements.estimates.layers import unfolded

DOUBLE = torch.float64


class Small(nn.Module):
    """A convolution that is unfolded with stride and padding, and two linear layers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, stride=2, padding=1)
        self.fc = nn.Linear(8, 3)
        self.last = nn.Linear(3, 3, bias=False)

    def forward(self, x):
        return self.last(torch.tanh(self.fc(torch.relu(self.conv(x)).flatten(1))))


class Tokens(nn.Module):
    """Linear layers on sequences."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def by_token(output, targets):
    return F.cross_entropy(output.flatten(0, 1), targets.flatten())


def case(kind):
    torch.manual_seed(3)
    if kind == "tokens":
        x, y = torch.randn(4, 4, 3, dtype=DOUBLE), torch.randint(0, 3, (4, 4))
        return Tokens().double(), by_token, x, y
    x = torch.randn(5, 1, 4, 4, dtype=DOUBLE)
    if kind == "squared":
        return Small().double(), nn.MSELoss(), x, torch.randn(5, 3, dtype=DOUBLE)
    return Small().double(), nn.CrossEntropyLoss(), x, torch.randint(0, 3, (5,))


def setting(model, loss, x, y, **parts):
    usual = {"probes": 6, "steps": 3, "batch_size": 2, "decay": 0.5}
    return Setting(model, loss, (x, y), **{**usual, **parts})


def naive(model, loss, x, y, name):
    """Lists over (sample, column) of positions' (input, slope) pairs, one layer at a time."""
    layer = dict(model.named_modules())[name]
    seen = {}

    def keep(_, arguments, output):
        seen["x"], seen["z"] = arguments[0].detach(), output

    pairs = []
    rows = x.shape[0] * (x.shape[1] if x.dim() == 3 else 1)
    for i in range(len(x)):
        handle = layer.register_forward_hook(keep)
        output = model(x[i : i + 1])
        handle.remove()
        # Columns of this sample's share of the loss: the softmax's p and 1/N, or 2/(N C).
        flat = output.reshape(-1, 3)
        for row, c in itertools.product(range(len(flat)), range(3)):
            p = flat[row].detach().softmax(0)
            column = torch.zeros_like(flat)
            if isinstance(loss, nn.MSELoss):
                column[row, c] = math.sqrt(2 / (rows * 3))
            else:  # sqrt(p_c) (e_c - p): its outer products sum to diag(p) - p p'
                column[row] = -p * p[c].sqrt()
                column[row, c] += p[c].sqrt()
                column /= math.sqrt(rows)
            (slope,) = torch.autograd.grad(
                output, seen["z"], column.reshape(output.shape), retain_graph=True
            )
            pairs.append(positions(layer, seen["x"][0], slope[0]))
    return pairs


def positions(layer, x, slope):
    if isinstance(layer, nn.Conv2d):
        padded = F.pad(x, (1, 1, 1, 1))
        return [
            (padded[:, 2 * a : 2 * a + 3, 2 * b : 2 * b + 3].reshape(-1), slope[:, a, b])
            for a, b in itertools.product(range(2), range(2))
        ]
    return [(x, slope)] if x.dim() == 1 else list(zip(x, slope, strict=True))


KINDS = ("classes", "squared", "tokens")


@pytest.mark.parametrize("kind", KINDS)
def test_k_fac_is_the_product_of_mean_squares(kind):
    model, loss, x, y = case(kind)
    made = setting(model, loss, x, y)
    for layer in factored_layers(made, 0):
        pairs = naive(model, loss, x, y, layer.name)
        columns = len(pairs) // len(x)
        inputs = [u for many in pairs[::columns] for u, _ in many]
        slopes = [d for many in pairs for _, d in many]
        count = len(inputs)
        diagonal = catalogue.FACTORED["k-fac"](layer)
        weight = diagonal[f"{layer.name}.weight"].reshape(len(slopes[0]), -1)
        for o, k in itertools.product(range(weight.shape[0]), range(weight.shape[1])):
            expected = sum(d[o] ** 2 for d in slopes) * sum(u[k] ** 2 for u in inputs) / count
            assert float(weight[o, k]) == pytest.approx(float(expected), rel=1e-9)
        if layer.module.bias is not None:
            sums = torch.stack(slopes).square().sum(0)
            torch.testing.assert_close(diagonal[f"{layer.name}.bias"], sums, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_ek_fac_is_the_basis_with_the_moments_along_it(kind):
    model, loss, x, y = case(kind)
    made = setting(model, loss, x, y)
    for layer in factored_layers(made, 0):
        bias = layer.module.bias is not None
        pairs = [
            [(torch.cat([u, u.new_ones(1)]) if bias else u, d) for u, d in many]
            for many in naive(model, loss, x, y, layer.name)
        ]
        a = sum(torch.outer(u, u) for many in pairs for u, _ in many)
        b = sum(torch.outer(d, d) for many in pairs for _, d in many)
        left, right = torch.linalg.eigh(b)[1], torch.linalg.eigh(a)[1]
        basis = torch.kron(left, right)
        gradients = [sum(torch.outer(d, u) for u, d in many).reshape(-1) for many in pairs]
        along = sum((basis.T @ g) ** 2 for g in gradients)
        whole = torch.diag(basis @ torch.diag(along) @ basis.T).reshape(len(b), len(a))
        found = catalogue.FACTORED["ek-fac"](layer)
        weight = found[f"{layer.name}.weight"].reshape(len(b), -1)
        torch.testing.assert_close(weight, whole[:, : weight.shape[1]], rtol=1e-7, atol=1e-12)
        if bias:
            torch.testing.assert_close(
                found[f"{layer.name}.bias"], whole[:, -1], rtol=1e-7, atol=1e-12
            )


def test_k_fac_and_ek_fac_are_exact_where_inputs_and_slopes_do_not_vary():
    """One sample, one position: a Kronecker product is the Gauss-Newton matrix itself."""
    model, loss, x, y = case("classes")
    exact = hessian.estimate(model, loss, (x[:1], y[:1]), "gauss-newton")
    for name in ("k-fac", "ek-fac"):
        for layer in factored_layers(setting(model, loss, x[:1], y[:1]), 0):
            if layer.name != "conv":
                weight = catalogue.FACTORED[name](layer)[f"{layer.name}.weight"]
                torch.testing.assert_close(weight, exact[f"{layer.name}.weight"])


def test_the_input_moment_is_of_the_layers_squared_error():
    model, loss, x, y = case("classes")
    for layer in factored_layers(setting(model, loss, x, y), 0):
        inputs = unfolded(layer.module, layer_input(model, layer.name, x))
        weight = layer.module.weight.detach().reshape(len(layer.module.weight), -1)
        base = weight.clone().requires_grad_()

        def error(w, inputs=inputs, weight=weight):
            return ((w - weight) @ inputs).square().sum() / len(inputs)

        whole = torch.autograd.functional.hessian(error, base).reshape(weight.numel(), -1)
        found = catalogue.FACTORED["input-moment"](layer)[f"{layer.name}.weight"]
        torch.testing.assert_close(found.reshape(-1), torch.diag(whole))


def layer_input(model, name, x):
    seen = []
    handle = dict(model.named_modules())[name].register_forward_hook(
        lambda _, arguments, output: seen.append(arguments[0].detach())
    )
    model(x)
    handle.remove()
    return seen[0]


def test_a_convolution_is_its_unfolded_product():
    torch.manual_seed(0)
    for options in (
        {"padding": "same", "dilation": 2},
        {"padding": "valid"},
        {"stride": (1, 2), "padding": (2, 0)},
    ):
        conv = nn.Conv2d(2, 3, (3, 1), **options, bias=False).double()
        x = torch.randn(2, 2, 6, 5, dtype=DOUBLE)
        product = conv.weight.reshape(3, -1) @ unfolded(conv, x)
        torch.testing.assert_close(product, conv(x).flatten(2))


@pytest.mark.parametrize("shape", [(4, 5), (3, 20), (2, 6, 2)])
def test_columns_give_the_loss_second_derivative(shape):
    torch.manual_seed(1)
    output = torch.randn(shape, dtype=DOUBLE, requires_grad=True)
    targets = torch.randint(0, shape[1], (shape[0], *shape[2:]))

    def value(f):
        return F.cross_entropy(f, targets)

    axis = class_axis(output, targets)
    assert axis == 1
    generator = torch.Generator().manual_seed(0)
    whole = torch.autograd.functional.hessian(value, output.detach()).reshape(output.numel(), -1)
    # Between samples nothing is asked.
    samples = torch.arange(output.numel()) // output[0].numel()
    columns = loss_columns(value(output), output, axis, 4000, generator)
    found = torch.zeros_like(whole)
    for column in columns:
        flat = column.reshape(-1)
        found += torch.outer(flat, flat) * (samples[:, None] == samples)
    # Up to twelve classes exactly; beyond, a mean over 4000 random signs.
    loose = shape[1] > 12
    scale = float(whole.abs().max())
    torch.testing.assert_close(found, whole, rtol=0, atol=scale * (0.1 if loose else 1e-9))


def test_a_loss_that_couples_rows_is_refused():
    output = torch.randn(4, 3, dtype=DOUBLE, requires_grad=True)
    coupled = output.softmax(1).mean(0).square().sum()
    with pytest.raises(ValueError, match=r"^loss: it couples the rows of the outputs"):
        loss_columns(coupled, output, 1, 2, torch.Generator())


def dense(size, rank, seed=0):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(size, rank)) * 3.0 ** -np.arange(rank)
    return factor @ np.diag(rng.choice([1.0, -1.0], rank)) @ factor.T


def test_xdiag_leaves_each_vector_out_of_its_own_range():
    h = dense(12, 12)
    found = low_rank.xdiag(lambda v: h @ v, 12, 8, np.random.default_rng(7))
    probes = np.where(np.random.default_rng(7).integers(0, 2, (12, 4)), 1.0, -1.0)
    parts = []
    for i in range(4):
        q, _ = np.linalg.qr(h @ np.delete(probes, i, axis=1))
        w = probes[:, i]
        parts.append(np.diag(q @ q.T @ h) + w * ((np.eye(12) - q @ q.T) @ h @ w))
    np.testing.assert_allclose(found, np.mean(parts, axis=0), rtol=1e-8, atol=1e-10)


def test_hutch_plus_plus_takes_its_range_exactly():
    h = dense(12, 12)
    found = low_rank.hutch_plus_plus(lambda v: h @ v, 12, 9, np.random.default_rng(7))
    rng = np.random.default_rng(7)
    sketch, probes = (np.where(rng.integers(0, 2, (12, 3)), 1.0, -1.0) for _ in range(2))
    q, _ = np.linalg.qr(h @ sketch)
    left = (np.eye(12) - q @ q.T) @ h
    parts = [np.diag(q @ q.T @ h) + w * (left @ w) for w in probes.T]
    np.testing.assert_allclose(found, np.mean(parts, axis=0), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("estimate", [low_rank.xdiag, low_rank.hutch_plus_plus])
def test_low_rank_is_exact_and_the_mean_of_many_draws_right(estimate):
    h = dense(20, 2)
    once = estimate(lambda v: h @ v, 20, 12, np.random.default_rng(0))
    np.testing.assert_allclose(once, np.diag(h), atol=1e-9)
    h = dense(6, 6, 1) + np.ones((6, 6))
    drawn = [estimate(lambda v: h @ v, 6, 6, np.random.default_rng(s)) for s in range(3000)]
    error = np.std(drawn, axis=0) / math.sqrt(len(drawn))
    assert (np.abs(np.mean(drawn, axis=0) - np.diag(h)) <= 5 * error + 1e-9).all()


def test_adam_is_the_moving_average_of_squared_batch_gradients():
    model, loss, x, y = case("classes")
    made = setting(model, loss, x, y)
    found = catalogue.draw("adam", made, 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, betas=(0.9, 0.5))
    rng = np.random.default_rng(5)
    for _ in range(3):
        index = torch.from_numpy(rng.choice(5, 2, replace=False))
        optimizer.zero_grad()
        loss(model(x[index]), y[index]).backward()
        optimizer.step()
    for name, p in model.named_parameters():
        moment = optimizer.state[p]["exp_avg_sq"] / (1 - 0.5**3)
        torch.testing.assert_close(found[name], 2 * moment)


def test_ratio_and_the_rules_are_inverse_radii():
    w = torch.tensor([[1.0, -2.0], [4.0, 0.0]], dtype=DOUBLE)
    g = torch.tensor([[0.5, 3.0], [-1.0, 2.0]], dtype=DOUBLE)
    assert moments.inverse_ratio(w, g).tolist() == [[0.5, 1.5], [0.25, math.inf]]
    assert moments.RULES["mclr"](w, g) == 1.5 / 1.5
    assert moments.RULES["lars"](w, g) == pytest.approx(math.sqrt(14.25 / 21))
    w[1, 1] = -8
    assert moments.RULES["percent-delta"](w, g) == pytest.approx((0.5 + 1.5 + 0.25 + 0.25) / 4)


# --- the frame ------------------------------------------------------------------------------------


def test_the_statistics_are_those_of_loops():
    model, loss, x, y = case("classes")
    exact = hessian.diagonal(model, loss, (x, y))
    frame = sim.compare_estimates(
        model, loss, (x, y), kinds=["hutchinson", "empirical-fisher"], draws=3, whole=True, seed=4
    ).set_index(["estimate", "parameter"])
    fisher = hessian.estimate(model, loss, (x, y), "empirical-fisher")
    for name in [*exact, "*"]:
        row = frame.loc[("empirical-fisher", name)]
        names = list(exact) if name == "*" else [name]
        h, e, w = (
            [float(v) for key in names for v in many[key].detach().reshape(-1)]
            for many in (exact, fisher, dict(model.named_parameters()))
        )
        norm = math.sqrt(sum(v * v for v in h))
        error = math.sqrt(sum((a - b) ** 2 for a, b in zip(e, h, strict=True)))
        assert row["relative_error"] == pytest.approx(error / norm)
        assert math.isnan(row["relative_error_low"])
        assert row["bias"] == pytest.approx((sum(e) - sum(h)) / sum(map(abs, h)))
        c = sum(a * b for a, b in zip(e, h, strict=True)) / sum(a * a for a in e)
        assert row["scale"] == pytest.approx(c)
        scaled = math.sqrt(sum((c * a - b) ** 2 for a, b in zip(e, h, strict=True)))
        assert row["scaled_error"] == pytest.approx(scaled / norm)
        near = [0.5 <= a / b <= 2 for a, b in zip(e, h, strict=True) if b]
        assert row["within_factor_2"] == pytest.approx(sum(near) / len(near))
        assert row["largest_ratio"] == pytest.approx(max(e) / max(h))
        least = len(h) // 10
        if least:
            orders = [
                set(sorted(range(len(h)), key=lambda i, v=v: w[i] ** 2 * abs(v[i]))[:least])
                for v in (e, h)
            ]
            assert row["pruning_overlap"] == pytest.approx(len(orders[0] & orders[1]) / least)
        assert row["error_per_gradient"] == pytest.approx(
            row["relative_error"] * math.sqrt(row["gradients"])
        )
    probed = frame.loc["hutchinson"]
    assert (probed.relative_error_low < probed.relative_error).all()
    assert (probed.draws == 3).all()
    assert (probed.probes == 8).all()


def test_exact_estimates_are_exact_and_the_rest_are_not():
    torch.manual_seed(0)
    relu = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    data = torch.randn(12, 4), torch.randint(0, 3, (12,))
    frame = sim.compare_estimates(relu, F.cross_entropy, data, whole=True, draws=2)
    whole = frame[frame.parameter == "*"].set_index("estimate")
    assert list(whole.index) == list(catalogue.ESTIMATES)
    assert whole.relative_error["gauss-newton"] < 1e-5
    assert whole.within_factor_2["gauss-newton"] == 1
    assert whole.pruning_overlap["gauss-newton"] == 1
    assert (
        whole.drop(["gauss-newton", "preactivation", "becker-lecun"]).relative_error > 0.01
    ).all()
    assert frame.attrs["refused"] == {}


def test_what_an_estimate_does_not_serve_is_said():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    data = torch.randn(6, 4), torch.randint(0, 3, (6,))
    frame = sim.compare_estimates(model, F.cross_entropy, data, kinds=["becker-lecun", "k-fac"])
    assert "becker-lecun" in frame.attrs["refused"]
    assert set(frame.parameter) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_a_seed_gives_the_same_frame_and_the_model_is_left_alone():
    model, loss, x, y = case("classes")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    frames = [
        sim.compare_estimates(model, loss, (x, y), draws=2, seed=1).drop(
            columns=["seconds", "gradients", "error_per_gradient"]
        )
        for _ in range(2)
    ]
    assert frames[0].equals(frames[1])
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kinds": ["hutch"]}, r"^kinds: unknown value 'hutch'; .*did you mean"),
        ({"probes": 0}, r"^probes: got 0; give a whole number at least 1"),
        ({"draws": 0}, r"^draws: got 0"),
        ({"batch_size": 6}, r"^batch_size: got 6; give a whole number from 1 to 5"),
        ({"decay": 1.0}, r"^decay: got 1.0"),
    ],
)
def test_what_is_refused(options, says):
    model, loss, x, y = case("classes")
    with pytest.raises(ValueError, match=says):
        sim.compare_estimates(model, loss, (x, y), **options)
