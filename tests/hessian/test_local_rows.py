"""Rows of images that reach a window each: exact, by oracles that know no windows."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._loss.local_rows import LocalRows, joined, localised
from hessian._loss.rows import JacobianRows
from hessian._routes._chain import chain
from hessian._routes._chain.steps import linear
from hessian._site import local
from hessian.testing import assert_exact

from . import oracle


class Blocks(nn.Module):
    """Sums of branches whose windows differ, and a norm in evaluation mode."""

    def __init__(self, act):
        super().__init__()
        self.stem, self.wide = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.far = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.head, self.act = nn.Conv2d(4, 2, 1), act()

    def forward(self, x):
        x = self.act(self.stem(x))
        x = x + self.act(self.norm(self.wide(x)))
        return self.head(self.act(x - 0.5 * self.far(x)))


class UNet(nn.Module):
    """Down and up again, the upper image beside the lower one's."""

    def __init__(self, act):
        super().__init__()
        self.top, self.down = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, 2, 1)
        self.up, self.out, self.act = (
            nn.ConvTranspose2d(4, 3, 2, 2),
            nn.Conv2d(6, 2, 3, 1, 1),
            act(),
        )

    def forward(self, x):
        top = self.act(self.top(x))
        return self.out(torch.cat([self.up(self.act(self.down(top))), top], 1))


def autoencoder(act):
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, 2, 1), act(), nn.Conv2d(3, 4, 3, 2, 1), act(),
        nn.ConvTranspose2d(4, 3, 4, 2, 1), act(), nn.ConvTranspose2d(3, 2, 4, 2, 1),
    )  # fmt: skip


