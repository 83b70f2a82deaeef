"""What theory says of CBLR, how it takes its curvature, and that it trains."""

import inspect
import itertools
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
import sim
from sim import data, models, optimizers
from sim.optimizers import CBLR
from sim.optimizers._lamb import REFERENCES as LAMB_REFERENCES
from sim.optimizers._lars import REFERENCES

from .test_suite import gradients, tensors

DOCS = Path(__file__).resolve().parents[3] / "docs" / "optimizers.md"


def scalar(value):
    return nn.Parameter(torch.tensor(value, dtype=torch.float64))


def trajectory(start, lr, steps, slope, curvature, **options):
    w = scalar(start)
    optimizer = CBLR([("w", w)], lr=lr, max_radius=1e30, **options)
    path = [start]
    for _ in range(steps):
        w.grad = slope(w.detach())
        optimizer.step(curvature={"w": curvature(w.detach())})
        path.append(w.item())
        if abs(path[-1]) > 1e6:  # it has left for good
            break
    return path


def parabola(start, lr, steps, a=1.0):
    return trajectory(start, lr, steps, lambda w: a * w, lambda w: torch.full_like(w, a))


@pytest.mark.parametrize("a", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("lr", [0.25, 0.5, 1.0, 1.5])
def test_the_basin_on_a_parabola(a, lr):
    # w ← w (1 - γ (1 + g²)^{3/2}) shrinks where (1 + g²)^{3/2} < 2/γ and grows beyond.
    edge = math.sqrt((2 / lr) ** (2 / 3) - 1) / a
    inside = parabola(0.99 * edge, lr, 400, a)
    outside = parabola(1.01 * edge, lr, 40, a)
    assert abs(inside[-1]) < 1e-6
    assert abs(outside[-1]) > 1e3 * edge
    # On the edge the step overshoots to the mirror image.
    assert parabola(edge, lr, 1, a)[1] == pytest.approx(-edge, rel=1e-12)


def test_a_parabola_converges_with_order_three():
    # w ← w (1 - (1 + w²)^{3/2}) = -3/2 w³ + O(w⁵).
    path = parabola(0.1, 1.0, 3)
    for before, after in itertools.pairwise(path[:3]):
        assert after / before**3 == pytest.approx(-1.5, rel=before**2)


def test_a_parabola_converges_linearly_below_one():
    path = parabola(0.1, 0.25, 60)
    assert path[-1] / path[-2] == pytest.approx(0.75, rel=1e-6)


def test_a_quartic_converges_linearly():
    # On w⁴ the curvature falls with w: R g = w/3 to leading order, a factor of 2/3.
    path = trajectory(0.01, 1.0, 40, lambda w: 4 * w**3, lambda w: 12 * w**2)
    assert path[-1] / path[-2] == pytest.approx(2 / 3, rel=1e-4)


@pytest.mark.parametrize(("negative", "want"), [("absolute", 0.75), ("zero", 1), ("gradient", 0.5)])
def test_the_sign_of_the_curvature(negative, want):
    w = scalar(1.0)
    optimizer = CBLR([("w", w)], lr=0.5, negative=negative)
    w.grad = torch.ones_like(w)
    optimizer.step(curvature={"w": torch.full_like(w, -(2**2.5))})
    assert w.item() == pytest.approx(want)


def test_the_radius_is_that_of_hessian():
    pairs = tensors([(50,)])
    gradients(pairs, 1)
    h = torch.randn(50, dtype=torch.float64)
    before, w = pairs[0][1].detach().clone(), pairs[0][1]
    CBLR(pairs, lr=0.1, max_radius=50.0).step(curvature={"p0": h})
    step = 0.1 * hessian.radius(w.grad, h).clamp(max=50.0) * w.grad
    torch.testing.assert_close(w.detach(), before - step)


@pytest.mark.parametrize("g", [1e13, 1e30])
def test_the_cap_holds_where_the_radius_overflows(g):
    w = nn.Parameter(torch.tensor([0.0, 0.0]))
    w.grad = torch.tensor([g, 0.0])
    CBLR([("w", w)], lr=1e-30, max_radius=10.0).step(curvature={"w": torch.tensor([1.0, 0.0])})
    assert w.tolist() == pytest.approx([-1e-29 * g, 0.0])


def test_a_network_of_five_lines():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    x, y = torch.randn(8, 3), torch.randint(2, (8,))
    optimizer = CBLR(model.named_parameters(), lr=0.1)
    losses = []
    for _ in range(10):
        curvature = hessian.diagonal(model, F.cross_entropy, (x, y))
        optimizer.step(curvature=curvature)  # its gradient serves where there is no other
        losses.append(curvature.loss)
    assert losses == sorted(losses, reverse=True)


def test_the_examples_of_the_docs():
    text = DOCS.read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) == 3
    x, y = torch.randn(16, 3), torch.randint(2, (16,))
    for example in examples:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        names = {"model": model, "loss": F.cross_entropy, "batches": 12 * [(x, y)]}
        before = F.cross_entropy(model(x), y)
        exec(example, names | {"sim": sim, "hessian": hessian})
        assert F.cross_entropy(model(x), y) < before


def test_every_option_is_documented():
    for rule in optimizers.__all__:
        found = getattr(optimizers, rule)
        missing = [
            o
            for o in inspect.signature(found).parameters
            if not re.search(rf"\b{o}`?.*:", found.__doc__)
        ]
        assert missing == []
    text = DOCS.read_text(encoding="utf-8")
    assert [name for name in [*REFERENCES, *LAMB_REFERENCES] if f'`"{name}"`' not in text] == []


