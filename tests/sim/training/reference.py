"""The naive training loop: float64, one sample set at a time, everything kept."""

import numpy as np
import torch
import torch.nn.functional as F

import sim

BASE = {
    "dataset": "gaussian",
    "dataset_options": {"samples": 50, "features": 5, "classes": 3, "separation": 2.0},
    "model_options": {"hidden": [6], "activation": "tanh"},
    "dtype": "float64",
    "batch_size": 16,
    "epochs": 2,
    "lr": 0.3,
}


def data(split="train"):
    found = sim.data.load(
        "gaussian", split=split, samples=50, features=5, classes=3, separation=2.0
    )
    return found.inputs.double(), found.targets


def network(seed=0):
    return sim.models.build(
        "mlp", in_shape=(5,), classes=3, hidden=[6], activation="tanh", seed=seed
    ).double()


def order(seed, epoch, n=50):
    """Where the loop is told to take its samples from; any order would do."""
    return np.random.default_rng([seed, 0, epoch]).permutation(n)


def batches(size, epochs, seed=0, drop_last=False):
    """(epoch, indices) of every step."""
    for epoch in range(epochs):
        rows = order(seed, epoch)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            if not (drop_last and len(part) < size):
                yield epoch, part


def descend(steps, lr, objective=None, momentum=0.0, seed=0, alter=None):
    """Plain SGD, written out. Yields what each step saw and did, as NumPy arrays by name."""
    x, y = data()
    model = network(seed)
    velocity = {}
    for step, (epoch, rows) in enumerate(steps):
        rate = lr(step, epoch) if callable(lr) else lr
        losses = F.cross_entropy(model(x[rows]), y[rows], reduction="none")
        value = losses.mean() if objective is None else objective(losses, step, epoch)
        model.zero_grad()
        value.backward()
        before = {n: p.detach().numpy().copy() for n, p in model.named_parameters()}
        gradient = {n: p.grad.numpy().copy() for n, p in model.named_parameters()}
        if alter is not None:
            gradient = {n: alter(g) for n, g in gradient.items()}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                velocity[name] = momentum * velocity.get(name, 0.0) + gradient[name]
                parameter -= rate * torch.from_numpy(np.asarray(velocity[name]))
        after = {n: p.detach().numpy().copy() for n, p in model.named_parameters()}
        with torch.no_grad():
            output = model(x[rows])
            later = F.cross_entropy(output, y[rows], reduction="none")
        yield {
            "epoch": epoch,
            "rows": rows,
            "lr": rate,
            "losses": losses.detach().numpy(),
            "later": later.numpy(),
            "objective": float(value.detach()),
            "gradient": gradient,
            "before": before,
            "after": after,
        }
