"""Functions of a mapping or pytree of tensors: what the module with the same formula gives."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import hessian
from hessian import functional

X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
Y = torch.tensor([0, 1, 2, 2, 1, 0])
Z = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def net(activation=nn.Tanh):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), activation(), nn.Linear(5, 3)).double()


def weights(activation=nn.Tanh):
    return {name: p.detach() for name, p in net(activation).named_parameters()}


def forward(w, x, act=torch.tanh):
    return act(x @ w["0.weight"].T + w["0.bias"]) @ w["2.weight"].T + w["2.bias"]


def entropy(w, x, y):
    return F.cross_entropy(forward(w, x), y)


def relu(w, x, y):
    return F.cross_entropy(forward(w, x, torch.relu), y)


def decayed(w, x, y):
    return F.cross_entropy(forward(w, x), y) + 0.5 * sum((p**2).sum() for p in w.values())


def decayed_before(w, x, y):
    penalty = sum((p**3).mean() for p in w.values())
    return penalty + 2 * F.cross_entropy(forward(w, x), y)


def by_hand(w, x, y):
    logits = forward(w, x)
    return -(logits - logits.logsumexp(-1, keepdim=True))[torch.arange(len(y)), y].mean()


def squared(w, x, z):
    return ((forward(w, x) - z) ** 2).mean()


def summed(w, x, z):
    return torch.sum((forward(w, x) - z) ** 4)


def hidden_too(w, x, y):
    inner = torch.tanh(x @ w["0.weight"].T + w["0.bias"])
    logits = inner @ w["2.weight"].T + w["2.bias"]
    return F.cross_entropy(logits, y) * inner.square().mean()


def two_losses(w, x, y):
    return F.cross_entropy(forward(w, x), y) + F.cross_entropy(forward(w, -x), y)


def coupled(w, x, z):
    return (forward(w, x) - z).mean().exp()


def logsumexp(w, x, y):
    logits = forward(w, x, torch.relu)
    return (logits.logsumexp(-1) - logits[range(len(y)), y]).mean()


def decayed_by_hand(w, x, y):
    return (
        logsumexp(w, x, y) + 0.1 * sum((p**2).sum() for p in w.values()) - w["0.bias"].cos().sum()
    )


def shifted_by_hand(w, x, y):
    """A sum of parameters alone that is no penalty."""
    logits = forward(w, x, torch.relu) * (1 + w["0.weight"].square().sum())
    return (logits.logsumexp(-1) - logits[range(len(y)), y]).mean()


def in_place(w, x, y):
    z = torch.relu(x @ w["0.weight"].T + w["0.bias"]) @ w["2.weight"].T
    z += w["2.bias"]
    z.mul_(2)
    return (z.logsumexp(-1) - z[range(len(y)), y]).mean() + 0 * y.sum()


class Doubled(torch.autograd.Function):
    """Its calls are not seen."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


def custom(w, x, y):
    logits = Doubled.apply(forward(w, x, torch.relu))
    return (logits.logsumexp(-1) - logits[range(len(y)), y]).mean()


def in_pieces(w, x, y):
    hidden, weight = torch.relu(x @ w["0.weight"].T + w["0.bias"]), w["2.weight"].chunk(3)
    logits = torch.cat([hidden @ part.T for part in weight], 1) + w["2.bias"]
    a, b, c = logits.unbind(1)
    return (logits.logsumexp(-1) - torch.stack([a, b, c], 1)[range(len(y)), y]).mean()


FUNCTIONS = {
    "log-sum-exp": (logsumexp, Y), "decay, by hand": (decayed_by_hand, Y),
    "a sum before": (shifted_by_hand, Y), "in place": (in_place, Y), "custom": (custom, Y),
    "in pieces": (in_pieces, Y),
    "cross-entropy": (entropy, Y), "relu": (relu, Y), "decay after": (decayed, Y),
    "decay before": (decayed_before, Y), "written by hand": (by_hand, Y),
    "squares": (squared, Z), "fourth powers": (summed, Z), "hidden values, too": (hidden_too, Y),
    "two losses": (two_losses, Y), "coupled": (coupled, Z),
}  # fmt: skip


def dense(f, w, *arguments):
    """The whole Hessian by nested differentiation of the flat function, in float64."""
    names = list(w)
    sizes = [w[name].numel() for name in names]

    def flat(v):
        parts = v.split(sizes)
        return f({n: p.view_as(w[n]) for n, p in zip(names, parts, strict=True)}, *arguments)

    v = torch.cat([w[name].flatten() for name in names])
    return torch.autograd.functional.hessian(flat, v), sizes, flat(v)


