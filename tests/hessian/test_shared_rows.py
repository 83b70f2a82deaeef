"""Embeddings of positions and class tokens: looked up once, added to or joined to every sample."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hessian
from hessian.testing import assert_exact

from . import oracle

T, WIDTH, ROWS = 3, 4, 6


class Positions(nn.Module):
    """Tokens and their positions, summed in one of several ways, below a curved operation."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        padding = 1 if how == "padding" else None
        self.places = nn.Embedding(ROWS, WIDTH, padding_idx=padding)
        if padding is not None:
            nn.init.normal_(self.places.weight)
        self.tokens, self.head = nn.Embedding(7, WIDTH), nn.Linear(WIDTH, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = self.tokens(x)
        order = torch.tensor([2, 1, 2]) if self.how in ("repeated", "padding") else torch.arange(T)
        rows = self.places(order if self.how == "no batch axis" else order.unsqueeze(0))
        if self.how == "time first":
            y = (y.transpose(0, 1) + rows.transpose(0, 1)).transpose(0, 1)
        elif self.how == "lookup of time first":
            y = (y.transpose(0, 1) + self.places(order.unsqueeze(1))).transpose(0, 1)
        elif self.how == "minus":
            y = rows - y
        elif self.how == "subtracted":
            y = y - rows
        elif self.how == "twice":
            y = (y + rows) * torch.sigmoid(y.roll(1, -1) + rows)
        elif self.how == "scaled":
            y = torch.add(y, rows, alpha=3.0)
        elif self.how == "one row for all":
            y = y + self.places(torch.tensor([[4]]))
        else:
            y = y + rows
        y = torch.cat([self.cls.expand(len(x), -1, -1), y], 1)
        return self.head(torch.tanh(y).square().sum(1).sin())


def problem(how: str, n: int = 3):
    torch.manual_seed(0)
    model = Positions(how).double()
    return model, F.cross_entropy, (torch.randint(7, (n, T)), torch.arange(n) % 4)


# Those whose rows reach the sum by another operation, or with a factor, take a product an entry.
LOCATED = ["plain", "no batch axis", "repeated", "padding", "minus", "twice", "one row for all",
           "lookup of time first"]  # fmt: skip
OTHERS = ["time first", "subtracted", "scaled"]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("how", [*LOCATED, *OTHERS])
def test_exact(how, n):
    model, loss, data = problem(how, n)
    want = oracle.diagonal(model, loss, [data])
    oracle.assert_exact(hessian.diagonal(model, loss, data), want)


@pytest.mark.parametrize("how", LOCATED)
def test_rows_that_all_samples_share_are_a_site(how):
    """Of a table of 512 positions those that are never read would else take a product each."""
    model, loss, data = problem(how)
    methods = hessian.plan(model, loss, data, method="auto").methods()
    assert methods["cls"] in ("chain", "preactivation")
    if how != "twice":  # used at two sites: no chain, no product of a site
        assert methods["places.weight"] in ("chain", "preactivation")


@pytest.mark.parametrize("method", ["chain", "preactivation"])
def test_exact_by_each_method(method):
    model, loss, data = problem("repeated")
    names = ["cls", "places.weight", "tokens.weight"]  # in the model's order
    want = oracle.diagonal(model, loss, [data])
    result = hessian.diagonal(model, loss, data, method=method, names=names)
    assert set(result.plan.methods().values()) == {method}
    oracle.assert_exact(result, {name: want[name] for name in names})


def test_by_the_columns_of_the_loss():
    """Without a curved operation above them, by the affine route."""
    model, loss, data = problem("repeated")

    def plain(module, x):
        y = module.tokens(x) + module.places(torch.tensor([[2, 1, 2]]))
        y = torch.cat([module.cls.expand(len(x), -1, -1), y], 1)
        return module.head(F.relu(y).sum(1))

    want = hessian.diagonal(model, loss, data, forward=plain, method="parameter")
    result = hessian.diagonal(model, loss, data, forward=plain, method="affine")
    assert result.plan["places.weight"].method == "affine"
    oracle.assert_exact(result, dict(want))


def test_against_values_of_the_loss():
    model, loss, data = problem("repeated")
    assert_exact(model, loss, data, entries=20)
