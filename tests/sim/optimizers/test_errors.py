"""Every message: the argument, the value, the remedy, in one line."""

import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sim import optimizers

from .test_suite import LAYERWISE, RULES, gradients, make, tensors

OPTIONS = [
    *((rule, "lr", value) for rule in RULES for value in (-1.0, float("nan"), "fast")),
    *((rule, "momentum", value) for rule in RULES for value in (-0.1, 1.0)),
    *((rule, "weight_decay", -1e-4) for rule in RULES),
    *((rule, "foreach", "yes") for rule in RULES),
    *((rule, "grouping", "layer") for rule in LAYERWISE),
    *((rule, "zero_norm", "nan") for rule in LAYERWISE),
    *((rule, "floor", 0.0) for rule in LAYERWISE),
    *((rule, "one_dimensional", "skip") for rule in LAYERWISE),
    *((rule, "momentum_form", "heavy") for rule in ("LARS", "MCLR", "PercentDelta")),
    *((rule, "like", "me") for rule in ("LARS", "LAMB")),
    *((rule, "adapt", "no") for rule in ("LARS", "LAMB")),
    *((rule, "clip", 1.0) for rule in ("LARS", "LAMB")),
    ("CBLR", "decay", "l2"),
    ("CBLR", "negative", "skip"),
    ("CBLR", "max_radius", float("inf")),
    ("CBLR", "max_radius", 0.0),
    ("CBLR", "min_curvature", -1.0),
    ("CBLR", "damping", -1.0),
    ("CBLR", "refresh_interval", 0),
    ("LARS", "trust_coefficient", 0.0),
    ("LARS", "eps", -1.0),
    ("LARS", "denominator", "sum"),
    ("LARS", "decay", "l2"),
    ("MCLR", "reading", "mean"),
    ("MCLR", "limit", 0.0),
    ("PercentDelta", "eps_weight", 0.0),
    ("PercentDelta", "eps_mean", -1.0),
    ("LAMB", "beta2", 1.0),
    ("LAMB", "eps", 0.0),
    ("LAMB", "decay", "coupled"),
    ("LAMB", "bias_correction", 1),
    ("LAMB", "grad_averaging", None),
    ("LAMB", "max_grad_norm", 0.0),
]


@pytest.mark.parametrize(("rule", "option", "value"), OPTIONS)
def test_options(rule, option, value):
    pattern = rf"^{option}: .*{re.escape(repr(value))}; (give|choose)"
    with pytest.raises(ValueError, match=pattern) as caught:
        getattr(optimizers, rule)(tensors(), **{"lr": 0.1, option: value})
    assert "\n" not in str(caught.value)
    if option != "like":  # the same in a group, which is then not added
        optimizer = make(rule, tensors()[:1])
        with pytest.raises(ValueError, match=pattern):
            optimizer.add_param_group({"params": tensors()[1:], option: value})
        assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("rule", RULES)
def test_sparse_gradients(rule):
    w = nn.Parameter(torch.ones(3, 2))
    w.grad = torch.ones(3, 2).to_sparse()
    optimizer = make(rule, [("w", w)])
    with pytest.raises(
        ValueError, match=rf"^parameter 'w' has a sparse gradient, which {rule} can"
    ):
        optimizer.step(*([{"w": torch.ones(3, 2)}] if rule == "CBLR" else []))


def test_sparse_gradient_without_a_name():
    w = nn.Parameter(torch.ones(3, 2))
    w.grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(ValueError, match=r"^parameter 0 of group 0 has a sparse gradient"):
        make("LARS", [w]).step()


@pytest.mark.parametrize("rule", RULES)
def test_complex_parameters(rule):
    w = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"parameter 'w' has dtype torch\.complex64; only real"):
        make(rule, [("w", w)])


@pytest.mark.parametrize("rule", RULES)
def test_a_state_of_other_parameters(rule):
    pairs = tensors()
    state = make(rule, pairs[::-1]).state_dict()
    with pytest.raises(
        ValueError, match=r"saved for parameters p3, p2, p1, … and these are p0, p1"
    ):
        make(rule, pairs).load_state_dict(state)


