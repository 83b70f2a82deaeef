"""`verify=`: its budget, its words, and that it says nothing false in either direction."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian.testing import differences

from .networks import StraightThrough


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def data(n=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 4, generator=generator, dtype=dtype)
    return x, torch.randint(0, 3, (n,), generator=generator)


def words(h):
    return {v.name: v.word for v in h.verification}


@pytest.mark.parametrize("budget", [1, 3, 4, 11, 1000])
def test_the_budget_is_of_the_whole_network(budget):
    model = net().double()
    h = hessian.diagonal(model, F.cross_entropy, data(), verify=budget)
    total = sum(p.numel() for p in model.parameters())
    assert len(h.verification) == min(budget, total)
    counts = [sum(v.name == name for v in h.verification) for name in h]
    assert max(counts) - min(counts) <= 1 or budget > 11  # in turn; the bias has three entries
    assert set(h.deviation) == {v.name for v in h.verification}
    assert len({(v.name, v.index) for v in h.verification}) == len(h.verification)


def test_names_that_were_not_looked_at_are_nan():
    h = hessian.diagonal(net(), F.cross_entropy, data(dtype=torch.float32), verify=1)
    (name,) = h.deviation
    assert h.deviation[name] < 1e-4
    others = [other for other in h if other != name]
    assert all(math.isnan(h.deviation[other]) for other in others)
    plain = hessian.diagonal(net(), F.cross_entropy, data(dtype=torch.float32))
    assert len(plain.deviation) == len(plain.verification) == 0


def test_an_entry_costs_a_bounded_number_of_forward_passes():
    model, calls = net().double(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    hessian.diagonal(model, F.cross_entropy, data())
    alone, first = len(calls), []
    for budget in (4, 24):
        calls.clear()
        hessian.diagonal(model, F.cross_entropy, data(), verify=budget)
        first.append(len(calls) - alone)
    assert (first[1] - first[0]) / 20 < 30


def test_it_prints_a_table():
    h = hessian.diagonal(net(), F.cross_entropy, data(dtype=torch.float32), verify=4)
    lines = str(h.verification).splitlines()
    assert lines[0].split() == [
        "parameter", "entry", "h", "value", "±", "error", "double", "off", "by", "word"
    ]  # fmt: skip
    assert len(lines) == 6  # the head, four entries, what the word means
    assert lines[-1].startswith("agrees: ")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loaders_and_weights(dtype):
    x, y = data(dtype=dtype)
    model = net().to(dtype)
    pairs = [(x[:5], y[:5]), (x[5:], y[5:])]
    summed = nn.CrossEntropyLoss(reduction="sum")
    for criterion, weight in ((F.cross_entropy, None), (summed, "sum")):
        h = hessian.diagonal(model, criterion, pairs, verify=9, weight=weight)
        assert set(words(h).values()) == {"agrees"}
        assert max(h.deviation.values()) < (1e-12 if dtype == torch.float64 else 1e-4)
        for v in h.verification:
            assert v.h == float(h[v.name].reshape(-1)[v.index])
            assert abs(v.value - v.h) <= v.error + 1e-4 * abs(v.h)


@pytest.mark.parametrize("factor", [1.01, 0.5, -1.0])
@pytest.mark.parametrize("memory", [None, 1])
def test_a_wrong_diagonal_deviates(factor, memory, monkeypatch):
    right = hessian._batch.analysis.Analysis.run

    def wrong(self, tick):
        h, g = right(self, tick)
        h["0.weight"].mul_(factor)
        return h, g

    monkeypatch.setattr(hessian._batch.analysis.Analysis, "run", wrong)
    h = hessian.diagonal(net().double(), F.cross_entropy, data(), verify=8, memory=memory)
    assert h.plan.parts == (1 if memory is None else 8)
    assert words(h) == {
        "0.weight": "deviates", "0.bias": "agrees", "2.weight": "agrees", "2.bias": "agrees"
    }  # fmt: skip
    assert h.deviation["0.weight"] > 1e-4
    assert h.deviation["0.bias"] < 1e-12


def test_a_double_backward_that_is_wrong_too_does_not_hide_it(monkeypatch):
    """The old check compared with a double backward alone: both wrong looked right."""
    right, single = hessian._batch.analysis.Analysis.run, hessian._routes.parameter.single

    def wrong(self, tick):
        h, g = right(self, tick)
        return {name: 1.5 * values for name, values in h.items()}, g

    monkeypatch.setattr(hessian._batch.analysis.Analysis, "run", wrong)
    monkeypatch.setattr(hessian._routes.parameter, "single", lambda *given: 1.5 * single(*given))
    h = hessian.diagonal(net().double(), F.cross_entropy, data(), verify=8)
    assert set(words(h).values()) == {"deviates"}
    assert all(v.double == pytest.approx(v.h) for v in h.verification)


# ------------------------------------------------------------ no crying wolf


class Attention(nn.Module):
    """The key's bias moves all scores of a query alike: no influence."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        x = x.view(-1, 2, 4)
        z = F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return self.out(z).flatten(0, 1)[:, :3]