@pytest.mark.parametrize("memory", [None, 1000])
@pytest.mark.parametrize("case", FUNCTIONS)
def test_exact(case, memory):
    f, targets = FUNCTIONS[case]
    w = weights()
    want, sizes, value = dense(f, w, X, targets)
    h = functional.diagonal(f, memory=memory, verify=0 if memory else 8)(w, X, targets)
    assert list(h) == list(w)
    for name, part in zip(w, want.diag().split(sizes), strict=True):
        torch.testing.assert_close(h[name].flatten(), part, rtol=1e-9, atol=1e-12)
        assert h[name].shape == w[name].shape
    assert h.loss == pytest.approx(float(value), rel=1e-12)
    if memory is None:
        assert max(v for v in h.deviation.values() if v == v) < 1e-7
    assert not hasattr(h, "tree")
    assert all(not p.requires_grad and p.grad is None for p in w.values())


MODULES = {"cross-entropy": (entropy, nn.Tanh), "relu": (relu, nn.ReLU)}


@pytest.mark.parametrize("case", MODULES)
def test_the_plan_is_that_of_the_module(case):
    f, activation = MODULES[case]
    module = hessian.plan(net(activation), F.cross_entropy, (X, Y))
    plan = functional.plan(f)(weights(activation), X, Y)
    assert plan.methods() == module.methods()
    assert (plan.forward, plan.backward) == (module.forward, module.backward)
    assert plan.advice == ""
    # Written by hand it is cut where all goes through.
    squares = functional.plan(squared)(weights(), X, Z)
    assert set(squares.methods().values()) <= {"chain", "affine"}


BY_HAND = {
    "log-sum-exp": lambda z, y: (z.logsumexp(-1) - z[range(len(y)), y]).mean(),
    "gather": lambda z, y: -z.log_softmax(1).gather(1, y[:, None]).mean(),
    "exp": lambda z, y: (z.exp().sum(1).log() - z[range(len(y)), y]).mean(),
    "one by one": lambda z, y: sum(z[i].exp().sum().log() - z[i][y[i]] for i in range(6)) / 6,
}


@pytest.mark.parametrize("penalty", [0.0, 0.3])
@pytest.mark.parametrize("name", BY_HAND)
def test_a_loss_by_hand_is_cut_at_the_logits(name, penalty):
    """So that passes, Gauss-Newton and Fisher are those of a module and torch's own loss."""
    model = net(nn.ReLU)

    def decayed(z, y):
        return F.cross_entropy(z, y) + penalty * sum((p**2).sum() for p in model.parameters())

    def f(w, x, y):
        value = BY_HAND[name](forward(w, x, torch.relu), y)
        return value + penalty * sum((p**2).sum() for p in w.values())

    w = weights(nn.ReLU)
    want = hessian.diagonal(model, decayed, (X, Y))
    h = functional.diagonal(f)(w, X, Y)
    assert h.plan.methods() == want.plan.methods()
    assert (h.plan.forward, h.plan.backward) == (want.plan.forward, want.plan.backward)
    for key, value in want.items():
        torch.testing.assert_close(h[key], value, rtol=1e-9, atol=1e-12)
    if name != "one by one":  # seen to keep samples apart, and not proved
        ours = functional.estimate(f, "gauss-newton")(w, X, Y)
        theirs = hessian.estimate(model, decayed, (X, Y), "gauss-newton")
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-9, atol=1e-12)


def test_squares_by_hand_have_the_gauss_newton_matrix_of_squares():
    ours = functional.estimate(squared, "gauss-newton")(weights(), X, Z)
    theirs = hessian.estimate(net(), F.mse_loss, (X, Z), "gauss-newton")
    assert all(bool((value > 0).all()) for value in theirs.values())
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-9, atol=1e-12)


def test_a_method_that_one_cut_has_and_another_has_not():
    affine = functional.diagonal(squared, method="chain")(weights(nn.ReLU), X, Z)
    assert set(affine.plan.methods().values()) == {"chain"}
    with pytest.raises(ValueError, match="not proved"):
        functional.diagonal(hidden_too, method="affine")(weights(), X, Y)


def test_sample_estimate_and_operator():
    w = weights()
    want, sizes, _ = dense(entropy, w, X, Y)
    some = functional.sample(entropy, 3, torch.Generator().manual_seed(1))(w, X, Y)
    for name, part in zip(w, want.diag().split(sizes), strict=True):
        torch.testing.assert_close(some[name].value, part[some[name].index], rtol=1e-9, atol=1e-12)
    operator = functional.operator(entropy)(w, X, Y)
    assert operator.names == tuple(w)
    np.testing.assert_allclose(operator @ np.eye(len(want)), want.numpy(), rtol=1e-9, atol=1e-12)
    top = operator.top(1, tolerance=1e-9)[0].value
    assert top == pytest.approx(float(torch.linalg.eigvalsh(want)[-1]), rel=1e-6)
    arguments = net(), F.cross_entropy, (X, Y)
    for kind in ("hutchinson", "gauss-newton", "empirical-fisher"):
        estimate = functional.estimate(entropy, kind, 2)(w, X, Y)
        module = hessian.estimate(*arguments, kind, probes=2)
        for name, value in module.items():
            torch.testing.assert_close(estimate[name], value, rtol=1e-9, atol=1e-12)
    estimate = functional.estimate(entropy, "preactivation", 200)(w, X, Y)
    for name, part in zip(w, want.diag().split(sizes), strict=True):
        gap = (estimate[name].flatten() - part).abs()
        # 43 entries: one is beyond 5 standard errors once in 40,000 times.
        assert bool((gap <= 5 * estimate.standard_error[name].flatten() + 1e-9).all())


