"""The chain route, forced, on every kind of step it knows, against the naive oracle."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import hessian
from hessian._loss.quadratic import Quadratic
from hessian._loss.rows import Cost, JacobianRows
from hessian._routes._chain.steps.base import Where
from hessian._routes._chain.steps.moved import moved
from hessian._tape.layouts import Layout

from . import oracle

D, N, T = 6, 4, 3


class Residual(nn.Module):
    """Blocks x + W₂ φ(W₁ norm(x)), gated on request."""

    def __init__(self, gate=False, affine=True, blocks=2):
        super().__init__()
        self.gate = gate
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(D, elementwise_affine=affine),
                    "up": nn.Linear(D, 9),
                    "gate": nn.Linear(D, 9),
                    "down": nn.Linear(9, D, bias=False),
                }
            )
            for _ in range(blocks)
        )
        self.head = nn.Linear(D, 4)

    def forward(self, x):
        for b in self.blocks:
            u = b["norm"](x)
            h = F.gelu(b["up"](u))
            if self.gate:
                h = h * torch.sigmoid(b["gate"](u))
            x = x - 0.5 * b["down"](h)
        return self.head(x)


class Attention(nn.Module):
    """Tokens, positions, attention with two heads, a mean over tokens."""

    def __init__(self, lead=False):
        super().__init__()
        self.lead = lead
        self.embedding = nn.Embedding(7, D, padding_idx=0)
        self.place = nn.Parameter(torch.randn(T, D))
        self.norm = nn.LayerNorm(D)
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.head = nn.Linear(D, 4)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.place
        n = len(x)
        q, k, v = (
            part.reshape(n, T, 2, D // 2).transpose(1, 2)
            for part in self.qkv(self.norm(x)).chunk(3, -1)
        )
        if self.lead:
            a = F.scaled_dot_product_attention(q, k, v)
        else:
            a = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        x = x + self.out(a.transpose(1, 2).reshape(n, T, D))
        return self.head(torch.tanh(x).mean(1))


class Square(nn.Module):
    """Products of a tensor with itself and with another, a quotient by a norm."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(D, 5), nn.Linear(D, 5), nn.Linear(5, 4)
        self.scale = nn.Parameter(torch.randn(5))

    def forward(self, x):
        a = self.a(x)
        return self.head(self.scale * (a * a + a * self.b(x)))


class TimeFirst(nn.Module):
    """Samples on the second axis."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(D, 5), nn.Linear(5, 4)

    def forward(self, x):  # [n, T, D]
        return self.b(F.silu(self.a(x.transpose(0, 1)))).sum(0)


class GatedConvolution(nn.Module):
    """A product of two halves of the channels, at several positions."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv1d(2, 6, 3), nn.Conv1d(3, 3, 1), nn.Linear(12, 4)

    def forward(self, x):
        a, b = self.a(x).chunk(2, 1)
        return self.head(self.b(a * torch.sigmoid(b)).flatten(1))


