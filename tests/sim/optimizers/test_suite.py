"""One suite for every rule: what an optimizer must do, whatever its formula."""

import copy
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import hessian
import sim
from sim import optimizers

RULES = sorted(optimizers.__all__)
LAYERWISE = [name for name in RULES if name != "CBLR"]
some = settings(max_examples=25, deadline=None)


def make(rule, parameters, lr=0.01, **options):
    return getattr(optimizers, rule)(parameters, lr, **options)


def step(optimizer, curvature=1.0):
    """A step of any rule; CBLR gets a constant curvature, of 1 unless told otherwise."""
    if not isinstance(optimizer, optimizers.CBLR):
        return optimizer.step()
    pairs = [
        pair
        for group in optimizer.param_groups
        for pair in zip(group["param_names"], group["params"], strict=True)
    ]
    return optimizer.step(curvature={n: torch.full_like(p, curvature) for n, p in pairs})


def tensors(shapes=((3, 4), (4,), (), (2, 3, 2)), seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i, shape in enumerate(shapes):
        p = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        found.append((f"p{i}", p))
    return found


def gradients(pairs, seed):
    generator = torch.Generator().manual_seed(seed)
    for _, p in pairs:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def values(pairs):
    return [p.detach().clone() for _, p in pairs]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
def test_a_quadratic_is_minimised(rule, dtype):
    # L = Σ a (w - 1)²/2. The layer-wise rules step by γ‖w‖ even beside the minimum, so γ falls;
    # for CBLR it must only be below 2/(1 + g²)^{3/2}, here 0.18.
    a = torch.tensor([[1.0, 0.5], [2.0, 1.0]], dtype=dtype)
    w = nn.Parameter(torch.tensor([[2.0, -1.0], [0.5, 3.0]], dtype=dtype))
    optimizer = make(rule, [("w", w)], lr=0.15 if rule == "CBLR" else 0.2, momentum=0.5)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 1.0 if rule == "CBLR" else 0.97)
    for _ in range(250):
        optimizer.zero_grad()
        loss = (a * (w - 1) ** 2 / 2).sum()
        loss.backward()
        optimizer.step(curvature={"w": a}) if rule == "CBLR" else optimizer.step()
        schedule.step()
    # bfloat16 has 8 bits, so near 1 a step below 2⁻⁹ is lost.
    assert (w.detach().double() - 1).abs().max() < (0.05 if dtype == torch.bfloat16 else 1e-2)
    assert w.dtype == dtype


@pytest.mark.parametrize("rule", RULES)
def test_bfloat16_is_one_rounding_away_from_float32(rule):
    half, full = tensors(dtype=torch.bfloat16), tensors(dtype=torch.bfloat16)
    full = [(n, nn.Parameter(p.detach().float())) for n, p in full]
    gradients(half, 1)
    for (_, p), (_, q) in zip(full, half, strict=True):
        p.grad = q.grad.float()
    for pairs in (half, full):
        step(make(rule, pairs, momentum=0.9, weight_decay=0.1))
    assert equal(values(half), [v.bfloat16() for v in values(full)])


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "weight_decay": 0.1}])
@pytest.mark.parametrize("rule", RULES)
def test_foreach_changes_nothing(rule, options):
    results = []
    for foreach in (True, False, None):
        pairs = tensors([(5, 7), (3,), (), (300, 300), (1, 1), (6, 2)], dtype=torch.float32)
        optimizer = make(rule, pairs, foreach=foreach, **options)
        for k in range(3):
            gradients(pairs, k)
            step(optimizer)
        results.append(values(pairs))
    assert equal(results[0], results[1])
    assert equal(results[0], results[2])


