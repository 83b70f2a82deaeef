"""Squares of pulled-back columns: each form against a sum written out, and what chooses one."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._routes import sweep as _sweep
from hessian._runtime import matrix_products as _product
from hessian._site import contraction as _contraction
from hessian._site.contraction import Contraction
from hessian._site.locate import sites
from hessian._tape.graph import Tape
from hessian._tape.layouts import Layout

from . import oracle
from .networks import build

N, RANK = 3, 4
MAPS = {
    "conv": (lambda: nn.Conv2d(2, 4, 3, padding=1), (2, 4, 4)),
    "conv-stride": (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1), (2, 5, 6)),
    "conv-dilated": (lambda: nn.Conv2d(2, 4, (2, 3), dilation=2, padding=(0, 2)), (2, 6, 4)),
    "conv-grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 3, 4)),
    "conv-depthwise": (lambda: nn.Conv1d(3, 6, 3, groups=3, padding=1), (3, 5)),
    "conv-3d": (lambda: nn.Conv3d(2, 2, 2, padding=1), (2, 2, 3, 2)),
    "sequence": (lambda: nn.Linear(3, 4), (5, 3)),
}


def written_out(module, x, columns, weights):
    """Σ_n Σ_c λ (d(columns·module(x))/dw)², one backward pass per sample and column."""
    parameters = list(module.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    for n in range(len(x)):
        out = module(x[n : n + 1])
        for c in range(columns.shape[1]):
            got = torch.autograd.grad(out, parameters, columns[n : n + 1, c], retain_graph=True)
            for into, g in zip(total, got, strict=True):
                into += weights[n, c] * g.square()
    return dict(zip(dict(module.named_parameters()), total, strict=True))


def contracted(module, x, columns, weights, memory=2**20, parts=(slice(0, 2), slice(2, N))):
    """The same by `Contraction`, samples in two parts, columns in two portions."""
    tape = Tape.of([out := module(x)])
    lay = Layout(0, 1, out.shape[0] // N if out.dim() > 2 else 1)
    labels = {(node, 0): lay for node in tape.order}
    found = {}
    for name, p in module.named_parameters():
        into = torch.zeros_like(p, requires_grad=False)
        (site,) = sites(tape, labels, tape.leaves()[id(p)], N)
        contraction = Contraction(site, into, RANK, memory)
        with torch.no_grad():
            for part in parts:
                for some in (slice(0, 3), slice(3, RANK)):
                    rows = columns[part, some].unsqueeze(2)
                    contraction.add(rows, weights[part, some], part)
            contraction.finish()
        found[name] = into
    return found


def drawn(kind):
    make, dims = MAPS[kind]
    torch.manual_seed(0)
    module = make().double()
    x = torch.randn(N, *dims, dtype=torch.float64)
    if kind == "sequence":  # a product of matrices on the tape: samples by positions
        columns = torch.randn(N, RANK, 5, 4, dtype=torch.float64)
    else:
        columns = torch.randn(N, RANK, *module(x).shape[1:], dtype=torch.float64)
    return module, x, columns


WEIGHTS = {
    "positive": torch.ones(N, RANK, dtype=torch.float64),
    "mixed": torch.tensor([[1, -2, 0, 3], [-1, 1, 0.5, 0], [0, -1, 2, -1]], dtype=torch.float64),
}


# Whether pairs are taken, and the sizes that lead there.
FORMS = {
    "pairs, column by column": (True, {"FEW": 0}),
    "pairs, by small products": (True, {"SUMMED": 0}),
    "squares": (False, {"SMALL": 0}),
    "tiles": (False, {"SMALL": 0, "TILE": 1, "FEW": 0}),  # one column of the input at a time
    "batched": (False, {}),
}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", sorted(set(MAPS) - {"sequence"}))
def test_every_form_gives_the_sum_written_out(kind, form, weights, monkeypatch):
    pairs, sizes = FORMS[form]
    monkeypatch.setattr(_contraction, "_pairs_pay", lambda *_: pairs)
    for name, value in sizes.items():
        monkeypatch.setattr(_contraction, name, value)
    module, x, columns = drawn(kind)
    got = contracted(module, x, columns, WEIGHTS[weights])
    oracle.assert_exact(got, written_out(module, x, columns, WEIGHTS[weights]))
    again = contracted(module, x, columns, WEIGHTS[weights], memory=1)
    oracle.assert_exact(again, got)


def test_batched_squares_in_portions():
    torch.manual_seed(0)
    s = torch.randn(3, 4, 2, 3, 5, dtype=torch.float64)
    u = torch.randn(3, 2, 6, 5, dtype=torch.float64)
    want = torch.einsum("mcgop,mgkp->mcgok", s, u).square()
    want = torch.einsum("mcgok,mc->gok", want, WEIGHTS["mixed"])
    for room in (1, 80, 10**6):
        into = torch.zeros(2, 3, 6, dtype=torch.float64)
        _contraction.batched_squares(s, u, WEIGHTS["mixed"], into, room)
        torch.testing.assert_close(into, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("memory", [None, 4000])
@pytest.mark.parametrize("network", ["relu-cnn", "residual-bn-eval", "embedding"])
def test_networks_by_each_form(network, memory, pairs, monkeypatch):
    used = []

    def pay(at, inner, rank, speed):
        used.append(at.count > 1 and pairs)
        return used[-1]

    monkeypatch.setattr(_contraction, "_pairs_pay", pay)
    model, inputs = build(network)
    x, y = inputs(5, torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 0])
    got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=memory)
    oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))
    assert network == "embedding" or any(used) is pairs


# ------------------------------------------------------------------------ the sweep


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 1)])
@pytest.mark.parametrize("cache", [1, 3000, 2**25])
def test_any_parts_of_samples_and_columns_give_the_same(pool, cache, monkeypatch):
    monkeypatch.setattr(_sweep, "CACHE", cache)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), pool, nn.Conv2d(3, 4, 2), nn.LeakyReLU(),
        nn.AdaptiveAvgPool2d(2) if cache == 1 else nn.Identity(), nn.Flatten(), nn.LazyLinear(4),
    ).double()  # fmt: skip
    x, y = torch.randn(5, 2, 6, 6).double(), torch.arange(5) % 4
    model(x)
    got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=cache if cache > 1 else None)
    assert set(got.plan.methods().values()) == {"affine"}
    oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))


class Double(torch.autograd.Function):
    """A custom function: the sweep has no step for it, autograd's engine does."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


