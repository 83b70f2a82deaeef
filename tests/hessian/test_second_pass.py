"""A second call of the model is the first one again, or it is said that it is not."""

import random
from collections import deque

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

import hessian
from hessian._batch import execute as _execute
from hessian._call import attributes as _attributes

from . import oracle

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).double()
Y = torch.arange(5) % 3
METHODS = ["auto", "preactivation", "parameter"]


class Keeps(nn.Module):
    """A network that another call of finds something else in."""

    def __init__(self, state, step):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 3).double(), nn.Linear(3, 3).double()
        self.step = step
        for name, value in state().items():
            setattr(self, name, value)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.b(h * self.step(self, h))


def counter(m, h):
    m.count += 1
    return float(m.count)


def recurrent(m, h):
    m.h = torch.zeros(3).double() if m.h is None else m.h
    m.h = 0.5 * m.h + h.detach().mean(0) if len(h) == 5 else m.h + 1
    return 1 + m.h


def written(m, h):
    m.h.add_(1.0)
    return 1 + m.h


def listed(m, h):
    m.seen.append(h.detach().abs().mean())
    return 1 + sum(float(s) for s in m.seen)


def nested(m, h):
    m.cache["a"][0].append(1.0)
    m.cache["b"] = m.cache.get("b", 0) + 1
    return 1 + len(m.cache["a"][0]) + m.cache["b"]


def queued(m, h):
    m.queue.append(len(m.queue))
    m.names.add(len(m.names))
    return 1 + sum(m.queue) + len(m.names)


def new_name(m, h):
    m.fresh = getattr(m, "fresh", 0) + 1
    return float(m.fresh)


def drawn(m, h):
    noise = torch.rand(3, generator=m.generator).double()
    return 1 + noise + m.numpy.random() + m.legacy.rand() + m.python.random()


def generators():
    return {
        "generator": torch.Generator().manual_seed(0),
        "numpy": np.random.default_rng(0),
        "legacy": np.random.RandomState(0),
        "python": random.Random(0),
    }


KEPT = {
    "counter": (lambda: {"count": 0}, counter),
    "recurrent": (lambda: {"h": None}, recurrent),
    "written": (lambda: {"h": torch.zeros(3).double()}, written),
    "list": (lambda: {"seen": []}, listed),
    "nested": (lambda: {"cache": {"a": ([],)}}, nested),
    "queue": (lambda: {"queue": deque([1], maxlen=4), "names": set()}, queued),
    "new name": (dict, new_name),
    "generators": (generators, drawn),
}


@pytest.mark.parametrize("kept", KEPT)
def test_state_in_attributes_is_put_back_before_every_call(kept):
    make, step = KEPT[kept]
    want = oracle.diagonal(Keeps(make, step), F.cross_entropy, [(X, Y)])
    flat = torch.cat([h.reshape(-1) for h in want.values()])
    model = Keeps(make, step)
    for method in METHODS:
        for memory in (None, 1):
            got = hessian.diagonal(model, F.cross_entropy, (X, Y), method=method, memory=memory)
            oracle.assert_exact(got, want)
    two = hessian.diagonal(model, F.cross_entropy, [(X, Y), (X, Y)], verify=2)
    oracle.assert_exact(two, want)
    assert max(two.deviation.values()) < 1e-6
    some = hessian.sample(model, F.cross_entropy, (X, Y), 4)
    for name, s in some.items():
        assert torch.allclose(s.value, want[name].reshape(-1)[s.index], rtol=1e-9)
    op = hessian.operator(model, F.cross_entropy, (X, Y))
    for i in (0, 7, len(flat) - 1):
        assert (op @ np.eye(len(flat))[i])[i] == pytest.approx(float(flat[i]), rel=1e-9, abs=1e-12)
    for kind in ("hutchinson", "preactivation", "gauss-newton-mc"):
        args = (F.cross_entropy, (X, Y), kind, 9)
        got = hessian.estimate(model, *args)
        oracle.assert_exact(got, dict(hessian.estimate(Keeps(make, step), *args)))
    low = hessian.coordinate_minimum(model, F.cross_entropy, (X, Y), 2)
    for name, m in low.items():
        assert torch.allclose(m.curvature, want[name].reshape(-1)[m.index], rtol=1e-9)
    # As found: the model is in the state of one that was never called.
    oracle.assert_exact(oracle.diagonal(model, F.cross_entropy, [(X, Y)]), want)


