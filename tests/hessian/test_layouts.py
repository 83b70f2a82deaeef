"""Random layouts: wherever samples lie, every method is exact or refuses in one sentence."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian

from . import oracle

N = 3


class Walk(nn.Module):
    """A random walk of operations; the sample axis moves, and is known to the walk alone."""

    def __init__(self, seed):
        super().__init__()
        draw = random.Random(seed)
        self.steps, self.mods = [], nn.ModuleList()
        self.start = draw.choice([(N, 2, 3), (2, N, 3), (2, 3, N), (N, 4), (4, N)])
        dims, at = list(self.start), self.start.index(N)
        for _ in range(draw.randint(3, 7)):
            dims, at = self._grow(draw, dims, at)
        self.at, self.dims = at, dims
        self.out = draw.choice([0, 1])
        self.last = nn.Linear(max(1, _rest(dims, at)), 3)

    def _grow(self, draw, dims, at):
        free = [a for a in range(len(dims)) if a != at]
        kind = draw.choice(KINDS)
        axis = draw.choice(free)
        size = dims[axis]

        def keep(function):
            self.steps.append(function)
            return dims, at

        if kind == "linear":
            width = draw.choice([2, 3])
            layer = nn.Linear(size, width, bias=draw.random() < 0.7)
            self.mods.append(layer)
            self.steps.append(lambda h: layer(h.transpose(axis, -1)).transpose(axis, -1))
            return [width if a == axis else s for a, s in enumerate(dims)], at
        if kind == "act":
            function = draw.choice([torch.tanh, F.relu, F.gelu, torch.sigmoid, torch.sin])
            return keep(function)
        if kind == "scale":
            weight = nn.Parameter(torch.rand([s if a == axis else 1 for a, s in enumerate(dims)]))
            self.mods.append(nn.ParameterList([weight]))
            return keep(lambda h: h * weight if size % 2 else h + weight)
        if kind == "cumsum":
            return keep(lambda h: h.cumsum(axis))
        if kind == "flip":
            return keep(lambda h: h.flip(axis))
        if kind == "roll":
            return keep(lambda h: h.roll(1, axis))
        if kind == "centre":
            return keep(lambda h: h - h.mean(axis, keepdim=True))
        if kind == "gate":
            return keep(lambda h: h * torch.sigmoid(h.sum(axis, keepdim=True)))
        if kind == "peak":
            return keep(lambda h: h / (1 + h.abs().amax(axis, keepdim=True)))
        if kind == "divide":
            return keep(lambda h: h.narrow(axis, 0, 1) + h / 2)
        if kind == "softmax":
            return keep(lambda h: h.softmax(axis))
        if kind == "norm":
            return keep(lambda h: F.layer_norm(h.transpose(axis, -1), (size,)).transpose(axis, -1))
        if kind == "data":
            return keep(lambda h: h * torch.linspace(-1, 1, h.numel(), dtype=h.dtype).view_as(h))
        if kind == "where":
            return keep(lambda h: torch.where(h > 0, h, h.narrow(axis, size - 1, 1) / 3))
        if kind == "unbind":
            return keep(lambda h: torch.stack([*h.unbind(axis)][::-1], axis))
        if kind == "halves":
            if size % 2:
                return dims, at
            self.steps.append(lambda h: torch.mul(*h.chunk(2, axis)))
            return [s // 2 if a == axis else s for a, s in enumerate(dims)], at
        if kind == "joined":
            if size > 3:
                return dims, at
            self.steps.append(lambda h: torch.cat([h, h.mean(axis, keepdim=True)], axis))
            return [s + 1 if a == axis else s for a, s in enumerate(dims)], at
        if kind == "square":
            if len(dims) != 3 or at != 0:
                return dims, at
            self.steps.append(lambda h: h @ h.transpose(1, 2))
            return [dims[0], dims[1], dims[1]], at
        if kind == "permute":
            order = list(range(len(dims)))
            draw.shuffle(order)
            self.steps.append(lambda h: h.permute(order))
            return [dims[a] for a in order], order.index(at)
        if kind == "merge":
            pairs = [a for a in range(len(dims) - 1) if at not in (a, a + 1)]
            if not pairs:
                return dims, at
            a = draw.choice(pairs)
            new = [*dims[:a], dims[a] * dims[a + 1], *dims[a + 2 :]]
            self.steps.append(lambda h: h.reshape(new))
            return new, at - (at > a)
        if kind == "axis" and len(dims) < 4:
            a = draw.randint(0, len(dims))
            self.steps.append(lambda h: h.unsqueeze(a))
            return [*dims[:a], 1, *dims[a:]], at + (a <= at)
        if kind == "expand" and len(dims) < 4:
            a = draw.randint(0, len(dims))
            new = [*dims[:a], 2, *dims[a:]]
            self.steps.append(lambda h: h.unsqueeze(a).expand(new))
            return new, at + (a <= at)
        return dims, at

    def forward(self, x):
        at = self.start.index(N)
        h = x.movedim(0, at)
        for step in self.steps:
            h = step(h)
        out = self.last(h.movedim(self.at, 0).reshape(len(x), -1))
        return out if self.out == 0 else out.t()


def _rest(dims, at):
    total = 1
    for a, s in enumerate(dims):
        total *= s if a != at else 1
    return total


KINDS = (
    "linear", "linear", "linear", "act", "act", "scale", "cumsum", "flip", "roll", "centre", "gate",
    "peak", "divide", "softmax", "norm", "data", "where", "unbind", "halves", "joined", "square",
    "permute", "permute", "merge", "axis", "expand",
)  # fmt: skip


def first(model, output):
    return output if model.out == 0 else output.t()


def losses(model):
    return {
        "entropy": lambda o, t: F.cross_entropy(first(model, o), t),
        "mse": lambda o, t: F.mse_loss(first(model, o), F.one_hot(t, 3).to(o.dtype)),
        "cosine": lambda o, t: (1 - F.cosine_similarity(
            first(model, o), F.one_hot(t, 3).to(o.dtype))).sum(),
        "coupled": lambda o, t: o.std() + o.square().mean(),
    }  # fmt: skip


def walked(seed):
    """Methods that took part in one walk, all of them exact."""
    torch.manual_seed(seed)
    model = Walk(seed).double()
    x = torch.randn(
        N, *[s for a, s in enumerate(model.start) if s != N or a != model.start.index(N)]
    )
    x, y = x.double(), torch.randint(3, (N,))
    name = list(losses(model))[seed % 4]
    loss = losses(model)[name]
    want = oracle.diagonal(model, loss, [(x, y)])
    if not all(bool(h.isfinite().all()) for h in want.values()):
        return set()
    taken = set()
    for method in ("auto", "affine", "chain", "preactivation"):
        names = None if method == "auto" else oracle.proved(model, loss, (x, y), method)
        if names == []:
            continue
        got = hessian.diagonal(model, loss, (x, y), method=method, names=names)
        # A layer norm of two entries, or a softmax's cancelling terms, cost some digits; a tensor
        # that is zero to rounding is measured by the others.
        most = max(float(h.abs().max()) for h in want.values())
        for key, gap in oracle.gap(got, {k: want[k] for k in got}, want).items():
            apart = float((got[key] - want[key]).abs().max())
            assert gap < 1e-7 or apart < 1e-10 * most, (seed, method, name, key, gap, got.plan)
        taken |= set(got.plan.methods().values())
    return taken


@pytest.mark.parametrize("seed", range(40))
def test_a_random_walk(seed):
    walked(seed)


def test_the_walks_meet_every_method():
    taken = set().union(*(walked(seed) for seed in range(12)))
    assert {"affine", "chain", "preactivation", "parameter"} <= taken
