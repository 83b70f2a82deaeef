"""Batches that are one mapping with the targets inside, and models inside wrappers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from transformers import ViTConfig, ViTForImageClassification

import hessian
from hessian import testing

from . import oracle
from .test_inputs import every

X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
Y = torch.tensor([0, 1, 2, 2, 1, 0])


class Net(nn.Module):
    """One that takes its inputs by name, and no labels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4).double(), nn.Linear(4, 3).double()

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Own(Net):
    """One that computes its own loss where it is given labels."""

    def forward(self, x, labels=None):
        logits = super().forward(x)
        return {"loss": None if labels is None else F.cross_entropy(logits, labels),
                "logits": logits}  # fmt: skip


def logits(output, target):
    return F.cross_entropy(output["logits"], target)


BATCH = {"x": X, "labels": Y}
WANT = oracle.diagonal(Net(), F.cross_entropy, [(X, Y)])
CASES = {
    "labels for the loss alone": (Net, F.cross_entropy, BATCH),
    "called targets": (Net, F.cross_entropy, {"x": X, "target": Y}),
    "labels for the model, too": (Own, logits, BATCH),
    "a loss of the mapping": (Own, lambda o, b: F.cross_entropy(o["logits"], b["labels"]), BATCH),
    "the model's own loss": (Own, lambda o, _: o["loss"], BATCH),
    "on_logits": (Own, hessian.on_logits(), BATCH),
    "a pair of the mapping twice": (Own, lambda o, b: logits(o, b["labels"]), (BATCH, BATCH)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mapping_alone_is_a_batch(case):
    make, loss, data = CASES[case]
    oracle.assert_exact(hessian.diagonal(make(), loss, data), WANT)
    oracle.assert_exact(hessian.diagonal(make(), loss, data, memory=1000), WANT)
    oracle.assert_exact(hessian.diagonal(make(), loss, [data]), WANT)
    testing.assert_exact(make(), loss, data, entries=6)


def test_batches_are_weighed_by_their_samples_and_two_are_no_pair():
    parts = [{"x": X[:4], "labels": Y[:4]}, {"x": X[4:], "labels": Y[4:]}]
    loader = DataLoader([{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)], batch_size=4)
    for data in (parts, loader, iter(parts)):
        oracle.assert_exact(hessian.diagonal(Net(), F.cross_entropy, data), WANT)
    seen = []
    hessian.diagonal(Net(), F.cross_entropy, parts, weight=lambda b: seen.append(b) or 1.0)
    assert [set(b) for b in seen] == [{"x", "labels"}] * 2  # as it came
    # A pair of two mappings, which are not alike.
    pair = [{"x": X}, {"y": Y}]
    oracle.assert_exact(
        hessian.diagonal(Net(), lambda o, t: F.cross_entropy(o, t["y"]), pair), WANT
    )


def test_a_mapping_without_labels_goes_to_the_loss_whole():
    h = hessian.diagonal(
        Net(),
        lambda o, b: F.cross_entropy(o, b["class"]),
        {"x": X, "class": Y},
        forward=lambda model, batch: model(batch["x"]),
    )
    oracle.assert_exact(h, WANT)


@pytest.mark.parametrize("name", ["diagonal", "parts", "plan", "sample", "coordinate_minimum",
                                  "operator", "hutchinson", "preactivation", "gauss-newton",
                                  "empirical-fisher"])  # fmt: skip
def test_every_function_takes_it(name):
    every(Net(), F.cross_entropy, BATCH)[name]()
    every(Own(), hessian.on_logits(), [BATCH, BATCH])[name]()


def test_the_spread_over_samples_and_the_operator_are_those_of_the_pair():
    pair = hessian.diagonal(Net(), F.cross_entropy, (X, Y), standard_error=True, verify=4)
    alone = hessian.diagonal(Own(), logits, BATCH, standard_error=True, verify=4)
    for name, error in pair.standard_error.items():
        torch.testing.assert_close(alone.standard_error[name], error, rtol=1e-12, atol=1e-15)
    assert max(v for v in alone.deviation.values() if v == v) < 1e-9
    v = np.arange(35.0)
    want = hessian.operator(Net(), F.cross_entropy, (X, Y)) @ v
    np.testing.assert_allclose(hessian.operator(Own(), logits, [BATCH]) @ v, want, rtol=1e-12)


def test_the_first_error_of_a_loss_is_told():
    def loss(output, target):
        raise TypeError("neither")

    with pytest.raises(ValueError, match="neither"):
        hessian.diagonal(Net(), loss, BATCH)


# ------------------------------------------------------------- a loss inside the model


def test_the_plan_says_that_the_loss_inside_the_model_is_dear():
    plans = {
        name: hessian.plan(*(make() if i == 0 else x for i, x in enumerate((make, loss, data))))
        for name, (make, loss, data) in CASES.items()
    }
    inside = plans.pop("the model's own loss")
    assert "cross_entropy(output.logits, target)" in inside.advice
    assert " ".join(inside.advice.split()) in " ".join(str(inside).split())
    assert {plan.advice for plan in plans.values()} == {""}
    others = {plan.backward for plan in plans.values()}
    assert len(others) == 1
    assert inside.backward > 3 * others.pop()
    # A network of one output and one sample has no samples to tell apart.
    assert hessian.plan(nn.Linear(4, 1).double(), lambda o, y: o.sum(), (X[:1], Y)).advice == ""


@pytest.mark.parametrize("shift", [False, True])
def test_on_logits_flattens_tokens(shift):
    output = {"logits": torch.randn(2, 5, 4)}
    target = torch.randint(4, (2, 5))
    target[0, 1] = -100
    want = []
    for n in range(2):
        for t in range(5 - shift):
            label = int(target[n, t + shift])
            if label >= 0:
                want.append(-float(output["logits"][n, t].log_softmax(0)[label]))
    value = float(hessian.on_logits(shift=shift)(output, target))
    assert value == pytest.approx(sum(want) / len(want), rel=1e-5)
    # Classes along the second axis, as of images: nothing is flattened.
    maps, labels = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    assert torch.equal(hessian.on_logits()({"logits": maps}, labels), F.cross_entropy(maps, labels))
    with pytest.raises(TypeError, match="without logits"):
        hessian.on_logits()({"loss": 1.0}, target)
    with pytest.raises(TypeError, match="loss must be a function"):
        hessian.on_logits("cross_entropy")


# --------------------------------------------------------------------------- wrappers


@pytest.mark.parametrize("wrap", [
    lambda m: m, nn.DataParallel, lambda m: torch.compile(m, backend="eager"),
    lambda m: nn.DataParallel(torch.compile(m, backend="eager")),
], ids=["plain", "parallel", "compiled", "both"])  # fmt: skip
def test_names_are_matched_through_wrappers(wrap):
    model = wrap(Net())
    for asked in ("a.weight", "module.a.weight", "_orig_mod.a.weight", "a.w*"):
        h = hessian.diagonal(model, F.cross_entropy, BATCH, names=[asked])
        assert len(h) == 1
        torch.testing.assert_close(next(iter(h.values())), WANT["a.weight"], rtol=1e-9, atol=0)
        assert h.plan["a.weight"] is h.plan["module.a.weight"]
        some = hessian.sample(model, F.cross_entropy, BATCH, names=[asked])
        assert [s.numel for s in some.values()] == [16]
        operator = hessian.operator(model, F.cross_entropy, BATCH)
        if not asked.startswith(("module", "_orig")):
            assert operator.restricted(asked).shape == (16, 16)
    with pytest.raises(ValueError, match=r"'c\.weight' is not a parameter"):
        hessian.diagonal(model, F.cross_entropy, BATCH, names=["c.weight"])


def test_a_vision_transformer_with_a_loader_of_dicts():
    config = ViTConfig(
        hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=6,
        image_size=8, patch_size=4, num_channels=1, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = ViTForImageClassification(config).double().eval()
    images = torch.randn(6, 1, 8, 8, dtype=torch.float64)
    rows = [{"pixel_values": x, "labels": y} for x, y in zip(images, Y, strict=True)]
    want = hessian.diagonal(
        model, lambda o, y: F.cross_entropy(o.logits, y), ({"pixel_values": images}, Y)
    )
    got = hessian.diagonal(model, hessian.on_logits(), DataLoader(rows, batch_size=4))
    oracle.assert_exact(got, dict(want))
    assert got.plan.methods() == want.plan.methods()
