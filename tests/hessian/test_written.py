"""What a call reads of the model and writes to it: names= changes no loss, parameters come back."""

import copy
import ctypes

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian

from . import by_value

X = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
Y = torch.tensor([0, 1, 2, 2, 1, 0])


class Net(nn.Module):
    def __init__(self, call=None):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(5, 4).double(), nn.Linear(4, 3).double()
        self.call = call or (lambda net, x: net.b(torch.tanh(net.a(x))))

    def forward(self, x):
        return self.call(self, x)


# ------------------------------------------------------------------------ names= and the loss


def summed(model):
    def loss(output, target):
        # One that couples all of them, so that each term matters to the others' derivatives.
        total = sum(p.square().sum() for p in model.parameters() if p.requires_grad)
        return F.cross_entropy(output, target) + 0.1 * total.sqrt()

    return loss


def penalised(model):
    """A penalty on the gradient in all parameters that are trained."""

    def loss(output, target):
        value = F.cross_entropy(model(X), target)
        wanted = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(value, wanted, create_graph=True)
        return value + 0.1 * sum(g.square().sum() for g in gradients)

    return loss


def named(model):
    """The same, which asks for parameters by name and not whether they are trained."""

    def loss(output, target):
        value = F.cross_entropy(model(X), target)
        (g,) = torch.autograd.grad(value, model.b.weight, create_graph=True)
        return value + 0.1 * g.square().sum()

    return loss


def backward(model):
    """Gradients that a call leaves in .grad, and reads there."""

    def loss(output, target):
        for p in model.parameters():
            p.grad = None
        value = F.cross_entropy(model(X), target)
        value.backward(create_graph=True)
        return value + 0.1 * sum(p.grad.square().sum() for p in model.parameters())

    return loss


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("make", [summed, penalised, named, backward])
@pytest.mark.parametrize("names", [["a.weight"], ["b.bias", "a.bias"]])
def test_names_change_no_loss(make, names):
    model = Net()
    loss = make(model)
    want = by_value.diagonal(model, loss, X, Y, names)
    value = float(loss(model(X), Y).detach())
    model.zero_grad()
    gaps = by_value.everywhere(model, loss, X, Y, want, names=names)
    assert max(gaps.values()) < by_value.CLOSE, gaps
    found = hessian.diagonal(model, loss, (X, Y), names=names, verify=3)
    assert found.loss == pytest.approx(value, rel=1e-12)
    assert by_value.gap(found, want) < by_value.CLOSE
    assert max(found.deviation.values()) < 1e-5
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_in_a_forward_pass():
    def scaled(net, x):
        trained = sum(p.square().sum() for p in net.parameters() if p.requires_grad)
        return net.b(torch.tanh(net.a(x))) * trained.sqrt()

    model = Net(scaled)
    want = by_value.diagonal(model, F.cross_entropy, X, Y, ["a.weight"])
    gaps = by_value.everywhere(model, F.cross_entropy, X, Y, want, names=["a.weight"])
    assert max(gaps.values()) < by_value.CLOSE, gaps


def test_parameters_that_are_frozen_stay_out():
    model = Net()
    model.b.weight.requires_grad_(False)
    loss = summed(model)
    want = by_value.diagonal(model, loss, X, Y, ["a.weight"])
    assert by_value.gap(hessian.diagonal(model, loss, (X, Y), names=["a.weight"]), want) < 1e-7
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, True]


def test_other_functions_start_again_too():
    model = Net()
    loss, names = penalised(model), ["a.weight"]
    want = by_value.diagonal(model, loss, X, Y, names)["a.weight"]
    state = torch.get_rng_state()
    # Data that can be read once only, and random numbers that are drawn before the first pass.
    batches = [(X, Y), (X.flip(0), Y.flip(0)), (X, Y)]
    whole = hessian.diagonal(model, loss, iter(batches), names=names)
    again = hessian.diagonal(model, loss, batches, names=names)
    assert torch.equal(whole["a.weight"], again["a.weight"])
    assert whole.samples == 18
    generator = torch.Generator().manual_seed(3)
    drawn = hessian.sample(model, loss, iter([(X, Y)]), 4, generator, names=names)["a.weight"]
    torch.testing.assert_close(drawn.value, want.reshape(-1)[drawn.index], rtol=1e-6, atol=1e-7)
    same = hessian.sample(model, loss, (X, Y), 4, torch.Generator().manual_seed(3), names=names)[
        "a.weight"
    ]
    assert torch.equal(drawn.index, same.index)
    a, b = (
        hessian.estimate(model, loss, data, "hutchinson", probes=3, names=names)["a.weight"]
        for data in ((X, Y), iter([(X, Y)]))
    )
    assert torch.equal(a, b)
    assert hessian.plan(model, loss, iter(batches), names=names)["a.weight"].method
    assert torch.equal(torch.get_rng_state(), state)


