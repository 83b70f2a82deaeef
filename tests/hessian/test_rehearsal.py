"""Parts are used where a way between samples shows neither here nor at weights nearby."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._batch import comparison as _comparison
from hessian._batch import rehearsal as _rehearsal
from hessian._tape.layouts import candidates

from . import oracle

ALONE = "the model gives some samples other outputs than it gives all of them"


class Branch(nn.Module):
    """A network beside a branch that couples samples, shut by something that is zero."""

    def __init__(self, between, shut, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.v = nn.Linear(6, 3), nn.Linear(6, 3, bias=False)
        self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, 3, bias=False)
        self.scale = nn.Parameter(torch.ones(()))
        self.gain = nn.Parameter(torch.ones(3))
        self.between, self.shut = between, shut
        zero = {"weight": self.v.weight, "scale": self.scale, "adapter": self.up.weight,
                "layer scale": self.gain}[shut]  # fmt: skip
        nn.init.constant_(zero, 1e-9 if shut == "layer scale" else 0.0)
        self.to(dtype)

    def forward(self, x):
        z = self.between(x)
        side = self.up(self.down(z)) if self.shut == "adapter" else self.v(z)
        return self.a(x) + self.scale * self.gain * side


BETWEEN = {
    "mean": lambda x: x - x.mean(0, keepdim=True),
    "size": lambda x: x * len(x),
    "neighbour": lambda x: x.roll(1, 0),
    "norm": lambda x: (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt(),
    "last": lambda x: torch.cat([x[:-1], x[:1]]),
    "softmax": lambda x: x.softmax(0),
}


@pytest.mark.parametrize("shut", ["weight", "scale", "adapter", "layer scale"])
@pytest.mark.parametrize("between", BETWEEN)
def test_a_branch_that_is_shut_is_seen(between, shut):
    model = Branch(BETWEEN[between], shut)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(12, 6, generator=generator).double(), torch.arange(12) % 3
    want = oracle.diagonal(model, F.cross_entropy, [(x, y)])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for memory in (1, 4000):
        got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=memory)
        assert ALONE in got.plan.held
        oracle.assert_exact(got, want)
        for name, p in model.named_parameters():
            assert torch.equal(p, before[name])
    own = ["a.weight", "v.weight"] if shut == "weight" else None
    kinds = ["gauss-newton", "empirical-fisher"] if own else []
    for kind in ("hutchinson", "preactivation", *kinds):
        got = hessian.estimate(
            model, F.cross_entropy, (x, y), kind, names=own if kind in kinds else None, memory=1
        )
        assert got.parts == 1
        assert ALONE in got.held
    op = hessian.operator(model, F.cross_entropy, (x, y), memory=1)
    op @ torch.ones(op.shape[0]).numpy()
    assert ALONE in op.held


@pytest.mark.parametrize("shut", ["weight", "scale"])
def test_the_same_branch_that_keeps_samples_apart_is_taken_in_parts(shut):
    model = Branch(torch.tanh, shut)
    x, y = torch.randn(12, 6).double(), torch.arange(12) % 3
    got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=1)
    assert got.plan.parts == 12
    oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))


class Weighed(nn.Module):
    """Leaves a number behind, which the loss multiplies with a weight that is zero."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.weight = nn.Linear(6, 3).double(), nn.Parameter(torch.zeros(()).double())

    def forward(self, x):
        z = self.a(x)
        self.left = z.detach().square().sum()
        return z


@pytest.mark.parametrize("power", [1, 2])
def test_a_number_left_behind_under_a_weight_of_zero_is_seen(power):
    model = Weighed()
    x, y = torch.randn(6, 6).double(), torch.arange(6) % 3
    loss = lambda o, t: F.cross_entropy(o, t) + model.weight**power * model.left  # noqa: E731
    want = oracle.diagonal(model, loss, [(x, y)])
    slope = torch.autograd.grad(loss(model(x), y), model.weight)[0]
    for method in ("auto", "parameter"):
        got = hessian.diagonal(model, loss, (x, y), method=method, memory=1)
        assert "was called with last" in got.plan.held
        oracle.assert_exact(got, want)
        assert float(got.gradient["weight"]) == pytest.approx(float(slope), rel=1e-12)


