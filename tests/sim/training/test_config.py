import dataclasses
import json
import pickle
import re

import numpy as np
import pytest
import torch

import sim
from sim.training import (
    Decay,
    Discard,
    DiscardGradients,
    Measure,
    Phase,
    TrainConfig,
    Warmup,
    grid,
)
from sim.training.config.options import Options, differences

FULL = {
    "dataset": "gaussian",
    "dataset_options": {"samples": 20},
    "samples": 10,
    "model": "lenet",
    "model_options": {"activation": "tanh"},
    "seed": 3,
    "order_seed": 4,
    "loss": "focal",
    "loss_options": {"gamma": 1.5},
    "optimizer": "cblr",
    "lr": 0.25,
    "optimizer_options": {"momentum": 0.5},
    "curvature_of": 3,
    "batch_size": 5,
    "steps": 7,
    "drop_last": True,
    "phases": [{"epochs": 1, "batch_size": 2, "lr": 0.5}],
    "warmup": {"kind": "gradual", "epochs": 2},
    "decay": {"kind": "step", "milestones": [3, 5]},
    "discard": {"share": 0.3, "epochs": 2},
    "discard_gradients": {"share": 0.1},
    "micro_batch": 4,
    "batch_norm": "ghost",
    "measure": {"decrease_every": 2, "held_out": 4},
    "dtype": "float64",
    "device": "cpu",
    "channels_last": True,
}


def test_plain_values_and_back():
    config = TrainConfig(**FULL)
    again = TrainConfig.read(config.plain())
    assert again == config
    assert hash(again) == hash(config)
    assert again.hash == config.hash
    assert pickle.loads(pickle.dumps(config)) == config
    assert config.warmup == Warmup(kind="gradual", epochs=2)
    assert config.decay == Decay(kind="step", milestones=(3, 5))
    assert config.phases == (Phase(epochs=1, batch_size=2, lr=0.5),)
    assert config.discard == Discard(share=0.3, epochs=2)
    assert config.discard_gradients == DiscardGradients(share=0.1)
    assert config.measure == Measure(decrease_every=2, held_out=4)
    assert TrainConfig.read(config) is config


def test_every_field_is_in_the_hash():
    config = TrainConfig(**FULL)
    changes = {
        "dataset": "digits", "dataset_options": {}, "samples": 11, "model": "mlp",
        "model_options": {}, "seed": 4, "order_seed": None, "loss": "power", "loss_options": {},
        "optimizer": "lars", "lr": 0.3, "optimizer_options": {}, "curvature_of": 2,
        "batch_size": 6, "epochs": 2, "steps": 8, "drop_last": False, "phases": [],
        "warmup": None, "decay": None, "discard": None, "discard_gradients": None,
        "augment": {"flip": False}, "micro_batch": 3, "batch_norm": None, "measure": {},
        "dtype": "float32", "precision": "bfloat16", "device": "cuda", "channels_last": False,
        "compile": True,
    }  # fmt: skip
    assert set(changes) == {field.name for field in dataclasses.fields(TrainConfig)}
    seen = {config.hash}
    for name, value in changes.items():
        more = {
            "dataset": {"dataset_options": {}},
            "model": {"model_options": {}},
            "loss": {"loss_options": {}},
            "optimizer": {"curvature_of": None},
            "epochs": {"steps": None},
            "precision": {"dtype": "float32"},
        }.get(name, {})
        seen.add(config.replace(**{**more, name: value}).hash)
    assert len(seen) == len(changes) + 1


def test_whole_numbers_are_one_configuration():
    one = TrainConfig(epochs=1, lr=1, optimizer_options={"momentum": 0})
    other = TrainConfig(epochs=1, lr=1.0, optimizer_options={"momentum": 0.0})
    assert one == other
    assert hash(one) == hash(other)
    assert one.hash == other.hash
    assert one.hash != one.replace(lr=1.5).hash


