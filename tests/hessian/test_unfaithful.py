"""Exported graphs, torch.ops and TorchScript: torch's own operations past its functions.

Where torch's second derivative of an operation is wrong or missing it is replaced, in exported
graphs and torch.ops too; in TorchScript, where nothing can be replaced, it is refused. What is
right is told by differences of the loss's values.
"""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian

# The same in every run: differences of values are no oracle beside a kink.
DRAWN = torch.Generator().manual_seed(0)
X, Y = torch.randn(6, 4, dtype=torch.float64, generator=DRAWN), torch.arange(6) % 3
IMAGES = torch.randn(6, 2, 4, 4, dtype=torch.float64, generator=DRAWN)


class Net(nn.Module):
    """A body with parameters v [5, 4], g [5, 1], then tanh and a linear layer."""

    def __init__(self, body):
        super().__init__()
        torch.manual_seed(0)
        self.v, self.g = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.rand(5, 1) + 0.5)
        self.head = nn.Linear(5, 3)
        self.body = body

    def forward(self, x):
        return self.head(torch.tanh(self.body(x, self.v, self.g)))


class Convolutional(nn.Module):
    """A group norm whose input has its channels last."""

    def __init__(self, norm):
        super().__init__()
        self.conv, self.head, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 3), norm

    def forward(self, x):
        y = self.conv(x).contiguous(memory_format=torch.channels_last)
        return self.head(torch.tanh(self.norm(y, 2)).mean((2, 3)))