def normed(norm):
    return nn.Sequential(nn.Linear(4, 6), norm, nn.Tanh(), nn.Linear(6, 3))


class Instance(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 2, 2), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.tanh(F.instance_norm(self.conv(x.unsqueeze(1)))).flatten(1))


ZEROS = {
    "attention's key": (Attention, "k.bias"),
    "before batch norm": (lambda: normed(nn.BatchNorm1d(6)), "0.bias"),
    "before instance norm": (Instance, "conv.bias"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory", [None, 1])
@pytest.mark.parametrize("case", ZEROS)
def test_zero_is_zero_to_rounding(case, memory, dtype):
    make, name = ZEROS[case]
    torch.manual_seed(0)
    h = hessian.diagonal(
        make().to(dtype), F.cross_entropy, data(dtype=dtype), verify=40, memory=memory
    )
    found = {v.word for v in h.verification if v.name == name}
    assert found <= {"zero to rounding", "agrees"}
    if float(h[name].abs().max()):
        assert "zero to rounding" in found
    assert max(h.deviation.values()) < (1e-3 if dtype == torch.float32 else 1e-9)
    assert "deviates" not in words(h).values()


def test_a_wrong_value_where_zero_is_true_is_not_excused(monkeypatch):
    right = hessian._batch.analysis.Analysis.run

    def wrong(self, tick):
        h, g = right(self, tick)
        h["k.bias"].add_(1e-6 * float(h["k.weight"].abs().max()))
        return h, g

    monkeypatch.setattr(hessian._batch.analysis.Analysis, "run", wrong)
    torch.manual_seed(0)
    h = hessian.diagonal(Attention().double(), F.cross_entropy, data(), verify=16)
    assert words(h)["k.bias"] == "deviates"
    assert h.deviation["k.bias"] > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_small_second_derivative_is_not_taken_for_zero(dtype, monkeypatch):
    """A branch of weight 1e-3: d²L/dw² of 1e-6 of the largest, and half of it lost."""

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.a(x) + 1e-3 * torch.tanh(self.b(x))

    right = hessian._batch.analysis.Analysis.run

    def wrong(self, tick):
        h, g = right(self, tick)
        h["b.weight"].mul_(0.5)
        return h, g

    torch.manual_seed(0)
    model, pair = Small().to(dtype), data(dtype=dtype)
    assert set(words(hessian.diagonal(model, F.cross_entropy, pair, verify=16)).values()) == {
        "agrees"
    }
    monkeypatch.setattr(hessian._batch.analysis.Analysis, "run", wrong)
    h = hessian.diagonal(model, F.cross_entropy, pair, verify=16)
    assert words(h)["b.weight"] == "deviates"
    assert h.deviation["b.weight"] > 1e-2


# ------------------------------------------------------------ words of their own


def test_a_kink_is_named():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    h = hessian.diagonal(model, F.cross_entropy, data(), verify=12)
    assert words(h)["0.weight"] == words(h)["0.bias"] == "kink"
    assert words(h)["2.bias"] == "agrees"
    assert max(h.deviation.values()) < 1e-12
    assert "kink: " in str(h.verification)


class Rounded(nn.Module):
    """Straight-through rounding, written with detach, a custom function, or without gradients."""

    def __init__(self, how):
        super().__init__()
        self.a, self.b, self.how = nn.Linear(4, 4), nn.Linear(4, 3), how

    def forward(self, x):
        z = torch.tanh(self.a(x))
        if self.how == "detach":
            z = z + (torch.round(3 * z) / 3 - z).detach()
        elif self.how == "data":
            z = z * z.data
        elif self.how == "no_grad":
            with torch.no_grad():
                rest = torch.round(3 * z) / 3 - z
            z = z + rest
        elif self.how == "item":
            z = z / z.abs().max().item()
        else:
            z = StraightThrough.apply(z - 0.1)
        return self.b(z)


@pytest.mark.parametrize("how", ["detach", "data", "no_grad", "item", "function"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_derivative_of_the_users_own_is_no_deviation(how, dtype):
    torch.manual_seed(0)
    h = hessian.diagonal(Rounded(how).to(dtype), F.cross_entropy, data(dtype=dtype), verify=24)
    below = {v.word for v in h.verification if v.name.startswith("a")}
    above = {v.word for v in h.verification if v.name.startswith("b")}
    assert "own derivative" in below
    assert below <= {"own derivative", "agrees"}
    assert above == {"agrees"}
    assert max(h.deviation.values()) < (1e-3 if dtype == torch.float32 else 1e-9)


class Cube(torch.autograd.Function):
    """x³ by the user's own rule, with all that `forward` may do there without a meaning."""

    @staticmethod
    def forward(ctx, x):
        with torch.enable_grad():
            square = x.detach() ** 2
        with torch.no_grad():
            square = square + 0.0
        ctx.save_for_backward(x)
        return square.detach() * x.data

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * g * x**2


class Beside(nn.Module):
    """A constant, and a custom function with or without gradients."""

    def __init__(self, off=False):
        super().__init__()
        self.a, self.b, self.off = nn.Linear(4, 4), nn.Linear(4, 3), off

    def forward(self, x):
        z = torch.tanh(self.a(x))
        with torch.set_grad_enabled(not self.off):
            cube = Cube.apply(z)
            rest = 0.0 * cube  # what follows in the same block
        return self.b(z * z.detach() + cube + rest)


@pytest.mark.parametrize("off", [False, True])
def test_a_custom_function_holds_no_constants(off):
    """Its ``forward`` runs without gradients; beside a detached number it was held whole."""
    torch.manual_seed(0)
    model, pair = Beside(off).double(), data()
    h = hessian.diagonal(model, F.cross_entropy, pair, verify=24)
    assert {v.word for v in h.verification if v.name.startswith("a")} == {"own derivative"}
    assert {v.word for v in h.verification if v.name.startswith("b")} == {"agrees"}
    witness = differences(
        model, F.cross_entropy, pair, entries={"a.weight": [0, 5]}, detached="held"
    )
    for r in witness:
        assert abs(r.value - float(h[r.name].reshape(-1)[r.index])) <= r.error + 1e-9


def test_a_derivative_of_ones_own_does_not_excuse_a_wrong_one(monkeypatch):
    right = hessian._batch.analysis.Analysis.run

    def wrong(self, tick):
        h, g = right(self, tick)
        return {name: 1.5 * values for name, values in h.items()}, g

    monkeypatch.setattr(hessian._batch.analysis.Analysis, "run", wrong)
    torch.manual_seed(0)
    h = hessian.diagonal(Rounded("detach").double(), F.cross_entropy, data(), verify=12)
    assert set(words(h).values()) == {"deviates"}


def test_a_hidden_parameter_is_named():
    """A copy of the weight that the tape does not lead to."""

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.a(x) + torch.from_numpy(self.b.weight.detach().numpy() @ x.numpy().T).T

    torch.manual_seed(0)
    h = hessian.diagonal(Hidden().double(), F.cross_entropy, data(), verify=9)
    assert words(h)["b.weight"] == "hidden"
    assert h.deviation["b.weight"] > 1e-3
    assert words(h)["b.bias"] == "agrees"  # of no influence in truth
    assert words(h)["a.weight"] == "agrees"


def test_the_row_of_a_padding_index_is_a_derivative_of_its_own():
    """The value depends on it, and autograd gives it no gradient by definition."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(3, 2, padding_idx=1), nn.Tanh(), nn.Linear(2, 3)).double()
    nn.init.normal_(model[0].weight)
    pair = torch.tensor([0, 1, 2, 1, 0]), torch.tensor([0, 1, 2, 1, 0])
    h = hessian.diagonal(model, F.cross_entropy, pair, verify=15)
    found = {v.index: v.word for v in h.verification if v.name == "0.weight"}
    assert found == {i: "own derivative" if i in (2, 3) else "agrees" for i in range(6)}
    assert max(h.deviation.values()) < 1e-12