def test_a_configuration_cannot_change():
    config = TrainConfig(epochs=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 2.0
    given = {"hidden": [3]}
    config = TrainConfig(epochs=1, model_options=given)
    given["hidden"].append(4)
    assert config.model_options["hidden"] == (3,)
    with pytest.raises(TypeError):
        config.model_options["hidden"] = (5,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"^epochs: give either epochs or steps"),
        ({"epochs": 1, "steps": 1}, r"^epochs: give either epochs or steps"),
        ({"epochs": 0}, r"^epochs: got 0; give a whole number at least 1"),
        ({"epochs": 1, "dataset": "cifar"}, r"^dataset: unknown .*; did you mean 'cifar10'\?$"),
        ({"epochs": 1, "dataset_options": {"samples": 3}}, r"^dataset_options.samples: no such"),
        ({"epochs": 1, "model": "resnet"}, r"^model: unknown .*; did you mean 'resnet18'\?$"),
        ({"epochs": 1, "model_options": {"hiden": [3]}}, r"^model_options.hiden: .* 'hidden'\?$"),
        ({"epochs": 1, "loss": "cross-entropy"}, r"^loss: .* mean 'cross_entropy'\?$"),
        ({"epochs": 1, "loss_options": {"gamma": 1}}, r"^loss_options.gamma: no such option"),
        ({"epochs": 1, "loss": "power", "loss_options": {"power": 0.5}}, r"^loss_options.power: "),
        ({"epochs": 1, "optimizer": "SGD"}, r"^optimizer: unknown value 'SGD'; choose one of adam"),
        ({"epochs": 1, "optimizer_options": {"eta": 1}}, r"^optimizer_options.eta: no such option"),
        ({"epochs": 1, "optimizer_options": {"lr": 1}}, r"^optimizer_options.lr: no such option"),
        (
            {"epochs": 1, "optimizer": "lars", "optimizer_options": {"zero_norm": "on"}},
            r"^optimizer_options.zero_norm: unknown value 'on'.*; did you mean 'one'\?$",
        ),
        ({"epochs": 1, "optimizer_options": {"momentum": -1}}, r"^optimizer_options.*[mM]omentum"),
        ({"epochs": 1, "lr": -0.1}, r"^lr: got -0.1; give a number at least 0"),
        ({"epochs": 1, "batch_size": 0}, r"^batch_size: got 0"),
        ({"epochs": 1, "batch_size": 2.5}, r"^batch_size: got 2.5; give a whole number"),
        ({"epochs": 1, "seed": -1}, r"^seed: got -1"),
        ({"epochs": 1, "micro_batch": 0}, r"^micro_batch: got 0"),
        ({"epochs": 1, "drop_last": 1}, r"^drop_last: got 1; give True or False"),
        ({"epochs": 1, "dtype": "float16"}, r"^dtype: unknown value 'float16'"),
        ({"epochs": 1, "precision": "bf16"}, r"^precision: unknown value 'bf16'"),
        (
            {"epochs": 1, "precision": "bfloat16", "dtype": "float64"},
            r"^precision: 'bfloat16' mixes with float32, but dtype is 'float64'",
        ),
        ({"epochs": 1, "batch_norm": "sync"}, r"^batch_norm: unknown .* ghost, synchronised"),
        ({"epochs": 1, "batch_norm": "synchronised", "compile": True}, r"^compile: not with batch"),
        ({"epochs": 1, "device": "gpu"}, r"^device: got 'gpu'; give a torch device: cpu, cuda"),
        ({"epochs": 1, "curvature_of": 3}, r"^curvature_of: the optimizer 'sgd' takes no"),
        ({"epochs": 1, "phases": [{"epochs": 1, "steps": 2}]}, r"^phases.epochs: give either"),
        ({"epochs": 1, "phases": [{"epochs": 1, "lr": -1}]}, r"^phases.lr: got -1"),
        ({"epochs": 1, "phases": [{"epoch": 1}]}, r"^phases.epoch: no such .* 'epochs'\?$"),
        ({"epochs": 1, "warmup": {}}, r"^warmup.epochs: give either epochs or steps for the warm"),
        ({"epochs": 1, "warmup": {"kind": "gradual", "steps": 2}}, r"^warmup.epochs: a gradual"),
        ({"epochs": 1, "warmup": {"kind": "liner", "steps": 2}}, r"^warmup.kind: .* 'linear'\?$"),
        ({"epochs": 1, "decay": {"kind": "step"}}, r"^decay.milestones: give them for the decay"),
        (
            {"epochs": 1, "decay": {"kind": "step", "milestones": [3, 2]}},
            r"^decay.milestones: got \(3, 2\); give increasing epochs",
        ),
        ({"epochs": 1, "decay": {"kind": "cosine", "final": 2}}, r"^decay.final: got 2; a decay"),
        ({"epochs": 1, "discard": {"share": 1.0}}, r"^discard.share: got 1.0; give a number"),
        ({"epochs": 1, "discard": {"share": 0.1, "kind": "small"}}, r"^discard.kind: unknown"),
        ({"epochs": 1, "discard_gradients": {"share": -1}}, r"^discard_gradients.share: got -1"),
        ({"epochs": 1, "measure": {"every": 1}}, r"^measure.every: no such option"),
        ({"epochs": 10**9}, r"^epochs: got 1000000000; give at most 10000000$"),
        ({"steps": 10**30}, r"^steps: got 1000.*; give at most 10000000$"),
        ({"epochs": 1, "seed": 2**64}, r"^seed: got 18446744073709551616; give at most"),
        ({"epochs": 1, "lr": 10**400}, r"^lr: got 1000*; give a number at least 0 and finite"),
        ({"epochs": 1, "lr": float("nan")}, r"^lr: got nan; give a number"),
        ({"epochs": 1, "device": None}, r"^device: got None; give a torch device: cpu, cuda"),
        ({"epochs": 1, "device": [1]}, r"^device: got \[1\]; give a torch device"),
        ({"epochs": 1, "decay": {"kind": "cosine", "factor": 2}}, r"^decay.factor: got 2; a decay"),
        ({"epochs": 1, "measure": {"held_out": -1}}, r"^measure.held_out: got -1"),
        ({"epochs": 1, "measure": {"held_out_from": "tests"}}, r"^measure.held_out_from: "),
    ],
)  # fmt: skip
def test_values_that_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**changes)


