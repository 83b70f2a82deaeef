"""What the loss reads of the network: objects as outputs, tensors returned twice, hidden ways."""

import dataclasses
from collections import UserDict
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._call import outputs as _outputs
from hessian._tape import hidden as _hidden

from . import oracle

KINDS = ["hutchinson", "preactivation", "gauss-newton", "gauss-newton-mc", "empirical-fisher"]


def differences(model, loss, x, y, step=1e-4):
    """Second differences of the value in float64: rounding and the next term are below 1e-6."""
    found = {}
    for name, p in model.named_parameters():
        flat, h = p.data.view(-1), torch.zeros(p.numel(), dtype=torch.float64)
        for i in range(p.numel()):
            here, values = flat[i].clone(), []
            for s in (-step, 0.0, step):
                flat[i] = here + s
                values.append(float(loss(model(x), y).detach()))
            flat[i] = here
            h[i] = (values[0] - 2 * values[1] + values[2]) / step**2
        found[name] = h.reshape(p.shape)
    return found


def assert_right(model, loss, x, y, parts=None):
    """Every way to a diagonal, within memory and beyond it, against both oracles."""
    want = oracle.diagonal(model, loss, [(x, y)])
    oracle.assert_exact(differences(model, loss, x, y), want, 1e-5)
    value = loss(model(x), y)
    slope = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    flat = torch.cat([h.reshape(-1) for h in want.values()])
    v = torch.randn(len(flat), generator=torch.Generator().manual_seed(3)).double()
    products = []
    for memory in (None, 1):
        for method in ("auto", "parameter"):
            h = hessian.diagonal(model, loss, (x, y), memory=memory, method=method, verify=1)
            oracle.assert_exact(h, want)
            assert h.loss == pytest.approx(float(value.detach()), rel=1e-12)
            for g, s in zip(h.gradient.values(), slope, strict=True):
                assert torch.allclose(g, torch.zeros_like(g) if s is None else s, rtol=1e-9)
            if memory == 1 and parts is not None:
                assert h.plan.parts == parts, h.plan.held
        op = hessian.operator(model, loss, (x, y), memory=memory)
        every = torch.from_numpy(np.stack([op @ e for e in np.eye(len(flat))]))
        assert torch.allclose(every.diagonal(), flat, rtol=1e-9, atol=1e-12)
        products.append(every @ v)
        some = hessian.sample(model, loss, (x, y), 3, memory=memory)
        for name, s in some.items():
            at = want[name].reshape(-1)[s.index]
            assert torch.allclose(s.value, at, rtol=1e-9, atol=1e-12)
    assert torch.allclose(*products, rtol=1e-9, atol=1e-12)


def gauss_newton(model, read, loss, x, y):
    """diag JᵀHJ written out: `read` gives what the loss reads as one flat tensor."""
    parameters = list(model.parameters())

    def of(*values):
        named = dict(zip([n for n, _ in model.named_parameters()], values, strict=True))
        return read(torch.func.functional_call(model, named, (x,)))

    output = of(*parameters).detach()
    H = torch.autograd.functional.hessian(lambda z: loss(z, y), output)
    jacobian = torch.autograd.functional.jacobian(of, tuple(parameters))
    return {
        name: torch.einsum("ip,ij,jp->p", j.flatten(1), H, j.flatten(1)).reshape(p.shape)
        for (name, p), j in zip(model.named_parameters(), jacobian, strict=True)
    }


# ---------------------------------------------------------------------------------- objects


@dataclasses.dataclass
class Plain:
    logits: torch.Tensor
    count: int = 3


@dataclasses.dataclass(frozen=True)
class Frozen:
    logits: torch.Tensor


class Slots:
    __slots__ = ("logits",)

    def __init__(self, logits):
        self.logits = logits


class Named(NamedTuple):
    logits: torch.Tensor


class Items(dict):
    def __getattr__(self, name):
        return self[name]