def test_its_gradient_and_that_of_backward_are_the_same_step():
    x, y = torch.randn(8, 3), torch.randint(2, (8,))
    results = []
    for backward in (True, False):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = CBLR(model.named_parameters(), lr=0.1)
        if backward:
            F.cross_entropy(model(x), y).backward()
        optimizer.step(curvature=hessian.diagonal(model, F.cross_entropy, (x, y)))
        results.append(model.weight.detach().clone())
    torch.testing.assert_close(*results)


def test_dropout_is_the_same_in_a_backward_pass_that_follows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Dropout(0.5), nn.Linear(40, 2))
    x, y = torch.randn(8, 6), torch.randint(2, (8,))
    losses = []
    for _ in range(2):
        model.zero_grad()
        curvature = hessian.diagonal(model, F.cross_entropy, (x, y))
        F.cross_entropy(model(x), y).backward()
        torch.testing.assert_close(model[0].weight.grad, curvature.gradient["0.weight"])
        losses.append(curvature.loss)
    assert losses[0] != losses[1]  # and another in the next step


def test_the_radius_is_what_the_step_uses():
    pairs = tensors([(40, 3), (200, 200)])
    gradients(pairs, 1)
    h = {n: torch.randn(p.shape, dtype=torch.float64) for n, p in pairs}
    options = {"max_radius": 3.0, "damping": 0.1, "negative": "zero", "weight_decay": 0.5}
    optimizer = CBLR(pairs, lr=0.1, decay="coupled", **options)
    before = {n: p.detach().clone() for n, p in pairs}
    radius = optimizer.radius(h)
    assert optimizer.due  # nothing was stored
    optimizer.step(h)
    for name, p in pairs:
        step = 0.1 * radius[name] * (p.grad + 0.5 * before[name])
        torch.testing.assert_close(p.detach(), before[name] - step)
        assert torch.equal(optimizer.radius()[name] > 0, radius[name] > 0)


def test_the_curvature_is_reused_until_it_is_due():
    pairs = tensors([(2,)])
    optimizer = CBLR(pairs, lr=0.1, refresh_interval=2)
    gradients(pairs, 0)
    assert optimizer.due
    h = {"p0": torch.ones(2, dtype=torch.float64)}
    optimizer.step(curvature=h)
    h["p0"].fill_(torch.nan)  # it was copied
    assert not optimizer.due
    optimizer.step()
    assert optimizer.due
    assert pairs[0][1].isfinite().all()
    with pytest.raises(ValueError, match=r"has served 2 steps, refresh_interval is 2; pass"):
        optimizer.step()


def test_frozen_parameters_may_be_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    optimizer = CBLR(model.named_parameters(), lr=0.1)
    pair = torch.randn(4, 2), torch.randint(2, (4,))
    before = model[1].weight.detach().clone()
    optimizer.step(curvature=hessian.diagonal(model, F.cross_entropy, pair))
    assert not torch.equal(before, model[1].weight)
    model[0].requires_grad_(True)
    F.cross_entropy(model(pair[0]), pair[1]).backward()
    with pytest.raises(ValueError, match=r"'0\.weight' has a gradient but no curvature yet; pass"):
        optimizer.step()


@pytest.mark.parametrize("seed", [0, 3])  # 3 is one that diverges at γ = 3e-4
def test_a_narrow_alexnet_learns_the_digits(seed):
    digits = data.load("digits")
    x, y = digits.pair
    model = models.build(
        "alexnet", in_shape=x.shape[1:], classes=10, width=1 / 16, dropout=0.0, seed=seed
    )
    optimizer = CBLR(model.named_parameters(), lr=2e-4, momentum=0.9)
    generator = torch.Generator().manual_seed(seed + 1)

    def measure():
        with torch.no_grad():
            output = model(x)
        return F.cross_entropy(output, y).item(), (output.argmax(1) == y).float().mean().item()

    before = measure()
    for _ in range(100):
        rows = torch.randint(len(x), (128,), generator=generator)
        optimizer.step(curvature=hessian.diagonal(model, F.cross_entropy, (x[rows], y[rows])))
    after = measure()
    # ln 10 = 2.303 and 10% are chance.
    assert before[0] > 2.2
    assert after[0] < 0.8
    assert after[1] > 0.75


def test_zeros_do_not_hide_the_gradient_that_comes_with_the_curvature():
    # zero_grad(set_to_none=False) leaves zeros, with which nothing would ever move.
    torch.manual_seed(0)
    model, pair = nn.Linear(3, 2), (torch.randn(5, 3), torch.randn(5, 2))
    optimizer = CBLR(model.named_parameters(), lr=0.1)
    F.mse_loss(model(pair[0]), pair[1]).backward()
    curvature = hessian.diagonal(model, F.mse_loss, pair)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.zero_grad(set_to_none=False)
    for take in (optimizer.step, optimizer.radius):
        with pytest.raises(ValueError, match=r"^params: every .grad is 0, and .*; leave none by"):
            take(curvature)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    # One that is not zero is a gradient; and so are zeros, where the curvature's own are.
    model.weight.grad[1, 2] = 1.0
    optimizer.step(curvature)
    moved = (model.weight != before[0]).nonzero()
    assert moved.tolist() == [[1, 2]]
    optimizer.zero_grad(set_to_none=False)
    optimizer.step({name: torch.ones_like(p) for name, p in model.named_parameters()})
    target = model(pair[0]).detach()
    optimizer.step(hessian.diagonal(model, F.mse_loss, (pair[0], target)))


def test_a_tensor_that_has_no_name():
    w, v = scalar(1.0), scalar(2.0)
    optimizer = CBLR([("w", w)], lr=0.1)
    optimizer.param_groups[0]["params"].append(v)
    for p in (w, v):
        p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match=r"^params: a group has 2 tensors and 1 names; put the"):
        optimizer.step({"w": torch.ones_like(w), "v": torch.ones_like(v)})
    assert w.item() == 1.0