class Masked(nn.Module):
    """Logits of which a mask leaves two for each sample, and a mean over the batch."""

    def __init__(self, fill, couples, added):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 4, bias=False)
        self.fill, self.couples, self.added = fill, couples, added

    def forward(self, x):
        shift = x.mean(0, keepdim=True) if self.couples else x
        z = self.a(x) + 0.1 * self.b(shift.detach())
        mask = torch.arange(4) >= 2
        return z + self.fill * mask if self.added else z.masked_fill(mask, self.fill)


@pytest.mark.parametrize("couples", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("fill", [-1e9, -float("inf"), -1e4])
def test_masked_logits_do_not_loosen_the_comparison(fill, added, couples):
    if added and fill == -float("inf"):
        return  # -inf times zero is no number
    model = Masked(fill, couples, added)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(10, 6, generator=generator), torch.arange(10) % 2
    got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=1)
    assert got.plan.parts == (1 if couples else 10), got.plan.held
    want = oracle.diagonal(model, F.cross_entropy, [(x, y)])
    # float32: the terms of a softmax and of a sum over ten samples.
    oracle.assert_exact(got, want, 1e-4)


def test_a_head_of_another_size_does_not_loosen_the_comparison():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x):
            small = self.b(x + 0.01 * x.mean(0, keepdim=True))
            return torch.cat([1e6 * self.a(x), small], 1)

    model, x, y = Heads(), torch.randn(8, 6), torch.randn(8, 4)
    got = hessian.diagonal(model, F.mse_loss, (x, y), memory=1)
    assert ALONE in got.plan.held


