"""Every rule and every named option beside a transcription of the reference it reproduces."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import optimizers

from . import reference
from .mutant import mutant

STEPS = 4


def draw(seed, shape, zero_w=False, zero_g=False, scale=1.0):
    """Weights, gradients, curvatures and changing rates, some entries exactly zero."""
    rng = np.random.default_rng(seed)
    w = np.zeros(shape) if zero_w else scale * rng.standard_normal(shape)
    gs = [np.zeros(shape) if zero_g else rng.standard_normal(shape) for _ in range(STEPS)]
    hs = [rng.standard_normal(shape) for _ in range(STEPS)]
    for h in hs:
        h.reshape(-1)[::3] = 0.0
    for g in gs:
        g.reshape(-1)[::5] = 0.0
    return w, gs, hs, [0.3, 0.1, 0.2, 0.05]


def run(rule, w, gs, lrs, hs=None, **options):
    p = torch.nn.Parameter(torch.tensor(w, dtype=torch.float64))
    optimizer = rule([("w", p)], lr=lrs[0], **options)
    for k, (g, lr) in enumerate(zip(gs, lrs, strict=True)):
        optimizer.param_groups[0]["lr"] = lr
        p.grad = torch.tensor(g, dtype=torch.float64)
        if hs is None:
            optimizer.step()
        else:
            optimizer.step(curvature={"w": torch.tensor(hs[k], dtype=torch.float64)})
    return p.detach().numpy()


def assert_same(got, want):
    # Both run in float64 and differ in the order of sums and products: some hundred roundings of
    # 2e-16, far below what any other formula would give.
    finite = np.isfinite(want)
    np.testing.assert_array_equal(np.isfinite(got), finite)
    scale = max(1.0, np.max(np.abs(want[finite]), initial=0.0))
    np.testing.assert_allclose(got[finite], want[finite], rtol=1e-11, atol=1e-12 * scale)


common = {
    "seed": st.integers(0, 10**6),
    "shape": st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    "m": st.just(0.0) | st.floats(0.01, 0.99),
    "beta": st.just(0.0) | st.floats(1e-4, 1.0),
    "scale": st.floats(-3, 3).map(lambda k: 10**k),
}
some = settings(max_examples=30, deadline=None)


@some
@given(
    **common,
    decay=st.sampled_from(["decoupled", "coupled"]),
    cap=st.sampled_from([0.5, 1e3]),
    low=st.sampled_from([0.0, 0.3]),
    damp=st.sampled_from([0.0, 0.2]),
    sign=st.sampled_from(["absolute", "zero", "gradient"]),
)
def test_cblr(seed, shape, m, beta, scale, decay, cap, low, damp, sign):
    check_cblr(optimizers.CBLR, seed, shape, m, beta, scale, decay, cap, low, damp, sign)


def check_cblr(rule, seed, shape, m, beta, scale, decay, cap, low, damp, sign):
    w, gs, hs, lrs = draw(seed, shape, scale=scale)
    options = {"max_radius": cap, "min_curvature": low, "damping": damp, "negative": sign}
    got = run(rule, w, gs, lrs, hs, momentum=m, weight_decay=beta, decay=decay, **options)
    # A cap of 0.5 is below the R = 1 of "gradient", which it limits all the same.
    assert_same(got, reference.cblr(w, gs, hs, lrs, m, beta, decay, cap, low, damp, sign))


LARS = {
    "you2017": (lambda *a: reference.lars_you(*a, 1e-3), {}),
    "noahgolmant": (reference.noahgolmant, {}),
    "timm": (reference.timm, {}),
    "timm-always": (lambda *a: reference.timm(*a, always_adapt=True), {"adapt": "always"}),
    "timm-clip": (lambda *a: reference.timm(*a, eta=0.5, trust_clip=True), {"clip": True}),
    "apex-larc": (reference.apex_larc, {}),
    "apex-larc-scale": (lambda *a: reference.apex_larc(*a, clip=False), {"clip": False}),
    "torchlars": (reference.torchlars, {}),
    "pytorch-optimizer": (reference.pytorch_optimizer, {}),
    "pytorch-optimizer-3.6": (lambda *a: reference.pytorch_optimizer(*a, release=3.6), {}),
    "pytorch-optimizer-3": (lambda *a: reference.pytorch_optimizer(*a, release=3), {}),
    "barlowtwins": (reference.barlowtwins, {}),
    "barlowtwins-filter": (
        lambda *a: reference.barlowtwins(*a, filtered=True),
        {"one_dimensional": "plain"},
    ),
    "tf-contrib": (reference.tf_contrib, {}),
    "tf-contrib-skip": (lambda *a: reference.tf_contrib(*a, skipped=True), {"adapt": "never"}),
    "default": (lambda *a: reference.lars_you(*a, 1.0, floor=1e-3), {}),
}
LIKE = {
    "timm-always": "timm",
    "timm-clip": "timm",
    "apex-larc-scale": "apex-larc",
    "barlowtwins-filter": "barlowtwins",
    "tf-contrib-skip": "tf-contrib",
}


@pytest.mark.parametrize("name", LARS)
@some
@given(**common, zero_w=st.booleans(), zero_g=st.booleans())
def test_lars(name, seed, shape, m, beta, scale, zero_w, zero_g):
    check_lars(optimizers.LARS, name, seed, shape, m, beta, scale, zero_w, zero_g)


def check_lars(rule, name, seed, shape, m, beta, scale, zero_w, zero_g):
    w, gs, _, lrs = draw(seed, shape, zero_w, zero_g, scale)
    formula, options = LARS[name]
    if name == "timm-clip":
        options = options | {"trust_coefficient": 0.5}
    got = run(rule, w, gs, lrs, momentum=m, weight_decay=beta, like=LIKE.get(name, name), **options)
    with np.errstate(all="ignore"):
        assert_same(got, formula(w, gs, lrs, m, beta))


@pytest.mark.parametrize("reading", ["absolute", "signed", "ratio"])
@some
@given(**common, defaults=st.booleans())
def test_mclr(reading, seed, shape, m, beta, scale, defaults):
    check_mclr(optimizers.MCLR, reading, seed, shape, m, beta, scale, defaults)


def check_mclr(rule, reading, seed, shape, m, beta, scale, defaults):
    w, gs, _, lrs = draw(seed, shape, scale=scale)
    ours = {} if defaults else {"zero_norm": "literal", "limit": None}
    theirs = {"floor": 1e-3, "limit": 10.0} if defaults else {}
    if not defaults:  # as printed the rule is infinite where a gradient is 0
        gs = [np.where(g == 0, 0.1, g) for g in gs]
        lrs = [lr / 100 for lr in lrs]
    got = run(rule, w, gs, lrs, momentum=m, weight_decay=beta, reading=reading, **ours)
    want = reference.mclr(w, gs, lrs, m, beta, reading, **theirs)
    # Quotients of medians near 0 multiply roundings; so does the reference.
    assert np.allclose(got, want, rtol=1e-7, atol=1e-9 * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("form", ["floor", "google", "nonzero", "literal"])
@some
@given(**common, zeros=st.sampled_from([0, 1, 99]))
def test_percent_delta(form, seed, shape, m, beta, scale, zeros):
    check_percent_delta(optimizers.PercentDelta, form, seed, shape, m, beta, scale, zeros)


def check_percent_delta(rule, form, seed, shape, m, beta, scale, zeros):
    w, gs, _, lrs = draw(seed, shape, scale=scale)
    w.reshape(-1)[:zeros] = 0.0
    got = run(rule, w, gs, lrs, momentum=m, weight_decay=beta, zero_norm=form)
    assert_same(got, reference.percent_delta(w, gs, lrs, m, beta, form))


LAMB = {
    "default": (lambda *a: reference.lamb(*a, floor=1e-3), {}),
    "you2020": (reference.lamb, {}),
    "timm": (reference.lamb_fused, {}),
    "timm-always": (lambda *a: reference.lamb_fused(*a, always=True), {"adapt": "always"}),
    "timm-clip": (lambda *a: reference.lamb_fused(*a, trust_clip=True), {"clip": True}),
    "apex": (reference.lamb_fused, {}),
    "apex-nvlamb": (lambda *a: reference.lamb_fused(*a, always=True), {}),
    "apex-l2": (lambda *a: reference.lamb_fused(*a, l2=True), {"decay": "l2"}),
    "apex-sum": (
        lambda *a: reference.lamb_fused(*a, averaging=False, bias=False),
        {"grad_averaging": False, "bias_correction": False},
    ),
}


@pytest.mark.parametrize("name", LAMB)
@some
@given(**common, zero_w=st.booleans(), zero_g=st.booleans())
def test_lamb(name, seed, shape, m, beta, scale, zero_w, zero_g):
    check_lamb(optimizers.LAMB, name, seed, shape, m, beta, scale, zero_w, zero_g)


def check_lamb(rule, name, seed, shape, m, beta, scale, zero_w, zero_g):
    if name == "you2020":  # literally 0/0 for a zero step
        zero_g = False
    w, gs, _, lrs = draw(seed, shape, zero_w, zero_g, scale)
    if name == "you2020":
        gs = [np.where(g == 0, 0.1, g) for g in gs]
    formula, options = LAMB[name]
    like = {"timm-always": "timm", "timm-clip": "timm", "apex-l2": "apex", "apex-sum": "apex"}
    got = run(rule, w, gs, lrs, momentum=m, weight_decay=beta, like=like.get(name, name), **options)
    assert_same(got, formula(w, gs, lrs, m, 0.999, 1e-6, beta))


# A formula that is wrong in one place, and the check above that must see it.
CBLR_CASE = (check_cblr, 3, (3, 4), 0.5, 0.01, 1.0, "coupled", 5.0, 0.0, 0.0, "zero")
MUTANTS = {
    "power 1": ("_radii", "torch_private.foreach_sqrt(radius)", "1.0", "CBLR"),
    "no cap": ("_radii", "clamp_max_(radius, max_radius)", "clamp_max_(radius, 1e9)", "CBLR"),
    "sign": ("_radii", "masked_fill_(h < 0", "masked_fill_(h > 0", "CBLR"),
    "no decay of h": (
        "_radii",
        "foreach_add(curvatures, beta)",
        "foreach_mul(curvatures, 1)",
        "CBLR",
    ),
    "g in the history": (
        "_radii",
        "foreach_add_(velocities, steps)",
        "foreach_add_(velocities, gradients)",
        "CBLR",
    ),
    "no beta below": ("_lars", "gradient + beta * weight", "gradient + 0 * weight", "LARS"),
    "the gradient's zero": ("_lars", "(denominator > 0)", "(gradient > 0)", "LARS"),
    "no floor": (
        "_lars",
        "weight = torch.where(slope > 0, least, weight)",
        "weight = weight",
        "LARS",
    ),
    "median of w": (
        "_mclr",
        "median(weights, torch.abs)",
        "median(weights, torch.positive)",
        "MCLR",
    ),
    "no limit": ("_mclr", 'group["limit"] * lars', "1e9 * lars", "MCLR"),
    "sum for mean": ("_percent_delta", "count / total", "1.0 / total", "PercentDelta"),
    "no bias": ("_lamb", "(1 - second**t) ** 0.5", "(1 - second**t)", "LAMB"),
    "length of m": ("_lamb", "weight / length", "weight / length.square()", "LAMB"),
}
CASES = {
    "CBLR": CBLR_CASE,
    "LARS": (check_lars, "default", 3, (3, 4), 0.5, 0.5, 1.0, False, False),
    "MCLR": (check_mclr, "absolute", 3, (3, 4), 0.5, 0.01, 1.0, True),
    "PercentDelta": (check_percent_delta, "floor", 3, (3, 4), 0.5, 0.01, 1.0, 1),
    "LAMB": (check_lamb, "default", 3, (3, 4), 0.5, 0.01, 1.0, False, False),
}


@pytest.mark.parametrize("error", MUTANTS)
def test_a_wrong_formula_is_caught(error, tmp_path, monkeypatch):
    module, right, wrong, rule = MUTANTS[error]
    source = Path(optimizers.__file__).with_name(f"{module}.py")
    check, *arguments = CASES[rule]
    if error == "no floor":
        arguments[-2] = True  # weights of zero
    if error == "the gradient's zero":
        arguments = ["pytorch-optimizer", 3, (3, 4), 0.5, 0.5, 1.0, False, True]
    if error == "no limit":
        arguments = ["signed", 8, (7,), 0.0, 0.0, 1.0, True]
    check(getattr(optimizers, rule), *arguments)
    changed = mutant(source, right, wrong, tmp_path, monkeypatch)
    if module == "_radii":
        monkeypatch.setattr(sys.modules["sim.optimizers._cblr"], "descend", changed.descend)
        changed = optimizers
    with pytest.raises(AssertionError):
        check(getattr(changed, rule), *arguments)


@pytest.mark.parametrize("name", ["apex-larc", "timm-clip"])
@pytest.mark.parametrize("m", [0.0, 0.9])
def test_clipping_holds_in_a_warm_up_from_zero(name, m):
    """The first step moves nothing, and what it leaves in the history is clipped all the same."""
    w, gs, _, _ = draw(0, (3, 4), scale=100.0)
    lrs = [0.0, 0.1, 0.2, 0.0]
    formula, options = LARS[name]
    options = options | ({"trust_coefficient": 0.5} if name == "timm-clip" else {})
    got = run(
        optimizers.LARS, w, gs, lrs, momentum=m, weight_decay=0.1, like=LIKE.get(name, name),
        **options,
    )  # fmt: skip
    with np.errstate(all="ignore"):
        assert_same(got, formula(w, gs, lrs, m, 0.1))


def test_a_rate_of_zero_clipped_at_a_learning_rate_of_zero_is_zero():
    """Without a gradient λ is 0, not 0/0; then λ = 0.02 · 2/2, clipped to 0.02/0.1, by hand."""
    weight = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))
    rule = optimizers.LARS(
        [("w", weight)], lr=0.0, momentum=0.9, trust_coefficient=0.02, clip=True, zero_norm="floor"
    )
    for lr, gradient in ((0.0, 0.0), (0.1, 1.0)):
        rule.param_groups[0]["lr"] = lr
        weight.grad = torch.full_like(weight, gradient)
        rule.step()
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, 1 - 0.1 * 0.2))


def test_ratio_only_decay_stays_out_of_the_step_whatever_a_zero_norm_does():
    # λ = 5 / (1 + 0.5·5) = 10/7 by hand, and the step is 0.1 λ g.
    for zero_norm in ("floor", "one", "skip"):
        w = torch.nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
        optimizer = optimizers.LARS(
            [w], 0.1, weight_decay=0.5, decay="ratio-only", zero_norm=zero_norm
        )
        w.grad = torch.tensor([1.0, 0.0], dtype=torch.float64)
        optimizer.step()
        torch.testing.assert_close(w.data, torch.tensor([3 - 1 / 7, 4.0], dtype=torch.float64))


def test_decay_alone_shrinks_a_small_tensor_and_never_turns_it_round():
    w = torch.nn.Parameter(torch.full((4,), 1e-6, dtype=torch.float64))
    optimizer = optimizers.LARS([w], 0.1, weight_decay=0.01)
    for k in range(1, 4):
        w.grad = torch.zeros(4, dtype=torch.float64)
        optimizer.step()
        # By ηγ‖w‖, as the class says: w is multiplied by 0.9.
        torch.testing.assert_close(w.data, torch.full((4,), 1e-6 * 0.9**k, dtype=torch.float64))
