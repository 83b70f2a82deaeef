"""Small second derivatives beside large ones: nothing that is right is taken for rounding."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._loss import factor as _factor
from hessian._loss import softmax as _softmax
from hessian._loss.quadratic import Quadratic
from hessian._loss.rows import Cost, JacobianRows
from hessian._tape.layouts import Layout

from . import oracle

# Sums of some hundred float32 terms of one sign, and logits of size 10: each a few eps.
FLOAT = 2e-5


def relative(got, want, floor=1e-30):
    """The largest relative error of an entry above `floor`."""
    worst = 0.0
    for name, h in want.items():
        live = h.abs() > floor
        if bool(live.any()):
            gap = (got[name].double() - h).abs() / h.abs()
            worst = max(worst, float(gap[live].max()))
    return worst


def rebuilt(factor, n):
    """Σ λ S Sᵀ of a factor with one leaf ``[n, w]``, in float64."""
    columns, weights = factor.columns[0].double(), factor.weights.double()
    assert columns.shape[1] == n
    return torch.einsum("rn,rni,rnj->nij", weights, columns, columns)


def softmax_blocks(logits):
    """diag(p) - ppᵀ in float64, the diagonal from sums of the others."""
    p = logits.double().softmax(-1)
    full = -p.unsqueeze(-1) * p.unsqueeze(-2)
    others = p.unsqueeze(-2) * (1 - torch.eye(p.shape[-1], dtype=p.dtype))
    full.diagonal(dim1=-2, dim2=-1).copy_(p * others.sum(-1))
    return full


LOGITS = {
    "alike": torch.zeros(2, 6),
    "drawn": torch.randn(3, 7, generator=torch.Generator().manual_seed(0)),
    "one rules, first": torch.tensor([[25.0, 0.0, 1.0, 2.0]]),
    "one rules, last": torch.tensor([[0.0, 1.0, 2.0, 25.0]]),
    "two rule": torch.tensor([[1.0, 30.0, 2.0, 30.5, 0.0]]),
    "ever smaller": torch.tensor([[0.0, -20.0, -40.0, -60.0, -80.0]]),
    "ever larger": torch.tensor([[-80.0, -60.0, -40.0, -20.0, 0.0]]),
    "a class": torch.tensor([[3.0], [1.0]]),
}


@pytest.mark.parametrize("name", LOGITS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_softmax_keeps_the_relative_accuracy_of_every_entry(name, sign):
    logits = LOGITS[name]
    n, width = logits.shape
    form = Quadratic("softmax", torch.full((n, 1), -sign), logits.softmax(1))
    factor = _factor.factored(form, [logits], [Layout(0)])
    want = sign * softmax_blocks(logits)
    assert factor.rank <= width - 1
    gap = (rebuilt(factor, n) - want).abs()
    # Four roundings of float32, and those of p itself: below 20 eps. Off the diagonal terms of
    # either sign meet, none larger than its row's and column's diagonal allow.
    root = want.diagonal(dim1=1, dim2=2).abs().sqrt()
    assert float((gap - 20 * 6e-8 * root.unsqueeze(2) * root.unsqueeze(1)).max()) <= 1e-37
    for rows in (None, torch.randn(width, 4)):
        taken = JacobianRows(width, width if rows is None else 4, rows)
        base = torch.eye(width).double() if rows is None else rows.double()
        exact = torch.einsum("ia,nij,jb->nab", base, want, base)
        size = root @ base.abs()
        got = form.diagonal(taken, Cost()).double()
        gap = (got - exact.diagonal(dim1=1, dim2=2)).abs()
        assert float((gap - 2e-6 * size.square()).max()) <= 1e-37
        place = torch.arange(taken.d).view(1, -1)
        for got in (form.gram(taken, Cost()), form.blocks(taken, place, Cost())[:, 0]):
            gap = (got.double() - exact).abs() - 2e-6 * size.unsqueeze(2) * size.unsqueeze(1)
            assert float(gap.max()) <= 1e-37


def test_columns_of_several_positions_and_signs():
    """T(C-1) columns; a position without weight has none, and one of a negative sign is that."""
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, dtype=torch.float64)
    t = torch.tensor([[-1.0, 0.0, 2.0], [-0.5, 0.0, 0.0]], dtype=torch.float64)
    for spots, shares in (
        (torch.arange(3).repeat_interleave(4), logits.softmax(2).reshape(2, 12)),
        (torch.arange(3).repeat(4), logits.softmax(2).transpose(1, 2).reshape(2, 12)),
    ):
        form = Quadratic("softmax", t, shares, spots)
        got = _factor.factored(form, [logits.reshape(2, 12)], [Layout(0)])
        assert got.rank == 2 * 3
        assert _factor.factored(form, [shares], [Layout(0)], every=True).rank == 9
        # float64: sums of twelve terms of order one
        assert float((rebuilt(got, 2) - form.matrix()).abs().max()) < 1e-15


def test_probabilities_that_underflow():
    """Probabilities that are zero in float32 have no column; their neighbours keep theirs."""
    logits = torch.tensor([[0.0, -200.0, -3.0, -300.0, -50.0]])
    form = Quadratic("softmax", -torch.ones(1, 1), logits.softmax(1))
    got = rebuilt(_factor.factored(form, [logits], [Layout(0)]), 1)
    want = softmax_blocks(logits)
    assert bool(torch.isfinite(got).all())
    got, want = got.diagonal(dim1=1, dim2=2), want.diagonal(dim1=1, dim2=2)
    live = want.abs() > 1e-37
    assert float(((got - want).abs() / want.abs())[live].max()) < 20 * 6e-8
    assert float(got[~live].abs().max()) < 1e-37


def test_the_form_without_differences_is_exact():
    """LDLᵀ against diag(p) - ppᵀ in rationals: equal, not only close."""
    from fractions import Fraction

    p = [Fraction(k, 28) for k in (3, 1, 9, 0, 15)]
    found = [[Fraction(0)] * 5 for _ in p]
    for k in range(4):
        rest = sum(p[k + 1 :])
        weight = p[k] * rest / (p[k] + rest)
        row = [Fraction(0)] * k + [Fraction(1)] + [-p[j] / rest for j in range(k + 1, 5)]
        for i, j in itertools.product(range(5), repeat=2):
            found[i][j] += weight * row[i] * row[j]
    assert found == [[(p[i] if i == j else 0) - p[i] * p[j] for j in range(5)] for i in range(5)]
    values = torch.tensor([[float(f) for f in p]], dtype=torch.float64)
    later = _softmax.tails(values)
    rows, w = _softmax.columns(values, later, torch.float64), _softmax.weights(values, later)
    got = torch.einsum("nr,nri,nrj->ij", w, rows, rows)
    want = torch.tensor([[float(f) for f in row] for row in found], dtype=torch.float64)
    assert torch.allclose(got, want, rtol=1e-14, atol=0)


def classifier(act, classes=400, bias=10.0):
    model = nn.Sequential(nn.Linear(8, 12), act(), nn.Linear(12, classes))
    model[2].bias.data[:2] += bias
    return model


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("bias", [0.0, 10.0, 40.0])
def test_many_classes_in_float32(act, bias):
    """Also where two logits rule, or one does: per entry, in every layer."""
    torch.manual_seed(0)
    model = classifier(act, bias=bias)
    if bias == 40.0:
        model[2].bias.data[5] += 60.0
    x, y = torch.randn(6, 8), torch.randint(400, (6,))
    exact = copy.deepcopy(model).double()
    want = hessian.diagonal(exact, F.cross_entropy, (x.double(), y), method="chain")
    few = {name: h.reshape(-1)[:24] for name, h in want.items()}
    checked = hessian.sample(
        exact, F.cross_entropy, (x.double(), y), per_parameter=6,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    most = max(float(h.abs().max()) for h in want.values())
    for name, found in checked.items():
        # A float64 double backward of logits of size 100 that cancel.
        assert float((want[name].reshape(-1)[found.index] - found.value).abs().max()) < 1e-9 * most
    assert few
    for method in ("auto", "affine", "chain"):
        if method == "affine" and act is nn.Tanh:
            continue
        got = hessian.diagonal(model, F.cross_entropy, (x, y), method=method)
        names = [n for n in want if n.startswith("2.")]
        # Terms of one sign: relative to each entry. Hidden entries under tanh are sums of either.
        assert relative({n: got[n] for n in names}, {n: want[n] for n in names}) < FLOAT
        if act is nn.ReLU:
            assert relative(got, want, 1e-9 * most) < 10 * FLOAT
        for name, h in want.items():
            assert float((got[name] - h).abs().max()) < FLOAT * float(h.abs().max())


class Heads(nn.Module):
    """Two heads on a body, returned as a pair."""

    def __init__(self, act=nn.ReLU, out=(5, 4)):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 7), act())
        self.one, self.two = (nn.Linear(7, k) for k in out)
        self.own = nn.Linear(7, 7)
        self.act = act()

    def forward(self, x):
        h = self.body(x)
        return self.one(h), self.two(self.act(self.own(h)))


def weighted(first, second, small=1e-7):
    return lambda out, y: first(out[0], y[0]) + small * second(out[1], y[1])


def entropy(o, y):
    return F.cross_entropy(o, y.argmax(1))


def logistic(o, y):
    return F.binary_cross_entropy_with_logits(o, (y > 0).to(o.dtype))


def coupled(o, y):
    return (o - y).pow(2).mean().sqrt() + (o.mean(0) - y.mean(0)).pow(2).sum()


def cosine(o, y):
    return (1 - F.cosine_similarity(o, y, dim=1)).mean()


LOSSES = {"entropy": entropy, "mse": F.mse_loss, "logistic": logistic, "coupled": coupled,
          "cosine": cosine}  # fmt: skip


@pytest.mark.parametrize("first", ["entropy", "mse", "coupled"])
@pytest.mark.parametrize("second", LOSSES)
@pytest.mark.parametrize("small", [1e-7, 1e-12])
def test_a_head_of_small_weight(first, second, small):
    """Each head by its own measure, in float32: small beside another is not zero."""
    torch.manual_seed(0)
    for act in (nn.ReLU, nn.Tanh):
        model = Heads(act)
        x, y = torch.randn(5, 6), (torch.randn(5, 5), torch.randn(5, 4))
        loss = weighted(LOSSES[first], LOSSES[second], small)
        exact, pair = copy.deepcopy(model).double(), (y[0].double(), y[1].double())
        want = oracle.diagonal(exact, loss, [(x.double(), pair)])
        got = hessian.diagonal(model, loss, [(x, y)])
        for name, h in want.items():
            size = float(h.abs().max())
            assert size > 0
            # Sums of either sign in float32 under a square root or a cosine.
            assert float((got[name] - h).abs().max()) < 2e-4 * size, (name, act)


def test_a_small_head_in_the_estimates():
    torch.manual_seed(0)
    model = Heads()
    x, y = torch.randn(5, 6), (torch.randn(5, 5), torch.randn(5, 4))
    loss = weighted(entropy, entropy)
    exact, pair = copy.deepcopy(model).double(), (y[0].double(), y[1].double())
    want = oracle.diagonal(exact, loss, [(x.double(), pair)])
    got = hessian.estimate(model, loss, [(x, y)], "gauss-newton", probes=1)
    assert relative(got, want, 1e-14) < 1e-3  # affine: Gauss-Newton is exact
    for kind in ("becker-lecun", "preactivation"):
        values = hessian.estimate(model, loss, [(x, y)], kind, probes=1)
        for name in ("two.weight", "two.bias"):  # at the outputs all is known
            assert relative({name: values[name]}, {name: want[name]}, 1e-14) < 1e-3


def test_blocks_are_balanced():
    """A block of three sizes: every row by its own measure, indefinite ones and zeros included."""
    generator = torch.Generator().manual_seed(0)
    d = torch.tensor([1e3, 1e3, 1.0, 1.0, 1e-6, 1e-6, 0.0]).double()
    core = torch.randn(4, 7, 7, generator=generator, dtype=torch.float64)
    block = (core + core.transpose(1, 2)) * d.unsqueeze(1) * d
    block[1].diagonal().zero_()
    form = Quadratic("full", block.float())
    got = rebuilt(_factor.factored(form, [torch.zeros(4, 7)], [Layout(0)]), 4)
    # Columns are rounded to float32, and eigenvalues below 7 eps of balanced rows dropped.
    assert float((got - block).abs().sub(5e-6 * d.unsqueeze(1) * d).max()) <= 0


def test_a_diagonal_form_takes_one_product():
    """A sum of functions of one output each: no block, however many outputs there are."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2500)).double()
    x, y = torch.randn(2, 3).double(), torch.randn(2, 2500).double()
    for loss in (F.mse_loss, F.smooth_l1_loss, lambda o, t: (o - t).pow(4).sum(), logistic):
        got = hessian.diagonal(model, loss, (x, y))
        assert got.plan.backward < 100
        want = hessian.diagonal(
            model, loss, (x, y), method="parameter", names=["0.weight", "0.bias"]
        )
        oracle.assert_exact({k: got[k] for k in want}, want)


def test_an_output_without_entries():
    """A loss that reads it beside others: no columns, and no reshape that is ambiguous."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, x):
            return self.w.repeat(0)

    data = torch.zeros(1, 1), torch.zeros(1)
    h = hessian.diagonal(Net(), lambda o, t: o.square().sum() + t.sum(), data)
    assert float(h["w"]) == 0