class Cached:
    """A view of the logits that is made when it is first asked for."""

    def __init__(self, logits):
        self.scores = logits.exp()
        self._logits = logits
        self.before = self.logits

    @property
    def logits(self):
        if not hasattr(self, "_cache"):
            self._cache = self._logits + 0.0
        return self._cache


class Closed:
    """Holds its tensor where nothing can see it."""

    __slots__ = ("ask",)

    def __init__(self, logits):
        self.ask = lambda: logits

    @property
    def logits(self):
        return self.ask()


def nested(logits):
    return {"a": [SimpleNamespace(inner=Plain(logits))], "n": 2}


def logits_of(o):
    return o["a"][0].inner.logits if isinstance(o, dict) and "a" in o else o.logits


WRAPS = {
    "dataclass": Plain,
    "frozen": Frozen,
    "slots": Slots,
    "named": Named,
    "dict": lambda v: Items(logits=v),
    "namespace": lambda v: SimpleNamespace(logits=v),
    "nested": nested,
    "cached": Cached,
    "closed": Closed,
}


class Net(nn.Module):
    def __init__(self, wrap, out=3, activation=nn.Tanh):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 3), activation(), nn.Linear(3, out)).double()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(self.net(x))


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).double()
Y = torch.arange(5) % 3


@pytest.mark.parametrize("wrap", WRAPS)
def test_objects_as_outputs(wrap):
    model = Net(WRAPS[wrap])
    loss = lambda o, t: F.cross_entropy(logits_of(o), t)  # noqa: E731
    assert_right(model, loss, X, Y, 1 if wrap == "closed" else 5)
    bare = Net(lambda v: v)
    for kind in [*KINDS, "becker-lecun"]:
        want = hessian.estimate(bare, F.cross_entropy, (X, Y), kind)
        if wrap == "closed" and kind not in ("hutchinson", "preactivation"):
            with pytest.raises(ValueError, match="knows the loss through the model's outputs"):
                hessian.estimate(model, loss, (X, Y), kind)
            continue
        for memory in (None, 1):
            got = hessian.estimate(model, loss, (X, Y), kind, memory=memory)
            if wrap == "closed" and kind == "preactivation":
                assert all(torch.isfinite(h).all() for h in got.values())
            else:  # a random column has square roots of the λ: of rounding, where they are zero
                loose = 1e-7 if kind == "gauss-newton-mc" else 1e-9
                oracle.assert_exact(got, dict(want), loose)


def test_the_objects_of_the_user_are_not_written_to():
    seen = []

    class Watched(Plain):
        def __setattr__(self, name, value):
            seen.append(name)
            super().__setattr__(name, value)

    model = Net(Watched)
    hessian.diagonal(model, lambda o, t: F.cross_entropy(o.logits, t), (X, Y), memory=1)
    assert set(seen) == {"logits", "count"}
    assert len(seen) % 2 == 0  # by __init__ alone
    output = model(X)
    leaves, form = _outputs.opened([output, 3, {"b": UserDict(c=output.logits)}])
    copy = form.rebuilt([leaves[0] + 1 if isinstance(leaves[0], torch.Tensor) else 0, *leaves[1:]])
    assert copy[0] is not output
    assert copy[0].count == 3
    assert copy[2]["b"]["c"] is output.logits
    assert torch.equal(copy[0].logits, output.logits + 1)
    assert form.same(_outputs.opened([output, 3, {"b": UserDict(c=output.logits)}])[1])
    assert not form.same(_outputs.opened([output, 3, {"b": UserDict(d=output.logits)}])[1])