def test_attributes_are_as_found_after_an_error():
    calls = []

    def step(m, h):
        m.count += 1
        m.seen.append(1)
        m.extra = 1
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return 1.0

    model = Keeps(lambda: {"count": 0, "seen": [7]}, step)
    seen = model.seen
    with pytest.raises(KeyboardInterrupt):
        hessian.diagonal(model, F.cross_entropy, [(X, Y)] * 2, method="parameter")
    assert (model.count, model.seen) == (0, [7])
    assert model.seen is seen
    assert not hasattr(model, "extra")


class Outside:
    """State where nothing looks: an object of another kind."""

    def __init__(self):
        self.count = 0


@pytest.mark.parametrize("method", ["preactivation", "parameter"])
def test_state_that_is_not_seen_is_refused(method):
    calls = []

    def closure(m, h):
        calls.append(1)
        return float(len(calls))

    def other(m, h):
        m.outside.count += 1
        return float(m.outside.count)

    for make, step in ((dict, closure), (lambda: {"outside": Outside()}, other)):
        model = Keeps(make, step)
        with pytest.raises(ValueError, match="from one call to the next"):
            hessian.diagonal(model, F.cross_entropy, (X, Y), method=method)
        with pytest.raises(ValueError, match="from one call to the next"):
            hessian.estimate(model, F.cross_entropy, (X, Y), "preactivation")
        with pytest.raises(ValueError, match="from one call to the next"):
            hessian.estimate(model, F.cross_entropy, (X, Y), "hutchinson", 20)
        op = hessian.operator(model, F.cross_entropy, (X, Y))
        op @ np.ones(op.shape[0])
        with pytest.raises(ValueError, match="from one call to the next"):
            op @ np.ones(op.shape[0])


def test_a_loss_with_state_is_refused():
    calls = []

    def loss(output, target):
        calls.append(1)
        return F.cross_entropy(output, target) * len(calls)

    model = Keeps(dict, lambda m, h: 1.0)
    with pytest.raises(ValueError, match="loss: its value on batch 0"):
        hessian.diagonal(model, loss, (X, Y), method="parameter")


def test_a_large_tensor_in_an_attribute_may_not_be_written(monkeypatch):
    monkeypatch.setattr(_attributes, "_LARGE", 8)
    model = Keeps(lambda: {"h": torch.zeros(3).double()}, written)
    with pytest.raises(ValueError, match="register it as a buffer"):
        hessian.diagonal(model, F.cross_entropy, (X, Y), method="parameter")


class Square(nn.Module):
    def forward(self, x):
        return x.square() + 0.1


@pytest.mark.parametrize("memory", [None, 1])
def test_values_that_parametrizations_cache_are_made_again(memory):
    model = Keeps(dict, lambda m, h: 1.0)
    parametrize.register_parametrization(model.a, "weight", Square())
    want = oracle.diagonal(model, F.cross_entropy, [(X, Y)])
    with parametrize.cached():
        for _ in range(2):
            got = hessian.diagonal(model, F.cross_entropy, (X, Y), memory=memory)
            oracle.assert_exact(got, want)
        assert model.a.weight is model.a.weight  # it is on again
        assert parametrize._cache


@pytest.mark.parametrize("memory", [None, 1])
def test_a_weight_that_forward_makes_once(memory):
    """An attribute that is filled by the first call, be it one without a tape."""

    def step(m, h):
        if m.made is None:
            m.made = m.b.bias.exp()
        return m.made

    model = Keeps(lambda: {"made": None}, step)
    want = oracle.diagonal(Keeps(lambda: {"made": None}, step), F.cross_entropy, [(X, Y)])
    for method in ("auto", "parameter"):
        got = hessian.diagonal(model, F.cross_entropy, (X, Y), memory=memory, method=method)
        oracle.assert_exact(got, want)
    assert model.made is None


@pytest.mark.parametrize(
    ("owner", "name"), [(_attributes.Attributes, "restore"), (_execute, "repeated")]
)
def test_what_is_not_put_back_is_seen(owner, name, monkeypatch):
    model = Keeps(*KEPT["counter"])
    want = oracle.diagonal(Keeps(*KEPT["counter"]), F.cross_entropy, [(X, Y)])
    if name == "restore":
        monkeypatch.setattr(owner, name, lambda self: None)
        with pytest.raises(ValueError, match="from one call to the next"):
            hessian.diagonal(model, F.cross_entropy, (X, Y), method="parameter")
        return

    def unchecked(task, caller, reading):
        output = caller.output()
        return output, caller.value(output)

    monkeypatch.setattr(owner, name, unchecked)
    got = hessian.diagonal(model, F.cross_entropy, (X, Y), method="parameter")
    assert max(oracle.gap(got, want).values()) > 0.1
