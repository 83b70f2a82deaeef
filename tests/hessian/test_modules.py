"""Every kind of module against the naive double backward, by every route that is proved for it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import hessian

from . import oracle
from .modules import MODULES, build

ROUTES = {"A": "affine", "C": "chain", "P": "preactivation"}


def truth(model, loss, pairs):
    """The oracle without fused attention, whose kernels have no second derivative."""
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch.manual_seed(3)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            return oracle.diagonal(model, loss, pairs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for name, b in model.named_buffers():
            b.copy_(buffers[name])


@pytest.mark.parametrize("name", MODULES)
def test_exact_by_every_proved_route(name):
    model, x, y, parameter, proved = build(name)
    want = truth(model, F.cross_entropy, [(x, y)])
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for memory in (None, 1):  # as a whole, and sample by sample where they stay apart
        torch.manual_seed(3)
        got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=memory)
        oracle.assert_exact(got, want)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    found = ""
    for letter, method in ROUTES.items():
        torch.manual_seed(3)
        try:
            got = hessian.diagonal(model, F.cross_entropy, (x, y), method=method, names=[parameter])
        except ValueError as error:
            assert f"method={method!r} is not proved to be exact for" in str(error)  # noqa: PT017
            continue
        found += letter
        gaps = oracle.gap(got, {parameter: want[parameter]}, want)
        assert gaps[parameter] <= 1e-9
    assert (found or "-") == proved


class Bag(nn.Module):
    """nn.EmbeddingBag, or the same by nn.Embedding, which torch can differentiate twice."""

    def __init__(self, mode, bag, **options):
        super().__init__()
        kind = nn.EmbeddingBag if bag else nn.Embedding
        self.rows = kind(7, 4, **({"mode": mode} if bag else {}), **options)
        self.out, self.mode = nn.Linear(4, 3), mode

    def forward(self, tokens):
        if isinstance(self.rows, nn.EmbeddingBag):
            return self.out(torch.tanh(self.rows(tokens)))
        rows = self.rows(tokens)
        padding = self.rows.padding_idx
        used = torch.ones_like(tokens) if padding is None else tokens != padding
        rows = rows * used.unsqueeze(2)
        total = rows.sum(1)
        return self.out(torch.tanh(total / used.sum(1, keepdim=True).clamp_min(1)
                                   if self.mode == "mean" else total))  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"padding_idx": 1}, {"max_norm": 1.0}])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_of_rows(mode, options):
    torch.manual_seed(0)
    model, same = Bag(mode, True, **options).double(), Bag(mode, False, **options).double()
    same.load_state_dict(model.state_dict())
    x, y = torch.randint(0, 7, (5, 3)), torch.arange(5) % 3
    before = model.rows.weight.detach().clone()
    for memory in (None, 1):
        got = hessian.diagonal(model, F.cross_entropy, (x, y), memory=memory)
        assert torch.equal(model.rows.weight, before)  # max_norm writes to it on the way
    oracle.assert_exact(got, oracle.diagonal(same, F.cross_entropy, [(x, y)]))


def test_a_bag_of_flat_rows_with_offsets():
    torch.manual_seed(0)
    model = Bag("mean", True).double()
    tokens, offsets = torch.tensor([1, 2, 3, 3, 0, 6]), torch.tensor([0, 2, 2])
    data = ({"input": tokens, "offsets": offsets}, torch.tensor([0, 1, 2]))
    call = lambda m, x: m.out(torch.tanh(m.rows(x["input"], x["offsets"])))  # noqa: E731
    got = hessian.diagonal(model, F.cross_entropy, data, forward=call)

    def apart(m, x):  # row by row, an empty bag in the middle
        w = m.rows.weight
        return m.out(
            torch.tanh(torch.stack([w[[1, 2]].mean(0), 0 * w[0], w[[3, 3, 0, 6]].mean(0)]))
        )

    class Same(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, input, offsets):
            return apart(self.inner, None)

    want = oracle.diagonal(Same(), F.cross_entropy, [data])
    oracle.assert_exact(got, {k.removeprefix("inner."): h for k, h in want.items()})


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("smooth", [False, True])
def test_hard_sigmoid_and_distances(smooth, inplace):
    """Operations without a second derivative in torch, beside equal ones that have it."""

    class Net(nn.Module):
        def __init__(self, ours):
            super().__init__()
            self.a, self.b, self.ours = nn.Linear(4, 4), nn.Linear(3, 3), ours

        def forward(self, x):
            z = 3 * self.a(x)
            z = 1.0 * torch.tanh(z) if smooth else 1.0 * z
            z = F.hardsigmoid(z, inplace) if self.ours else (z / 6 + 0.5).clamp(0, 1)
            points = torch.eye(4, dtype=x.dtype)[:3]
            if self.ours:
                return self.b(torch.cdist(z, points))
            return self.b((z.unsqueeze(1) - points).square().sum(2).sqrt())

    torch.manual_seed(0)
    model, same = Net(True).double(), Net(False).double()
    same.load_state_dict(model.state_dict())
    x, y = torch.randn(5, 4).double(), torch.arange(5) % 3
    got = hessian.diagonal(model, F.cross_entropy, (x, y), verify=3)
    oracle.assert_exact(got, oracle.diagonal(same, F.cross_entropy, [(x, y)]))
    assert max(got.deviation.values()) < 1e-9


def test_sparse_rows():
    torch.manual_seed(0)
    make = lambda sparse: nn.Sequential(  # noqa: E731
        nn.Embedding(7, 4, sparse=sparse), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)
    ).double()
    model, same = make(True), make(False)
    same.load_state_dict(model.state_dict())
    x, y = torch.randint(0, 7, (5, 3)), torch.arange(5) % 3
    got = hessian.diagonal(model, F.cross_entropy, (x, y))
    oracle.assert_exact(got, oracle.diagonal(same, F.cross_entropy, [(x, y)]))


def test_rows_of_a_bounded_norm_are_put_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4, max_norm=0.5), nn.Flatten(), nn.Linear(12, 3))
    before = model[0].weight.detach().clone()
    x, y = torch.randint(0, 7, (5, 3)), torch.arange(5) % 3
    hessian.diagonal(model, F.cross_entropy, (x, y), verify=1)
    assert torch.equal(model[0].weight, before)
    with pytest.raises(ValueError, match="loss could not"):
        hessian.diagonal(model, F.cross_entropy, (x, y[:2]))
    assert torch.equal(model[0].weight, before)


def test_a_complex_parameter_is_refused():
    model = nn.Linear(2, 2, dtype=torch.complex64)
    data = torch.randn(3, 2, dtype=torch.complex64), torch.randn(3, 2)
    with pytest.raises(ValueError, match=r"'weight' is complex.*view_as_real"):
        hessian.diagonal(model, lambda o, t: (o.abs() - t).square().mean(), data)
