"""The dry run: what the chain route is said to compute has the shapes that it computes."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._loss import dry_run

from .networks import build


@pytest.fixture
def shapes(monkeypatch):
    """Every value's shape is compared with the one that a dry run is told; how many there were."""
    compared = [0, 0]

    def evaluated(like, shape, values):
        if isinstance(like, dry_run.ShapeOnly):
            compared[0] += 1
            return dry_run.shape_only(tuple(shape))
        value = values()
        if value is not None:
            compared[1] += 1
            assert tuple(value.shape) == tuple(shape)
        return value

    def evaluated_each(like, shapes, values):
        if isinstance(like, dry_run.ShapeOnly):
            return [dry_run.shape_only(shape) for shape in shapes]
        tensors = values()
        assert [tuple(tensor.shape) for tensor in tensors] == list(shapes)
        return tensors

    users = [
        (module, checked)
        for name, module in sys.modules.items() if name.startswith("hessian.")
        for checked in (evaluated, evaluated_each)
        if getattr(module, checked.__name__, None) is getattr(dry_run, checked.__name__)
    ]  # fmt: skip
    assert len(users) > 10
    for module, checked in users:
        monkeypatch.setattr(module, checked.__name__, checked)
    return compared


class Sequence(nn.Module):
    """Attention of two heads, a layer norm and a gated layer at every position."""

    def __init__(self):
        super().__init__()
        self.qkv, self.norm = nn.Linear(4, 12), nn.LayerNorm(4)
        self.gate, self.up, self.head = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (2, 2)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        mixed = (q @ k.mT).softmax(-1) @ v
        x = self.norm(x + mixed.transpose(1, 2).flatten(2))
        return self.head(F.silu(self.gate(x)) * self.up(x)).mean(1)


IMAGES = nn.Sequential(
    nn.Conv2d(2, 3, 3, padding=1), nn.GELU(), nn.MaxPool2d(2),
    nn.ConvTranspose2d(3, 3, 2, 2), nn.Tanh(), nn.Conv2d(3, 1, 3, padding=1),
)  # fmt: skip


# Those that the route takes as a whole.
WHOLE = (
    "relu-cnn", "residual-bn-eval", "relu-mlp", "tanh-mlp", "gelu-mlp", "layer-norm", "embedding",
    "attention", "dropout-train",
)  # fmt: skip
OWN = {"sequence": (Sequence(), (3, 5, 4)), "images": (IMAGES, (3, 2, 8, 8))}


def drawn(name):
    model, inputs = build(name)
    x = inputs(5, torch.Generator().manual_seed(1))
    with torch.no_grad():
        classes = model(x).shape[1]
    return model, F.cross_entropy, (x, torch.arange(5) % classes)


def made(model, dims):
    torch.manual_seed(0)
    model = model.double()
    x = torch.randn(dims, dtype=torch.float64)
    return model, F.mse_loss, (x, torch.randn_like(model(x)))


@pytest.mark.parametrize("name", [*WHOLE, *OWN])
def test_values_have_the_shapes_that_a_dry_run_is_told(name, shapes):
    problem = made(*OWN[name]) if name in OWN else drawn(name)
    hessian.diagonal(*problem, method="chain")
    assert min(shapes) > 0
