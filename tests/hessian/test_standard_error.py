"""The spread of second derivatives over samples, beside a naive loop over samples."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hessian

from . import oracle
from .networks import LOSSES, NETWORKS, WEIGHTS, build, l2, mlp


def data(inputs, n=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return inputs(n, generator), torch.randint(0, 4, (n,), generator=generator)


def singles(model, loss, x, y):
    """d²ℓ_i/dw² of every sample alone, stacked."""
    found = [oracle.diagonal(model, loss, [(x[i : i + 1], y[i : i + 1])]) for i in range(len(x))]
    return {name: torch.stack([f[name] for f in found]) for name in found[0]}


def assert_close(got, want):
    assert list(got) == list(want)
    top = max(float(w.max()) for w in want.values())
    for name, w in want.items():  # as in `oracle.gap`: float64, symmetric zeros excepted
        assert float((got[name] - w).abs().max()) <= 1e-7 * max(float(w.max()), 1e-6 * top), name


APART = [n for n in NETWORKS if n not in ("residual-bn-train", "coupled", "dropout-train")]


@pytest.mark.parametrize("network", APART)
def test_a_plain_mean(network):
    model, inputs = build(network)
    x, y = data(inputs)
    got = hessian.diagonal(model, F.cross_entropy, (x, y), standard_error=True)
    each = singles(model, F.cross_entropy, x, y)
    assert_close(got.standard_error, {k: h.std(0) / len(x) ** 0.5 for k, h in each.items()})
    plain = hessian.diagonal(model, F.cross_entropy, (x, y))
    assert all(torch.equal(got[k], plain[k]) for k in plain)
    assert plain.standard_error == {}


def weighted(each, w):
    """√(n/(n-1) Σ α² (h_i - h)²) with α = w/Σw, over the samples that there are."""
    a = w / w.sum()
    result = {}
    for name, h in each.items():
        shaped = a.view(-1, *[1] * (h.dim() - 1))
        mean = (shaped * h).sum(0)
        n = len(w)
        result[name] = (n / (n - 1) * (shaped**2 * (h - mean) ** 2).sum(0)).sqrt()
    return result


@pytest.mark.parametrize("name", ["class-weights", "ignore-index", "three-times", "mse", "huber"])
def test_weights_come_from_the_loss_itself(name):
    model, inputs = build("tanh-mlp")
    x, _ = data(inputs)
    make, targets = LOSSES[name]
    y, loss = targets(len(x), torch.Generator().manual_seed(2)), make(model)
    got = hessian.diagonal(model, loss, (x, y), standard_error=True).standard_error
    w = torch.ones(len(x), dtype=torch.float64)
    keep = torch.ones(len(x), dtype=torch.bool)
    if name == "class-weights":
        w = WEIGHTS[y]
    if name == "ignore-index":  # no weight, no second derivative, but a sample of the draw
        keep = y != -100
    each = singles(model, loss, x[keep], y[keep])
    want = weighted(each, w[keep])
    if name == "ignore-index":
        n, k = len(x), int(keep.sum())
        scale = ((n / (n - 1)) / (k / (k - 1))) ** 0.5
        want = {key: v * scale for key, v in want.items()}
    assert_close(got, want)


def test_a_sum_over_samples():
    """L = Σ ℓ_i is n times a mean."""
    model, inputs = build("gelu-mlp")
    x, y = data(inputs)
    loss = nn.CrossEntropyLoss(reduction="sum")
    pairs = [(x[:2], y[:2]), (x[2:], y[2:])]
    got = hessian.diagonal(model, loss, pairs, weight="sum", standard_error=True)
    each = singles(model, loss, x, y)
    assert_close(got.standard_error, {k: h.std(0) * len(x) ** 0.5 for k, h in each.items()})


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_term_of_the_parameters_has_no_spread(reduction):
    model, inputs = build("relu-mlp")
    x, y = data(inputs)
    bare = nn.CrossEntropyLoss(reduction=reduction)
    loss = lambda o, t: bare(o, t) + 0.3 * sum(p.pow(2).sum() for p in model.parameters())  # noqa: E731
    got = hessian.diagonal(model, loss, (x, y), standard_error=True).standard_error
    want = hessian.diagonal(model, bare, (x, y), standard_error=True).standard_error
    assert_close(got, want)
    assert float(want["0.weight"].max()) > 0


def test_any_split_of_a_mean_gives_what_the_whole_gives():
    model, inputs = build("layer-norm")
    x, y = data(inputs, 7)
    whole = hessian.diagonal(model, l2(model), (x, y), standard_error=True)
    loader = DataLoader(TensorDataset(x, y), batch_size=3)
    parts = hessian.diagonal(model, l2(model), loader, standard_error=True)
    assert_close(parts.standard_error, whole.standard_error)


class Tokens(nn.Module):
    """An output per token, sequences flattened into rows."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x, shift):
        return {"logits": self.b(torch.tanh(self.a(x) + shift)).flatten(0, 1)}