@pytest.mark.parametrize("memory", [None, 1])
def test_networks_without_known_steps_go_by_the_engine(memory, monkeypatch):
    """Samples are kept apart by a loss of few outputs; below the custom function all is a site."""
    torch.manual_seed(0)
    first = nn.Linear(3, 4).double()
    x, y = torch.randn(4, 3).double(), torch.tensor([0, 1, 2, 3])
    want = hessian.diagonal(nn.Sequential(first), F.cross_entropy, (x, y))
    monkeypatch.setattr(
        "hessian._routes._chain.chain.Chain.obstacle", lambda self, site: "not known"
    )
    got = hessian.diagonal(nn.Sequential(first), F.cross_entropy, (x, y), memory=memory)
    oracle.assert_exact(got, want)


def test_a_concave_loss_keeps_its_sign():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()
    x, y = torch.randn(3, 1, 3, 3).double(), torch.tensor([0, 1, 2])
    plain = hessian.diagonal(model, F.cross_entropy, (x, y))
    turned = hessian.diagonal(model, lambda z, t: -F.cross_entropy(z, t), (x, y))
    oracle.assert_exact({k: -h for k, h in turned.items()}, plain)


# --------------------------------------------------------------------- cost and products


def at_conv(positions, out):
    side = math.isqrt(positions)
    module = nn.Conv2d(2, out, 3, padding=1)
    out_ = module(torch.randn(1, 2, side, side))
    tape = Tape.of([out_])
    labels = {(node, 0): Layout(0) for node in tape.order}
    (site,) = sites(tape, labels, tape.leaves()[id(module.weight)], 1)
    return site.positions


def test_the_cost_rule_weighs_columns_against_positions_and_speeds():
    even = _product.Rates(product=1e11, small=1e10, square=1e10, move=5e9)
    few, many = at_conv(16, 64), at_conv(256, 64)
    pays = _contraction._pairs_pay
    assert pays(few, 64 * 9, 99, even)
    assert not pays(many, 64 * 9, 9, even)
    assert not pays(few, 64 * 9, 1, even)
    # What is measured decides: where values are squared slowly, pairs pay for fewer columns.
    at = at_conv(64, 64)
    slow = _product.Rates(product=1e11, small=1e10, square=2e8, move=5e9)
    assert not pays(at, 64 * 9, 9, even)
    assert pays(at, 64 * 9, 9, slow)


def test_uses_in_parallel_come_together_part_by_part(monkeypatch):
    monkeypatch.setattr(_sweep, "CACHE", 1)
    model, inputs = build("tied-in-parallel")
    x, y = inputs(5, torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 0])
    got = hessian.diagonal(model, F.cross_entropy, (x, y))
    oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))