NORMAL = torch.distributions.Normal
DISTRIBUTIONS = {
    "normal": lambda v: NORMAL(v[:, 0], v[:, 1].exp()),
    "independent": lambda v: torch.distributions.Independent(NORMAL(v, 1.0), 1),
    "multivariate": lambda v: torch.distributions.MultivariateNormal(
        v, covariance_matrix=torch.eye(3).double() * 2
    ),
    "transformed": lambda v: torch.distributions.TransformedDistribution(
        NORMAL(v[:, 0], 1.0), [torch.distributions.AffineTransform(v[:, 1], v[:, 2].exp())]
    ),
    "categorical": lambda v: torch.distributions.Categorical(logits=v),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions_as_outputs(name):
    model = Net(DISTRIBUTIONS[name])
    y = {"categorical": Y, "independent": X[:, :3], "multivariate": X[:, :3]}.get(name, X[:, 0])
    assert_right(model, lambda o, t: -o.log_prob(t).mean(), X, y)


@pytest.mark.parametrize("memory", [None, 1])
def test_complex_outputs(memory):
    model = Net(lambda v: torch.complex(v[:, :2], v[:, 1:]))
    loss = lambda o, t: (o - o.conj().roll(1, 1) * 0.5).abs().pow(2).mean()  # noqa: E731
    assert_right(model, loss, X, Y)
    for kind in KINDS[2:]:
        with pytest.raises(ValueError, match="knows the loss through the model's outputs"):
            hessian.estimate(model, loss, (X, Y), kind, memory=memory)


# -------------------------------------------------------------------------------- duplicates


class Returns(nn.Module):
    """A network whose outputs are put together by a function of the middle and the end."""

    def __init__(self, gather, activation):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 3).double(), nn.Linear(3, 3).double()
        self.gather, self.activation = gather, activation

    def forward(self, x):
        h = self.activation(self.a(x))
        return self.gather(h, self.b(h))


TWICE = {
    "twice": lambda h, z: (z, z),
    "hidden": lambda h, z: {"last": z, "states": (h, z)},
    "thrice": lambda h, z: [z, z, z],
    "view": lambda h, z: (z, z.view(-1, 3)),
    "rows": lambda h, z: (z, z[:, :2]),
    "object": lambda h, z: (z, SimpleNamespace(z=z)),
    "made of": lambda h, z: (h, z),
    "both": lambda h, z: (h, z, h),
}


def every_leaf(output, target):
    leaves = [t for t in _outputs.opened(output)[0] if isinstance(t, torch.Tensor)]
    flat = torch.cat([t.reshape(5, -1) for t in leaves], 1)
    return flat_loss(flat.reshape(-1), target)


def flat_loss(flat, target):
    rows = flat.reshape(5, -1)
    return ((rows - 1).pow(2) * (1 + rows)).sum(1).mul(target + 1.0).mean() + rows.sum(1).pow(
        3
    ).mean()


@pytest.mark.parametrize("activation", [torch.relu, torch.tanh])
@pytest.mark.parametrize("name", TWICE)
def test_one_tensor_in_several_leaves(name, activation):
    model = Returns(TWICE[name], activation)
    assert_right(model, every_leaf, X, Y, 5)
    read = lambda o: torch.cat(  # noqa: E731
        [t.reshape(5, -1) for t in _outputs.opened(o)[0] if isinstance(t, torch.Tensor)], 1
    ).reshape(-1)
    want = gauss_newton(model, read, flat_loss, X, Y)
    one = {name: torch.zeros_like(h) for name, h in want.items()}
    for i in range(5):
        weights = torch.zeros(5).double()
        weights[i] = 1.0
        rows = read(model(X)).reshape(5, -1)
        each = ((rows - 1).pow(2) * (1 + rows)).sum(1).mul(Y + 1.0) + rows.sum(1).pow(3)
        slope = torch.autograd.grad((each * weights).sum() / 5, list(model.parameters()))
        for h, g in zip(one.values(), slope, strict=True):
            h += 5 * g.square()
    for memory in (None, 1):
        got = hessian.estimate(model, every_leaf, (X, Y), "gauss-newton", memory=memory)
        oracle.assert_exact(got, want)
        got = hessian.estimate(model, every_leaf, (X, Y), "empirical-fisher", memory=memory)
        oracle.assert_exact(got, one)