class Count(TorchDispatchMode):
    """How many operations are launched."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("rule", RULES)
def test_foreach_launches_few_operations(rule):
    # Launches, unlike seconds, do not depend on the machine; MCLR's medians are one by one.
    calls = {}
    for foreach in (True, False):
        pairs = tensors(100 * [(3, 2)])
        gradients(pairs, 0)
        optimizer = make(rule, pairs, foreach=foreach, momentum=0.9)
        step(optimizer)  # makes the state
        with Count() as count:
            step(optimizer) if rule != "CBLR" else optimizer.step()
        calls[foreach] = count.calls
    assert calls[True] < calls[False] / (1.5 if rule == "MCLR" else 5)


def documented(start):
    """The block on training loops of docs/start.md that sets `optimizer` to such a rule."""
    text = (Path(__file__).resolve().parents[3] / "docs" / "start.md").read_text(encoding="utf-8")
    section = text.split("## In a training loop")[1].split("\n## ")[0]
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", section, re.DOTALL) if start in b]
    return block


@pytest.mark.parametrize("rule", RULES)
def test_the_loop_of_the_docs(rule):
    block = documented("CBLR(" if rule == "CBLR" else "LARS(").replace("LARS(", f"{rule}(")
    loop = block.split("\n\n")[1]
    assert len(loop.strip().splitlines()) <= 5
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 5))
    x, y = torch.randn(64, 20), torch.randint(5, (64,))
    names = {"model": model, "x": x, "y": y, "nn": nn, "sim": sim, "hessian": hessian}
    names["batches"] = 4 * [(x[:32], y[:32]), (x[32:], y[32:])]
    before = nn.functional.cross_entropy(model(x), y).item()
    exec(documented("LARS(").splitlines()[0], names)  # loss = …
    exec(block.replace("batches = ", "_ = "), names)
    assert type(names["optimizer"]).__name__ == rule
    assert nn.functional.cross_entropy(model(x), y) < before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
def test_resuming_in_mid_run_is_exact(rule, dtype):
    def begin(seed):
        pairs = tensors(seed=seed, dtype=dtype)
        options = {"momentum": 0.9, "weight_decay": 0.01}
        optimizer = make(rule, pairs, lr=0.05, **options)
        return pairs, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)

    def go(pairs, optimizer, schedule, steps):
        for k in steps:
            gradients(pairs, k)
            if rule == "CBLR":
                # A curvature that no 16 bits can hold, reused in three steps of four.
                h = {n: torch.full_like(p, 1 / 3, dtype=torch.float64) + k for n, p in pairs}
                optimizer.step(curvature=h if k % 4 == 0 else None)
            else:
                optimizer.step()
            schedule.step()

    straight = begin(0)
    go(*straight, range(9))
    first = begin(0)
    go(*first, range(5))
    file = io.BytesIO()
    torch.save([first[1].state_dict(), first[2].state_dict(), values(first[0])], file)
    file.seek(0)
    optimizer_state, schedule_state, weights = torch.load(file)
    second = begin(1)
    with torch.no_grad():
        for (_, p), value in zip(second[0], weights, strict=True):
            p.copy_(value)
    second[1].load_state_dict(optimizer_state)
    second[2].load_state_dict(schedule_state)
    go(*second, range(5, 9))
    assert equal(values(straight[0]), values(second[0]))


@pytest.mark.parametrize("rule", RULES)
def test_a_copy_goes_its_own_way(rule):
    pairs = tensors()
    optimizer = make(rule, pairs, momentum=0.9)
    gradients(pairs, 0)
    step(optimizer)
    twin = copy.deepcopy(optimizer)
    before = [p.detach().clone() for p in twin.param_groups[0]["params"]]
    step(optimizer)
    assert equal(before, twin.param_groups[0]["params"])


@pytest.mark.parametrize("rule", RULES)
def test_groups_have_their_own_options(rule):
    pairs = tensors()
    alone = copy.deepcopy(pairs)
    optimizer = make(rule, [{"params": pairs[:2], "lr": 0.1, "weight_decay": 0.5}])
    optimizer.add_param_group({"params": pairs[2:], "lr": 0.0})
    gradients(pairs, 3)
    gradients(alone, 3)
    step(optimizer)
    separate = make(rule, alone[:2], lr=0.1, weight_decay=0.5)
    step(separate)
    assert equal(values(pairs[:2]), values(alone[:2]))
    assert not equal(values(pairs[:2]), values(tensors()[:2]))
    assert equal(values(pairs[2:]), values(tensors()[2:]))


@pytest.mark.parametrize("rule", RULES)
def test_schedules_of_rate_and_momentum(rule):
    pairs = tensors()
    optimizer = make(rule, pairs, momentum=0.5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=4)
    for k in range(3):
        gradients(pairs, k)
        step(optimizer)
        schedule.step()
    assert optimizer.param_groups[0]["lr"] != 0.01
    assert all(v.isfinite().all() for v in values(pairs))


@pytest.mark.parametrize("rule", RULES)
def test_gradient_scaling(rule):
    # Scaling by a power of two is exact, so a scaled run must be the same run.
    results = []
    for scale in (1.0, 2.0**12):
        pairs = tensors(dtype=torch.float32)
        optimizer = make(rule, pairs)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        scaler.scale(sum((p**2).sum() for _, p in pairs)).backward()
        if rule == "CBLR":
            scaler.step(optimizer, curvature={n: torch.ones_like(p) for n, p in pairs})
        else:
            scaler.step(optimizer)
        scaler.update()
        results.append(values(pairs))
        # An overflow is a skipped step.
        pairs[0][1].grad = torch.full_like(pairs[0][1], torch.inf)
        scaler.step(optimizer)
        assert equal(values(pairs), results[-1])
    assert equal(*results)


@pytest.mark.parametrize("rule", RULES)
def test_parameters_without_gradient_or_entries(rule):
    pairs = [*tensors(), ("empty", nn.Parameter(torch.zeros(0, 3, dtype=torch.float64)))]
    optimizer = make(rule, pairs, momentum=0.9, weight_decay=0.1)
    gradients(pairs, 0)
    pairs[1][1].grad = None
    before = values(pairs)
    step(optimizer)
    after = values(pairs)
    moved = [not torch.equal(x, y) for x, y in zip(before, after, strict=True)]
    assert moved == [True, False, True, True, False]


@pytest.mark.parametrize("rule", RULES)
def test_a_dead_tensor_does_not_move(rule):
    pairs = tensors()
    optimizer = make(rule, pairs, lr=0.5)
    for _ in range(3):
        for _, p in pairs:
            p.grad = torch.zeros_like(p)
        step(optimizer, curvature=0.0)
    assert equal(values(pairs), values(tensors()))


@pytest.mark.parametrize("grouping", ["tensor", "group"])
@pytest.mark.parametrize("rule", LAYERWISE)
@some
@given(
    lr=st.sampled_from([1e-3, 0.1]),
    size=st.integers(1, 9),
    scale=st.sampled_from([1e-30, 1e-6, 1.0, 1e20]),
    beta=st.sampled_from([0.0, 0.1]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_by_default_zeros_neither_freeze_nor_leap(rule, grouping, lr, size, scale, beta, dtype):
    # A bias of zeros, a lone norm scale, a matrix with zeros in it, under gradients of any size.
    pairs = [
        ("bias", nn.Parameter(torch.zeros(size, dtype=dtype))),
        ("scale", nn.Parameter(torch.ones(size, dtype=dtype))),
        ("weight", nn.Parameter(torch.eye(size + 1, dtype=dtype))),
    ]
    for _, p in pairs:
        p.grad = torch.full_like(p, scale)
        p.grad.view(-1)[1::2] *= -0.5
    optimizer = make(rule, pairs, lr, weight_decay=beta, grouping=grouping)
    before = values(pairs)
    # One step, so that what a leap would be is known: γ times the norm, or that of the floor,
    # times the limit of MCLR, with room for the rounding of bfloat16.
    step(optimizer)
    everything = torch.cat([b.flatten().double() for b in before])
    for i, (old, new) in enumerate(zip(before, values(pairs), strict=True)):
        change = (new.double() - old.double()).norm()
        against = everything if grouping == "group" else old.double()
        longest = lr * max(against.norm(), 1e-3 * against.numel() ** 0.5)
        assert new.isfinite().all()
        # PercentDelta measures change by means of |Δw/w|, whose longest vector is one entry.
        factor = (
            against.numel() * against.abs().max().clamp(min=1) if rule == "PercentDelta" else 10
        )
        assert change <= 1.1 * factor * longest + 2.0**-8 * old.double().norm()
        # Below half a unit in the last place bfloat16 cannot move; zeros can, and Adam's
        # eps = 1e-6 is larger than a gradient of 1e-30 by design.
        if i == 0 and not (grouping == "group" or (rule == "LAMB" and scale < 1e-6)):
            assert change > 0


@pytest.mark.parametrize("rule", ["LARS", "MCLR", "PercentDelta"])
@some
@given(k=st.sampled_from([2.0**-40, 0.25, 2.0**30]), seed=st.integers(0, 99))
def test_the_scale_of_the_loss_does_not_matter(rule, k, seed):
    pairs, scaled = tensors(seed=seed), tensors(seed=seed)
    gradients(pairs, seed)
    for (_, p), (_, q) in zip(pairs, scaled, strict=True):
        q.grad = k * p.grad
    for each in (pairs, scaled):
        step(make(rule, each))
    for a, b in zip(values(pairs), values(scaled), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", LAYERWISE)
@some
@given(k=st.sampled_from([0.25, 4.0, 2.0**20]), seed=st.integers(0, 99))
def test_the_scale_of_a_layer_does_not_matter(rule, k, seed):
    # w → kw, g → g/k is what happens to a layer before a normalisation: the step follows w.
    shapes = [(5, 3), (8, 2)]
    pairs, scaled = tensors(shapes, seed), tensors(shapes, seed)
    gradients(pairs, seed)
    for (_, p), (_, q) in zip(pairs, scaled, strict=True):
        q.data.mul_(k)
        q.grad = p.grad / k
    options = {"eps": 1e-30} if rule == "LAMB" else {}
    if rule == "PercentDelta":
        options = {"zero_norm": "literal"}  # the floor is a scale, and single entries are below it
    for each in (pairs, scaled):
        step(make(rule, each, **options))
    for a, b in zip(values(pairs), values(scaled), strict=True):
        torch.testing.assert_close(k * a, b, rtol=1e-12, atol=1e-14 * k)


def test_curvature_based_rates_depend_on_the_scale_of_the_loss():
    moved = []
    for k in (1.0, 4.0):
        w = nn.Parameter(torch.tensor(1.0))
        w.grad = torch.tensor(k)
        make("CBLR", [("w", w)]).step(curvature={"w": torch.tensor(k)})
        moved.append(1 - w.item())
    assert moved[1] > 2 * moved[0]


@pytest.mark.parametrize("rule", LAYERWISE)
def test_a_group_as_one_tensor(rule):
    # The group's rate is that of the concatenation of its tensors.
    pairs = tensors([(3, 2), (4,), (5, 1)])
    gradients(pairs, 0)
    joined = nn.Parameter(torch.cat([p.detach().flatten() for _, p in pairs]))
    joined.grad = torch.cat([p.grad.flatten() for _, p in pairs])
    options = {"momentum": 0.5, "weight_decay": 0.1}
    for _ in range(2):
        step(make(rule, pairs, grouping="group", **options))
        step(make(rule, [joined], **options))
    got = torch.cat([v.flatten() for v in values(pairs)])
    torch.testing.assert_close(got, joined.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", LAYERWISE)
def test_one_dimensional_tensors_left_out(rule):
    pairs = tensors([(3, 2), (4,)])
    gradients(pairs, 0)
    before, g = values(pairs), pairs[1][1].grad
    options = {"momentum": 0.0} if rule != "LAMB" else {}
    step(make(rule, pairs, weight_decay=0.5, one_dimensional="plain", **options))
    want = before[1] - 0.01 * (g.sign() if rule == "LAMB" else g)
    torch.testing.assert_close(values(pairs)[1], want, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("rule", LAYERWISE)
def test_a_closure_is_evaluated(rule):
    w = nn.Parameter(torch.ones(2, 2))
    optimizer = make(rule, [w])

    def closure():
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4
    assert (w < 1).all()


@pytest.mark.parametrize("rule", LAYERWISE)
def test_zero_norms_the_way_of_others(rule):
    # What "one" and "literal" do to a bias of zeros: a leap by γg, and nothing for ever.
    steps = {}
    for form in ("one", "literal"):
        if rule == "PercentDelta" and form == "one":
            continue
        w = nn.Parameter(torch.zeros(4, 2, dtype=torch.float64))
        w.grad = torch.ones_like(w)
        step(make(rule, [("w", w)], lr=0.5, zero_norm=form))
        steps[form] = w.detach()
    if "one" in steps:
        np.testing.assert_allclose(steps["one"], -0.5, rtol=1e-5)
    np.testing.assert_array_equal(steps["literal"], 0.0)