class Dropped(nn.Module):
    """Dropout whose mask has samples on another axis than its shape suggests, shut."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3, bias=False)
        nn.init.zeros_(self.b.weight)
        self.to(dtype)

    def forward(self, x):
        n = len(x)
        # Of four rows for each sample, sample after sample; the draw has them the other way.
        mask = F.dropout(torch.ones(4 * n, dtype=x.dtype), 0.5).view(4, n).T
        return self.a(x) + self.b(x * mask)


def test_masks_on_another_axis_in_a_branch_that_is_shut():
    model, x, y = Dropped(), torch.randn(6, 4).double(), torch.arange(6) % 3
    torch.manual_seed(3)
    got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=1)
    assert got.plan.held
    torch.manual_seed(3)
    oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))


def test_weights_come_back_bit_for_bit_after_an_interrupt():
    model = Branch(torch.tanh, "weight")
    x, y = torch.randn(4, 6).double(), torch.arange(4) % 3
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    count, seen, last = [], [], [0]

    def hook(module, inputs):
        count.append(1)
        seen.append(not torch.equal(model.a.weight, before["a.weight"]))
        if len(count) == last[0]:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(hook)
    for last[0] in range(1, 8):
        count.clear()
        with pytest.raises(KeyboardInterrupt):
            hessian.diagonal(model, F.cross_entropy, (x, y), memory=1)
        for name, p in model.named_parameters():
            assert torch.equal(p, before[name])
    assert any(seen)  # some of the calls are at other weights


def test_weights_at_which_the_model_has_no_outputs():
    """A smaller step is taken where a larger one leaves the domain; without any, no parts."""

    class Narrow(nn.Module):
        def __init__(self, room):
            super().__init__()
            torch.manual_seed(0)
            self.a = nn.Linear(4, 3)
            self.s = nn.Parameter(torch.full((8,), 1.0))
            self.room = room

        def forward(self, x):
            return self.a(x) * (self.room - (self.s - 1).abs().max()).log()

    x, y = torch.randn(5, 4).double(), torch.arange(5) % 3
    for room, parts in ((0.05, 5), (1e-6, 1)):
        model = Narrow(room).double()
        got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=1)
        assert got.plan.parts == parts
        assert parts > 1 or "no finite outputs" in got.plan.held
        want = oracle.diagonal(model, F.cross_entropy, [(x, y)])
        assert torch.allclose(got["a.weight"], want["a.weight"], rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_the_loss_listens_to(dtype):
    values = torch.tensor([[1.0, 100.0, -1e9], [3.0, 100.0, -1e9]], dtype=dtype)
    slope = torch.tensor([[1.0, 0.01, 0.0], [1.0, 0.03, 0.0]], dtype=dtype)
    size = _comparison.listened(values, slope)
    every = (1 + 3 + 1 + 3) / 2.04
    assert torch.allclose(size, torch.tensor([[2.0, every, every]], dtype=dtype))
    assert torch.equal(_comparison.listened(values[:, :1], slope[:, :1] * 0), size[:, :1])
    inf = torch.tensor([[1.0, -float("inf")]], dtype=dtype)
    assert _comparison.alike(inf, inf, torch.ones(1, 2, dtype=dtype))
    assert not _comparison.alike(inf, -inf, torch.ones(1, 2, dtype=dtype))
    assert not _comparison.alike(inf, inf + 1e-3, torch.ones(1, 2, dtype=dtype))


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (_rehearsal, "_move", lambda parameters, step: None),  # no other weights
        (_comparison.Rows, "has", lambda self, output, part: True),  # no comparison
        (_rehearsal, "LEAST", 0.0),  # what is zero stays zero
    ],
)
def test_a_rehearsal_that_shows_nothing_is_seen(owner, name, wrong, monkeypatch):
    model = Branch(BETWEEN["mean"], "weight")
    x, y = torch.randn(12, 6).double(), torch.arange(12) % 3
    want = oracle.diagonal(model, F.cross_entropy, [(x, y)])
    monkeypatch.setattr(owner, name, wrong)
    got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=1)
    assert max(oracle.gap(got, want).values()) > 1e-2


class Straight(nn.Module):
    """Adds a statistic of the batch and takes it off again, detached: values do not show it."""

    def __init__(self, more_than, dtype):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.v = nn.Linear(6, 3), nn.Linear(6, 3, bias=False)
        self.drop, self.more_than = nn.Dropout(0.2), more_than
        self.to(dtype)

    def forward(self, x):
        y = self.drop(self.a(x))
        if len(x) > self.more_than:  # so that the tape of two samples does not show it either
            between = self.v(x.mean(0, keepdim=True)).tanh()
            y = y + between - between.detach()
        return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("more_than", [2, 3, 11])
def test_a_derivative_that_no_value_shows_is_seen(more_than, dtype):
    model = Straight(more_than, dtype)
    x, y = torch.randn(12, 6, dtype=dtype), torch.arange(12) % 3
    torch.manual_seed(3)
    got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=4000, dtype=torch.float64)
    assert got.plan.held == _rehearsal.SLOPES
    torch.manual_seed(3)
    want = oracle.diagonal(model.double(), F.cross_entropy, [(x.double(), y)])
    oracle.assert_exact({name: h.double() for name, h in got.items()}, want)


def test_a_derivative_that_is_not_compared_is_missed(monkeypatch):
    model = Straight(3, torch.float64)
    x, y = torch.randn(12, 6).double(), torch.arange(12) % 3
    monkeypatch.setattr(_rehearsal, "_derivatives", lambda *_: None)
    torch.manual_seed(3)
    got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=4000)
    torch.manual_seed(3)
    want = oracle.diagonal(model, F.cross_entropy, [(x, y)])
    assert got.plan.parts > 1
    assert max(oracle.gap(got, want).values()) > 1e-2


def test_forward_mode_leaves_nothing_behind():
    level = torch.autograd.forward_ad
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x, y = torch.randn(12, 6).double(), torch.arange(12) % 3
    outstanding = model(x).square().sum()
    before = {name: (p.detach().clone(), p._version) for name, p in model.named_parameters()}
    got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=4000)
    assert got.plan.parts > 1
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name][0])
        assert p._version == before[name][1]
    outstanding.backward()  # a tape of the user's is as good as before
    with level.dual_level():
        assert all(level.unpack_dual(p).tangent is None for p in model.parameters())
        inside = hessian.diagonal(model, F.cross_entropy, (x, y), memory=4000)
    assert inside.plan.parts == got.plan.parts
    oracle.assert_exact(inside, got)


def test_a_kink_in_few_samples_is_no_way_between_samples():
    values = torch.randn(1000, 3)
    layout = candidates((1000, 3), 1000)[0]
    tangents = _rehearsal._Tangents(values, torch.ones(1000, 3), layout, 1000)
    one, many = values.clone(), values.clone()
    one[:10] += 1
    many[:11] += 1
    assert tangents.has(one, slice(0, 1000))
    assert not tangents.has(many, slice(0, 1000))
