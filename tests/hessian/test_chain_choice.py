"""What the chain is chosen for: many outputs, few passes; and what is left to columns."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
import sim
from hessian._batch import chain_choice as _chain_choice

from . import oracle


def two_layers(act, classes):
    return nn.Sequential(nn.Linear(20, 32), act(), nn.Linear(32, classes))


def manual(output, target):
    return (output.logsumexp(1) - output.gather(1, target[:, None])[:, 0]).mean()


def squared(output, target):
    return F.mse_loss(output, F.one_hot(target, output.shape[1]).to(output.dtype))


def tempered(output, target):
    return F.cross_entropy(output / 0.7, target)


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("classes", [800, 3000])
@pytest.mark.parametrize("loss", [F.cross_entropy, squared])
def test_many_classes_take_few_passes(act, classes, loss):
    torch.manual_seed(0)
    x, y = torch.randn(4, 20), torch.randint(classes, (4,))
    plan = hessian.plan(two_layers(act, classes), loss, (x, y))
    assert plan.backward < 20
    assert set(plan.methods().values()) == {"chain"}


class Skip(nn.Module):
    """A smooth branch and a piecewise linear one."""

    def __init__(self, classes):
        super().__init__()
        self.a, self.b = nn.Linear(6, 7), nn.Linear(6, 7)
        self.o = nn.Linear(7, classes)

    def forward(self, x):
        return self.o(torch.tanh(self.a(x)) + torch.relu(self.b(x)))


class Pixels(nn.Module):
    """Convolutions, pooling and many outputs."""

    def __init__(self, classes):
        super().__init__()
        self.c, self.o = nn.Conv2d(1, 2, 2), nn.Linear(8, classes)

    def forward(self, x):
        h = F.max_pool2d(torch.relu(self.c(x.view(-1, 1, 2, 3))), (1, 2))
        return self.o(h.repeat(1, 2, 2, 1).flatten(1))


@pytest.mark.parametrize("loss", [F.cross_entropy, manual, squared, tempered])
@pytest.mark.parametrize("make", [
    lambda c: nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, c)), Skip, Pixels,
    lambda c: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(),
                            nn.Linear(4, c))])  # fmt: skip
def test_exact_whatever_is_chosen(loss, make, monkeypatch):
    torch.manual_seed(0)
    model = make(24).double()
    x, y = torch.randn(3, 6, dtype=torch.float64), torch.randint(24, (3,))
    want = oracle.diagonal(model, loss, [(x, y)])
    seen = set()
    for margin in (0, 1, 1000):
        monkeypatch.setattr(_chain_choice, "MARGIN", margin)
        got = hessian.diagonal(model, loss, (x, y))
        oracle.assert_exact(got, want)
        seen |= set(got.plan.methods().values())
        parts = hessian.diagonal(model, loss, (x, y), memory=2**14)
        oracle.assert_exact(parts, want)
    assert "chain" in seen


@pytest.mark.parametrize("classes", [10, 100])
def test_columns_where_these_are_cheaper(classes):
    """A deep network of convolutions: the chain would carry as many rows, without threads."""
    torch.manual_seed(0)
    model = sim.models.build("alexnet", width=0.125, classes=classes, seed=0).eval()
    x, y = torch.randn(2, 3, 32, 32), torch.randint(classes, (2,))
    plan = hessian.plan(model, F.cross_entropy, (x, y))
    assert set(plan.methods().values()) == {"affine"}
    assert plan.backward == classes


def test_a_wide_output_without_a_short_form_fits_or_is_left():
    """Past the largest block the form is written out where memory allows."""
    torch.manual_seed(0)
    model = two_layers(nn.ReLU, 2100)
    x, y = torch.randn(2, 20), torch.randint(2100, (2,))

    def collisions(output, target):
        return output.softmax(1).square().sum(1).mean()

    plan = hessian.plan(model, collisions, (x, y), memory=2**20)
    assert set(plan.methods().values()) == {"parameter"}
    assert "more than 2048" in plan["0.weight"].reason
