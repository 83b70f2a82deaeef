"""Ways of writing a model, a loss, a function or a loader, held to differences of the loss's value.

Each of these once gave other numbers, in silence, than those of the loss that the user wrote.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad

import hessian
import hessian.functional

# torch's own: its forward mode is written in TorchScript, and a word on backward(create_graph=).
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Using backward.. with create_graph:UserWarning"),
]
# The same in every run: differences of values are no oracle beside a kink.
DRAWN = torch.Generator().manual_seed(0)
X, Y = torch.randn(6, 3, dtype=torch.float64, generator=DRAWN), torch.arange(6) % 3
STEP = 1e-3


def differences(value, tensors):
    """Second differences of fourth order in every entry of the tensors, by name.

    Of a value v they are wrong by roundings of 1e-16 v over 1e-6, and by the sixth derivative
    times 1e-14.
    """
    found = {}
    for name, tensor in tensors.items():
        flat, results = tensor.detach().view(-1), []
        for i in range(len(flat)):
            here, values = float(flat[i]), []
            for step in (-2, -1, 0, 1, 2):
                flat[i] = here + STEP * step
                torch.manual_seed(3)
                values.append(float(value().detach()))
            flat[i] = here
            a, b, c, d, e = values
            results.append((-a + 16 * b - 30 * c + 16 * d - e) / (12 * STEP**2))
        found[name] = torch.tensor(results, dtype=torch.float64).view(tensor.shape)
    return found


def assert_values(h, want):
    size = max(float(values.abs().max()) for values in want.values())
    for name, values in want.items():
        torch.testing.assert_close(h[name], values, rtol=1e-5, atol=1e-6 * (1 + size))


class Net(nn.Module):
    """A linear layer, what `body` makes of it, and another linear layer."""

    def __init__(self, body, wide=3, **parts):
        super().__init__()
        torch.manual_seed(0)
        self.below, self.above = nn.Linear(3, 3), nn.Linear(wide, 3)
        self.body = body
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.above(self.body(self, self.below(x)))


def shifted(net, h):
    return (h + F.pad(h, (0, 0, 1, -1))).tanh()


def fewer_rows(net, h):
    return torch.stack([h.tanh(), 2 * h], 1).reshape(12, 3).gather(1, Y.new_tensor([[0, 2, 1]] * 6))


def unfolded(net, h):
    return F.unfold(h.tanh().reshape(6, 3, 1), (3, 1)).reshape(6, 3)


def sinc_at_zero(net, h):
    return torch.sinc(h * (torch.arange(6) != 2).unsqueeze(1))


def cumulated(net, h):
    """Of which the first and the last entry are not read, so that their gradients are zero."""
    return torch.logcumsumexp(h, 1)[:, [1]] * torch.ones(3, dtype=h.dtype)


def cumulated_far_apart(net, h):
    """Ranges that exponentials of float64 do not span."""
    return torch.logcumsumexp(h + torch.tensor([0.0, 900.0, 899.0], dtype=h.dtype), 1) / 100


def tangent(function, x):
    return torch.func.jvp(function, (x,), (torch.ones_like(x),))[1]


def dual_tangent(function, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, torch.ones_like(x)))).tangent


def of_layer_norm(net, h):
    return tangent(lambda z: net.norm(z).tanh(), h)


def dual_of_layer_norm(net, h):
    return dual_tangent(lambda z: net.norm(z).tanh(), h)


def of_instance_norm(net, h):
    return tangent(lambda z: F.instance_norm(z.unsqueeze(1)).squeeze(1).tanh(), h)


MODELS = {
    "a shift along the samples": Net(shifted),
    "a gather of fewer rows": Net(fewer_rows),
    "an unfold without samples": Net(unfolded),
    "sinc at zero": Net(sinc_at_zero),
    "logcumsumexp, not all read": Net(cumulated),
    "logcumsumexp, far apart": Net(cumulated_far_apart),
    "a tangent through a layer norm": Net(of_layer_norm, norm=nn.LayerNorm(3)),
    "a dual number through a layer norm": Net(dual_of_layer_norm, norm=nn.LayerNorm(3)),
    "a tangent through an instance norm": Net(of_instance_norm),
}
CALLS = {
    "auto": {},
    "parameter": {"method": "parameter"},
    "parts": {"memory": 1},
}


@pytest.mark.parametrize("call", [*CALLS, "sample", "operator"])
@pytest.mark.parametrize("name", MODELS)
def test_models(name, call):
    model = MODELS[name].double()
    want = differences(lambda: F.cross_entropy(model(X), Y), dict(model.named_parameters()))
    assert_values(taken(model, F.cross_entropy, (X, Y), call), want)


def taken(model, loss, data, call):
    """The diagonal, by name, as the call gives it."""
    torch.manual_seed(3)
    if call == "sample":
        samples = hessian.sample(model, loss, data)
        parameters = dict(model.named_parameters())
        return {name: s.value.view(parameters[name].shape) for name, s in samples.items()}
    if call != "operator":
        return hessian.diagonal(model, loss, data, **CALLS[call])
    operator = hessian.operator(model, loss, data)
    diagonal = np.diag(operator @ np.eye(operator.shape[1]))
    named = dict(model.named_parameters())
    parts = torch.from_numpy(diagonal.copy()).split([p.numel() for p in named.values()])
    return {n: part.view(p.shape) for (n, p), part in zip(named.items(), parts, strict=True)}


def test_a_scale_of_the_gradient_alone_is_none_of_the_losss():
    index = torch.tensor([[0, 0], [1, 0], [2, 1], [0, 2], [1, 1], [0, 0]])
    torch.manual_seed(0)
    layers = [nn.Embedding(3, 2, scale_grad_by_freq=True), nn.Flatten(), nn.Linear(4, 3)]
    model = nn.Sequential(*layers).double()
    want = differences(lambda: F.cross_entropy(model(index), Y), dict(model.named_parameters()))
    for call in CALLS:
        assert_values(taken(model, F.cross_entropy, (index, Y), call), want)


@pytest.mark.parametrize("space", [torch, torch.ops.aten], ids=["function", "operator"])
def test_a_mask_that_has_more_axes_than_what_it_selects_from(space):
    """d²/da_j² of Σ w_ij a_j²/2 over a mask is Σ_i w_ij; with as many lanes as rows, too."""
    mask = torch.rand(10, 10, generator=torch.Generator().manual_seed(0)) > 0.5
    weights = torch.arange(1, 1 + int(mask.sum()), dtype=torch.float64)
    want = torch.zeros(10, 10, dtype=torch.float64).masked_scatter(mask, weights).sum(0)

    def function(p):
        return (space.masked_select(p["a"], mask).square() * weights).sum() / 2

    p = {"a": torch.linspace(0.5, 1.5, 10, dtype=torch.float64)}
    for call in CALLS.values():
        h = hessian.functional.diagonal(function, **call)(p)
        torch.testing.assert_close(h["a"], want, rtol=1e-12, atol=0.0)


NAMES = ("bessel_j0", "airy_ai", "modified_bessel_k1", "spherical_bessel_j0")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("space", [torch.special, torch.ops.aten], ids=["special", "operator"])
def test_what_torch_takes_for_a_constant_is_refused(name, space):
    function = getattr(space, name if space is torch.special else f"special_{name}")
    model = Net(lambda net, h: function(h)).double()
    with pytest.raises((ValueError, NotImplementedError), match=f"{name}.* has no derivative"):
        hessian.diagonal(model, F.cross_entropy, (X, Y))
    # Of the data alone it is a constant.
    data = Net(lambda net, h: h.tanh() * function(X.abs() + 1)).double()
    want = differences(lambda: F.cross_entropy(data(X), Y), dict(data.named_parameters()))
    assert_values(hessian.diagonal(data, F.cross_entropy, (X, Y)), want)


# A number of the network in each, as the end of a grid or what the next number is taken of.
ENDS = {
    "linspace": lambda end: torch.linspace(end, 2.0, 3, dtype=torch.float64),
    "logspace": lambda end: torch.logspace(0.0, end, 3, dtype=torch.float64),
    "nextafter": lambda end: torch.nextafter(end, torch.full((3,), 9.0, dtype=torch.float64)),
}
OPERATORS = {
    "linspace": lambda end: torch.ops.aten.linspace(end, 2.0, 3),
    "nextafter": lambda end: torch.ops.aten.nextafter(end, torch.full_like(end, 9.0)),
}


@pytest.mark.parametrize(
    ("name", "table"),
    [*((name, ENDS) for name in ENDS), *((name, OPERATORS) for name in OPERATORS)],
    ids=[*ENDS, *(f"operator {name}" for name in OPERATORS)],
)
def test_ends_that_torch_takes_for_constants_are_refused(name, table):
    grid = table[name]
    model = Net(lambda net, h: h * grid(net.end), end=nn.Parameter(torch.tensor(0.7))).double()
    with pytest.raises((ValueError, NotImplementedError), match=f"{name} has no derivative"):
        hessian.diagonal(model, F.cross_entropy, (X, Y))
    model.end.requires_grad_(False)
    want = differences(lambda: F.cross_entropy(model(X), Y), dict(model.below.named_parameters()))
    values = hessian.diagonal(model, F.cross_entropy, (X, Y))
    assert_values({name: values[f"below.{name}"] for name in want}, want)


# ------------------------------------------------------------- losses that take derivatives


INPUTS = X.clone().requires_grad_()


def by_grad(output, target, **options):
    (slope,) = torch.autograd.grad(output.sum(), INPUTS, create_graph=True, **options)
    return F.cross_entropy(output, target) + (0.0 if slope is None else slope.square().sum())


def by_backward(output, target):
    INPUTS.grad = None
    output.sum().backward(create_graph=True, inputs=[INPUTS])
    slope, INPUTS.grad = INPUTS.grad, None
    return F.cross_entropy(output, target) + slope.square().sum()


def by_its_own_output(output, target):
    value = F.cross_entropy(output, target, reduction="sum")
    (slope,) = torch.autograd.grad(value, output, create_graph=True)
    return value / len(target) + slope.square().mean()


LOSSES = {
    "grad": by_grad,
    "materialised": lambda o, t: by_grad(o, t, materialize_grads=True),
    "allowed": lambda o, t: by_grad(o, t, allow_unused=True),
    "backward": by_backward,
    "of the output": by_its_own_output,
}


@pytest.mark.parametrize("call", [*CALLS, "sample", "operator"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_take_a_derivative_through_the_outputs(name, call):
    model, loss = Net(lambda net, h: h.tanh()).double(), LOSSES[name]
    want = differences(lambda: loss(model(INPUTS), Y), dict(model.named_parameters()))
    assert_values(taken(model, loss, (INPUTS, Y), call), want)
    torch.manual_seed(3)
    value = float(loss(model(INPUTS), Y).detach())
    assert hessian.diagonal(model, loss, (INPUTS, Y)).loss == pytest.approx(value, rel=1e-12)


# ------------------------------------------------------------------------------- functions


def score(p, x, y):
    return F.cross_entropy((x @ p["a"]).tanh(), y)


def of_gradient(p, x, y):
    return torch.func.grad(lambda q: score(q, x, y))(p)["a"].square().sum()


def penalised(p, x, y):
    return score(p, x, y) + of_gradient(p, x, y)


def adapted(p, x, y):
    slopes = torch.func.grad(lambda q: score(q, x, y))(p)
    return score({"a": p["a"] - 0.5 * slopes["a"]}, x, y)


def of_jacobian(p, x, y):
    return torch.func.jacrev(lambda z: (z @ p["a"]).tanh().sum(0))(x).square().sum()


def of_single_gradients(p, x, y):
    def one(row, label):
        slopes = torch.func.grad(lambda q: score(q, row.unsqueeze(0), label.unsqueeze(0)))(p)
        return slopes["a"].square().sum()

    return torch.func.vmap(one)(x, y).mean()


def drawn_on_both_sides(p, x, y):
    scale = torch.rand((), dtype=x.dtype)
    return scale * F.cross_entropy((scale * x) @ p["a"], y)


def mixed_up(p, x, y):
    share, order = torch.rand((), dtype=x.dtype), torch.randperm(len(x))
    output = (share * x + (1 - share) * x[order]) @ p["a"]
    return share * F.cross_entropy(output, y) + (1 - share) * F.cross_entropy(output, y[order])


def by_numpy(p, x, y):
    scale = float(np.random.default_rng(1).random())  # the same in every call
    return scale * F.cross_entropy((scale * x) @ p["a"], y)


FUNCTIONS = (of_gradient, penalised, adapted, of_jacobian, of_single_gradients,
             drawn_on_both_sides, mixed_up, by_numpy)  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_functions_that_transform_or_draw(function):
    p = {"a": torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))}
    want = differences(lambda: function(p, X, Y), p)
    torch.manual_seed(3)
    value = float(function(p, X, Y))
    for options in CALLS.values():
        torch.manual_seed(3)
        h = hessian.functional.diagonal(function, **options)(p, X, Y)
        assert_values(h, want)
        assert h.loss == pytest.approx(value, rel=1e-12)
    torch.manual_seed(3)
    operator = hessian.functional.operator(function)(p, X, Y)
    assert_values({"a": torch.from_numpy(np.diag(operator @ np.eye(9)).copy()).view(3, 3)}, want)


# --------------------------------------------------------------------------------- loaders


class Refilled:
    """Batches of three that lie in the same memory, one after another."""

    def __iter__(self):
        x, y = torch.empty(3, 3, dtype=torch.float64), torch.empty(3, dtype=torch.long)
        for start in (0, 3):
            x.copy_(X[start : start + 3])
            y.copy_(Y[start : start + 3])
            yield x, y


BATCHES = [(X[:3], Y[:3]), (X[3:], Y[3:])]


def looked_for(model, data):
    generator = torch.Generator().manual_seed(0)
    found = hessian.coordinate_minimum(model, F.cross_entropy, data, 2, generator)
    return {name: place.displacement for name, place in found.items()} | {"loss": found.loss}


QUESTIONS = {
    "diagonal": lambda m, d: dict(hessian.diagonal(m, F.cross_entropy, d)),
    "coordinate_minimum": looked_for,
    "estimate": lambda m, d: dict(hessian.estimate(m, F.cross_entropy, d, "gauss-newton")),
    "operator": lambda m, d: {"h": torch.from_numpy(
        hessian.operator(m, F.cross_entropy, d) @ np.eye(24))},
    "named": lambda m, d: dict(hessian.estimate(
        m, F.cross_entropy, d, "gauss-newton", names=["above.*"])),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["iterator", "iterable"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_loaders_that_fill_the_same_memory_again(question, kind):
    model, ask = Net(lambda net, h: h.tanh()).double(), QUESTIONS[question]
    data = iter(Refilled()) if kind == "iterator" else Refilled()
    ours, want = ask(model, data), ask(model, BATCHES)
    for name, values in want.items():
        torch.testing.assert_close(ours[name], values, rtol=1e-9, atol=1e-12)
