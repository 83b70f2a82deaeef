"""Every protocol against a loop that is written out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import hessian
import sim
from sim.training import Discard, DiscardGradients, TrainConfig
from sim.training.config.losses import per_sample

from . import reference

# Both sides do the same float64 sums in another order: some hundred roundings of 1e-16.
CLOSE = {"rtol": 1e-11, "atol": 1e-13}


def run(**changes):
    return sim.train({**reference.BASE, **changes})


def agree(run, steps):
    steps = list(steps)
    np.testing.assert_allclose(run.steps.loss, [s["losses"].mean() for s in steps], **CLOSE)
    np.testing.assert_allclose(run.steps.objective, [s["objective"] for s in steps], **CLOSE)
    assert run.steps.batch_size.tolist() == [len(s["rows"]) for s in steps]
    np.testing.assert_allclose(run.steps.lr, [s["lr"] for s in steps], rtol=1e-14)
    for name, value in steps[-1]["after"].items():
        np.testing.assert_allclose(run.weights[name].numpy(), value, **CLOSE)


@pytest.mark.parametrize("drop_last", [False, True])
def test_plain_training(drop_last):
    steps = reference.batches(16, 2, drop_last=drop_last)
    found = run(drop_last=drop_last, optimizer_options={"momentum": 0.9})
    agree(found, reference.descend(steps, 0.3, momentum=0.9))
    assert len(found.steps) == (6 if drop_last else 8)


def test_seeds_of_weights_and_of_the_order():
    agree(run(seed=3), reference.descend(reference.batches(16, 2, seed=3), 0.3, seed=3))
    found = run(seed=3, order_seed=5)
    agree(found, reference.descend(reference.batches(16, 2, seed=5), 0.3, seed=3))


def test_schedules_reach_the_optimizer():
    found = run(
        epochs=3,
        phases=[{"epochs": 1, "batch_size": 10, "lr": 0.1}],
        warmup={"steps": 3, "start": 0.5},
        decay={"kind": "step", "milestones": [2], "factor": 0.1},
        optimizer_options={"momentum": 0.5},
    )
    first = list(reference.batches(10, 1))
    steps = first + [s for s in reference.batches(16, 3) if s[0] > 0]
    rates = [0.05, 0.1 * (0.5 + 0.5 / 3), 0.1 * (0.5 + 1 / 3), 0.1, 0.1] + [0.3] * 4 + [0.03] * 4
    agree(found, reference.descend(steps, lambda step, _: rates[step], momentum=0.5))


def kept(losses, share, kind, generator=None):
    """Indices that stay, by plain sorting."""
    score = {"small-loss": losses, "large-loss": -losses, "random": None}[kind]
    score = generator.random(len(losses)) if score is None else score.detach().numpy()
    gone = round(share * len(losses))
    return np.sort(np.argsort(score, kind="stable")[gone:])


@pytest.mark.parametrize("normaliser", ["kept", "batch"])
@pytest.mark.parametrize("kind", ["small-loss", "large-loss", "random"])
@pytest.mark.parametrize("micro_batch", [None, 7])
def test_discarding_samples(kind, normaliser, micro_batch):
    def objective(losses, step, epoch):
        if epoch > 0:
            return losses.mean()
        generator = np.random.default_rng([0, 2, step])
        stay = losses[kept(losses, 0.3, kind, generator)]
        return stay.sum() / (len(stay) if normaliser == "kept" else len(losses))

    found = run(
        discard={"kind": kind, "share": 0.3, "epochs": 1, "normaliser": normaliser},
        micro_batch=micro_batch,
    )
    agree(found, reference.descend(reference.batches(16, 2), 0.3, objective))


def test_the_last_sample_is_not_discarded():
    weights = Discard(share=0.9).weights(torch.tensor([[2.0, 3.0]]))
    assert weights.tolist() == [[0.0, 1.0]]
    assert Discard(share=0.4).weights(torch.tensor([1.0])).tolist() == [1.0]


def test_equal_losses_go_by_their_order():
    assert Discard(share=0.5).weights(torch.ones(4)).tolist() == [0, 0, 0.5, 0.5]


def test_nothing_is_discarded_at_share_zero():
    assert run(discard={"share": 0.0}).steps.equals(run().steps)


@pytest.mark.parametrize("kind", ["small", "large"])
def test_discarding_entries_of_the_gradient(kind):
    def alter(gradient):
        flat = gradient.ravel().copy()
        order = np.argsort(np.abs(flat) if kind == "small" else -np.abs(flat), kind="stable")
        flat[order[: round(0.4 * len(flat))]] = 0
        return flat.reshape(gradient.shape)

    found = run(discard_gradients={"kind": kind, "share": 0.4})
    steps = list(reference.descend(reference.batches(16, 2), 0.3, alter=alter))
    agree(found, steps)
    # The measured gradient is the one that makes the step.
    measured = found.layer_steps.query("parameter == 'fc1.weight'").gradient_abs
    expected = [np.abs(s["gradient"]["fc1.weight"]).mean() for s in steps]
    np.testing.assert_allclose(measured, expected, **CLOSE)


def test_discarding_entries_of_the_whole_network():
    a, b = torch.tensor([5.0, 1.0]), torch.tensor([2.0, -4.0, 3.0])
    DiscardGradients(share=0.6, scope="network").apply([a, b], torch.rand_like)
    assert (a.tolist(), b.tolist()) == ([5, 0], [0, -4, 0])


def test_entries_discarded_at_random():
    one = run(discard_gradients={"kind": "random", "share": 0.5, "epochs": 1}, epochs=1)
    again = run(discard_gradients={"kind": "random", "share": 0.5, "epochs": 1}, epochs=1)
    assert one.steps.equals(again.steps)
    g = torch.ones(1000)
    DiscardGradients(kind="random", share=0.3).apply([g], torch.rand_like)
    assert int((g == 0).sum()) == 300
    # Not the first ones, nor the last.
    assert 0 < int((g[:500] == 0).sum()) < 300


@pytest.mark.parametrize(
    ("name", "options", "by_hand"),
    [
        ("cross_entropy", {}, lambda z, p, ce: ce),
        (
            "cross_entropy",
            {"smoothing": 0.2},
            lambda z, p, ce: 0.8 * ce - 0.2 * np.log(p).mean(1),
        ),
        ("power", {"power": 1.7}, lambda z, p, ce: ce**1.7),
        ("focal", {"gamma": 1.5}, lambda z, p, ce: (1 - np.exp(-ce)) ** 1.5 * ce),
    ],
)
def test_losses(name, options, by_hand):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randint(4, (6,), generator=generator)
    p = np.exp(z.detach().numpy())
    p /= p.sum(1, keepdims=True)
    ce = -np.log(p[np.arange(6), y.numpy()])
    found = per_sample(name, options)(z, y)
    np.testing.assert_allclose(found.detach().numpy(), by_hand(z, p, ce), rtol=1e-12)


def test_temperature_divides_the_logits():
    z, y = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    found = per_sample("temperature", {"temperature": 0.25})(z, y)
    torch.testing.assert_close(found, F.cross_entropy(4 * z, y, reduction="none"))


def test_focal_has_a_finite_gradient_where_a_sample_is_right():
    z = torch.tensor([[60.0, 0.0]], requires_grad=True)
    per_sample("focal", {"gamma": 0.5})(z, torch.tensor([0])).sum().backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("name", ["power", "focal", "temperature"])
def test_sharper_losses_train(name):
    found = run(loss=name, epochs=8, lr=0.1)
    assert found.epochs.train_loss.iloc[-1] < 0.8 * found.epochs.train_loss.iloc[0]


# batches in parts


@pytest.mark.parametrize("micro_batch", [1, 5, 16, 100])
@pytest.mark.parametrize("model", ["mlp", "transformer", "lenet"])
def test_accumulation_is_exact_where_samples_are_not_coupled(model, micro_batch):
    config = TrainConfig(
        model=model, model_options={} if model != "transformer" else {"width": 0.25, "depth": 1},
        samples=40, steps=2, batch_size=32, dtype="float64", optimizer_options={"momentum": 0.9},
    )  # fmt: skip
    whole = sim.train(config)
    parts = sim.train(config.replace(micro_batch=micro_batch))
    for name, value in whole.weights.items():
        torch.testing.assert_close(parts.weights[name], value, rtol=1e-11, atol=1e-13)


NORMED = {
    "model": "resnet18", "model_options": {"width": 1 / 32}, "samples": 30, "steps": 2,
    "batch_size": 20, "dtype": "float64", "lr": 0.05,
}  # fmt: skip


def test_synchronised_batch_norm_in_parts_is_that_of_the_whole_batch():
    whole = sim.train(NORMED)
    parts = sim.train({**NORMED, "micro_batch": 8, "batch_norm": "synchronised"})
    # Running statistics and the number of batches included.
    assert set(whole.weights) == set(parts.weights)
    for name, value in whole.weights.items():
        torch.testing.assert_close(parts.weights[name], value, rtol=1e-9, atol=1e-11)


def test_synchronised_batch_norm_with_all_that_looks_at_losses():
    more = {"discard": {"share": 0.4}, "measure": {"decrease_every": 1, "held_out": 9}}
    whole = sim.train({**NORMED, **more})
    parts = sim.train({**NORMED, **more, "micro_batch": 8, "batch_norm": "synchronised"})
    columns = ["loss", "objective", "accuracy", "decrease_batch", "decrease_held_out"]
    np.testing.assert_allclose(parts.steps[columns], whole.steps[columns], rtol=1e-9, atol=1e-11)


def test_ghost_batch_norm_is_the_mean_of_the_parts():
    found = sim.train({**NORMED, "steps": 1, "micro_batch": 8, "batch_norm": "ghost"})
    data = sim.data.load("digits").subset(30, 0)
    rows = reference.order(0, 0, 30)[:20]
    model = sim.models.build("resnet18", in_shape=(1, 8, 8), width=1 / 32, seed=0).double()
    for part in (rows[:8], rows[8:16], rows[16:]):
        loss = F.cross_entropy(model(data.inputs[part].double()), data.targets[part])
        (loss * len(part) / 20).backward()
    torch.optim.SGD(model.parameters(), 0.05).step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found.weights[name], value, rtol=1e-10, atol=1e-12)


def test_batch_norm_in_parts_has_to_be_chosen():
    with pytest.raises(ValueError, match=r"^batch_norm: batches of 20 go through 'bn1' in parts"):
        sim.train({**NORMED, "micro_batch": 8})
    cblr = {"optimizer": "cblr", "micro_batch": 8, "batch_norm": "synchronised"}
    with pytest.raises(ValueError, match=r"^batch_norm: cblr cannot take the curvature of a bat"):
        sim.train({**NORMED, **cblr})


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"samples": 21}, False),
        ({"samples": 21, "drop_last": True}, True),
        ({"samples": 21, "batch_size": 21, "micro_batch": 4, "batch_norm": "ghost"}, False),
        ({"samples": 21, "batch_size": 21, "micro_batch": 4, "batch_norm": "synchronised"}, True),
        ({"samples": 21, "batch_norm": "synchronised"}, False),
        ({"samples": 20, "batch_size": 1, "micro_batch": 4, "batch_norm": "ghost"}, False),
    ],
)
def test_a_sample_that_batch_norm_would_get_alone(changes, kept):
    """Told before the first step, though it is the last one that would fail."""
    steps = []
    config = {**NORMED, "steps": None, "epochs": 1, **changes}
    if kept:
        assert sim.train(config).status == "finished"
        return
    with pytest.raises(ValueError, match=r"^batch_size: a batch, or a part of one, is a single s"):
        sim.train(config, progress=lambda *a: steps.append(a))
    assert steps == []


# cblr


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"micro_batch": 6},
        {"discard": {"share": 0.3}},
        {"discard": {"share": 0.3, "normaliser": "batch"}, "micro_batch": 6},
    ],
)
def test_cblr_takes_the_exact_curvature_of_what_it_minimises(changes):
    found = run(optimizer="cblr", lr=1e-3, epochs=1, **changes)
    x, y = reference.data()
    model = reference.network()
    optimizer = sim.optimizers.CBLR(model.named_parameters(), 1e-3)
    for _, rows in reference.batches(16, 1):
        losses = F.cross_entropy(model(x[rows]), y[rows], reduction="none")
        n, stay = len(rows), np.arange(len(rows))
        if "discard" in changes:
            stay = kept(losses, 0.3, "small-loss")
        divisor = n if changes.get("discard", {}).get("normaliser") == "batch" else len(stay)
        objective = losses[stay].sum() / divisor
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(objective, parameters, create_graph=True)
        curvature = {}
        for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
            parameter.grad = gradient.detach()
            diagonal = [
                torch.autograd.grad(g, parameter, retain_graph=True)[0].flatten()[k]
                for k, g in enumerate(gradient.flatten())
            ]
            curvature[name] = torch.stack(diagonal).view_as(parameter)
        optimizer.step(curvature)
    for name, parameter in model.named_parameters():
        # R divides by h, which magnifies a rounding of h where h is small.
        torch.testing.assert_close(found.weights[name], parameter.detach(), rtol=1e-7, atol=1e-9)


def test_curvature_of_the_first_samples_is_their_mean():
    found = run(optimizer="cblr", lr=1e-3, epochs=None, steps=1, curvature_of=6)
    x, y = reference.data()
    _, rows = next(reference.batches(16, 1))
    model = reference.network()
    optimizer = sim.optimizers.CBLR(model.named_parameters(), 1e-3)
    first = rows[:6]
    h = hessian.diagonal(model, F.cross_entropy, (x[first], y[first]), method="parameter")
    F.cross_entropy(model(x[rows]), y[rows]).backward()
    optimizer.step(h)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found.weights[name], parameter.detach(), rtol=1e-7, atol=1e-9)


def test_curvature_of_some_samples_and_of_some_steps():
    whole = run(optimizer="cblr", lr=1e-3, epochs=1)
    same = run(optimizer="cblr", lr=1e-3, epochs=1, curvature_of=16)
    part = run(optimizer="cblr", lr=1e-3, epochs=1, curvature_of=8)
    rare = run(optimizer="cblr", lr=1e-3, epochs=1, optimizer_options={"refresh_interval": 2})
    np.testing.assert_allclose(same.steps.loss, whole.steps.loss, rtol=1e-12)
    assert part.steps.loss[0] == whole.steps.loss[0]
    assert part.steps.loss[1] != whole.steps.loss[1]
    assert rare.steps.loss[1] == whole.steps.loss[1]
    assert rare.steps.loss[2] != whole.steps.loss[2]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "lamb", "lars", "mclr", "percent-delta"])
def test_every_other_optimizer_is_its_own_class(optimizer):
    options = {"betas": (0.8, 0.9)} if "adam" in optimizer else {"weight_decay": 0.1}
    found = run(optimizer=optimizer, lr=0.01, epochs=1, optimizer_options=options)
    kinds = {
        "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "lamb": sim.optimizers.LAMB,
        "lars": sim.optimizers.LARS, "mclr": sim.optimizers.MCLR,
        "percent-delta": sim.optimizers.PercentDelta,
    }  # fmt: skip
    x, y = reference.data()
    model = reference.network()
    made = kinds[optimizer](model.parameters(), lr=0.01, **options)
    for _, rows in reference.batches(16, 1):
        made.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        made.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found.weights[name], parameter.detach(), rtol=1e-9, atol=1e-11)


def test_dropout_has_the_masks_of_its_step_everywhere():
    found = run(
        model_options={"hidden": [40], "dropout": 0.5},
        lr=0.0,
        measure={"decrease_every": 1, "held_out": 10},
    )
    # Nothing moves, so that the loss after the step is the loss before it, mask by mask.
    assert (found.steps.decrease_batch == 0).all()
    assert (found.steps.decrease_held_out == 0).all()
    same_samples = run(model_options={"hidden": [40], "dropout": 0.5}, lr=0.0, batch_size=50)
    assert same_samples.steps.loss.nunique() == 2


def test_mixed_precision_and_memory_formats_train():
    base = {"model": "lenet", "samples": 200, "epochs": 2, "batch_size": 50}
    full = sim.train(base)
    mixed = sim.train({**base, "precision": "bfloat16"})
    # bfloat16 has 8 bits.
    np.testing.assert_allclose(mixed.steps.loss, full.steps.loss, rtol=0.02)
    assert (mixed.steps.loss != full.steps.loss).any()
    last = sim.train({**base, "channels_last": True})
    np.testing.assert_allclose(last.steps.loss, full.steps.loss, rtol=1e-4)


@pytest.mark.slow
def test_compiled_training_is_the_same_to_rounding():
    base = {"samples": 256, "epochs": 2, "batch_size": 64}
    compiled, plain = sim.train({**base, "compile": True}), sim.train(base)
    # float32, eight steps.
    np.testing.assert_allclose(compiled.steps.loss, plain.steps.loss, rtol=1e-4)