def test_other_trees():
    w = weights()
    nested = {
        "layers": [(w["0.weight"], w["0.bias"]), {"weight": w["2.weight"], "bias": w["2.bias"]}],
        "scale": 1.0, "steps": torch.tensor(3),
    }  # fmt: skip

    def f(p, x, y):
        (a, b), last = p["layers"]
        names = {"0.weight": a, "0.bias": b, **{f"2.{k}": v for k, v in last.items()}}
        assert p["steps"] == 3
        return entropy(names, x, y) * p["scale"]

    h = functional.diagonal(f)(nested, X, Y)
    want = functional.diagonal(entropy)(w, X, Y)
    assert list(h) == ["layers.0.0", "layers.0.1", "layers.1.weight", "layers.1.bias"]
    for value, other in zip(h.values(), want.values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-12, atol=0)
    assert h.tree["layers"][0][1] is h["layers.0.1"]
    assert h.tree["layers"][1]["weight"] is h["layers.1.weight"]
    assert functional.sample(f)(nested, X, Y).tree["layers"][0][0].numel == 20
    only = functional.diagonal(f, names=["layers.1.*"])(nested, X, Y)
    assert list(only) == ["layers.1.weight", "layers.1.bias"]
    assert only.tree["layers"][0][0] is None
    one = functional.diagonal(lambda v: (v**3).sum())(torch.tensor([1.0, 2.0]))
    assert one.tree.tolist() == [6.0, 12.0]


class Stateful(nn.Module):
    """Batch norm and dropout in a module that the function closes over."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)
        self.double()

    def forward(self, x):
        return self.b(F.dropout(torch.relu(self.norm(self.a(x))), 0.3, self.training))


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_functional_call_of_a_module_leaves_it_as_found(training, by_hand):
    module = Stateful().train(training)
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    w = {name: p.detach() for name, p in module.named_parameters()}

    def f(p, x, y):
        z = functional_call(module, p, (x,))
        if by_hand:
            z = F.dropout(z, 0.2, training)  # the call that is cut at draws, too
            return (z.logsumexp(1) - z[range(len(y)), y]).mean()
        return F.cross_entropy(z, y)

    torch.manual_seed(7)
    state = torch.get_rng_state()
    h = functional.diagonal(f)(w, X, Y)
    assert torch.equal(torch.get_rng_state(), state) or training
    for name, b in module.named_buffers():
        assert torch.equal(b, buffers[name]), name
    twin = Stateful().train(training)
    torch.manual_seed(7)
    head = nn.Dropout(0.2) if by_hand else nn.Identity()
    whole = nn.Sequential(twin, head.train(training))
    found = hessian.diagonal(whole, F.cross_entropy, (X, Y))
    want = {name.removeprefix("0."): value for name, value in found.items()}
    for name, value in want.items():
        torch.testing.assert_close(h[name], value, rtol=1e-9, atol=1e-12)
    if not by_hand:
        assert list(h.plan.methods().values()) == list(found.plan.methods().values())


def test_nothing_is_written_to_the_parameters():
    w = weights()
    before = {name: p.clone() for name, p in w.items()}
    versions = {name: p._version for name, p in w.items()}
    functional.diagonal(entropy, verify=4, dtype=torch.float32)(w, X, Y)
    for name, p in w.items():
        assert torch.equal(p, before[name])
        assert p._version == versions[name]
        assert p.dtype == torch.float64


def test_what_is_refused():
    w = weights()
    with pytest.raises(TypeError, match=r"^f must be a function .* got Linear|^f must be a func"):
        functional.diagonal(3)
    with pytest.raises(TypeError, match=r"^f: got a module, .*; for the module itself use hessian"):
        functional.diagonal(net())(w, X, Y)
    with pytest.raises(TypeError, match=r"^split is no option here; options are method"):
        functional.diagonal(entropy, split="data")
    with pytest.raises(TypeError, match=r"^kinds is no option here"):
        functional.operator(entropy, kinds="ggn")
    with pytest.raises(TypeError, match=r"^parameters: dict holds no floating tensor"):
        functional.diagonal(entropy)({"a": 1}, X, Y)
    with pytest.raises(TypeError, match=r"^f must return a scalar tensor, got \(6, 3\)"):
        functional.diagonal(forward)(w, X)
    with pytest.raises(TypeError, match=r"^f must return a scalar tensor, got float"):
        functional.diagonal(lambda p: 1.0)(w)
