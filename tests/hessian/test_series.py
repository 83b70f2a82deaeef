"""Functions whose derivatives torch gives as 0/0 or with few digits, by values and by series."""

import math

import mpmath
import pytest
import torch
from torch import nn

import hessian
import hessian.functional

# Torch's word on index_reduce.
pytestmark = pytest.mark.filterwarnings("ignore:index_reduce.. is in beta:UserWarning")
REDUCTIONS = ("amax", "amin")


class Exponential(nn.Module):
    """The entries of the exponential of one matrix."""

    def __init__(self, matrix, function):
        super().__init__()
        self.matrix, self.function = nn.Parameter(matrix), function

    def forward(self, x):
        return x.reshape(-1, 1, 1) * self.function(self.matrix)


def matrix(size, largest=1.0):
    draw = torch.Generator().manual_seed(size)
    return largest * torch.randn(size, size, dtype=torch.float64, generator=draw)


def second_derivatives(entries, scale):
    """Of scale Σ c y² over the entries y of exp(A), c = 1, 2, …: by mpmath's exponential."""
    n = len(entries)

    def value(i, j, step):
        moved = mpmath.matrix(entries.tolist())
        moved[i, j] += step
        y = mpmath.expm(moved, method="taylor")
        return scale * sum((1 + n * a + b) * y[a, b] ** 2 for a in range(n) for b in range(n))

    with mpmath.workdps(60):
        step = mpmath.mpf(10) ** -18  # an error of 1e-36, and as much of the rounding
        return torch.tensor(
            [
                [
                    float((value(i, j, step) - 2 * value(i, j, 0) + value(i, j, -step)) / step**2)
                    for j in range(n)
                ]
                for i in range(n)
            ],
            dtype=torch.float64,
        )


FUNCTIONS = {
    "function": torch.matrix_exp,
    "linalg": torch.linalg.matrix_exp,
    "method": lambda a: a.matrix_exp(),
    "operator": torch.ops.aten.linalg_matrix_exp,
}


@pytest.mark.parametrize("scale", [1.0, 1e6])
@pytest.mark.parametrize("largest", [0.01, 1.0, 6.0])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_the_exponential_of_a_matrix_at_any_size_of_the_loss(scale, largest, dtype, close):
    """Torch's own second derivative is off by 0.4 in float32 where the loss is a million.

    In float32 the entries' own rounding, 6e-8, comes back some hundred times: e^6 is at stake.
    """
    entries = matrix(3, largest).to(dtype)
    model = Exponential(entries, torch.matrix_exp)
    weights = torch.arange(1, 10, dtype=dtype).reshape(3, 3)
    data = torch.ones(1, 1, dtype=dtype), torch.zeros(1, dtype=dtype)
    h = hessian.diagonal(model, lambda y, t: scale * (weights * y.square()).sum() + t.sum(), data)
    want = second_derivatives(entries.double(), scale)
    gap = (h["matrix"].double() - want).abs().max() / want.abs().max()
    assert gap < close, (gap, h["matrix"], want)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_name_of_it(name):
    model = Exponential(matrix(2), FUNCTIONS[name])
    data = torch.ones(1, 1).double(), torch.zeros(1).double()
    h = hessian.diagonal(model, lambda y, t: 1e9 * y.square().sum() + t.sum(), data)
    model.function = torch.matrix_exp
    want = hessian.diagonal(model, lambda y, t: 1e9 * y.square().sum() + t.sum(), data)
    assert torch.allclose(h["matrix"], want["matrix"], rtol=1e-12)


def test_inside_vmap_it_is_as_torch_has_it():
    """Where no number is known, of which the squarings are counted."""

    def together(p):
        return torch.vmap(torch.matrix_exp)(p["a"]).square().sum()

    def alone(p):
        return torch.matrix_exp(p["a"]).square().sum()

    batch = torch.stack([matrix(2), matrix(2, 3.0)])
    h = hessian.functional.diagonal(together)({"a": batch})["a"]
    for k, each in enumerate(batch):
        want = hessian.functional.diagonal(alone)({"a": each.clone()})["a"]
        assert torch.allclose(h[k], want, rtol=1e-9)


class Aggregation(nn.Module):
    """Largest or smallest messages to three nodes, of which one gets none."""

    def __init__(self, reduce, way):
        super().__init__()
        self.messages = nn.Parameter(torch.tensor([[0.0, 0.7], [-0.4, 0.2], [0.3, -0.9]]).double())
        self.nodes = nn.Parameter(torch.tensor([[0.0, 0.7], [1.0, 2.0], [0.1, 0.2]]).double())
        self.reduce, self.way = reduce, way

    def forward(self, x):
        index, nodes, messages = torch.tensor([0, 2, 2]), self.nodes * 1.0, self.messages * 1.0
        options = {"reduce": self.reduce, "include_self": False}
        if "scatter" in self.way:
            index = index.unsqueeze(1).expand(3, 2)
        result = getattr(nodes, self.way)(0, index, messages, **options)
        return x.sum() * result


@pytest.mark.parametrize(
    "way", ["scatter_reduce", "scatter_reduce_", "index_reduce", "index_reduce_"]
)
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_what_was_there_before_is_none_of_equals(reduce, way):
    """The first node holds its message's values already; torch halves the message's gradient."""
    model = Aggregation(reduce, way)
    data = torch.ones(1, 1).double(), torch.zeros(1).double()
    h = hessian.diagonal(model, lambda y, t: y.pow(4).sum() + y.exp().sum() + t.sum(), data)
    curvature = lambda y: 12 * y**2 + math.exp(y)  # noqa: E731
    m = model.messages.detach()
    chosen = torch.zeros(3, 2).double()
    for column in range(2):
        chosen[0, column] = curvature(m[0, column].item())
        one = (m[1:, column].argmax() if reduce == "amax" else m[1:, column].argmin()) + 1
        chosen[one, column] = curvature(m[one, column].item())
    assert torch.allclose(h["messages"], chosen, rtol=1e-12)
    nodes = torch.zeros(3, 2).double()
    nodes[1] = torch.tensor([curvature(v) for v in (1.0, 2.0)], dtype=torch.float64)
    assert torch.allclose(h["nodes"], nodes, rtol=1e-12)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_operators_of_it(reduce):
    index = torch.tensor([0, 2, 2])
    data = torch.ones(1, 1).double(), torch.zeros(1).double()
    loss = lambda y, t: y.pow(4).sum() + t.sum()  # noqa: E731
    want = hessian.diagonal(Aggregation(reduce, "scatter_reduce"), loss, data)
    model = Aggregation(reduce, "")
    wide = index.unsqueeze(1).expand(3, 2)
    model.forward = lambda x: torch.ops.aten.scatter_reduce(
        model.nodes * 1.0, 0, wide, model.messages * 1.0, reduce, include_self=False
    )
    assert torch.allclose(hessian.diagonal(model, loss, data)["messages"], want["messages"])
    model.forward = lambda x: torch.ops.aten.index_reduce(
        model.nodes * 1.0, 0, index, model.messages * 1.0, reduce, include_self=False
    )
    assert torch.allclose(hessian.diagonal(model, loss, data)["messages"], want["messages"])