@pytest.mark.parametrize(
    ("field", "name", "options", "message"),
    [
        # Of a model and of a data set, before either is made.
        ("model", "mlp", {"hidden": 8}, "hidden: got 8; give a sequence of layer sizes"),
        ("model", "mlp", {"hidden": [8.0]}, "hidden: got 8.0; give a whole number at least 1"),
        ("model", "mlp", {"dropout": 1}, "dropout: got 1; give a number at least 0 and below 1"),
        ("model", "mlp", {"width": 1e9}, "width: got 1000000000.0; give at most 10000"),
        ("model", "lenet", {"activation": "sin"}, "activation: unknown value 'sin'"),
        ("model", "transformer", {"patch": 3}, "patch: 3 does not divide the sides of (1, 8, 8)"),
        ("dataset", "gaussian", {"samples": 0}, "samples: got 0; give a whole number at least 1"),
        ("dataset", "gaussian", {"separation": "x"}, "separation: got 'x'; give a number"),
        # What torch's optimizers would say in words of their own, late, or not at all.
        ("optimizer", "sgd", {"momentum": "x"}, "momentum: got 'x'; give a number at least 0"),
        ("optimizer", "sgd", {"momentum": float("nan")}, "momentum: got nan; give a number"),
        ("optimizer", "sgd", {"dampening": "x"}, "dampening: got 'x'; give a number at least 0"),
        ("optimizer", "sgd", {"nesterov": True}, "nesterov: it needs momentum above 0 and no"),
        ("optimizer", "sgd", {"nesterov": 1, "momentum": 0.9}, "nesterov: got 1; give True or"),
        ("optimizer", "adam", {"betas": [0.9]}, "betas: got (0.9,); give two numbers"),
        ("optimizer", "adam", {"betas": [0.9, 1]}, "betas: got 1; give a number at least 0 and be"),
        ("optimizer", "adamw", {"amsgrad": "no"}, "amsgrad: got 'no'; give True or False"),
    ],
)
def test_options_that_are_refused(field, name, options, message):
    # A valid one first: 8 and 8.0 are equal, and what was found of one is not the other's.
    TrainConfig(epochs=1, model_options={"hidden": [8]})
    with pytest.raises(ValueError, match=rf"^{field}_options\.{re.escape(message)}"):
        TrainConfig(epochs=1, **{field: name, f"{field}_options": options})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_options": 3}, r"^model_options: got 3; give a mapping of options"),
        ({"model_options": {"hidden": {1: 2}}}, r"^model_options.hidden: got dict; give a number"),
        ({"warmup": 3}, r"^warmup: got 3; give Warmup or a mapping"),
        ({"phases": {"epochs": 1}}, r"^phases: got \{'epochs': 1\}; give a list of phases"),
        ({"discard": {}}, r"^discard\.share: not given; it has no default, so give it"),
        ({"measure": None}, r"^measure: got None; give Measure or a mapping"),
        ({"decay": {"kind": "step", "milestones": 3}}, r"^decay.milestones: got 3; give a list of"),
    ],
)
def test_kinds_that_are_refused(changes, message):
    with pytest.raises(TypeError, match=message):
        TrainConfig(epochs=1, **changes)