class TwoOutputs(nn.Module):
    """Two leaves that the loss joins."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(D, 5), nn.Linear(5, 3), nn.Linear(5, 2)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.b(h), self.c(torch.sin(h))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(4, 4, 2, groups=2), nn.Softplus(), nn.MaxPool2d(2), nn.Dropout(0.3),
        nn.Flatten(), nn.Linear(4, 4),
    )  # fmt: skip


def deep():
    layers = [m for _ in range(6) for m in (nn.Linear(D, D), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(D, 4))


def vectors():
    return torch.randn(N, D)


def tokens():
    return torch.tensor([[1, 2, 1], [0, 3, 3], [4, 5, 6], [2, 0, 0]])


NETWORKS = {
    "deep tanh": (deep, vectors),
    "residual, layer norm": (Residual, vectors),
    "residual, layer norm without scale": (lambda: Residual(affine=False), vectors),
    "gated": (lambda: Residual(gate=True), vectors),
    "attention": (Attention, tokens),
    "fused attention": (lambda: Attention(lead=True), tokens),
    "products": (Square, vectors),
    "time first": (TimeFirst, lambda: torch.randn(N, T, D)),
    "convolutional": (convolutional, lambda: torch.randn(N, 2, 6, 6)),
    "gated convolution": (GatedConvolution, lambda: torch.randn(N, 2, 6)),
    "two outputs": (TwoOutputs, vectors),
}


def build(name):
    torch.manual_seed(3)
    make, inputs = NETWORKS[name]
    model = make().double()
    for p in model.parameters():
        if p.dim() == 1:
            nn.init.uniform_(p, 0.5, 1.5)
        else:
            nn.init.normal_(p, std=0.7)
    x = inputs()
    return model, x.double() if x.is_floating_point() else x


def joint(output, target):
    """Couples the two outputs of a sample, not the samples."""
    a, b = output
    return F.cross_entropy(a, target % 3) + (a.sum(1) * b.sum(1)).mean() + b.pow(3).mean()


@pytest.mark.parametrize("memory", [None, 30_000], ids=["whole", "in parts"])
@pytest.mark.parametrize("name", NETWORKS)
def test_exact_on_every_kind_of_step(name, memory):
    model, x = build(name)
    y = torch.arange(N) % 4
    loss = joint if name == "two outputs" else F.cross_entropy
    torch.manual_seed(5)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no second derivative
        want = oracle.diagonal(model, loss, [(x, y)])
    names = oracle.proved(model, loss, (x, y), "chain")
    assert set(names) == {n for n, _ in model.named_parameters()}
    torch.manual_seed(5)
    if memory is not None and name in ("attention", "fused attention", "convolutional"):
        memory = 3_000_000
    got = hessian.diagonal(model, loss, (x, y), method="chain", memory=memory)
    assert set(got.plan.methods().values()) <= {"chain", "zero"}
    oracle.assert_exact(got, want)


def test_long_chains_collapse_and_short_ones_do_not():
    """The cost grows in proportion to depth, and two hidden layers need no dense product."""

    def passes(depth, width=32):
        layers = [m for _ in range(depth) for m in (nn.Linear(width, width), nn.Tanh())]
        model = nn.Sequential(*layers, nn.Linear(width, 4))
        plan = hessian.plan(model, F.cross_entropy, (torch.randn(4, width), torch.arange(4)))
        assert set(plan.methods().values()) == {"chain"}
        return plan["0.weight"].backward

    # In backward passes, each of which grows with depth itself; a pass carries one row.
    assert passes(2) <= 8
    assert passes(3) <= 20
    assert passes(40) <= 2.2 * 32
    assert passes(80) <= 1.05 * passes(40)


def test_wide_images_are_left_to_cheaper_routes():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(2 * 26 * 26, 2))
    data = torch.randn(3, 1, 28, 28), torch.tensor([0, 1, 0])
    plan = hessian.plan(model, F.cross_entropy, data)
    assert plan["0.weight"].method == "parameter"  # 18 entries; a site of 1352
    assert plan["3.weight"].method == "affine"


@pytest.mark.parametrize("kind", ["diagonal", "full"])
@pytest.mark.parametrize("form", ["identity", "shared", "own"])
@pytest.mark.parametrize("scaled", [True, False])
def test_quadratic_forms_in_every_form_of_rows(kind, form, scaled):
    torch.manual_seed(0)
    n, m, d = 3, 4, 4 if form == "identity" else 6
    double = torch.float64
    values = {
        "diagonal": torch.randn(n, m, dtype=double),
        "full": torch.randn(n, m, m, dtype=double),
    }[kind]
    if kind == "full":
        values = values + values.transpose(1, 2)
    matrix = values
    if kind == "diagonal":
        matrix = torch.diag_embed(values)
    base = {"identity": None, "shared": torch.randn(m, d, dtype=double)}.get(
        form, torch.randn(n, m, d, dtype=double)
    )
    scale = torch.randn(n, d, dtype=double) if scaled else None
    rows = (torch.eye(m, dtype=double) if base is None else base).expand(n, m, d)
    rows = rows if scale is None else rows * scale.unsqueeze(1)
    want = rows.transpose(1, 2) @ matrix @ rows
    columns, quadratic, meter = JacobianRows(m, d, base, scale), Quadratic(kind, values), Cost()
    assert torch.allclose(quadratic.gram(columns, meter), want, rtol=1e-12)
    diagonal = want.diagonal(dim1=1, dim2=2)
    assert torch.allclose(quadratic.diagonal(columns, meter), diagonal, rtol=1e-12)
    place = torch.tensor([[0, 2], [3, 1]])
    blocks = torch.stack([want[:, p][:, :, p] for p in place], 1)
    assert torch.allclose(quadratic.blocks(columns, place, meter), blocks, rtol=1e-12)


# What moves entries, by whether rows are picked, and into how many parts that are moved alike.
MOVES = {
    "transpose": (lambda x: x.transpose(1, 2), True, 1),
    "slice of rows": (lambda x: x[:, 1:3], True, 1),
    "slice of columns": (lambda x: x[..., :2], True, 4),
    "halves turned": (lambda x: torch.cat((-x[..., 3:], x[..., :3]), -1), True, 4),
    "sum": (lambda x: x.sum(-1), True, 4),
    "mean": (lambda x: x.mean(-1), True, 4),
    "flip": (lambda x: x.flip(1), True, 1),
    "padded": (lambda x: F.pad(x, (1, 2)), True, 4),
    "reflected": (lambda x: F.pad(x, (2, 2), mode="reflect"), False, 0),
    "one entry twice": (lambda x: x[:, [0, 2, 2]], False, 0),
    "means that overlap": (lambda x: F.avg_pool2d(x, (1, 3), 1), False, 0),
    "means apart": (lambda x: F.avg_pool2d(x, (1, 3)), True, 8),
    "another entry in each sample": (lambda x: x.kthvalue(2, 1)[0], False, 0),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_are_seen_in_the_operations_own_derivative(name):
    move, picked, parts = MOVES[name]
    torch.manual_seed(0)
    x = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    node = move(x).grad_fn
    slots = [i for i, (child, _) in enumerate(node.next_functions) if child is not None]
    edges = [(node, 0), *(node.next_functions[i] for i in slots)]
    step = moved(node, [0], slots, Where(dict.fromkeys(edges, Layout(0)), 3))
    assert (step is not None) == picked
    if step is None:
        return
    assert step.parts == parts
    count = step.d
    up = torch.randn(3, 5, count, dtype=torch.float64)
    rows = JacobianRows(5, count, up)
    for child, down in step.pull((node, 0), rows, slice(0, 3), up, Cost()):
        want = []
        for row in up.transpose(0, 1):
            gradients = node(row.reshape(node._input_metadata[0].shape))
            gradients = gradients if isinstance(gradients, tuple) else (gradients,)
            slot = step.children.index(child)
            want.append(gradients[slots[slot]].reshape(3, -1))
        assert torch.allclose(down.dense(up, 3), torch.stack(want, 1), rtol=1e-14)
