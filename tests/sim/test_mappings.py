"""Measurements on batches that are mappings, and of models that are called in their own way."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import hessian
import sim

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(2))
Y = torch.arange(12) % 3


class Plain(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.drop = nn.Linear(4, 5), nn.Linear(5, 3), nn.Dropout(dropout)

    def forward(self, x):
        return self.b(self.drop(torch.tanh(self.a(x))))


class Own(Plain):
    """As Hugging Face's models: inputs by name, the loss inside, an object returned."""

    def forward(self, x, labels=None, scale=None):
        logits = super().forward(x)
        return {
            "logits": logits,
            "loss": None if labels is None else F.cross_entropy(logits, labels),
        }


ROWS = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
FORMS = {
    "one mapping": (Own, hessian.on_logits(), {"x": X, "labels": Y}, None),
    "a loader of mappings": (Own, hessian.on_logits(), DataLoader(ROWS, batch_size=5), None),
    "a pair": (Own, hessian.on_logits(), ({"x": X}, Y), None),
    "the model's own loss": (Own, lambda o, _: o["loss"], {"x": X, "labels": Y}, None),
    "no labels for the model": (Plain, F.cross_entropy, {"x": X, "labels": Y}, None),
    "forward": (Plain, F.cross_entropy, ({"image": X}, Y), lambda m, x: m(x["image"])),
    "several inputs": (Plain, F.cross_entropy, [((X, X), Y)], lambda m, x: m(x[1])),
    "a loss of the mapping": (
        Own, lambda o, b: F.cross_entropy(o["logits"], b["labels"]), {"x": X, "labels": Y}, None
    ),
}  # fmt: skip


@pytest.mark.parametrize("parameter", ["a.weight", "b.bias"])
@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_the_pair(form, parameter):
    make, loss, data, forward = FORMS[form]
    want = sim.gradient_moments(Plain(), F.cross_entropy, (X, Y), parameter)
    moments = sim.gradient_moments(make(), loss, data, parameter, forward=forward)
    assert moments.samples == 12
    torch.testing.assert_close(moments.mean, want.mean, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(moments.std, want.std, rtol=1e-5, atol=1e-7)
    sizes = [1, 5, 12]
    want = sim.mean_abs_gradient(Plain(), F.cross_entropy, (X, Y), parameter, sizes)
    frame = sim.mean_abs_gradient(make(), loss, data, parameter, sizes, forward=forward)
    np.testing.assert_allclose(frame.mean_abs_gradient, want.mean_abs_gradient, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_monitor_and_radii_are_those_of_the_pair(form):
    make, loss, data, forward = FORMS[form]

    def table(model, *arguments, **options):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        names = ("noise_scale", "trace", "radius", "critical_rate")
        watch = sim.monitor(model, *arguments, optimizer, measure=names, **options)
        watch.measure()
        return watch.table()

    want = table(Plain(), F.cross_entropy, (X, Y))
    found = table(make(), loss, data, forward=forward)
    pd.testing.assert_frame_equal(found, want, rtol=1e-4)
    want = sim.compare_radii(Plain(), F.cross_entropy, (X, Y))
    found = sim.compare_radii(make(), loss, data, forward=forward)
    pd.testing.assert_frame_equal(found, want, rtol=1e-3)
    sharp = sim.sharpness(make(), loss, data, forward=forward)
    assert sharp == pytest.approx(sim.sharpness(Plain(), F.cross_entropy, (X, Y)), rel=1e-3)


def test_the_median_radius_of_a_layer():
    model = Plain().double()
    x = X.double()
    watch = sim.monitor(
        model, F.cross_entropy, (x, Y), torch.optim.SGD(model.parameters(), 0.1),
        measure=("radius", "trace"),
    )  # fmt: skip
    watch.measure()
    h = hessian.diagonal(model, F.cross_entropy, (x, Y))
    F.cross_entropy(model(x), Y).backward()
    values = watch.table().query("measure == 'radius'").set_index("layer").value
    radii = {
        name: ((1 + p.grad**2) ** 1.5 / h[name].abs()).flatten().tolist()
        for name, p in model.named_parameters()
    }
    for layer in ("a", "b"):
        middle = sorted(radii[f"{layer}.weight"] + radii[f"{layer}.bias"])
        assert values[layer] == pytest.approx(middle[(len(middle) - 1) // 2], rel=1e-9)
    assert set(values.index.dropna()) == {"a", "b"}


def test_dropout_in_a_model_that_returns_an_object():
    model = Own(dropout=0.5).train()
    moments = sim.gradient_moments(
        model, hessian.on_logits(), ({"x": X}, Y), "a.weight", passes=2, seed=3
    )
    want = sim.gradient_moments(
        Plain(dropout=0.5).train(), F.cross_entropy, (X, Y), "a.weight", passes=2, seed=3
    )
    torch.testing.assert_close(moments.mean, want.mean, rtol=1e-5, atol=1e-7)


BATCH = {"x": X, "labels": Y}
SUMMED = hessian.on_logits(nn.CrossEntropyLoss(reduction="sum"))
REFUSED = {
    r"^data: its batches cannot be put together .*; pad them": (
        hessian.on_logits(), [{"x": X[:, :k], "labels": Y} for k in (3, 4)],
    ),
    r"^loss: .* give a plain mean over the samples \(": (SUMMED, BATCH),
    r"^loss: .* give a plain mean over the samples": (lambda o, y: o["loss"] * len(y), BATCH),
    r"^data: it holds no batch": (hessian.on_logits(), []),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused(message):
    with pytest.raises(ValueError, match=message):
        sim.gradient_moments(Own(), *REFUSED[message], "a.weight")


def test_stable_gamma_takes_mappings():
    batches = [{"x": X, "labels": Y}] * 3
    found = sim.stable_gamma(Own(), hessian.on_logits(), batches, max_radius=[100.0], every=2)
    want = sim.stable_gamma(Plain(), F.cross_entropy, [(X, Y)] * 3, max_radius=[100.0], every=2)
    assert found.gamma == pytest.approx(want.gamma, rel=1e-3)