def by_script(v: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    return torch._weight_norm(v, g, 0)


def scattered_by_script(body: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    return torch.as_strided_scatter(body, g.flatten(), [5], [1], 0)


def rounded_by_script(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16).to(torch.float64)


def grouped_by_script(x: torch.Tensor, groups: int) -> torch.Tensor:
    return torch.group_norm(x, groups)


def script(function, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(function)(*arguments)


SCRIPTED = {
    "weight normalisation": lambda x, v, g: x @ script(by_script, v, g).t(),
    "as_strided_scatter": lambda x, v, g: script(scattered_by_script, x @ v.t(), g),
    "half precision": lambda x, v, g: script(rounded_by_script, x @ v.t()),
}


def assert_by_values(model, x, h, labels=Y):
    """Fourth differences of the loss in steps of 1e-3: wrong by 1e-12 of the loss over 1e-6."""
    parameters = dict(model.named_parameters())
    for name in h:
        flat = parameters[name].detach().view(-1)
        for i in range(0, len(flat), 3):
            here, values = float(flat[i]), []
            for step in (-2, -1, 0, 1, 2):
                flat[i] = here + 1e-3 * step
                values.append(float(F.cross_entropy(model(x), labels).detach()))
            flat[i] = here
            a, b, c, d, e = values
            want = (-a + 16 * b - 30 * c + 16 * d - e) / 12e-6
            assert abs(float(h[name].view(-1)[i]) - want) <= 1e-7 + 1e-5 * abs(want), (name, i)


ENTRIES = {
    "diagonal": lambda m, x: hessian.diagonal(m, F.cross_entropy, (x, Y)),
    "parameter": lambda m, x: hessian.diagonal(m, F.cross_entropy, (x, Y), method="parameter"),
    "parts": lambda m, x: hessian.diagonal(m, F.cross_entropy, (x, Y), memory=1),
    "sample": lambda m, x: hessian.sample(m, F.cross_entropy, (x, Y)),
    "estimate": lambda m, x: hessian.estimate(m, F.cross_entropy, (x, Y), "hutchinson"),
    "operator": lambda m, x: hessian.operator(m, F.cross_entropy, (x, Y)).trace(),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("words", SCRIPTED)
def test_scripts_are_refused(words, entry):
    with pytest.raises(NotImplementedError, match=words):
        ENTRIES[entry](Net(SCRIPTED[words]).double(), X)


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_scripted_group_norm_with_channels_last_is_refused(entry):
    model = Convolutional(lambda y, groups: script(grouped_by_script, y, groups)).double()
    with pytest.raises(NotImplementedError, match="channels come last"):
        ENTRIES[entry](model, IMAGES)


def test_away_from_what_is_wrong_a_script_is_exact():
    model = Net(SCRIPTED["weight normalisation"]).double()
    h = hessian.diagonal(model, F.cross_entropy, (X, Y), names=["head.weight", "head.bias"])
    assert_by_values(model, X, h)


# ------------------------------------------------------------------------- operators

OPS = torch.ops.aten
BAGS = torch.tensor([[0, 2, 1], [3, 3, 0], [1, 2, 4], [4, 0, 2], [2, 2, 2], [1, 4, 3]])


def sparse_rows(x, v, g):
    return OPS.embedding(v, BAGS, -1, False, True).mean(1) @ v.t()


def bag(mode, padding):
    def body(x, v, g):
        offsets = torch.arange(0, 18, 3)
        weights = g.flatten()[BAGS.flatten()] if mode == 0 else None
        sums, *_ = OPS.embedding_bag(
            v, BAGS.flatten(), offsets, False, mode, True, weights, False, padding
        )
        return sums @ v.t()

    return body


def with_moments(norm):
    """Mean and reciprocal deviation are used as well."""

    def body(x, v, g):
        y, mean, rstd, *_ = norm(x @ v.t())
        return y * rstd.reshape(-1)[:1] + mean.reshape(-1)[-1:]

    return body


def none(size):
    return torch.zeros(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)


BODIES = {
    "weight norm": lambda x, v, g: x @ OPS._weight_norm(v, g, 0).t(),
    "weight norm, overload": lambda x, v, g: x @ OPS._weight_norm.default(v, g, 0).t(),
    "weight norm, with norms": lambda x, v, g: (lambda w, norms: x @ w.t() * norms.t())(
        *OPS._weight_norm_interface(v, g, 0)
    ),
    "scatter": lambda x, v, g: OPS.as_strided_scatter(x @ v.t(), g.flatten(), (5,), (1,), 0),
    "rounded": lambda x, v, g: OPS._to_copy(x @ v.t(), dtype=torch.bfloat16).double(),
    "hard sigmoid": lambda x, v, g: OPS.hardsigmoid((x @ v.t()) ** 2),
    "cdist": lambda x, v, g: OPS.cdist(x, v, 2.0, None),
    "cdist, decomposed": lambda x, v, g: OPS._cdist_forward(x, v, 1.5, None),
    "layer norm, bias alone": lambda x, v, g: OPS.layer_norm(x @ v.t(), [5], None, g.flatten()),
    "layer norm, moments": with_moments(lambda y: OPS.native_layer_norm(y, [5], None, None, 1e-5)),
    "batch norm, moments": with_moments(
        lambda y: OPS.native_batch_norm(y, None, None, None, None, True, 0.1, 1e-5)
    ),
    "batch norm, decomposed": with_moments(
        lambda y: OPS._native_batch_norm_legit.no_stats(y, None, None, True, 0.1, 1e-5)
    ),
    "batch norm, functional": with_moments(
        lambda y: OPS._native_batch_norm_legit_functional(y, None, None, *none(5), True, 0.1, 1e-5)
    ),
    "circular padding": lambda x, v, g: (
        OPS._pad_circular((x @ v.t()).unsqueeze(1), (2, 1)).square().sum(1)[:, :5]
    ),
    "sparse embedding": sparse_rows,
    "bag, sum": bag(0, None),
    "bag, mean": bag(1, None),
    "bag, padded": bag(1, 2),
}


@pytest.mark.parametrize("method", ["auto", "parameter"])
@pytest.mark.parametrize("name", BODIES)
def test_operators_are_exact(name, method):
    model = Net(BODIES[name]).double()
    h = hessian.diagonal(model, F.cross_entropy, (X, Y), method=method)
    if name == "rounded":  # which is what the values of the loss are, and h is not
        assert_by_values(Net(lambda x, v, g: x @ v.t()).double(), X, h)
    else:
        assert_by_values(model, X, h)


def native(y, groups):
    return torch.native_group_norm(y, None, None, *y.shape[:2], y[0, 0].numel(), groups, 1e-5)[0]


@pytest.mark.parametrize("norm", [OPS.group_norm, OPS.group_norm.default, native])
def test_a_group_norm_with_channels_last_is_exact(norm):
    model = Convolutional(norm).double()
    assert_by_values(model, IMAGES, hessian.diagonal(model, F.cross_entropy, (IMAGES, Y)))


@pytest.mark.parametrize("shift", [-3.0, 3.0])
def test_conditions_are_exact(shift):
    def otherwise(y):
        return y * torch.cos(y)

    def body(x, v, g):
        y = x @ v.t() + g.flatten()
        return torch.cond((y + shift).mean() > 0, torch.sin, otherwise, (y,))

    taken = torch.sin if shift > 0 else otherwise
    for method in ("auto", "parameter"):
        h = hessian.diagonal(Net(body).double(), F.cross_entropy, (X, Y), method=method)
        model = Net(lambda x, v, g: taken(x @ v.t() + g.flatten())).double()
        assert_by_values(model, X, h)


class Penalised(nn.Module):
    """Outputs, and the gradient of their squares in the inputs: their second derivatives."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        x = x.detach().requires_grad_()
        output = self.net(x)
        (gradient,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        return torch.cat([output, gradient], 1)


def normed(norm):
    torch.manual_seed(3)
    norms = {"batch": nn.BatchNorm1d(5, track_running_stats=False), "layer": nn.LayerNorm(5)}
    return nn.Sequential(nn.Linear(4, 5), norms[norm], nn.Tanh(), nn.Linear(5, 3)).double()


# The bias before a batch norm changes nothing, and what is left of it is rounding.
DEEP = ("0.weight", "3.weight", "3.bias")


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_gradients_through_exported_norms_are_exact(norm):
    model, labels = normed(norm), torch.arange(6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(model, (X,)).run_decompositions().module()
    h = hessian.diagonal(Penalised(exported), F.cross_entropy, (X, labels))
    assert_by_values(Penalised(model), X, {f"net.{n}": h[f"net.{n}"] for n in DEEP}, labels)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_gradients_through_optimised_scripts_are_refused(norm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = torch.jit.script(normed(norm))
    for _ in range(3):  # then its operations are one
        model(X).sum().backward()
    with pytest.raises((ValueError, NotImplementedError), match="optimised TorchScript"):
        hessian.diagonal(Penalised(model), F.cross_entropy, (X, torch.arange(6)))


def plain(kind):
    torch.manual_seed(2)
    body = {
        "weight norm": nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)),
        "layer norm": nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5)),
        "batch norm": nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5).eval()),
        "softmax": nn.Sequential(nn.Linear(4, 5), nn.Softmax(-1)),
        "hard sigmoid": nn.Sequential(nn.Linear(4, 5), nn.Hardsigmoid()),
    }[kind]
    return nn.Sequential(body, nn.Tanh(), nn.Linear(5, 3)).double().eval()


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize(
    "kind", ["weight norm", "layer norm", "batch norm", "softmax", "hard sigmoid"]
)
def test_exported_networks_are_exact(kind, decomposed):
    model = plain(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its own trees
        graph = torch.export.export(model, (X,))
        exported = (graph.run_decompositions() if decomposed else graph).module()
    h = hessian.diagonal(exported, F.cross_entropy, (X, Y))
    want = hessian.diagonal(model, F.cross_entropy, (X, Y))
    assert list(h) == [name for name, _ in exported.named_parameters()]
    if kind == "batch norm":  # as fast as the module
        methods = [
            [entry.method for entry in hessian.plan(m, F.cross_entropy, (X, Y))]
            for m in (exported, model)
        ]
        assert methods[0] == methods[1]
    for name in want:
        torch.testing.assert_close(h[name], want[name], rtol=1e-10, atol=1e-14)
