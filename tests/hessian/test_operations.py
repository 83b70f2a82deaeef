"""Every row of the table of operations: it is torch's, and what it says is so."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._tape.layouts import Layout, Mark, windowed
from hessian._tape.operations import OPERATIONS
from hessian.testing import assert_exact

from . import oracle

N, T, D = 3, 4, 4
INDEX = torch.tensor([0, 2, 2])
ROWS = torch.tensor([[0, 1], [3, 1]])
OF_SAMPLE, PICK = torch.tensor([2, 0, 3]), torch.arange(N * T) * 7 % D


def positive(x):
    return x.square() + 0.5


# Of ``[N, T, D]``, without mixing samples. `affine`: but for kinks.
AFFINE = {
    "flip": lambda x: x.flip(1),
    "flip two": lambda x: x.flip(1, -1),
    "roll": lambda x: x.roll(1, 2),
    "roll two": lambda x: x.roll((1, 2), (1, 2)),
    "rot90": lambda x: x.rot90(1, (1, 2)),
    "tril": torch.tril,
    "triu": lambda x: x.triu(1),
    "diagonal": lambda x: x.diagonal(1, 1, 2),
    "diagonal before": lambda x: x.permute(1, 2, 0).diagonal(0, 0, 1),
    "index": lambda x: x[:, INDEX],
    "index last": lambda x: x[..., INDEX],
    "index two": lambda x: x[:, INDEX, INDEX],
    "index apart": lambda x: x.transpose(0, 1)[INDEX, :, INDEX].transpose(0, 1),
    "index rows": lambda x: x[:, ROWS],
    "index by sample": lambda x: x[range(N), OF_SAMPLE],
    "index by sample from behind": lambda x: x[torch.arange(-N, 0), :, OF_SAMPLE],
    "index by sample and rows": lambda x: x[torch.arange(N)[:, None], ROWS.repeat(2, 1)[:N]],
    "index by sample, flat": lambda x: x.reshape(N * T, D)[torch.arange(N * T), PICK].view(N, T),
    "index by sample, others apart": lambda x: x.transpose(0, 1)[:, torch.arange(N), OF_SAMPLE].T,
    "kthvalue": lambda x: x.kthvalue(2, 1)[0],
    "kthvalue kept": lambda x: x.kthvalue(2, 2, keepdim=True)[0],
    "median": lambda x: x.median(1)[0],
    "unfold": lambda x: x.unfold(2, 2, 1),
    "cummax": lambda x: x.cummax(1)[0],
    "cummin": lambda x: x.cummin(2)[0],
    "index add": lambda x: x.index_add(1, torch.tensor([1]), x[:, :1]),
    "index fill": lambda x: x.index_fill(1, torch.tensor([1]), 0.5),
    "scatter": lambda x: x.scatter(1, torch.zeros(N, 1, D, dtype=torch.long), 0.25),
    "scatter values": lambda x: x.scatter(1, torch.zeros(N, 1, D, dtype=torch.long), x[:, 1:2]),
    "scatter add": lambda x: x.scatter_add(1, torch.ones(N, 1, D, dtype=torch.long), x[:, :1]),
    "frac": torch.frac,
    "nan to num": torch.nan_to_num,
}
CURVED = {
    "prod": lambda x: x.prod(1),
    "cumprod": lambda x: x.cumprod(1),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "erfc": torch.erfc,
    "erfinv": lambda x: torch.erfinv(0.9 * x),
    "sinc": torch.sinc,
    "asinh": torch.asinh,
    "acosh": lambda x: torch.acosh(1 + positive(x)),
    "atanh": lambda x: torch.atanh(0.9 * x),
    "logit": lambda x: torch.logit(0.4 * x + 0.5),
    "lgamma": lambda x: torch.lgamma(positive(x)),
}
# Curved in two inputs of data: right, by whatever route.
JOINT = {
    "hypot": lambda x: torch.hypot(x, 1 + x.flip(1)),
    "atan2": lambda x: torch.atan2(x, 2 + x.flip(1)),
    "logaddexp": lambda x: torch.logaddexp(x, x.flip(2)),
    "xlogy": lambda x: torch.xlogy(x, positive(x)),
}
# These mix samples; no one may take them apart.
MIXING = {
    "flip": lambda x: x + 0.3 * x.flip(0),
    "roll": lambda x: x + 0.3 * x.roll(1, 0),
    "roll all": lambda x: x + 0.3 * x.roll(1),
    "rot90": lambda x: x[:, :N].rot90(1, (0, 1)),
    "index": lambda x: x + 0.3 * x[torch.tensor([1, 2, 0])],
    "index apart": lambda x: x + x[torch.tensor([1, 2, 0]), :, INDEX].unsqueeze(2),
    "index by another sample": lambda x: x + x[torch.tensor([0, 2, 1]), :, OF_SAMPLE][:, :, None],
    "index by sample, one twice": lambda x: x + x[torch.tensor([0, 1, 1]), OF_SAMPLE][:, None],
    "index flat, shifted": lambda x: (
        x.reshape(N * T, D)[(torch.arange(N * T) + 1) % (N * T), PICK].view(N, T, 1).expand(N, T, D)
    ),
    "mask": lambda x: x[torch.ones(N, T, dtype=torch.bool)].view(N, T, D).roll(1, 0) + x,
    "diagonal": lambda x: x[:, :N].diagonal(0, 0, 1).T.unsqueeze(1) + x,
    "unfold": lambda x: x.unfold(0, N, 1).expand(N, T, D, N).flatten(2)[..., :D] + x,
    "unfold positions": lambda x: x.reshape(N * T, D).unfold(0, 7, 1).reshape(N, 2, D * 7),
    "unfold samples": lambda x: x.permute(1, 2, 0).unfold(2, N, 1).permute(3, 0, 1, 2),
    "kthvalue": lambda x: x + x.kthvalue(2, 0, keepdim=True)[0],
    "cummax": lambda x: x.cummax(0)[0],
    "cumprod": lambda x: x.cumprod(0),
    "index add": lambda x: x.index_add(0, torch.tensor([1]), x[:1]),
    "scatter add": lambda x: x.scatter_add(0, torch.ones(1, T, D, dtype=torch.long), x[:1]),
}


class Net(nn.Module):
    """A layer, the operation, a layer; curved around it or nowhere."""

    def __init__(self, operation, bend):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.operation, self.bend = nn.Linear(3, D), operation, bend
        with torch.no_grad():
            width = operation(torch.rand(N, T, D)).reshape(N, -1).shape[1]
        self.last = nn.Linear(width, 3)
        self.double()

    def forward(self, x):
        z = self.operation(self.bend(self.first(x)))
        return self.last(self.bend(z.reshape(len(x), -1)))


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N, T, 3, generator=generator).double(), torch.arange(N)


def exact(model):
    """The diagonal, held to a double backward and to values of the loss."""
    x, y = data()
    h = hessian.diagonal(model, F.cross_entropy, (x, y))
    oracle.assert_exact(h, oracle.diagonal(model, F.cross_entropy, [(x, y)]))
    assert_exact(model, F.cross_entropy, (x, y), entries=4)
    return h


@pytest.mark.parametrize("name", AFFINE)
def test_what_is_affine_takes_the_affine_route(name):
    h = exact(Net(AFFINE[name], F.relu))
    assert {entry.method for entry in h.plan} == {"affine"}


@pytest.mark.parametrize("name", [*AFFINE, *CURVED])
def test_samples_stay_apart_and_the_chain_passes(name):
    model = Net((AFFINE | CURVED)[name], torch.tanh)
    h = exact(model)
    x, y = data()
    chain = hessian.diagonal(model, F.cross_entropy, (x, y), method="chain")
    assert {entry.method for entry in chain.plan} == {"chain"}
    oracle.assert_exact(chain, dict(h))


@pytest.mark.parametrize("name", JOINT)
def test_what_is_curved_in_two_values(name):
    exact(Net(JOINT[name], torch.tanh))


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("bend", [F.relu, torch.tanh])
def test_what_mixes_samples_is_never_taken_apart(name, bend):
    model = Net(MIXING[name], bend)
    h = exact(model)
    assert h.plan["first.weight"].method not in ("chain", "preactivation")
    x, y = data()
    with pytest.raises(ValueError, match="not proved"):
        hessian.plan(model, F.cross_entropy, (x, y), method="chain", names=["first.weight"])


# Of ``[N, D]`` with weights v ``[D]`` and w ``[2, D, 3]``: samples on either side of a product.
PRODUCTS = {
    "mv": lambda z, v, w: torch.mv(z, v).unsqueeze(1),
    "addmv": lambda z, v, w: torch.addmv(z[:, 0], z, v, alpha=0.5).unsqueeze(1),
    "addr rows": lambda z, v, w: torch.addr(z, z[:, 0], v),
    "addr columns": lambda z, v, w: torch.addr(z.T, v, z[:, 0]).T,
    "addbmm rows": lambda z, v, w: torch.addbmm(z[:, :3], torch.stack([z, 2 * z]), w),
    "addbmm columns": lambda z, v, w: torch.addbmm(z[:, :3].T, w.mT, torch.stack([z.T, 2 * z.T])).T,
    "trilinear": lambda z, v, w: F.bilinear(z, z.detach().cos()[:, :3], w.repeat(1, 1, 1)),
}


class Vectors(nn.Module):
    """A layer, the product with weights of its own, a layer."""

    def __init__(self, operation):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.operation = nn.Linear(3, D), operation
        self.v, self.w = nn.Parameter(torch.randn(D)), nn.Parameter(torch.randn(2, D, 3))
        with torch.no_grad():
            width = operation(torch.rand(N, D), self.v, self.w).shape[1]
        self.last = nn.Linear(width, 3)
        self.double()

    def forward(self, x):
        z = torch.tanh(self.first(x[:, 0]))
        return self.last(torch.tanh(self.operation(z, self.v, self.w)))


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_keep_samples_apart(name):
    h = exact(Vectors(PRODUCTS[name]))
    assert h.plan["first.weight"].method in ("chain", "preactivation")
    x, y = data()
    parts = hessian.diagonal(Vectors(PRODUCTS[name]), F.cross_entropy, (x, y), memory=1)
    assert (parts.plan.held, parts.plan.parts) == ("", N)  # apart above every weight
    oracle.assert_exact(parts, dict(h))


def test_windows_along_the_samples_or_of_them():
    """Neither the axis that is cut into windows nor that of their entries holds samples."""
    node = torch.rand(6, 4, requires_grad=True).unfold(0, 3, 1).grad_fn
    labels = [windowed(node, Layout(axis), (4, 4, 3), [(6, 4)], 4)[0] for axis in range(3)]
    assert labels == [Mark.CONFLICT, Layout(1), Mark.CONFLICT]


def test_a_single_sample_and_a_mean_over_positions():
    """The mean is over the axis on which the sample would lie if positions were samples."""

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(3, D).double(), nn.Linear(D, 3).double()

        def forward(self, x):
            rows = torch.tanh(torch.tanh(self.a(x)).reshape(-1, D))
            return self.b(torch.tanh(rows.mean(0, keepdim=True)))

    x, _ = data()
    model, pair = Pooled(), (x[:1], torch.tensor([1]))
    h = hessian.diagonal(model, F.cross_entropy, pair)
    oracle.assert_exact(h, oracle.diagonal(model, F.cross_entropy, [pair]))


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_row_is_an_operation_of_torch(name):
    assert any(hasattr(torch._C._functions, f"{name}Backward{k}") for k in range(5))
