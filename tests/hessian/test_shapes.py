"""Shapes of the inner functions whose indices are dense, checked at run time on many networks.

Each is wrapped while networks of all routes are differentiated. A letter is one size throughout a
call; a result that all samples share may have one sample. Docstrings say the same shapes.
"""

import sys
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._loss import output_hessian, pairs
from hessian._loss.quadratic import Quadratic
from hessian._loss.rows import JacobianRows
from hessian._site import contraction, sums

from . import networks
from .test_shared_rows import Positions
from .transformers import Llama, each_token


def matches(tensor, spec, sizes):
    """Whether a tensor has the shape of a spec such as ``"n c p p"``; binds what is new.

    ``1|n`` stands for n or one, ``..`` for any axes.
    """
    letters = spec.split()
    dims = list(tensor.shape)
    if ".." in letters:
        at = letters.index("..")
        behind = len(letters) - at - 1
        dims = dims[:at] + dims[len(dims) - behind :]
        letters = letters[:at] + letters[at + 1 :]
    if len(letters) != len(dims):
        return False
    for letter, size in zip(letters, dims, strict=True):
        if letter.startswith("1|"):
            if size == 1:
                continue
            letter = letter[2:]
        if sizes.setdefault(letter, size) != size:
            return False
    return True


def _rows(rows):
    """Sizes that a record of Jacobian rows fixes."""
    return {"m": rows.m, "d": rows.d}


# owner, name: (sizes that the arguments fix, tensors among the arguments, shape of the result)
INNER = {
    (pairs, "diagonal"): (
        lambda a, b, like, n, meter: {"n": n, "d": a.d}, {}, "1|n d",
    ),
    (pairs, "blocks"): (
        lambda a, b, place, like, n, meter: {"n": n}, {2: "c p"}, "1|n c p p",
    ),
    (Quadratic, "diagonal"): (lambda self, columns, meter: {"d": columns.d}, {}, "n d"),
    (Quadratic, "blocks"): (lambda self, columns, place, meter: {}, {2: "c p"}, "n c p p"),
    (Quadratic, "gram"): (lambda self, columns, meter: {"d": columns.d}, {}, "n d d"),
    (Quadratic, "matrix"): (lambda self: {}, {}, "n m m"),
    (JacobianRows, "dense"): (lambda self, like, n: {**_rows(self), "n": n}, {}, "1|n m d"),
    (JacobianRows, "written"): (
        lambda self, blocks, like, n: {
            "nb": n * blocks, "b": blocks, "m/b": self.m // blocks, "d/b": self.d // blocks
        }, {}, "nb m/b d/b",
    ),
    (sums, "second"): (lambda *_: {}, {1: "m c p p"}, None),
    (sums, "sum_of_squares"): (lambda *_: {}, {2: "m"}, None),
    (contraction.Contraction, "add"): (lambda *_: {}, {1: "m c q ..", 2: "m c"}, None),
    (contraction, "batched_squares"): (
        lambda *_, **__: {}, {0: "m c g o p", 1: "m g k p", 2: "m c"}, None,
    ),
    (output_hessian, "by_sample"): (lambda t, layout, n: {"n": n}, {}, "n q .."),
}  # fmt: skip


def label(key):
    return f"{getattr(key[0], '__name__', key[0]).rsplit('.', 1)[-1]}.{key[1]}"


def checked(function, key, calls):
    fixed, inputs, result = INNER[key]

    def call(*args, **options):
        sizes = fixed(*args, **options)
        for place, spec in inputs.items():
            value = args[place]
            assert matches(value, spec, sizes), (label(key), place, spec, tuple(value.shape), sizes)
        value = function(*args, **options)
        # A dry run has shapes for one sample.
        if result is not None and isinstance(value, torch.Tensor):
            assert matches(value, result, sizes), (label(key), result, tuple(value.shape), sizes)
            calls[key] += 1
        elif result is None:
            calls[key] += 1
        return value

    return call


@pytest.fixture
def calls(monkeypatch):
    """How often each inner function was called, each with its shapes checked."""
    counts = Counter()
    modules = [module for name, module in sys.modules.items() if name.startswith("hessian.")]
    for key in INNER:
        owner, name = key
        function = getattr(owner, name)
        wrapped = checked(function, key, counts)
        monkeypatch.setattr(owner, name, wrapped)
        for module in modules:  # those that hold it by name
            if not isinstance(owner, type) and getattr(module, name, None) is function:
                monkeypatch.setattr(module, name, wrapped)
    return counts


class Gate(nn.Module):
    """Two layers of one input, multiplied."""

    def __init__(self):
        super().__init__()
        self.below, self.down = nn.Linear(4, 4), nn.Linear(5, 3)
        self.gate, self.up = nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x):
        x = self.below(x)
        return self.down(torch.sigmoid(self.gate(x)) * self.up(x))


def problems():
    for name in networks.NETWORKS:
        model, inputs = networks.build(name)
        x = inputs(3, torch.Generator().manual_seed(0))
        yield model, F.cross_entropy, (x, torch.arange(3) % 4)
    torch.manual_seed(0)
    ids = torch.randint(0, 11, (2, 5))
    yield Llama().double(), each_token, (ids, ids.flip(1))
    yield Positions("plain").double(), F.cross_entropy, (torch.randint(7, (3, 3)), torch.arange(3))
    yield Gate().double(), F.cross_entropy, (torch.randn(3, 4).double(), torch.arange(3))
    conv = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3))
    yield conv.double(), F.cross_entropy, (torch.randn(2, 2, 4, 4).double(), torch.arange(2))


def test_shapes_are_what_the_docstrings_say(calls):
    for model, loss, data in problems():
        for method in ("auto", "chain", "affine", "preactivation"):
            try:
                hessian.diagonal(model, loss, data, method=method)
            except ValueError:  # not proved for a parameter of this network
                continue
    missed = {label(key) for key in INNER} - {label(key) for key in calls}
    assert missed == set()


def test_a_wrong_shape_is_seen():
    sizes = {"n": 3}
    assert matches(torch.zeros(3, 2, 4, 4), "n c p p", sizes)
    assert sizes == {"n": 3, "c": 2, "p": 4}
    assert not matches(torch.zeros(3, 2, 4, 5), "n c p p", {"n": 3})
    assert not matches(torch.zeros(2, 2), "n d", {"n": 3})
    assert not matches(torch.zeros(3), "n d", {})
    assert matches(torch.zeros(1, 2), "1|n d", {"n": 3, "d": 2})
    assert matches(torch.zeros(3, 2, 7, 7), "n q ..", {"n": 3})
    assert not matches(torch.zeros(2, 2, 7, 7), "n q ..", {"n": 3})
