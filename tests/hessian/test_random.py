"""Random architectures and losses from all parts: no draw may be inexact, none falsely affine.

`pytest -m slow` draws 500; the gate draws a few dozen.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import hessian

from . import oracle
from .networks import LOSSES

# Each part maps [n, d] to [n, d'] and holds its own parameters.


class Part(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.w = nn.Parameter(torch.randn(out, width) / width**0.5)
        self.b = nn.Parameter(torch.randn(out) / 2)

    def forward(self, x):
        return F.linear(x, self.w, self.b)


class Fn(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Sum(nn.Module):
    def __init__(self, inner, how):
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, x):
        y = self.inner(x)
        return {
            "add": x + y,
            "mul": x * y,
            "max": torch.maximum(x, y),
            "cat": torch.cat([x, y], 1),
        }[self.how]


class Twice(nn.Module):
    def __init__(self, inner, how):
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, x):
        if self.how == "series":
            return self.inner(F.relu(self.inner(x)))
        return self.inner(x) + F.relu(self.inner(x.flip(1)))


class Broadcast(nn.Module):
    def __init__(self, width, how):
        super().__init__()
        dims = {"row": (width,), "one": (1, width), "scalar": ()}[how]
        self.p = nn.Parameter(torch.rand(dims) + 0.5)

    def forward(self, x):
        return x * self.p - 0.5 * self.p


class Sequence(nn.Module):
    """[n, 2d] as two positions of d features."""

    def __init__(self, width, how):
        super().__init__()
        d = width // 2
        self.how = how
        self.conv = nn.Conv1d(d, d, 2, padding=1) if how == "conv" else None
        self.lin = nn.Linear(d, d, bias=how != "plain") if how != "conv" else None
        self.norm = nn.LayerNorm(d) if how == "norm" else None

    def forward(self, x):
        s = x.view(len(x), 2, -1)
        if self.conv is not None:
            return self.conv(s.transpose(1, 2))[:, :, 1:].flatten(1)
        s = self.lin(s)
        if self.how == "time-first":
            s = self.lin(s.transpose(0, 1)).transpose(0, 1)
        if self.how == "attention":
            s = F.scaled_dot_product_attention(s, s, s)
        if self.norm is not None:
            s = self.norm(s)
        return s.reshape(len(x), -1)


class Matrix(nn.Module):
    def __init__(self, width, how):
        super().__init__()
        self.m = nn.Parameter(torch.randn(width, width) / width**0.5)
        self.how = how

    def forward(self, x):
        if self.how == "matmul":
            return x @ self.m
        if self.how == "einsum":
            return torch.einsum("ni,oi->no", x, self.m)
        if self.how == "slices":
            return F.linear(x, self.m[:2]).repeat(1, x.shape[1] // 2)
        if self.how == "norm":
            return F.linear(x, self.m / self.m.norm(dim=1, keepdim=True))
        return x @ (self.m + self.m.T)


FUNCTIONS = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "leaky": F.leaky_relu,
    "abs": torch.abs,
    "softmax": lambda x: 2 * x.softmax(1),
    "clamp": lambda x: x.clamp(-0.7, 0.9),
    "square": lambda x: x.square() / 2,
    "center": lambda x: x - x.mean(0, keepdim=True),
    "shuffle": lambda x: x[torch.arange(len(x)).flip(0)] + x,
    "turn": lambda x: x.t().flip(0).t(),
    "detach": lambda x: x * x.detach(),
    "where": lambda x: torch.where(x > 0.1, x, 0.3 * x + 0.2),
    "inplace": lambda x: F.relu_(x.clone().mul_(1.5)),
    "halves": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "gate": lambda x: x * torch.sigmoid(x.sum(1, keepdim=True)),
    "pool": lambda x: x + F.max_pool1d(x.unsqueeze(1), 2).repeat(1, 1, 2).squeeze(1),
    "dropout": lambda x: F.dropout(x, 0.3),
}
WIDTH = 4


def make(name):
    if name in FUNCTIONS:
        return Fn(FUNCTIONS[name])
    kind, _, how = name.partition(":")
    if kind == "linear":
        return Part(WIDTH, WIDTH)
    if kind == "sum":
        inner = nn.Sequential(Part(WIDTH, WIDTH), nn.ReLU())
        tail = [Part(2 * WIDTH, WIDTH)] if how == "cat" else []
        return nn.Sequential(Sum(inner, how), *tail)
    if kind == "twice":
        return Twice(Part(WIDTH, WIDTH), how)
    if kind == "broadcast":
        return Broadcast(WIDTH, how)
    if kind == "sequence":
        return Sequence(WIDTH, how)
    if kind == "matrix":
        return Matrix(WIDTH, how)
    if kind == "prelu":
        return nn.PReLU()
    if kind == "layernorm":
        return nn.LayerNorm(WIDTH)
    norm = nn.BatchNorm1d(WIDTH)
    return norm.eval() if how == "eval" else norm


PARTS = [
    *FUNCTIONS,
    "linear",
    *(f"sum:{how}" for how in ("add", "mul", "max", "cat")),
    *(f"twice:{how}" for how in ("series", "parallel")),
    *(f"broadcast:{how}" for how in ("row", "one", "scalar")),
    *(f"sequence:{how}" for how in ("plain", "conv", "norm", "time-first", "attention")),
    *(f"matrix:{how}" for how in ("matmul", "einsum", "slices", "norm", "symmetric")),
    "prelu",
    "layernorm",
    "batchnorm:eval",
    "batchnorm:train",
]

problems = st.fixed_dictionaries(
    {
        "parts": st.lists(st.sampled_from(PARTS), min_size=1, max_size=5),
        "loss": st.sampled_from(sorted(LOSSES)),
        "n": st.integers(2, 6),
        "split": st.booleans(),
        "seed": st.integers(0, 2**20),
        "memory": st.sampled_from([None, 1, 20_000]),
    }
)


def check(problem):
    torch.manual_seed(problem["seed"])
    parts = [make(name) for name in problem["parts"]]
    model = nn.Sequential(Part(3, WIDTH), *parts, Part(WIDTH, 4)).double()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            m.running_var.uniform_(0.5, 2)
    generator = torch.Generator().manual_seed(problem["seed"])
    make_loss, targets = LOSSES[problem["loss"]]
    loss, n = make_loss(model), problem["n"]
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    y = targets(n, generator)
    if problem["loss"].startswith(("ignore", "weights")):
        y[-1] = 1  # a batch of ignored targets only has no loss
    cut = n // 2 if problem["split"] and n >= 4 else 0
    pairs = [(x[:cut], y[:cut]), (x[cut:], y[cut:])] if cut else [(x, y)]
    torch.manual_seed(1)
    want = oracle.diagonal(model, loss, pairs)
    if not all(h.isfinite().all() for h in want.values()):
        return None  # a kink or pole was hit exactly: nothing to compare
    torch.manual_seed(1)
    got = hessian.diagonal(model, loss, pairs, memory=problem["memory"])
    results = [got]
    for method in ("chain", "preactivation"):  # whatever the planner would have chosen
        if names := oracle.proved(model, loss, pairs, method):
            torch.manual_seed(1)
            results.append(hessian.diagonal(model, loss, pairs, method=method, names=names))
    gaps = [oracle.gap(result, {k: want[k] for k in result}, want) for result in results]
    if max(max(gap.values()) for gap in gaps) > 1e-9:
        # Saturated softmaxes and norms of few samples cancel, and a dead unit may sit on a kink
        # exactly: what a change of parameters in the 12th digit moves, rounding may move.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1e-12 * torch.randn(parameter.shape, generator=generator).double()
        torch.manual_seed(1)
        unsure = oracle.gap(oracle.diagonal(model, loss, pairs), want)
        wrong = [{k: (g, unsure[k]) for k, g in gap.items() if g > max(1e-9, unsure[k])}
                 for gap in gaps]  # fmt: skip
        assert not any(wrong), wrong
    return got.plan


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(problems)
def test_random_networks_are_exact(problem):
    check(problem)


def test_all_methods_are_drawn():
    """The draws reach every method, so their agreement says something."""
    seen = set()
    for parts in (["relu"], ["tanh"], ["batchnorm:train"], ["center", "matrix:einsum", "relu"]):
        for loss in ("cross-entropy", "coupling", "norm-term"):
            plan = check(
                {"parts": parts, "loss": loss, "n": 4, "split": False, "seed": 1, "memory": None}
            )
            seen |= set(plan.methods().values())
    assert {"affine", "chain", "parameter", "columns"} <= seen


def _slow():
    @settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
    @given(problems)
    def draws(problem):
        check(problem)

    return draws


test_many_random_networks_are_exact = pytest.mark.slow(pytest.mark.timeout(3000)(_slow()))