def through_a_waist(act):
    """Local above a narrow vector, whole below it."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, 2, 1), act(), nn.Flatten(), nn.Linear(72, 4), act(), nn.Linear(4, 72),
        act(), nn.Unflatten(1, (3, 4, 6)), nn.ConvTranspose2d(3, 2, 4, 2, 1),
    )  # fmt: skip


def odd(act):
    """Strides, dilations, groups and paddings that do not fit."""
    return nn.Sequential(
        nn.Conv2d(2, 4, (3, 2), (2, 1), dilation=(1, 2)), act(),
        nn.ConvTranspose2d(4, 6, 3, 3, 1, 1, groups=2), act(),
        nn.Conv2d(6, 4, 3, groups=2, padding=2, dilation=2),
    )  # fmt: skip


def line(act):
    return nn.Sequential(
        nn.Conv1d(2, 4, 5, 2, 2), act(), nn.ConvTranspose1d(4, 3, 4, 2, 1), act(),
        nn.Conv1d(3, 2, 3, dilation=2),
    )  # fmt: skip


def volume(act):
    return nn.Sequential(
        nn.Conv3d(2, 3, (1, 3, 2)), act(), nn.ConvTranspose3d(3, 2, 2, 2), act(), nn.Conv3d(2, 1, 1)
    )


IMAGES = {
    "blocks": (Blocks, (2, 8, 12)),
    "u-net": (UNet, (2, 8, 12)),
    "autoencoder": (autoencoder, (2, 8, 12)),
    "through a waist": (through_a_waist, (2, 8, 12)),
    "odd": (odd, (2, 8, 12)),
    "line": (line, (2, 20)),
    "volume": (volume, (2, 3, 5, 4)),
}
LOSSES = {
    "squared": F.mse_loss,
    "huber": F.smooth_l1_loss,
    "logits": lambda z, y: F.binary_cross_entropy_with_logits(z, (y > 0).to(z)),
}


@pytest.fixture
def everywhere(monkeypatch):
    """Local rows wherever they can be, and a count of how often they were scaled."""
    monkeypatch.setattr(linear, "LOCAL", 4.0)
    monkeypatch.setattr(chain, "WHOLE", 4.0)
    count, scaled = [0], LocalRows.scaled

    def counted(self, factor):
        count[0] += isinstance(self.values, torch.Tensor)
        return scaled(self, factor)

    monkeypatch.setattr(LocalRows, "scaled", counted)
    return count


def problem(name, act, n=3):
    make, dims = IMAGES[name]
    torch.manual_seed(0)
    model = make(act).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    x = torch.randn(n, *dims, dtype=torch.float64)
    return model, (x, torch.randn_like(model(x)))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("act", [nn.GELU, nn.ReLU])
@pytest.mark.parametrize("name", IMAGES)
def test_as_single_second_derivatives(name, act, loss, everywhere):
    model, data = problem(name, act)
    got = hessian.diagonal(model, LOSSES[loss], data, method="chain")
    want = oracle.diagonal(model, LOSSES[loss], [data])
    top = max(float(h.abs().max()) for h in want.values())
    for parameter, h in want.items():
        scale = max(float(h.abs().max()), 1e-6 * top)
        # Sums of some thousand terms in double precision.
        assert float((got[parameter] - h).abs().max()) <= 1e-12 * scale
    assert everywhere[0]


@pytest.mark.parametrize("squares", [True, False])
@pytest.mark.parametrize("name", ["autoencoder", "blocks", "line", "odd", "u-net"])
def test_squares_and_pairs_are_the_same(name, squares, everywhere, monkeypatch):
    monkeypatch.setattr(local, "_work", lambda rows, inner: (0.0, 1.0)[:: 1 if squares else -1])
    monkeypatch.setattr(local, "TILE", 64)  # many portions
    model, data = problem(name, nn.Tanh)
    got = hessian.diagonal(model, F.mse_loss, data, method="chain")
    want = oracle.diagonal(model, F.mse_loss, [data])
    for parameter, h in want.items():
        assert float((got[parameter] - h).abs().max()) <= 1e-12 * float(h.abs().max())


@pytest.mark.parametrize("name", ["autoencoder", "blocks"])
def test_by_values(name, everywhere):
    model, data = problem(name, nn.Tanh)
    assert_exact(model, F.mse_loss, data)


def test_one_sample_and_parts(everywhere):
    model, (x, y) = problem("autoencoder", nn.GELU)
    whole = hessian.diagonal(model, F.mse_loss, (x, y), method="chain")
    parts = hessian.diagonal(model, F.mse_loss, (x, y), memory=2**18)
    single = hessian.diagonal(model, F.mse_loss, [(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    for name, h in whole.items():
        for other in (parts[name], single[name]):
            assert torch.allclose(other, h, rtol=1e-10, atol=1e-12)


def image_rows(values=None, starts=(-1, 1), extent=3, size=4):
    """Rows of two units at two places of a line, in windows that reach beyond it."""
    from hessian._loss.local_rows import Axis

    axis = Axis(starts, extent, size)
    if values is None:
        values = torch.arange(1.0, 2 * 2 * extent * 1 + 1).view(1, 2, 2, extent, 1)
    return LocalRows(2, 1, (axis,), values, clean=False)


def test_windows_are_cut_at_the_border():
    rows = image_rows()
    want = torch.tensor(
        [[2.0, 3.0, 0, 0], [0, 7, 8, 9], [5, 6, 0, 0], [0, 10, 11, 12]]
    )  # by unit, then by place
    assert torch.equal(rows.dense(rows.values, 1)[0], want)
    assert torch.equal(rows.cleaned().dense(rows.values, 1)[0], want)
    factor = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    assert torch.equal(rows.scaled(factor).dense(rows.values, 1)[0], want * factor)


def test_sums_take_the_union_of_windows():
    first, second = (
        image_rows(),
        image_rows(starts=(1, 0), extent=2, values=torch.ones(1, 2, 2, 2, 1)),
    )
    total = first.plus(second)
    want = first.dense(first.values, 1) + second.dense(second.values, 1)
    assert torch.equal(total.dense(total.values, 1), want)
    identity = JacobianRows(4, 4, None, torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    like = torch.zeros(())
    near = localised(JacobianRows(4, 4), (1, 4), like)
    for a, b in ((near, identity), (identity, near)):
        summed = joined(a, b, like, 1)
        assert isinstance(summed, LocalRows)
        assert torch.equal(summed.dense(like, 1)[0], torch.diag(torch.tensor([2.0, 3, 4, 5])))
    whole = JacobianRows(4, 4, torch.randn(1, 4, 4))
    summed = joined(near, whole, like, 1)
    assert torch.allclose(summed.dense(like, 1), torch.eye(4) + whole.base)


def test_images_as_targets_are_cheap():
    """3 x 32 x 32 outputs: a few hundred passes' work, where single entries take 28,134."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1),
    )  # fmt: skip
    x = torch.rand(2, 3, 32, 32)
    plan = hessian.plan(model, F.mse_loss, (x, x))
    assert {entry.method for entry in plan} == {"chain"}
    assert max(entry.backward for entry in plan) <= 400
    assert math.prod(x.shape[1:]) == 3072
