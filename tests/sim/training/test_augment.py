"""Random crops and reflections against a loop over samples and pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import sim
from sim.training import Augment

BASE = {
    "dataset": "digits", "samples": 40, "model": "lenet", "model_options": {"width": 0.3},
    "batch_size": 16, "epochs": 2, "lr": 0.1, "dtype": "float64",
}  # fmt: skip
# float64 sums in another order, over a few steps.
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def naive(image, down, right, reflected, crop):
    """One image `[C, H, W]`, pixel by pixel."""
    _, height, width = image.shape
    found = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            column = width - 1 - j if reflected else j
            y, x = i + down - crop, column + right - crop
            if 0 <= y < height and 0 <= x < width:
                found[:, i, j] = image[:, y, x]
    return found


@pytest.mark.parametrize(("crop", "flip"), [(2, True), (2, False), (0, True), (4, True)])
def test_pixel_by_pixel(crop, flip):
    augment = Augment(crop=crop, flip=flip)
    x = torch.randn(50, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    drawn = augment.draw([3, 1], 50)
    found = augment.apply(x, torch.from_numpy(drawn))
    expected = np.stack(
        [naive(image, *row, crop) for image, row in zip(x.numpy(), drawn, strict=True)]
    )
    np.testing.assert_array_equal(found.numpy(), expected)


def test_every_place_is_as_likely():
    drawn = Augment(crop=2).draw([0], 20000)
    # 4 standard errors of a share of 20000 draws.
    for column, share in ((0, 1 / 5), (1, 1 / 5), (2, 1 / 2)):
        counts = np.bincount(drawn[:, column]) / 20000
        assert len(counts) == round(1 / share)
        assert np.abs(counts - share).max() < 4 * np.sqrt(share * (1 - share) / 20000)
    assert not Augment(flip=False).draw([0], 100)[:, 2].any()
    # Rows, columns and reflections have nothing to do with one another.
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 4 / np.sqrt(20000)


def test_training_on_what_was_drawn():
    """Plain SGD, written out, on images that are changed one by one."""
    found = sim.train({**BASE, "augment": {"crop": 2}, "seed": 5})
    data = sim.data.load("digits").subset(40, 0)
    x, y = data.inputs.double(), data.targets
    model = sim.models.build("lenet", in_shape=data.shape, width=0.3, seed=5).double()
    losses, step = [], 0
    for epoch in range(2):
        order = np.random.default_rng([5, 0, epoch]).permutation(40)
        for start in range(0, 40, 16):
            rows = order[start : start + 16]
            drawn = np.random.default_rng([5, 5, step])
            places = drawn.integers(0, 5, (len(rows), 2))
            reflected = drawn.integers(0, 2, len(rows))
            batch = np.stack(
                [
                    naive(x[k].numpy(), *place, flip, 2)
                    for k, place, flip in zip(rows, places, reflected, strict=True)
                ]
            )
            loss = F.cross_entropy(model(torch.from_numpy(batch)), y[rows])
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad
            losses.append(loss.item())
            step += 1
    np.testing.assert_allclose(found.steps.loss, losses, **CLOSE)
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(found.weights[name], value, **CLOSE)


def test_in_parts_and_with_the_channels_last():
    whole = sim.train({**BASE, "augment": {}})
    for changes in ({"micro_batch": 5}, {"channels_last": True}):
        found = sim.train({**BASE, "augment": {}, **changes})
        np.testing.assert_allclose(found.steps.loss, whole.steps.loss, **CLOSE)
    assert not np.allclose(whole.steps.loss, sim.train(BASE).steps.loss)


def test_only_the_samples_of_the_step_are_changed():
    """At a rate of 0 nothing moves: what is held out has the same loss with and without."""
    measure = {"decrease_every": 1, "held_out": 8, "curvature_every": 2, "curvature_samples": 20}
    plain = sim.train({**BASE, "lr": 0.0, "measure": measure})
    found = sim.train({**BASE, "lr": 0.0, "measure": measure, "augment": {}})
    assert (found.steps.decrease_batch == 0).all()
    assert found.curvature.equals(plain.curvature)
    assert found.epochs.test_loss.equals(plain.epochs.test_loss)
    assert not found.steps.loss.equals(plain.steps.loss)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": {"crop": -1}}, r"^augment.crop: got -1; give a whole number"),
        ({"augment": {"flip": 1}}, r"^augment.flip: got 1; give True or False"),
        ({"augment": {"crop": 0, "flip": False}}, r"^augment.crop: without it and without flip"),
        ({"augment": {"crops": 2}}, r"^augment.crops: no such option; .* mean 'crop'\?"),
        ({"augment": {"crop": 8}}, r"^augment.crop: got 8, .* digits are 8x8 pixels; .* most 7"),
        (
            {"augment": {}, "dataset": "gaussian", "model": "mlp", "model_options": {}},
            r"^augment: it is for images, but the inputs of gaussian have the shape \(20,\)",
        ),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        sim.train({**BASE, **changes})
