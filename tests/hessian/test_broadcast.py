"""Tensors of the data that broadcasting spreads within a sample, and tensors without entries."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian

from . import differences, oracle

D, N = 5, 4
SCALE = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.5], dtype=torch.float64)


class Net(nn.Module):
    """What `call(self, x)` says, over named modules."""

    def __init__(self, call, **modules):
        super().__init__()
        self.call = call
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.call(self, x)


def head(join, out=3):
    """`join(wide, narrow)` of two branches of one stream, [N, D] and [N, 1]."""
    return Net(
        lambda m, x: m.o(join(m.a(h := torch.tanh(m.f(x))), m.b(h))),
        f=nn.Linear(D, D), a=nn.Linear(D, D), b=nn.Linear(D, 1), o=nn.Linear(D, out),
    )  # fmt: skip


def relu_head(join):
    return Net(
        lambda m, x: m.o(join(m.a(h := F.relu(m.f(x))), m.b(h))),
        f=nn.Linear(D, D), a=nn.Linear(D, D), b=nn.Linear(D, 1), o=nn.Linear(D, 3),
    )  # fmt: skip


def images(join):
    """`join(image, gate)` with an image [N, 2, 2, 2] and a gate [N, 2]."""
    return Net(
        lambda m, x: m.o(join(h := torch.tanh(m.c(x.view(-1, 1, 1, D))), m.g(h.mean((2, 3))))
                         .flatten(1)),
        c=nn.Conv2d(1, 2, (1, 2), padding=(0, 0)), g=nn.Linear(2, 2), o=nn.Linear(2 * (D - 1), 3),
    )  # fmt: skip


JOINS = {
    "dueling": lambda a, b: b + a - a.mean(1, keepdim=True),
    "sub": lambda a, b: b - a,
    "sub alpha": lambda a, b: torch.sub(a, b, alpha=0.5),
    "add alpha": lambda a, b: torch.add(b, a, alpha=-2.0),
    "rsub": lambda a, b: torch.rsub(b, a),
    "mul": lambda a, b: a * b,
    "mul narrow first": lambda a, b: b * a,
    "div by constant": lambda a, b: (a - b) / SCALE,
    "constant by narrow": lambda a, b: a + SCALE / (2 + b),
    "data times narrow": lambda a, b: a + SCALE * b,
    "where": lambda a, b: torch.where(torch.arange(D) % 2 == 0, a, b),
    "maximum": torch.maximum,
    "minimum": lambda a, b: torch.minimum(b, a),
    "addcmul": lambda a, b: torch.addcmul(b, a, SCALE, value=0.3),
    "addcdiv": lambda a, b: torch.addcdiv(b, a, SCALE, value=0.3),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "lerp by data": lambda a, b: torch.lerp(a, b.expand_as(a), SCALE),
    "expand": lambda a, b: a + b.expand(-1, D),
    "expand as rows": lambda a, b: a + b.unsqueeze(1).expand(-1, 2, D).sum(1),
    "repeat": lambda a, b: a * b.repeat(1, D),
    "pow of narrow": lambda a, b: a + b.pow(2),
    "power": lambda a, b: a + (2 + torch.tanh(b)) ** SCALE,
    "softmax weights": lambda a, b: a * a.softmax(1).sum(1, keepdim=True) + b,
    "centred, scaled": lambda a, b: (a - a.mean(1, keepdim=True)) * (1 + b),
    "clamp by narrow": lambda a, b: torch.clamp(a, min=b - 0.3),
    "hypot": lambda a, b: torch.hypot(a, 1 + b),
    "logaddexp": torch.logaddexp,
    "masked fill": lambda a, b: (a + b).masked_fill(torch.arange(D) == 1, 0.2),
}
GATES = {
    "squeeze and excitation": lambda h, g: h * torch.sigmoid(g)[:, :, None, None],
    "added": lambda h, g: h + g[:, :, None, None],
    "relu gate first": lambda h, g: F.relu(g).view(*g.shape, 1, 1) * h,
    "over channels": lambda h, g: h * h.amax(1, keepdim=True) + g[:, :1, None, None],
    "expanded": lambda h, g: h - g[:, :, None, None].expand_as(h),
}


def held(model, x, y, loss=F.cross_entropy):
    """Both oracles agree, and every method that does not refuse with them."""
    model, x = model.double(), x.double()
    want = oracle.diagonal(model, loss, [(x, y)])
    # Differences of order h⁴ = 1e-12 and rounding of 1e-16/h² = 1e-10, by curvatures of order 1.
    other = differences.diagonal(model, loss, x, y)
    most = max(float(h.abs().max()) for h in want.values() if h.numel())
    assert (
        max(float((other[k] - h).abs().max()) for k, h in want.items() if h.numel()) < 1e-6 * most
    )
    taken = {}
    for method in ("auto", "affine", "chain", "preactivation"):
        try:
            got = hessian.diagonal(model, loss, (x, y), method=method)
        except ValueError as error:
            if "is not proved to be exact" not in str(error):
                raise
            continue
        oracle.assert_exact(got, want)
        taken[method] = got.plan
    return taken


@pytest.mark.parametrize("name", JOINS)
def test_narrow_and_wide(name):
    torch.manual_seed(0)
    x, y = torch.randn(N, D), torch.randint(3, (N,))
    for model in (head(JOINS[name]), relu_head(JOINS[name])):
        held(model, x, y)


@pytest.mark.parametrize("name", GATES)
def test_gates_of_images(name):
    torch.manual_seed(0)
    x, y = torch.randn(N, D), torch.randint(3, (N,))
    taken = held(images(GATES[name]), x, y)
    assert {"auto", "chain"} <= set(taken)


def test_broadcast_inputs_take_the_chain():
    torch.manual_seed(0)
    x, y = torch.randn(N, D), torch.randint(3, (N,))
    for name in ("dueling", "sub alpha", "mul", "constant by narrow", "where", "expand"):
        assert set(held(head(JOINS[name]), x, y)["auto"].methods().values()) == {"chain"}, name


EMPTY = {
    "a branch": lambda: Net(
        lambda m, x: torch.cat([m.a(x), m.e(x)], 1), a=nn.Linear(D, 3), e=nn.Linear(D, 0)
    ),
    "below a view, ReLU": lambda: Net(
        lambda m, x: torch.cat([m.a(h := F.relu(m.f(x))), m.e(h).reshape(len(x), 0)], 1),
        f=nn.Linear(D, 4), a=nn.Linear(4, 3), e=nn.Linear(4, 0),
    ),
    "below, tanh": lambda: Net(
        lambda m, x: torch.cat([m.a(h := torch.tanh(m.f(x))), m.e(h).tanh()], 1),
        f=nn.Linear(D, 4), a=nn.Linear(4, 3), e=nn.Linear(4, 0),
    ),
    "nothing in": lambda: Net(
        lambda m, x: m.a(x) + m.z(x[:, :0]), a=nn.Linear(D, 3), z=nn.Linear(0, 3)
    ),
    "through nothing": lambda: Net(
        lambda m, x: m.a(x) + m.z(m.e(torch.tanh(m.f(x)))).sum(1, keepdim=True),
        f=nn.Linear(D, 4), a=nn.Linear(D, 3), e=nn.Linear(4, 0), z=nn.Linear(0, 3),
    ),
    "a lone parameter": lambda: Net(
        lambda m, x: m.a(x) + m.p.sum(), a=nn.Linear(D, 3), p=nn.Parameter(torch.zeros(0, 5))
    ),
    "an embedding": lambda: Net(
        lambda m, x: torch.cat([m.a(x), m.e((x > 0).long()).flatten(1)], 1),
        a=nn.Linear(D, 3), e=nn.Embedding(2, 0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_tensors_without_entries(name):
    torch.manual_seed(0)
    model, x, y = EMPTY[name]().double(), torch.randn(N, D).double(), torch.randint(3, (N,))
    taken = held(model, x, y)
    assert "chain" in taken
    want = oracle.diagonal(model, F.cross_entropy, [(x, y)])

    def penalised(output, target):
        return F.cross_entropy(output, target) + sum(p.pow(2).sum() for p in model.parameters())

    oracle.assert_exact(
        hessian.diagonal(model, penalised, (x, y)), {k: h + 2 for k, h in want.items()}
    )
    small = hessian.diagonal(model, F.cross_entropy, (x, y), memory=3000, verify=2)
    oracle.assert_exact(small, want)
    for found in hessian.sample(model, F.cross_entropy, (x, y), per_parameter=4).values():
        assert found.value.shape == found.index.shape
    hessian.operator(model, F.cross_entropy, (x, y)) @ torch.ones(
        sum(p.numel() for p in model.parameters())
    ).numpy()
    for kind in ("hutchinson", "preactivation", "gauss-newton", "gauss-newton-mc"):
        got = hessian.estimate(model, F.cross_entropy, (x, y), kind, probes=2)
        assert {k: h.shape for k, h in got.items()} == {k: h.shape for k, h in want.items()}


class Transposed(nn.Module):
    def __init__(self, turn):
        super().__init__()
        self.turn = turn
        self.w, self.o = nn.Parameter(torch.randn(D, D)), nn.Linear(D, 3)

    def forward(self, x):
        return self.o(F.relu(x @ self.turn(self.w)))


TURNS = {
    "none": lambda w: w.transpose(0, 0),
    "none, from the end": lambda w: w.transpose(-1, 1),
    "none, then one": lambda w: w.transpose(1, 1).T,
    "one": lambda w: w.transpose(-2, 1),
    "two": lambda w: w.T.transpose(0, 1),
    "swapped with itself": lambda w: w.swapaxes(0, 0),
    "the identity permutation": lambda w: w.permute(0, 1),
    "a permutation": lambda w: w.permute(-1, 0),
    "mT": lambda w: w.mT,
    "t": lambda w: w.t(),
    "moved": lambda w: w.moveaxis(0, 1),
}


@pytest.mark.parametrize("name", TURNS)
def test_only_two_axes_make_a_transpose(name):
    torch.manual_seed(0)
    x, y = torch.randn(N, D), torch.randint(3, (N,))
    taken = held(Transposed(TURNS[name]), x, y)
    if name in ("one", "a permutation", "mT", "t", "moved"):
        assert taken["auto"]["w"].method in ("affine", "chain")


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(2, 1), nn.AvgPool2d(2)])
def test_pooling_of_images_without_channels(pool):
    """Three axes: torch takes the first for channels, here it is the samples."""
    torch.manual_seed(2)  # no step of the differences crosses a kink
    for act in (torch.tanh, F.relu):
        model = Net(
            lambda m, x, act=act: m.o(pool(act(m.f(x)).view(len(x), 4, 4)).flatten(1)),
            f=nn.Linear(D, 16), o=nn.LazyLinear(3),
        )  # fmt: skip
        x, y = torch.randn(N, D), torch.randint(3, (N,))
        model(x)
        assert "chain" in held(model, x, y)
