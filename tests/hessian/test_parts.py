"""Batches in parts of their samples: the same result, within the memory, or not at all."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._batch import parts as _parts
from hessian._call import draws as _draws
from hessian._loss import quadratic as _quadratic
from hessian._runtime import matrix_products as _product

from . import oracle
from .live import Live
from .networks import LOSSES, NETWORKS, build, mlp

WHOLE = {
    "residual-bn-train": "other outputs",  # batch statistics
    "coupled": "other outputs",  # a mean over the batch
    "custom-function": "not proved",
}


@pytest.mark.parametrize("loss", ["weights-smoothing-ignore", "l2-term", "huber", "focal"])
@pytest.mark.parametrize("network", NETWORKS)
def test_sample_by_sample_is_the_whole(network, loss):
    model, inputs = build(network)
    make, targets = LOSSES[loss]
    generator = torch.Generator().manual_seed(1)
    x, y, criterion = inputs(5, generator), targets(5, generator), make(model)
    torch.manual_seed(5)
    want = oracle.diagonal(model, criterion, [(x, y)])
    model, _ = build(network)  # running statistics as they were
    criterion = make(model)
    torch.manual_seed(5)
    got = hessian.diagonal(model, criterion, (x, y), memory=1)
    oracle.assert_exact(got, want)
    assert got.plan.parts == (1 if network in WHOLE else 5)
    assert WHOLE.get(network, "") in got.plan.held
    torch.manual_seed(5)
    whole = hessian.diagonal(model, criterion, (x, y))
    assert whole.plan.parts == 1
    assert not whole.plan.held
    oracle.assert_exact(got.gradient, whole.gradient)
    assert got.loss == pytest.approx(whole.loss, rel=1e-12)
    assert got.samples == whole.samples == 5


@pytest.mark.parametrize("loss", ["coupling", "root", "norm-term"])
def test_a_loss_that_joins_samples_or_entries_keeps_the_batch_whole(loss):
    model, inputs = build("relu-mlp")
    make, targets = LOSSES[loss]
    generator = torch.Generator().manual_seed(1)
    x, y, criterion = inputs(5, generator), targets(5, generator), make(model)
    got = hessian.diagonal(model, criterion, (x, y), memory=1)
    assert got.plan.parts == 1
    assert got.plan.held in (
        "the loss couples samples",
        "the loss reads a parameter in a way that is not a sum over entries",
    )
    assert got.plan.held in str(got.plan).replace("\n", " ")
    oracle.assert_exact(got, oracle.diagonal(model, criterion, [(x, y)]))


class Noisy(nn.Module):
    """Every kind of random draw: dropout on axes of either order, noise, a fixed-size draw."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(6, 3)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.3)
        self.rnn = nn.LSTM(4, 2, 2, dropout=0.4)

    def forward(self, x):  # [n, 3, 4]
        x = F.dropout(torch.tanh(self.a(x)), 0.3) + 0.1 * torch.randn_like(x)
        x = x + 0.1 * torch.rand(4, dtype=x.dtype) + torch.rand(x.shape[0], 1, 1, dtype=x.dtype)
        x = x.transpose(0, 1)  # time first
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = F.dropout1d(x, 0.2) * torch.empty_like(x).uniform_(0.5, 1)
        return self.b(self.rnn(x)[0].transpose(0, 1).flatten(1))


def test_random_draws_are_those_of_the_whole():
    torch.manual_seed(0)
    model = Noisy().double()
    x, y = torch.randn(6, 3, 4).double(), torch.arange(6) % 3
    names = ["a.weight", "b.weight", "attention.in_proj_bias", "rnn.bias_ih_l1"]
    found = []
    for memory in (None, 1, 400_000):
        torch.manual_seed(3)
        before = torch.get_rng_state()
        h = hessian.diagonal(model, F.cross_entropy, (x, y), memory=memory, names=names)
        found.append(h)
        assert torch.equal(torch.get_rng_state(), before)
    assert [h.plan.parts for h in found][:2] == [1, 6]
    assert 1 < found[2].plan.parts < 6
    for got in found[1:]:
        oracle.assert_exact(got, dict(found[0]))
    torch.manual_seed(4)
    other = hessian.diagonal(
        model, F.cross_entropy, (x, y), names=names
    )  # another draw is another function
    assert max(oracle.gap(other, dict(found[0])).values()) > 0.01


def test_random_draws_of_the_loss_are_those_of_the_whole():
    model = mlp(nn.Tanh).double()
    x, y = torch.randn(5, 6).double(), torch.arange(5) % 4
    loss = lambda o, t: F.cross_entropy(F.dropout(o, 0.4), t)  # noqa: E731
    found = []
    for memory in (None, 1):
        torch.manual_seed(3)
        found.append(hessian.diagonal(model, loss, (x, y), memory=memory, method="parameter"))
    assert found[1].plan.parts == 5
    oracle.assert_exact(found[1], dict(found[0]))