def test_what_a_call_sets_is_put_back():
    """As of a generator's step, which freezes the critic."""

    def freezing(net, x):
        for p in net.b.parameters():
            p.requires_grad_(False)
        return net.b(torch.tanh(net.a(x)))

    model = Net(freezing)
    hessian.diagonal(model, F.cross_entropy, (X, Y), names=["a.weight"])
    assert all(p.requires_grad for p in model.parameters())


# --------------------------------------------------------------------- parameters written to


def averaged(write):
    """A momentum encoder: written to in the forward pass, then used without gradients."""

    def call(net, x):
        write(net.key, net.a)
        with torch.no_grad():
            goal = torch.tanh(net.key(x))
        return net.b(torch.tanh(net.a(x)) - 0.3 * goal)

    return call


def lerp(key, query):
    with torch.no_grad():
        for k, q in zip(key.parameters(), query.parameters(), strict=True):
            k.lerp_(q, 0.1)


def by_data(key, query):
    for k, q in zip(key.parameters(), query.parameters(), strict=True):
        k.data = 0.9 * k.data + 0.1 * q.data


def by_data_in_place(key, query):
    for k, q in zip(key.parameters(), query.parameters(), strict=True):
        k.data.mul_(0.9).add_(q.data, alpha=0.1)


def by_data_assigned(key, query):
    for k, q in zip(key.parameters(), query.parameters(), strict=True):
        k.data *= 0.9
        k.data[...] = k.data + 0.1 * q.data


def copied(key, query):
    with torch.no_grad():
        for k, q in zip(key.parameters(), query.parameters(), strict=True):
            k.copy_(0.9 * k + 0.1 * q)


def at_once(key, query):
    with torch.no_grad():
        ks, qs = list(key.parameters()), list(query.parameters())
        torch._foreach_mul_(ks, 0.9)
        torch._foreach_add_(ks, qs, alpha=0.1)


def into(key, query):
    with torch.no_grad():
        for k, q in zip(key.parameters(), query.parameters(), strict=True):
            torch.lerp(k, q, 0.1, out=k)


def detached(key, query):
    for k, q in zip(key.parameters(), query.parameters(), strict=True):
        k.detach().lerp_(q.detach(), 0.1)


def by_operator(key, query):
    for k, q in zip(key.parameters(), query.parameters(), strict=True):
        torch.ops.aten.lerp_.Scalar(k.detach(), q.detach(), 0.1)


def through_a_view(key, query):
    with torch.no_grad():
        for k, q in zip(key.parameters(), query.parameters(), strict=True):
            k.view(-1)[:].lerp_(q.view(-1), 0.1)


def by_optimizer(key, query):
    optimizer = torch.optim.SGD(key.parameters(), lr=0.1)
    for k, q in zip(key.parameters(), query.parameters(), strict=True):
        k.grad = (k - q).detach()
    optimizer.step()
    optimizer.zero_grad()


def by_vector(key, query):
    from torch.nn.utils import parameters_to_vector, vector_to_parameters

    k, q = (parameters_to_vector(m.parameters()).detach() for m in (key, query))
    vector_to_parameters(0.9 * k + 0.1 * q, key.parameters())


def by_state(key, query):
    state = {n: 0.9 * v + 0.1 * query.state_dict()[n] for n, v in key.state_dict().items()}
    key.load_state_dict(state)


def by_numpy(key, query):
    for k, q in zip(key.parameters(), query.parameters(), strict=True):
        values = k.detach().numpy()
        values[:] = 0.9 * values + 0.1 * q.detach().numpy()


def by_array(key, query):
    for k, q in zip(key.parameters(), query.parameters(), strict=True):
        values = np.asarray(k.data)
        values *= 0.9
        values += 0.1 * np.asarray(q.data)


def by_dlpack(key, query):
    for k, q in zip(key.parameters(), query.parameters(), strict=True):
        other = torch.from_dlpack(k.detach())
        other.mul_(0.9).add_(q.detach(), alpha=0.1)