@pytest.mark.parametrize("kind", ["preactivation", "gauss-newton-mc", "hutchinson"])
def test_probes_of_a_tensor_returned_twice_are_unbiased(kind):
    twice, once = Returns(TWICE["twice"], torch.tanh), Returns(lambda h, z: z, torch.tanh)
    both = lambda o, t: F.cross_entropy(o[0], t) + o[1].pow(2).mean()  # noqa: E731
    single = lambda o, t: F.cross_entropy(o, t) + o.pow(2).mean()  # noqa: E731
    for memory in (None, 1):
        got = hessian.estimate(twice, both, (X, Y), kind, 4, memory=memory)
        want = hessian.estimate(once, single, (X, Y), kind, 4, memory=memory)
        oracle.assert_exact(got, dict(want))
        oracle.assert_exact(got.standard_error, want.standard_error)
    got = hessian.estimate(twice, both, (X, Y), "becker-lecun")
    oracle.assert_exact(got, dict(hessian.estimate(once, single, (X, Y), "becker-lecun")))
    got = hessian.diagonal(twice, both, (X, Y), standard_error=True)
    want = hessian.diagonal(once, single, (X, Y), standard_error=True)
    oracle.assert_exact(got.standard_error, want.standard_error)


@pytest.mark.parametrize("name", ["twice", "view", "rows"])
def test_a_loss_that_writes_to_one_of_two_outputs_in_one_place(name):
    def loss(output, target):
        first, second = output
        first.mul_(2.0)
        return F.cross_entropy(first, target) + second.pow(2).mean()

    assert_right(Returns(TWICE[name], torch.tanh), loss, X, Y)


@pytest.mark.parametrize("wrap", [lambda h, z: z, lambda h, z: SimpleNamespace(z=z)])
def test_a_loss_that_writes_to_its_argument(wrap):
    """The tape of the outputs is looked at apart from what the loss makes of them."""

    def loss(output, target):
        z = output if isinstance(output, torch.Tensor) else output.z
        return F.cross_entropy(z.mul_(2.0).sub_(1.0), target)

    plain = lambda o, t: F.cross_entropy(o * 2 - 1, t)  # noqa: E731
    model, bare = Returns(wrap, torch.tanh), Returns(lambda h, z: z, torch.tanh)
    assert_right(model, loss, X, Y, 5)
    want = oracle.diagonal(bare, plain, [(X, Y)])
    for memory in (None, 1):
        got = hessian.diagonal(model, loss, (X, Y), method="preactivation", memory=memory)
        oracle.assert_exact(got, want)
        got = hessian.estimate(model, loss, (X, Y), "preactivation", 3, memory=memory)
        oracle.assert_exact(got, dict(hessian.estimate(bare, plain, (X, Y), "preactivation", 3)))


# -------------------------------------------------------------------------------- hidden ways


class Hidden(nn.Module):
    """Leaves something behind beside its output."""

    def __init__(self, leave):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Linear(*s).double() for s in ((4, 3), (3, 3), (3, 2)))
        self.leave, self.left = leave, None

    def forward(self, x):
        h = torch.tanh(self.a(x))
        z = self.b(h)
        self.left = self.leave(self, h, z)
        return z


