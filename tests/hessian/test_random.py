"""Random architectures and losses from all parts: no draw may be inexact, none falsely affine.

`pytest -m slow` draws 500; the gate draws a few dozen.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations as P

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


class Module(nn.Module):
    """A module of torch between [n, 4] and [n, 4], on vectors, two positions, or an image."""

    def __init__(self, how):
        super().__init__()
        make, self.dims, out = MODULES[how]
        self.inner = make()
        self.back = Part(out, WIDTH) if out != WIDTH else nn.Identity()
        self.how = how

    def forward(self, x):
        x = x.reshape(len(x), *self.dims)
        if self.how.endswith("time-first"):
            x = self.inner(x.transpose(0, 1))
            x = (x[0] if isinstance(x, tuple) else x).transpose(0, 1)
        elif self.how.startswith("attention"):
            x = self.inner(x, x, x, need_weights=self.how == "attention-weights")[0]
        elif self.how.startswith("cell"):
            x = self.inner(x, torch.tanh(x) if self.how == "cell" else (x, x / 2))
            x = x[0] if isinstance(x, tuple) else x
        else:
            x = self.inner(x)
            x = x[0] if isinstance(x, tuple) else x
        return self.back(x.flatten(1))


def conv(d, how):
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1]
    if how == "strided":
        return lambda: kind(2 if d == 1 else 1, 2, 2, stride=2, padding=1, bias=False)
    if how == "dilated":
        return lambda: kind(2 if d == 1 else 1, 2, 2, dilation=2, padding=1)
    if how == "grouped":
        return lambda: nn.Sequential(
            kind(2 if d == 1 else 1, 2, 1), nn.Tanh(), kind(2, 2, 1, groups=2)
        )
    return lambda: kind(2 if d == 1 else 1, 1, 3, padding=1, padding_mode=how)


def transposed(d):
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d)[d - 1]
    return lambda: kind(2 if d == 1 else 1, 1, 2, stride=2, padding=1, output_padding=1)


# name: (constructor, shape that the four features take, entries that it gives)
IMAGE, ROWS, DEEP = (1, 2, 2), (2, 2), (1, 1, 2, 2)
MODULES = {
    **{f"conv1d-{how}": (conv(1, how), ROWS, 2) for how in
       ("zeros", "reflect", "replicate", "circular")},
    **{f"conv2d-{how}": (conv(2, how), IMAGE, 4) for how in
       ("zeros", "reflect", "replicate", "circular")},
    **{f"conv3d-{how}": (conv(3, how), DEEP, 4) for how in ("zeros", "replicate")},
    "conv1d-strided": (conv(1, "strided"), ROWS, 4),
    "conv2d-strided": (conv(2, "strided"), IMAGE, 8),
    "conv2d-dilated": (conv(2, "dilated"), IMAGE, 8),
    "conv2d-grouped": (conv(2, "grouped"), IMAGE, 8),
    "transposed1d": (transposed(1), ROWS, 3),
    "transposed2d": (transposed(2), IMAGE, 9),
    "instance": (lambda: nn.InstanceNorm1d(2, affine=True), ROWS, 4),
    "group": (lambda: nn.GroupNorm(2, 4), (4,), 4),
    "rms": (lambda: nn.RMSNorm(2), ROWS, 4),
    "response": (lambda: nn.LocalResponseNorm(2), ROWS, 4),
    "weight-norm": (lambda: P.weight_norm(nn.Linear(4, 4)), (4,), 4),
    "spectral": (lambda: P.spectral_norm(nn.Linear(4, 4)).eval(), (4,), 4),
    "orthogonal": (lambda: P.orthogonal(nn.Linear(4, 4)), (4,), 4),
    "attention": (lambda: nn.MultiheadAttention(2, 1, batch_first=True), ROWS, 4),
    "attention-weights": (lambda: nn.MultiheadAttention(2, 2, batch_first=True), ROWS, 4),
    "encoder": (lambda: nn.TransformerEncoderLayer(2, 1, 3, batch_first=True), ROWS, 4),
    "encoder-norm-first-time-first": (
        lambda: nn.TransformerEncoderLayer(2, 2, 3, norm_first=True, activation="gelu").eval(),
        ROWS, 4,
    ),
    "rnn-time-first": (lambda: nn.RNN(2, 2, nonlinearity="relu"), ROWS, 4),
    "lstm": (lambda: nn.LSTM(2, 2, batch_first=True), ROWS, 4),
    "gru-both-ways": (lambda: nn.GRU(2, 1, bidirectional=True, batch_first=True), ROWS, 4),
    "cell": (lambda: nn.GRUCell(4, 4), (4,), 4),
    "cell-lstm": (lambda: nn.LSTMCell(4, 4), (4,), 4),
    "shuffle": (lambda: nn.PixelShuffle(2), (4, 1, 1), 4),
    "circular": (lambda: nn.CircularPad2d(1), IMAGE, 16),
    "glu": (lambda: nn.GLU(1), (4,), 2),
    "hardsigmoid": (lambda: nn.Hardswish(), (4,), 4),
}  # fmt: skip


class Pair(nn.Module):
    """A bilinear layer of two halves, one of which another layer makes."""

    def __init__(self, how):
        super().__init__()
        self.inner, self.below = nn.Bilinear(2, 2, WIDTH), nn.Linear(2, 2)
        self.how = how

    def forward(self, x):
        a, b = x.chunk(2, 1)
        return self.inner(self.below(a), b if self.how == "one" else self.below(b))


class Complex(nn.Module):
    """Through complex numbers and back."""

    def __init__(self, how):
        super().__init__()
        self.p, self.how = nn.Parameter(torch.rand(WIDTH) + 0.5), how

    def forward(self, x):
        if self.how == "fourier":
            return torch.fft.irfft(torch.fft.rfft(x) * self.p[:3], n=WIDTH)
        return (x * self.p).to(torch.complex128).add(0.5j).abs()


class Rows(nn.Module):
    """Looks rows up by what it is given, and keeps that too: indices carry no derivative."""

    def __init__(self, how):
        super().__init__()
        kind = nn.EmbeddingBag if how == "bag" else nn.Embedding
        options = {"padding_idx": 0} if how == "padding" else {}
        self.rows, self.how = kind(5, WIDTH, **options), how

    def forward(self, x):
        index = (x.detach() * 1.5 + 2).round().clamp(0, 4).long()
        if self.how == "bag":
            w = self.rows.weight  # what torch has no second derivative for, by hand
            found = self.rows(index) if Rows.bags else w[index].mean(1)
        else:
            found = self.rows(index).sum(1)
        return x + found

    bags = False


class Choice(nn.Module):
    """Control flow that reads the data; one of the layers is used never, once or twice."""

    def __init__(self, how):
        super().__init__()
        self.a, self.b = Part(WIDTH, WIDTH), Part(WIDTH, WIDTH)
        if how == "frozen":
            self.a.w.requires_grad_(False)

    def forward(self, x):
        for step in range(2):
            x = torch.tanh(self.a(x)) if float(x.detach().sum()) > step else x + self.b(x).relu()
        return x


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
    if kind == "module":
        return Module(how)
    if kind in ("pair", "complex", "rows", "choice"):
        return {"pair": Pair, "complex": Complex, "rows": Rows, "choice": Choice}[kind](how)
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
    *(f"module:{how}" for how in MODULES),
    *(f"pair:{how}" for how in ("one", "both")),
    *(f"complex:{how}" for how in ("fourier", "modulus")),
    *(f"rows:{how}" for how in ("plain", "padding", "bag")),
    *(f"choice:{how}" for how in ("free", "frozen")),
    "prelu",
    "layernorm",
    "batchnorm:eval",
    "batchnorm:train",
]

# How inputs and outputs are packed.
FORMS = ["tensor", "tuple", "mapping", "dataclass", "two inputs", "two outputs"]


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...] = ()

    def to_tuple(self):
        return self.logits, *self.hidden


torch.utils._pytree.register_dataclass(Output)


class Packed(nn.Module):
    def __init__(self, inner, form):
        super().__init__()
        self.inner, self.form = inner, form

    def forward(self, x, other=None):
        if other is not None:
            x = x + 0.5 * other
        y = self.inner(x)
        if self.form == "tuple":
            return y, {"rows": len(y)}
        if self.form == "mapping":
            return {"unused": y.sum(), "logits": y}
        if self.form == "dataclass":
            return Output(y, (y.detach(),))
        if self.form == "two outputs":
            return y, y[:, :2].tanh()
        return y


def packed(model, loss, x, form):
    """Model, loss and inputs in another form; what is computed stays nearly the same."""
    unpack = {
        "tuple": lambda o: o[0],
        "mapping": lambda o: o["logits"],
        "dataclass": lambda o: o.logits,
        "two outputs": lambda o: o[0] + torch.cat([o[1], o[1]], 1),
    }.get(form, lambda o: o)
    inputs = {"mapping": {"x": x}, "two inputs": (x, x.flip(1))}.get(form, x)
    return Packed(model, form), lambda o, t: loss(unpack(o), t), inputs


problems = st.fixed_dictionaries(
    {
        "parts": st.lists(st.sampled_from(PARTS), min_size=1, max_size=5),
        "loss": st.sampled_from(sorted(LOSSES)),
        "n": st.integers(2, 6),
        "split": st.booleans(),
        "form": st.sampled_from(FORMS),
        "seed": st.integers(0, 2**20),
        "memory": st.sampled_from([None, 1, 20_000]),
    }
)


def truth(model, loss, pairs):
    """The oracle, with attention and running statistics as the package has them."""
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    torch.manual_seed(1)
    with sdpa_kernel(SDPBackend.MATH):
        found = oracle.diagonal(model, loss, pairs)
    for name, b in model.named_buffers():
        b.copy_(buffers[name])
    return found


def never_falsely_affine(model, loss, pairs, entries=2):
    """Where affinity is claimed, a random projection of the output has no second derivative."""
    claimed = oracle.proved(model, loss, pairs, "affine")
    parameters = dict(model.named_parameters())
    torch.manual_seed(1)
    with sdpa_kernel(SDPBackend.MATH):
        leaves = [t for t in torch.utils._pytree.tree_leaves(oracle.run(model, pairs[0][0]))
                  if isinstance(t, torch.Tensor) and t.requires_grad]  # fmt: skip
    used = leaves[-1:] if isinstance(model, Packed) and model.form == "mapping" else leaves
    if isinstance(model, Packed) and model.form == "two outputs":
        used = leaves  # the second is curved in everything
    value = sum((t * torch.randn_like(t)).sum() for t in used)
    for name in claimed:
        p = parameters[name]
        (g,) = torch.autograd.grad(value, p, create_graph=True, allow_unused=True)
        if g is None or not g.requires_grad:
            continue
        size = float(g.detach().abs().max())
        for entry in torch.randint(p.numel(), (entries,)).tolist():
            (row,) = torch.autograd.grad(
                g.reshape(-1)[entry], p, retain_graph=True, allow_unused=True
            )
            if row is not None:  # rounding errors of a derivative that vanishes
                assert abs(float(row.reshape(-1)[entry])) <= 1e-9 * max(size, 1.0), (name, entry)


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
    loss, n, form = make_loss(model), problem["n"], problem["form"]
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    y = targets(n, generator)
    if problem["loss"].startswith(("ignore", "weights")):
        y[-1] = 1  # a batch of ignored targets only has no loss
    cut = n // 2 if problem["split"] and n >= 4 else 0
    halves = [(x[:cut], y[:cut]), (x[cut:], y[cut:])] if cut else [(x, y)]
    forms = [packed(model, loss, x, form) for x, _ in halves]
    model, loss = forms[0][:2]
    pairs = [(inputs, y) for (_, _, inputs), (_, y) in zip(forms, halves, strict=True)]
    want = truth(model, loss, pairs)
    if not all(h.isfinite().all() for h in want.values()):
        return None  # a kink or pole was hit exactly: nothing to compare
    torch.manual_seed(1)
    got = hessian.diagonal(model, loss, pairs, memory=problem["memory"])
    results = [got]
    never_falsely_affine(model, loss, pairs)
    for method in ("chain", "preactivation"):  # whatever the planner would have chosen
        proved = [oracle.proved(model, loss, [pair], method) for pair in pairs]
        if names := [name for name in proved[0] if name in proved[-1]]:
            torch.manual_seed(1)
            results.append(hessian.diagonal(model, loss, pairs, method=method, names=names))
    gaps = [oracle.gap(result, {k: want[k] for k in result}, want) for result in results]
    if max(max(gap.values()) for gap in gaps) > 1e-9:
        # Saturated softmaxes and norms of few samples cancel, and a dead unit may sit on a kink
        # exactly: what a change of parameters in the 12th digit moves, rounding may move.
        unsure = dict.fromkeys(want, 0.0)
        kept = [p.detach().clone() for p in model.parameters()]
        for _ in range(3):
            with torch.no_grad():
                for parameter, value in zip(model.parameters(), kept, strict=True):
                    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.copy_(value + 1e-12 * noise)
            moved = oracle.gap(truth(model, loss, pairs), want)
            # Three draws give the size of what rounding does, not its largest value.
            unsure = {k: max(u, 3 * moved[k]) for k, u in unsure.items()}
        # A bias that a norm takes away has a derivative of zero, summed over some hundred pairs of
        # positions from terms as large as any: as many roundings of 2e-16 of the largest.
        top = max(float(h.abs().max()) for h in want.values())
        none = {k: 1e-13 * top / max(float(h.abs().max()), 1e-6 * top) for k, h in want.items()}
        wrong = [{k: (g, unsure[k]) for k, g in gap.items() if g > max(1e-9, unsure[k], none[k])}
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
                {
                    "parts": parts,
                    "loss": loss,
                    "n": 4,
                    "split": False,
                    "seed": 1,
                    "memory": None,
                    "form": "tensor",
                }
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