def by_address(key, query):
    for k, q in zip(key.parameters(), query.parameters(), strict=True):
        kind = {torch.float32: ctypes.c_float, torch.float64: ctypes.c_double}[k.dtype]
        values = (kind * k.numel()).from_address(k.data_ptr())
        for i, other in enumerate(q.detach().flatten().tolist()):
            values[i] = 0.9 * values[i] + 0.1 * other


WRITES = [
    lerp, by_data, by_data_in_place, by_data_assigned, copied, at_once, into, detached,
    by_operator, through_a_view, by_optimizer, by_vector, by_state,
    by_numpy, by_array, by_dlpack, by_address,
]  # fmt: skip


def momentum(write, frozen):
    model = Net(averaged(write))
    torch.manual_seed(1)
    model.key = nn.Linear(5, 4).double()
    if frozen:
        model.key.requires_grad_(False)
    return model


# Frozen or not makes a difference where the writing asks for it: one way of each kind.
FROZEN = [lerp, by_data_assigned, by_optimizer, by_state, by_numpy]


@pytest.mark.parametrize(
    ("write", "frozen"), [*((w, False) for w in WRITES), *((w, True) for w in FROZEN)]
)
def test_written_parameters_come_back(write, frozen):
    model = momentum(write, frozen)
    state = copy.deepcopy(model.state_dict())
    addresses = {name: p.data_ptr() for name, p in model.named_parameters()}
    # The same with what is written as a constant, which is what autograd takes it for.
    same = Net(lambda net, x: net.b(torch.tanh(net.a(x)) - goal))
    with torch.no_grad():
        key = copy.deepcopy(model.key)
        lerp(key, model.a)
        goal = 0.3 * torch.tanh(key(X))
    want = hessian.diagonal(same, F.cross_entropy, (X, Y))
    data = (X, Y)
    for call in (
        lambda: hessian.diagonal(model, F.cross_entropy, data),
        lambda: hessian.diagonal(model, F.cross_entropy, data, method="parameter"),
        lambda: hessian.diagonal(model, F.cross_entropy, data, memory=1),
        lambda: hessian.diagonal(model, F.cross_entropy, data, verify=2),
        lambda: hessian.diagonal(model, F.cross_entropy, data, names=["a.weight"]),
        lambda: by_value.operator(model, F.cross_entropy, data),
        lambda: hessian.coordinate_minimum(model, F.cross_entropy, data, 2) and {},
        lambda: hessian.estimate(model, F.cross_entropy, data, "hutchinson", probes=2) and {},
        lambda: hessian.plan(model, F.cross_entropy, data) and {},
    ):
        found = call()
        for name, h in found.items():
            expected = want[name] if name in want else torch.zeros_like(h)
            torch.testing.assert_close(h, expected, rtol=1e-9, atol=1e-11)
        for name, p in model.named_parameters():
            assert torch.equal(p.detach(), state[name]), name
            assert p.data_ptr() == addresses[name], name
            assert p.grad is None


def test_after_an_error():
    model = momentum(by_data, True)
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="loss could not"):
        hessian.diagonal(model, F.cross_entropy, (X, Y[:2]))
    assert all(torch.equal(v, state[n]) for n, v in model.state_dict().items())


def test_every_batch_meets_the_same_weights():
    model = momentum(lerp, True)
    got = hessian.diagonal(model, F.cross_entropy, [(X[:3], Y[:3]), (X[3:], Y[3:])])
    halves = [
        hessian.diagonal(model, F.cross_entropy, pair) for pair in ((X[:3], Y[:3]), (X[3:], Y[3:]))
    ]
    for name, h in got.items():
        mean = (halves[0][name] + halves[1][name]) / 2
        torch.testing.assert_close(h, mean, rtol=1e-12, atol=1e-14)


def test_the_slope_of_a_minimum_is_that_of_the_displaced_entry():
    """An entry that is displaced is not put back by what a forward pass writes."""
    model = Net(lambda net, x: net.b(torch.tanh(net.a(x))))

    def touching(net, x):
        with torch.no_grad():
            net.a.weight.mul_(1.0)
        return net.b(torch.tanh(net.a(x)))

    touched = Net(touching)
    a, b = (
        hessian.coordinate_minimum(m, F.cross_entropy, (X, Y), 3, torch.Generator().manual_seed(0))
        for m in (model, touched)
    )
    for name in a:
        torch.testing.assert_close(a[name].displacement, b[name].displacement, rtol=1e-6, atol=1e-8)
