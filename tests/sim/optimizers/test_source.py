"""A curvature source: steps that are given none ask it, whoever calls them."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from sim.optimizers import CBLR

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def by_hand(steps, interval=1, rates=None):
    """The rule as the paper has it, with the exact diagonal of every step or every few."""
    model, gamma = net(), 0.01
    for step in range(steps):
        if step % interval == 0:
            h = hessian.diagonal(model, F.cross_entropy, (X, Y))
        model.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        with torch.no_grad():
            for name, p in model.named_parameters():
                radius = (1 + p.grad**2) ** 1.5 / h[name].abs()
                rate = gamma if rates is None else rates[step]
                p -= rate * radius.clamp(max=3000.0) * p.grad
    return dict(model.named_parameters())


class Source:
    def __init__(self, model):
        self.model, self.calls = model, 0

    def __call__(self):
        assert torch.is_grad_enabled()
        self.calls += 1
        return hessian.diagonal(self.model, F.cross_entropy, (X, Y))


def same(model, want):
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, want[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("interval", [None, 1, 2])
@pytest.mark.parametrize("call", ["step()", "closure", "closure=", "of the step", "set"])
def test_it_is_asked_when_it_is_due(interval, call):
    model = net()
    source = Source(model)
    own = None if call in ("of the step", "set") else source
    optimizer = CBLR(model.named_parameters(), 0.01, refresh_interval=interval, curvature=own)
    if call == "set":
        optimizer.curvature = source

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    for _ in range(4):
        if call == "closure":
            assert optimizer.step(closure).requires_grad
        elif call == "closure=":
            assert optimizer.step(closure=closure).item() > 0
        else:
            closure()
            due = call == "of the step" and (optimizer.due or interval is None)
            assert optimizer.step(curvature=source if due else None) is None
    assert source.calls == (2 if interval == 2 else 4)
    same(model, by_hand(4, interval or 1))


def test_the_gradient_that_comes_with_it_serves_where_there_is_none():
    model = net()
    optimizer = CBLR(model.named_parameters(), 0.01, curvature=Source(model))
    for _ in range(3):
        optimizer.step()
    same(model, by_hand(3))


def test_without_one_the_last_serves_for_ever():
    model = net()
    optimizer = CBLR(model.named_parameters(), 0.01)
    source = Source(model)
    optimizer.step(source())
    F.cross_entropy(model(X), Y).backward()
    assert not optimizer.due
    optimizer.step()
    optimizer.curvature = source
    assert optimizer.due


def test_schedulers_and_a_gradient_scaler():
    model = net()
    optimizer = CBLR(model.named_parameters(), 0.01, curvature=Source(model))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(X), Y)).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 / 8)
    same(model, by_hand(3, rates=[0.01, 0.005, 0.0025]))


def test_overflow_skips_the_step_and_the_source():
    model = net()
    source = Source(model)
    optimizer = CBLR(model.named_parameters(), 0.01, curvature=source)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(F.cross_entropy(model(X), Y)).backward()
    model[0].weight.grad[0, 0] = torch.inf
    scaler.step(optimizer)
    assert source.calls == 0
    same(model, dict(net().named_parameters()))


def test_it_is_no_part_of_a_saved_state():
    model = net()
    optimizer = CBLR(model.named_parameters(), 0.01, curvature=Source(model))
    optimizer.step()
    other = CBLR(net().named_parameters(), 0.01)
    other.load_state_dict(optimizer.state_dict())
    assert other.curvature is None
    assert "curvature" not in optimizer.state_dict()["param_groups"][0]
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert twin.curvature is None


def copied(optimizer):
    return copy.deepcopy(optimizer)


def pickled(optimizer):
    return pickle.loads(pickle.dumps(optimizer))


def resumed(optimizer):
    other = CBLR(net().named_parameters(), 0.01)
    other.load_state_dict(optimizer.state_dict())
    return other


def taken_away(optimizer):
    optimizer.curvature = None
    return optimizer


@pytest.mark.parametrize("interval", [None, 3])
@pytest.mark.parametrize("way", [copied, pickled, resumed, taken_away])
def test_without_its_source_it_does_not_go_on_in_silence(way, interval):
    model = net()
    first = CBLR(model.named_parameters(), 0.01, refresh_interval=interval, curvature=Source(model))
    first.step()
    other = way(first)
    for p in other.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    if interval is not None:  # as long as the curvature may serve
        other.step()
        other.step()
    before = [p.detach().clone() for p in other.param_groups[0]["params"]]
    assert other.due
    with pytest.raises(ValueError, match=r"^curvature: .*set a source as optimizer\.curvature"):
        other.step()
    for p, old in zip(other.param_groups[0]["params"], before, strict=True):
        assert torch.equal(p, old)
    names = other.param_groups[0]["param_names"]
    h = {n: torch.ones_like(p) for n, p in zip(names, before, strict=True)}
    other.step(h)
    assert not other.due
    other.step()  # what was given serves on, as ever


def test_the_radius_is_that_of_the_step_that_comes_from_a_source_too():
    model = net()
    source = Source(model)
    optimizer = CBLR(model.named_parameters(), 0.01, max_radius=50.0, curvature=source)
    optimizer.step()
    F.cross_entropy(model(X), Y).backward()
    h = hessian.diagonal(model, F.cross_entropy, (X, Y))
    for radius in (optimizer.radius(), optimizer.radius(source)):
        for name, p in model.named_parameters():
            want = ((1 + p.grad**2) ** 1.5 / h[name].abs()).clamp(max=50.0)
            torch.testing.assert_close(radius[name], want)
    assert source.calls == 3