def test_draws_that_cannot_be_made_again_keep_the_batch_whole():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x):
            return self.a(torch.bernoulli(x.sigmoid()))

    torch.manual_seed(0)
    model, x, y = Net().double(), torch.randn(4, 4).double(), torch.tensor([0, 1, 2, 0])
    torch.manual_seed(3)
    got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=1)
    assert "bernoulli cannot be made again" in got.plan.held
    torch.manual_seed(3)
    oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))


@pytest.mark.parametrize(
    "middle",
    [
        lambda x: x - x.mean(0).detach(),  # what the tape does not show
        lambda x: x / len(x),
        lambda x: x * (2 if len(x) > 4 else 1),
        lambda x: x + (x.mean(0) - x.mean(0).detach()),  # what the values do not show
        lambda x: x[: len(x) // 2].repeat(2, 1),
    ],
)
def test_what_two_samples_or_the_tape_do_not_tell(middle):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.b(torch.tanh(middle(self.a(x))))

    torch.manual_seed(0)
    model, x, y = Net().double(), torch.randn(6, 4).double(), torch.arange(6) % 3
    got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=1)
    assert got.plan.held
    oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))


def test_a_later_part_that_shows_a_dependence_is_heard():
    """The first two samples do not meet the last one; the parts are given up when it comes."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            z = torch.tanh(self.a(x))
            return self.b(torch.cat([z[:-1], z[-1:] + 0.1 * z[-2:-1].detach()]))

    torch.manual_seed(0)
    model, x, y = Net().double(), torch.randn(6, 4).double(), torch.arange(6) % 3
    x[0] = x[1] = 0  # both parts of one sample see themselves where the whole sees a neighbour
    got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=3000)
    oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))


def test_several_inputs_and_outputs_in_parts():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x, mask, scale):
            z = torch.tanh(self.a(x * mask)) * scale
            return {"deep": (self.b(z.mean(1)), z.transpose(0, 1)), "count": len(x), "flag": mask}

    torch.manual_seed(0)
    model, x, y = Net().double(), torch.randn(4, 5, 4).double(), torch.randn(4, 2).double()
    mask, scale = (torch.rand(4, 5, 1) > 0.3).double(), torch.rand(5, 3).double()

    def loss(output, target):
        first, second = output["deep"]
        assert output["count"] == 4
        return F.mse_loss(first, target) + (second.pow(4) * output["flag"].mean()).sum()

    data = ({"x": x, "mask": mask, "scale": scale}, y)
    got = hessian.diagonal(model, loss, data, memory=1)
    assert got.plan.parts == 4
    oracle.assert_exact(got, oracle.diagonal(model, loss, [data]))
    mean = hessian.diagonal(model, loss, [data, data], memory=1, verify=3)
    oracle.assert_exact(mean, dict(got))
    assert max(mean.deviation.values()) < 1e-12


def test_sampled_entries_and_standard_errors_in_parts():
    model, inputs = build("tanh-mlp")
    x, y = inputs(6, torch.Generator().manual_seed(1)), torch.arange(6) % 4
    want = hessian.diagonal(model, F.cross_entropy, (x, y), standard_error=True)
    got = hessian.diagonal(model, F.cross_entropy, (x, y), standard_error=True, memory=1)
    assert got.plan.parts == 6
    oracle.assert_exact(got.standard_error, want.standard_error)
    some = hessian.sample(model, F.cross_entropy, (x, y), 7, memory=1)
    assert some.plan.parts == 6
    for name, s in some.items():
        at = want[name].reshape(-1)[s.index]
        assert float((s.value - at).abs().max()) <= 1e-9 * float(want[name].abs().max())
    low = hessian.coordinate_minimum(model, F.cross_entropy, (x, y), 2, memory=1)
    for name, m in low.items():
        assert torch.allclose(m.curvature, want[name].reshape(-1)[m.index], rtol=1e-9, atol=1e-14)


# ------------------------------------------------------------------------------------- memory

MEBI = 2**20
# network, shape of a sample, classes, batch sizes, bound
LARGE = {
    "convolutions": (lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 4, 3), nn.Tanh(),
        nn.Flatten(), nn.Linear(16, 10)), (3, 8, 8), 10, (16, 128), 2 * MEBI),
    "smooth": (lambda: nn.Sequential(
        nn.Linear(32, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 10)), (32,), 10,
        (16, 512), MEBI),
    "classes": (lambda: nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 60)), (32,), 60,
                (16, 96), MEBI),
    "tokens": (lambda: nn.Sequential(
        nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.Flatten(),
        nn.Linear(64, 10)), (8, 8), 10, (16, 96), MEBI),
    "dropout": (lambda: nn.Sequential(
        nn.Linear(32, 32), nn.Dropout(0.3), nn.GELU(), nn.Linear(32, 10)), (32,), 10,
        (32, 512), MEBI),
}  # fmt: skip


@pytest.mark.parametrize("kind", LARGE)
def test_the_working_set_stays_below_the_bound_at_any_batch_size(kind):
    """All tensors alive at once, results included; the inputs were there before."""
    make, dims, classes, sizes, bound = LARGE[kind]
    peaks, parts = [], []
    _product.prefers_onednn()  # found out once in a process
    method = "affine" if kind == "classes" else "auto"  # columns of the loss's blocks
    for n in sizes:
        torch.manual_seed(0)
        model, x, y = make(), torch.randn(n, *dims), torch.randint(0, classes, (n,))
        with Live() as live:
            h = hessian.diagonal(model, F.cross_entropy, (x, y), memory=bound, method=method)
        peaks.append(live.peak)
        parts.append(h.plan.parts)
    assert max(peaks) < bound, (peaks, parts)
    assert parts[1] > 1
    with Live() as live:  # the count sees what a batch as a whole takes
        whole = hessian.diagonal(model, F.cross_entropy, (x, y), method=method)
    assert live.peak > bound
    gaps = oracle.gap({k: v.double() for k, v in h.items()}, whole) if kind != "dropout" else {}
    assert all(gap < 1e-4 for gap in gaps.values())  # float32, in another order


def test_the_loss_of_a_wide_output_is_taken_a_part_at_a_time():
    """Columns of the loss's second derivative that do not fit together come part by part."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 40)).double()
    x, y = torch.randn(12, 6).double(), torch.arange(12)
    want = hessian.diagonal(model, F.cross_entropy, (x, y))
    got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=300_000, method="affine")
    assert 1 < got.plan.parts < 12
    oracle.assert_exact(got, dict(want))