def test_a_group_of_several_dtypes():
    pairs = [*tensors([(2,)]), ("half", nn.Parameter(torch.ones(2)))]
    gradients(pairs, 0)
    with pytest.raises(ValueError, match=r"^grouping: group 0 holds .* use grouping='tensor'"):
        make("LARS", pairs, grouping="group").step()


def test_two_norms_to_clip_at():
    optimizer = make("LAMB", tensors()[:1], max_grad_norm=1.0)
    with pytest.raises(ValueError, match=r"^max_grad_norm: got 2\.0 beside 1\.0; .* the same"):
        optimizer.add_param_group({"params": tensors()[1:], "max_grad_norm": 2.0})


def test_names():
    with pytest.raises(ValueError, match=r"CBLR needs names; pass model\.named_parameters\(\)"):
        optimizers.CBLR(nn.Linear(2, 2).parameters(), lr=0.1)
    twice = [{"params": tensors()[:1]}, {"params": tensors()[:1]}]
    with pytest.raises(ValueError, match=r"two parameters are called 'p0'; rename one"):
        optimizers.CBLR(twice, lr=0.1)


def good(**changes):
    return {"p0": torch.ones(2, 2), "p1": torch.ones(3)} | changes


def missing(part):
    return {name: value for name, value in good().items() if name != part}


CURVATURES = [
    (missing("p1"), ValueError, r"^curvature: the parameter 'p1' is missing; pass hessian"),
    (good(q=torch.ones(1)), ValueError, r"^curvature: 'q' is no parameter of this optimizer; add"),
    (good(p1=torch.ones(4)), ValueError, r"'p1' has shape \(4,\) where the parameter has \(3,\)"),
    (good(p1=torch.ones(3).long()), TypeError, r"'p1' is torch\.int64; give a floating-point"),
    (good(p1=[1.0] * 3), TypeError, r"'p1' is list; give a floating-point tensor"),
    (good(p1=torch.tensor([1, torch.nan, 1])), ValueError, r"'p1' holds a value that is not fin"),
    (torch.ones(2), TypeError, r"^curvature: got Tensor; pass hessian"),
    ([torch.ones(2)], TypeError, r"^curvature: got list; pass hessian\.diagonal"),
    (lambda: 1.0, TypeError, r"^curvature: got float; pass hessian"),
    (lambda: None, ValueError, r"^curvature: there is none to use again yet; pass hessian"),
    (None, ValueError, r"^curvature: there is none to use again yet; pass hessian\.diagonal"),
]


@pytest.mark.parametrize(("curvature", "kind", "message"), CURVATURES)
def test_curvature(curvature, kind, message):
    pairs = tensors([(2, 2), (3,)], dtype=torch.float32)
    gradients(pairs, 0)
    before = [p.detach().clone() for _, p in pairs]
    optimizer = optimizers.CBLR(pairs, lr=0.1)
    with pytest.raises(kind, match=message) as caught:
        optimizer.step(curvature=curvature)
    assert "\n" not in str(caught.value)
    # Nothing has moved, and a right one is still taken.
    assert all(torch.equal(a, p) for a, (_, p) in zip(before, pairs, strict=True))
    optimizer.step(curvature=good())


def test_a_closure_without_a_curvature_is_not_begun():
    called = []
    optimizer = optimizers.CBLR(tensors(), lr=0.1)
    for arguments in ((called.clear,), (None, None)):
        with pytest.raises(ValueError, match=r"^curvature: there is none to use again yet"):
            optimizer.step(*arguments)
    with pytest.raises(ValueError, match=r"^curvature: there is none"):
        optimizer.step(closure=lambda: called.append(1))
    assert not called
    with pytest.raises(TypeError, match=r"^closure: got Tensor; give a function, or as the"):
        optimizer.step(torch.ones(1))
    with pytest.raises(TypeError, match=r"^curvature: got dict; give a function that returns"):
        optimizers.CBLR(tensors(), lr=0.1, curvature={})


def test_a_gradient_of_another_model():
    class WithGradient(dict):
        gradient = SimpleNamespace

    h = WithGradient(good())
    h.gradient = {"p0": torch.ones(2, 2)}
    optimizer = optimizers.CBLR(tensors([(2, 2), (3,)], dtype=torch.float32), lr=0.1)
    with pytest.raises(ValueError, match=r"^curvature\.gradient: the parameter 'p1' is missing"):
        optimizer.step(curvature=h)
