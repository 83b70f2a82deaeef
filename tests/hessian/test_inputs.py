"""Inputs as people have them: tuples, sparse and nested tensors, lazy modules."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian

from . import oracle

KINDS = ("hutchinson", "preactivation", "gauss-newton", "gauss-newton-mc", "empirical-fisher",
         "becker-lecun")  # fmt: skip


def _count(model):
    return sum(p.numel() for p in model.parameters() if not nn.parameter.is_lazy(p))


def every(model, loss, data):
    """All public functions on these arguments, by name."""
    return {
        "diagonal": lambda: hessian.diagonal(model, loss, data, verify=1),
        "parts": lambda: hessian.diagonal(model, loss, data, memory=1000),
        "plan": lambda: hessian.plan(model, loss, data),
        "sample": lambda: hessian.sample(model, loss, data, per_parameter=2),
        "coordinate_minimum": lambda: hessian.coordinate_minimum(model, loss, data, 1),
        "operator": lambda: hessian.operator(model, loss, data) @ np.ones(_count(model)),
        **{
            kind: lambda kind=kind: hessian.estimate(model, loss, data, kind, probes=1)
            for kind in KINDS
        },
    }


class Graph(nn.Module):
    def __init__(self, act=torch.relu):
        super().__init__()
        self.a, self.b, self.act = nn.Linear(5, 4), nn.Linear(4, 3), act

    def forward(self, x, edges):
        h = self.act(self.a(x))
        return self.b(h.index_add(0, edges[1], h[edges[0]]))


def graph():
    torch.manual_seed(0)
    x, y = torch.randn(6, 5, dtype=torch.float64), torch.randint(3, (6,))
    return Graph().double(), x, torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]]), y


@pytest.mark.parametrize("kind", [tuple, list])
@pytest.mark.parametrize("inputs", [tuple, list])
def test_several_inputs_beside_targets_are_one_pair(kind, inputs):
    model, x, edges, y = graph()
    want = oracle.diagonal(model, F.cross_entropy, [((x, edges), y)])
    data = kind([inputs([x, edges]), y])
    oracle.assert_exact(hessian.diagonal(model, F.cross_entropy, data), want)
    oracle.assert_exact(hessian.diagonal(model, F.cross_entropy, [data]), want)


def test_targets_that_are_a_mapping_or_nothing():
    model, x, edges, y = graph()
    want = oracle.diagonal(model, F.cross_entropy, [((x, edges), y)])
    got = hessian.diagonal(model, lambda o, t: F.cross_entropy(o, t["y"]), ((x, edges), {"y": y}))
    oracle.assert_exact(got, want)
    oracle.assert_exact(
        hessian.diagonal(model, lambda o, t: F.cross_entropy(o, y), ((x, edges), None)), want
    )


def test_two_pairs_stay_two_batches():
    model = nn.Sequential(nn.Linear(5, 3)).double()
    _, x, _, y = graph()
    pairs = ((x[:4], y[:4]), (x[4:], y[4:]))
    want = oracle.diagonal(model, F.cross_entropy, list(pairs))
    for data in (pairs, list(pairs), [list(p) for p in pairs]):
        oracle.assert_exact(hessian.diagonal(model, F.cross_entropy, data), want)


@pytest.mark.parametrize("targets", [lambda y: (y, y), lambda y: [y, y], lambda y: (y, y, y)])
def test_what_may_be_either_says_how_to_wrap_it(targets):
    model, x, edges, y = graph()

    def loss(output, target):
        return F.cross_entropy(output, target[0])

    for name, call in every(model, loss, ((x, edges), targets(y))).items():
        with pytest.raises((TypeError, ValueError), match=r"\[\(\(x1, x2\), targets\)\]"):
            call()
        assert name
    want = oracle.diagonal(model, F.cross_entropy, [((x, edges), y)])
    oracle.assert_exact(hessian.diagonal(model, loss, [((x, edges), targets(y))]), want)


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, torch.ones(5)), lambda x: {"x": x}])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_inputs_are_refused(layout, wrap):
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    x = torch.nested.nested_tensor([torch.randn(2, 5), torch.randn(3, 5)], layout=layout)
    data = [(wrap(x), torch.randint(3, (5,)))]
    for call in every(model, lambda o, t: F.cross_entropy(o.values(), t), data).values():
        with pytest.raises(NotImplementedError, match=r"nested tensor.*padded"):
            call()


class Product(nn.Module):
    """A sparse input times a weight, as bags of words are."""

    def __init__(self, act, multiply):
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(4, 3))
        self.act, self.multiply = act, multiply

    def forward(self, x):
        return self.act(self.multiply(x, self.w)) @ self.v


class Adjacent(Graph):
    def forward(self, x, adjacency):
        return self.b(adjacency @ self.act(adjacency @ self.a(x)))


@pytest.mark.parametrize("act", [torch.relu, torch.tanh])
@pytest.mark.parametrize("to", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_sparse_inputs(act, to):
    torch.manual_seed(0)
    x = (torch.randn(6, 5) * (torch.rand(6, 5) > 0.4)).double()
    near, y = (torch.rand(6, 6) > 0.5).double(), torch.randint(3, (6,))
    cases = [
        (Product(act, torch.matmul), to(x)),
        (Product(act, torch.sparse.mm), to(x)),
        (nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), to(x)),
        (Adjacent(act), (x, to(near))),
    ]
    for model, inputs in cases:
        model.double()
        want = oracle.diagonal(model, F.cross_entropy, [(inputs, y)])
        for name, call in every(model, F.cross_entropy, [(inputs, y)]).items():
            try:
                got = call()
            except ValueError as error:  # an estimator that takes samples apart
                if name not in KINDS or "kind=" not in str(error):
                    raise
                continue
            if name in ("diagonal", "parts"):
                oracle.assert_exact(got, want)


LAZY = {
    "linear": lambda: nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.Linear(4, 3)),
    "convolution": lambda: nn.Sequential(nn.LazyConv1d(2, 1), nn.Flatten(), nn.LazyLinear(3)),
    "norm": lambda: nn.Sequential(nn.Linear(5, 3), nn.LazyBatchNorm1d(affine=False)),
}


@pytest.mark.parametrize("name", LAZY)
def test_lazy_modules_are_to_be_called_first(name):
    model = LAZY[name]()
    x = torch.randn(6, 1, 5) if name == "convolution" else torch.randn(6, 5)
    data = (x, torch.randint(3, (6,)))
    for call in every(model, F.cross_entropy, data).values():
        with pytest.raises(ValueError, match=r"lazy module.*run it once"):
            call()
    assert any(isinstance(m, nn.modules.lazy.LazyModuleMixin) for m in model.modules())
    model(x)
    hessian.diagonal(model, F.cross_entropy, data)


def test_a_lazy_module_in_the_loss():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.LazyLinear(3)

        def forward(self, output, target):
            return F.cross_entropy(self.last(output), target)

    with pytest.raises(ValueError, match=r"loss: 'last\.weight' belongs to a lazy module"):
        hessian.diagonal(nn.Linear(5, 4), Loss(), (torch.randn(6, 5), torch.randint(3, (6,))))


class Fixed(nn.Module):
    """A graph's adjacency as a sparse buffer."""

    def __init__(self, near, act):
        super().__init__()
        self.register_buffer("near", near)
        self.a, self.b, self.act = nn.Linear(5, 4), nn.Linear(4, 3), act

    def forward(self, x):
        return self.b(self.near @ self.act(self.near @ self.a(x)))


@pytest.mark.parametrize("act", [torch.relu, torch.tanh])
@pytest.mark.parametrize(
    "to", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr, torch.Tensor.to_sparse_csc]
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_buffers(act, to):
    """Also in another precision than the model's, which `verify` and `dtype=` take."""
    torch.manual_seed(0)
    near = to((torch.rand(6, 6) > 0.5).float())
    model, x, y = Fixed(near, act), torch.randn(6, 5), torch.randint(3, (6,))
    want = oracle.diagonal(model, F.cross_entropy, [(x, y)])
    for name, call in every(model, F.cross_entropy, (x, y)).items():
        try:
            got = call()
        except ValueError as error:
            if name not in KINDS or "kind=" not in str(error):
                raise
            continue
        if name in ("diagonal", "parts"):
            oracle.assert_exact(got, want, 1e-4)  # float32
    got = hessian.diagonal(model, F.cross_entropy, (x, y), dtype=torch.float64)
    oracle.assert_exact({k: h.float() for k, h in got.items()}, want, 1e-4)
    assert model.near is near
    assert near.dtype == torch.float32