PAIRS = lambda o, t: (o @ o.T - 1).square().mean()  # noqa: E731
CUMULATIVE = lambda o, t: torch.logcumsumexp(o, 1).pow(2).mean()  # noqa: E731


@pytest.mark.parametrize("bound", [MEBI, 64 * MEBI])
@pytest.mark.parametrize("loss", [PAIRS, CUMULATIVE])
@pytest.mark.parametrize(("n", "classes"), [(48, 8), (16, 40)])
def test_a_second_derivative_of_the_loss_above_the_bound_is_said(n, classes, loss, bound):
    """Over all outputs at once where the loss couples samples; else a sample's is enough."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, classes)).double()
    x, y = torch.randn(n, 16).double(), torch.zeros(n)
    with Live() as live:
        h = hessian.diagonal(model, loss, (x, y), memory=bound)
    held = "the loss couples samples" if loss is PAIRS and bound == MEBI else ""
    assert h.plan.held == held
    assert (live.peak > bound) == bool(held)
    oracle.assert_exact(h, dict(hessian.diagonal(model, loss, (x, y), method="parameter")))


# --------------------------------------------------------------------------------- mutations


def _first_sample(self, part, right=_quadratic.Quadratic.of):
    return right(self, slice(0, part.stop - part.start))


def _shifted(self, drawn, shape):
    return drawn.roll(1, 0)[: shape[0]].clone() if drawn.shape != shape else drawn


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (_draws.Draws, "_cut", _shifted),  # another sample's dropout mask
        (
            _quadratic.Quadratic,
            "of",
            _first_sample,
        ),  # another sample's second derivative
        (_parts.Whole, "own", lambda self: ({}, {})),  # the loss's own term forgotten
    ],
)
def test_wrong_parts_are_seen(owner, name, wrong, monkeypatch):
    model, inputs = build("dropout-train")
    x, y = inputs(5, torch.Generator().manual_seed(1)), torch.arange(5) % 4
    loss = LOSSES["l2-term"][0](model)
    torch.manual_seed(5)
    want = hessian.diagonal(model, loss, (x, y))
    torch.manual_seed(5)
    oracle.assert_exact(hessian.diagonal(model, loss, (x, y), memory=1), dict(want))
    monkeypatch.setattr(owner, name, wrong)
    torch.manual_seed(5)
    got = hessian.diagonal(model, loss, (x, y), memory=1)
    if name == "_cut":  # seen by the package itself: the outputs are not the whole's
        assert "other outputs" in got.plan.held
    else:
        with pytest.raises(AssertionError):
            oracle.assert_exact(got, dict(want))


def test_nothing_is_left_behind_by_parts_broken_off():
    torch.manual_seed(0)
    model = mlp(nn.Tanh).double()
    x, y = torch.randn(6, 6).double(), torch.arange(6) % 4
    state = {k: v.clone() for k, v in model.state_dict().items()}
    calls = []

    def loss(output, target):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return F.cross_entropy(output, target)

    with pytest.raises(KeyboardInterrupt):
        hessian.diagonal(model, loss, (x, y), memory=1, method="preactivation")
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