def test_unknown_fields_are_refused_with_the_likeliest():
    with pytest.raises(
        ValueError, match=r"^batchsize: no such field .*; did you mean 'batch_size'"
    ):
        TrainConfig.read({"epochs": 1, "batchsize": 3})
    with pytest.raises(TypeError, match=r"^config: got 3; give a TrainConfig or a mapping"):
        TrainConfig.read(3)


def test_replacing_inside():
    config = TrainConfig(epochs=1, optimizer_options={"momentum": 0.9})
    changed = config.replace(lr=0.2, **{"optimizer_options.nesterov": True, "discard.share": 0.2})
    assert changed.lr == 0.2
    assert changed.optimizer_options == {"momentum": 0.9, "nesterov": True}
    assert changed.discard == Discard(share=0.2)
    assert config.discard is None


@pytest.mark.parametrize("name", ["lr.x", "phases.epochs", "model.x"])
def test_there_is_nothing_to_replace_inside(name):
    config = TrainConfig(epochs=1)
    field = name.split(".")[0]
    with pytest.raises(
        ValueError, match=rf"^{name}: {field} holds no fields of its own; give {field} as"
    ):
        config.replace(**{name: 1})


def test_numpy_values_are_plain_ones():
    """As they come from `arange` and `logspace`; the hash and the files are those of plain ones."""
    one, true = np.int64(1), np.bool_(True)

    def config(one, two, half, true, milestones, device):
        return TrainConfig(
            seed=one, epochs=two, batch_size=two, drop_last=true, lr=half, device=device,
            phases=[{"epochs": one, "batch_size": two}], warmup={"steps": one},
            discard={"share": half, "epochs": one}, measure={"layers_every": two},
            discard_gradients={"share": half, "epochs": one}, augment={"crop": one, "flip": true},
            decay={"kind": "step", "milestones": milestones},
            optimizer_options={"momentum": half, "nesterov": true},
        )  # fmt: skip

    found = config(one, np.int32(2), np.float64(0.5), true, np.array([1, 2]), torch.device("cpu"))
    plain = config(1, 2, 0.5, True, [1, 2], "cpu")
    assert json.dumps(found.plain()) == json.dumps(plain.plain())
    assert found.hash == plain.hash
    assert [config.seed for config in grid({"epochs": 1}, seed=np.arange(2))] == [0, 1]


def test_looking_at_a_model_draws_no_numbers():
    before = torch.get_rng_state()
    for model in sim.models.MODELS:
        TrainConfig(epochs=1, model=model, dataset="cifar10")
    assert torch.equal(before, torch.get_rng_state())


def test_more_steps_than_a_run_can_have():
    config = TrainConfig(epochs=10**7, batch_size=1)
    with pytest.raises(
        ValueError, match=r"^epochs: 10000000 passes over 1000 samples in batches of"
    ):
        config.plan(1000)


def test_grids():
    base = TrainConfig(epochs=1)
    found = grid(base, **{"optimizer_options.momentum": (0.0, 0.9), "seed": iter(range(3))})
    pairs = [(c.optimizer_options["momentum"], c.seed) for c in found]
    assert pairs == [(m, s) for m in (0.0, 0.9) for s in range(3)]
    assert grid(base) == [base]
    assert [c.epochs for c in grid({}, epochs=[1, 2])] == [1, 2]
    with pytest.raises(ValueError, match=r"^lr: got no values"):
        grid(base, lr=[])
    with pytest.raises(TypeError, match=r"^lr: got 3; give a list of values"):
        grid(base, lr=3)
    with pytest.raises(TypeError, match=r"^base: got None; give a TrainConfig or a mapping"):
        grid(None, lr=[1])
    with pytest.raises(TypeError, match=r"^model: got 'mlp'; give a list of values"):
        grid(base, model="mlp")


def test_options_are_values():
    assert Options(a=1, b=[2]) == Options({"b": (2,), "a": 1})
    assert hash(Options(a=1, b=[2])) == hash(Options({"b": (2,), "a": 1}))
    assert len({Options(a=1), Options(a=1.0), Options(a=2)}) == 2


def test_differences_are_named():
    one = TrainConfig(epochs=1).plain()
    other = TrainConfig(epochs=1, lr=0.5, measure={"test_every": 3}, warmup={"steps": 1}).plain()
    assert differences(one, other) == ["lr", "warmup", "measure.test_every"]
    assert differences(one, one) == []