def test_targets_per_token_and_inputs_in_a_mapping():
    """A target of n·T rows is cut into n; what has no axis of samples goes to every sample."""
    torch.manual_seed(0)
    model, n = Tokens().double(), 5
    x, y = torch.randn(n, 3, 3).double(), torch.randint(0, 4, (n * 3,))
    shift = torch.randn(3, 4).double()
    loss = lambda o, t: F.cross_entropy(o["logits"], t)  # noqa: E731
    got = hessian.diagonal(model, loss, ({"x": x, "shift": shift}, y), standard_error=True)
    found = [
        oracle.diagonal(model, loss, [({"x": x[i : i + 1], "shift": shift}, y[3 * i : 3 * i + 3])])
        for i in range(n)
    ]
    each = {k: torch.stack([f[k] for f in found]) for k in found[0]}
    assert_close(got.standard_error, {k: h.std(0) / n**0.5 for k, h in each.items()})


def test_a_sample_without_slope_still_counts():
    """A perfectly met target: its derivative in the output is zero, its second is not."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1).double()
    x = torch.randn(5, 3).double()
    y = torch.randn(5, 1).double()
    y[2] = model(x[2]).detach()
    got = hessian.diagonal(model, F.mse_loss, (x, y), standard_error=True).standard_error
    assert_close(got, {"weight": ((2 * x**2).std(0) / 5**0.5).unsqueeze(0),
                       "bias": torch.zeros(1).double()})  # fmt: skip


def test_it_covers_the_population():
    """z-scores of draws from a population: a mean square of one, up to the noise of 40 draws."""
    torch.manual_seed(0)
    model = mlp(nn.Tanh).double()
    x, y = torch.randn(2000, 6).double(), torch.randint(0, 4, (2000,))
    names = ["2.weight", "4.weight"]
    population = hessian.diagonal(model, F.cross_entropy, (x, y), names=names)
    squares = []
    for seed in range(40):
        some = torch.randint(2000, (20,), generator=torch.Generator().manual_seed(seed))
        got = hessian.diagonal(
            model, F.cross_entropy, (x[some], y[some]), standard_error=True, names=names
        )
        for name in names:
            z = (got[name] - population[name]) / got.standard_error[name]
            squares.append(z.square().mean())
    # Student's t with 19 degrees of freedom has a variance of 1.12; skewed values add to it. The
    # mean over 40 draws is good to √(2/40) = 22 % if all entries went together, which they do not.
    assert float(torch.stack(squares).mean()) == pytest.approx(1.2, abs=0.35)


BAD = {
    "batch norm": ("residual-bn-train", F.cross_entropy),
    "a mean over the batch": ("coupled", F.cross_entropy),
    "dropout": ("dropout-train", F.cross_entropy),
    "a loss over pairs": (
        "tanh-mlp", lambda o, t: o.mean(0).pow(2).sum() + F.cross_entropy(o, t),
    ),
    "a root of a mean": ("tanh-mlp", lambda o, t: F.cross_entropy(o, t).sqrt()),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_coupled_samples_are_refused(case):
    network, loss = BAD[case]
    model, inputs = build(network)
    with pytest.raises(ValueError, match=r"standard_error: .*samples are coupled.*model\.eval"):
        hessian.diagonal(model, loss, data(inputs), standard_error=True)


def test_one_sample_has_no_spread():
    model, inputs = build("tanh-mlp")
    with pytest.raises(ValueError, match="at least two samples, got 1"):
        hessian.diagonal(model, F.cross_entropy, data(inputs, 1), standard_error=True)
