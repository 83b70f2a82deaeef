"""The source on the batch at hand; accelerate's wrappers around it and the other rules."""

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

import hessian
from sim import optimizers
from sim.integrations import BatchCurvature

pytestmark = pytest.mark.filterwarnings("ignore")  # of accelerate, about this machine
X = torch.randn(12, 4, generator=torch.Generator().manual_seed(2))
Y = torch.arange(12) % 3
BATCHES = [(X[k : k + 4], Y[k : k + 4]) for k in (0, 4, 8)]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def by_hand(batches=BATCHES, rate=0.01):
    """CBLR as the paper has it, with second derivatives by a loop of double backward passes."""
    model = net()
    for x, y in batches:
        parameters = list(model.parameters())
        gradients = torch.autograd.grad(F.cross_entropy(model(x), y), parameters, create_graph=True)
        seconds = []
        for p, g in zip(parameters, gradients, strict=True):
            rows = [
                torch.autograd.grad(entry, p, retain_graph=True)[0].flatten()[i]
                for i, entry in enumerate(g.flatten())
            ]
            seconds.append(torch.stack(rows).view_as(p))
        with torch.no_grad():
            for p, g, h in zip(parameters, gradients, seconds, strict=True):
                p -= rate * ((1 + g**2) ** 1.5 / h.abs()).clamp(max=3000.0) * g
    return dict(model.named_parameters())


def same(model, want):
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach().cpu(), want[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["set", "watched"])
def test_a_loop_of_ones_own(how):
    model = net()

    class Dict(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x, labels):
            return {"loss": F.cross_entropy(self.net(x), labels), "logits": self.net(x)}

    whole = Dict() if how == "watched" else model
    loss = hessian.on_logits()
    source = BatchCurvature(whole, loss, watch=how == "watched", memory=2**20)
    optimizer = optimizers.CBLR(whole.named_parameters(), 0.01, curvature=source)
    for x, y in BATCHES:
        optimizer.zero_grad()
        if how == "set":
            source.batch = (x, y)
            F.cross_entropy(model(x), y).backward()
        else:
            whole(x=x, labels=y)["loss"].backward()
            with torch.no_grad():
                whole(x=X, labels=Y)  # no training: not the batch
            whole.eval()(x=X, labels=Y)
            whole.train()
        optimizer.step()
    same(model, by_hand())


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"^batch: there is none yet; set it before the step"):
        BatchCurvature(net(), F.cross_entropy)()
    with pytest.raises(TypeError, match=r"^model: got int"):
        BatchCurvature(1, F.cross_entropy)
    with pytest.raises(TypeError, match=r"^loss: got str"):
        BatchCurvature(net(), "mse")


@pytest.mark.parametrize("how", ["source", "positional", "inner"])
def test_accelerate(how):
    accelerator = Accelerator(cpu=True)
    model = net()
    source = BatchCurvature(model, F.cross_entropy)
    own = source if how == "source" else None
    optimizer = optimizers.CBLR(model.named_parameters(), 0.01, curvature=own)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    for x, y in BATCHES:
        optimizer.zero_grad()
        source.batch = (x, y)
        accelerator.backward(F.cross_entropy(model(x), y))
        if how == "source":
            optimizer.step()
        elif how == "positional":
            optimizer.step(source())
        else:
            optimizer.optimizer.step(curvature=source())
        scheduler.step()
    same(accelerator.unwrap_model(model), by_hand())


def test_what_to_write_under_accelerate_is_said_where_it_is_missed():
    """Its wrapper refuses the keyword before any code of ours runs: our own words say the rest."""
    model = net()
    optimizer = optimizers.CBLR(model.named_parameters(), 0.01)
    wrapped = Accelerator(cpu=True).prepare(optimizer)
    x, y = BATCHES[0]
    h = hessian.diagonal(model, F.cross_entropy, (x, y))
    F.cross_entropy(model(x), y).backward()
    with pytest.raises(TypeError, match="unexpected keyword argument 'curvature'"):
        wrapped.step(curvature=h)
    with pytest.raises(ValueError, match=r"\(accelerate's\) as step\(h\), or set a source as"):
        wrapped.step()
    assert "``optimizer.step(h)``" in optimizers.CBLR.step.__doc__
    wrapped.step(h)
    same(model, by_hand(BATCHES[:1]))


@pytest.mark.parametrize("rule", ["LAMB", "LARS", "MCLR", "PercentDelta"])
def test_accelerate_steps_the_other_rules(rule):
    models = []
    for wrapped in (False, True):
        model = net()
        optimizer = getattr(optimizers, rule)(model.parameters(), 0.01, momentum=0.9)
        if wrapped:
            model, optimizer = Accelerator(cpu=True).prepare(model, optimizer)
        for x, y in BATCHES:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        models.append(model)
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(a, b)