WAYS = {
    "penalty on weights": (lambda m, h, z: sum(p.pow(2).sum() for p in m.parameters()), None),
    "norm of weights": (lambda m, h, z: m.b.weight.norm(), None),
    "activation": (lambda m, h, z: h.pow(2).mean(), None),
    "another head": (lambda m, h, z: m.c(h).pow(3).mean(), None),
    "the output itself": (lambda m, h, z: z.pow(3).mean(), None),
    "mean of samples": (lambda m, h, z: h.mean(0).pow(3).sum(), None),
    "a number": (lambda m, h, z: float(h.detach().abs().mean()), "value"),
    "values": (lambda m, h, z: z.detach().abs().mean(), "value"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("product", [False, True])
def test_what_the_loss_reads_beside_the_outputs(way, product):
    leave, only_value = WAYS[way]
    model = Hidden(leave)

    def loss(output, target):
        own = F.cross_entropy(output, target)
        return own * (1 + model.left) if product else own + 0.1 * model.left

    if only_value:  # a function of the parameters that autograd knows nothing of
        want = oracle.diagonal(model, loss, [(X, Y)])
        for memory in (None, 1):
            oracle.assert_exact(hessian.diagonal(model, loss, (X, Y), memory=memory), want)
        return
    assert_right(model, loss, X, Y, 1)
    h = hessian.diagonal(model, loss, (X, Y), memory=1)
    assert "reads more of the network than its outputs" in h.plan.held
    with pytest.raises(ValueError, match="reads more of the network"):
        hessian.estimate(model, loss, (X, Y), "empirical-fisher")
    kept = way == "penalty on weights" and not product
    for kind in ("gauss-newton", "gauss-newton-mc", "becker-lecun"):
        if not kept:
            with pytest.raises(ValueError, match='use kind="hutchinson"'):
                hessian.estimate(model, loss, (X, Y), kind)
            continue
        got = hessian.estimate(model, loss, (X, Y), kind)
        bare = hessian.estimate(model, F.cross_entropy, (X, Y), kind)
        oracle.assert_exact(got, {name: h + 0.2 for name, h in bare.items()})


@pytest.mark.parametrize("where", ["list", "dict", "closure", "output attribute"])
def test_hooked_activations(where):
    model = Returns(lambda h, z: z, torch.tanh)
    store = [] if where == "list" else {}

    def hook(module, inputs, output):
        if where == "list":
            store[:] = [output]
        elif where == "output attribute":
            output.left = output.tanh()
        else:
            store["a"] = output

    model.b.register_forward_hook(hook)

    def loss(output, target):
        left = store[0] if where == "list" else store.get("a")
        left = output.left if where == "output attribute" else left
        return F.cross_entropy(output, target) + left.pow(2).mean()

    assert_right(model, loss, X, Y, 1)


def test_preactivation_probes_know_a_hidden_way():
    """Unbiased over many probes, where the loss reads an activation beside the output."""
    model = Hidden(WAYS["activation"][0])
    loss = lambda o, t: F.cross_entropy(o, t) + model.left  # noqa: E731
    want = oracle.diagonal(model, loss, [(X, Y)])
    got = hessian.estimate(model, loss, (X, Y), "preactivation", 400)
    for name, h in want.items():
        gap = (got[name] - h).abs()
        # Five standard errors and what a probe without noise rounds.
        assert bool((gap <= 5 * got.standard_error[name] + 1e-9).all()), name


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (_hidden, "older", lambda *_: []),  # a hidden way is not seen
        (_outputs, "distinct", lambda leaves: (
            [i for i, t in enumerate(leaves) if isinstance(t, torch.Tensor) and t.requires_grad],
            {},
        )),  # a tensor returned twice is two outputs
    ],
)  # fmt: skip
def test_wrong_readings_are_seen(owner, name, wrong, monkeypatch):
    twice = Returns(TWICE["hidden"], torch.relu)
    model = Hidden(WAYS["penalty on weights"][0])

    def gaps():
        loss = lambda o, t: F.cross_entropy(o, t) + model.left  # noqa: E731
        for net, criterion in ((model, loss), (twice, every_leaf)):
            want = oracle.diagonal(net, criterion, [(X, Y)])
            yield max(
                max(oracle.gap(hessian.diagonal(net, criterion, (X, Y), **o), want).values())
                for o in ({}, {"memory": 1, "method": "parameter"})
            )

    assert max(gaps()) < 1e-9
    monkeypatch.setattr(owner, name, wrong)
    assert max(gaps()) > 1e-3
