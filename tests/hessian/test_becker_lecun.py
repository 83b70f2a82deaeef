"""Diagonal back-propagation beside the formulas written out by hand, and where it is exact."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian

from . import oracle
from .networks import WEIGHTS, Parallel, build, l2, mlp


def draw(*dims, seed=1):
    return torch.randn(*dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Y = torch.tensor([0, 1, 2, 3, 0])


def estimate(model, loss, data, **options):
    got = hessian.estimate(model, loss, data, "becker-lecun", **options)
    assert got.probes == 1
    assert not any(e.any() for e in got.standard_error.values())
    return got


# name: φ, φ', φ'' in NumPy
SCALAR = {
    "tanh": (nn.Tanh, np.tanh, lambda z: 1 - np.tanh(z) ** 2,
             lambda z: -2 * np.tanh(z) * (1 - np.tanh(z) ** 2)),
    "relu": (nn.ReLU, lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0, lambda z: 0 * z),
    "softplus": (nn.Softplus, lambda z: np.log1p(np.exp(z)), lambda z: 1 / (1 + np.exp(-z)),
                 lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
}  # fmt: skip


@pytest.mark.parametrize("activation", SCALAR)
def test_the_formulas_of_the_paper_by_hand(activation):
    """Three layers of NumPy: forward, gradients and diagonals, one sample after another."""
    module, phi, first, second = SCALAR[activation]
    torch.manual_seed(0)
    model, x = mlp(module).double(), draw(5, 6)
    got = estimate(model, F.cross_entropy, (x, Y))
    w = [p.detach().numpy() for n, p in model.named_parameters() if n.endswith("weight")]
    b = [p.detach().numpy() for n, p in model.named_parameters() if n.endswith("bias")]
    want_w, want_b = [0 * v for v in w], [0 * v for v in b]
    for row, label in zip(x.numpy(), Y.numpy(), strict=True):
        inputs, z = [row], []
        for i in range(3):
            z.append(w[i] @ inputs[-1] + b[i])
            inputs.append(phi(z[-1]) if i < 2 else z[-1])
        p = np.exp(z[2]) / np.exp(z[2]).sum()
        g = (p - np.eye(4)[label]) / 5
        h = p * (1 - p) / 5
        for i in (2, 1, 0):
            want_w[i] = want_w[i] + np.outer(h, inputs[i] ** 2)
            want_b[i] = want_b[i] + h
            if i:
                h_a, g_a = (w[i] ** 2).T @ h, w[i].T @ g
                h = first(z[i - 1]) ** 2 * h_a + second(z[i - 1]) * g_a
                g = first(z[i - 1]) * g_a
    for i in range(3):
        assert np.allclose(got[f"{2 * i}.weight"], want_w[i], rtol=1e-11, atol=1e-15)
        assert np.allclose(got[f"{2 * i}.bias"], want_b[i], rtol=1e-11, atol=1e-15)


def dense(model, loss, x, y, layers):
    """The rule for any chain of layers, from the layers' full Jacobians: (J∘J)ᵀh + Σ λ d²y/dx²."""
    values = [x]
    for layer in layers:
        values.append(layer(values[-1]).detach())
    top = values[-1].requires_grad_()
    (g,) = torch.autograd.grad(loss(top, y), top, create_graph=True)
    flat = g.reshape(-1)
    rows = [torch.autograd.grad(e, top, retain_graph=True)[0].reshape(-1) for e in flat]
    h, g = torch.stack(rows).diagonal(), flat.detach()
    found = {}
    names = {id(p): n for n, p in model.named_parameters()}
    for layer, x_in in zip(reversed(layers), reversed(values[:-1]), strict=True):
        for p in layer.parameters():
            x_p = x_in.detach()
            j = torch.autograd.functional.jacobian(
                lambda v, p=p, layer=layer, x_p=x_p: torch.func.functional_call(
                    layer, {n: v if q is p else q for n, q in layer.named_parameters()}, (x_p,)
                ).reshape(-1),
                p.detach(),
            ).reshape(len(h), -1)
            found[names[id(p)]] = (j.square().T @ h).reshape(p.shape)
        x_in = x_in.detach().requires_grad_()
        out = layer(x_in).reshape(-1)
        j = torch.stack(
            [torch.autograd.grad(e, x_in, retain_graph=True)[0].reshape(-1) for e in out]
        )
        (slope,) = torch.autograd.grad(out, x_in, g, create_graph=True)
        curved = torch.zeros(x_in.numel()).double()
        if slope.requires_grad:
            for i, e in enumerate(slope.reshape(-1)):
                (row,) = torch.autograd.grad(e, x_in, retain_graph=True, allow_unused=True)
                curved[i] = 0.0 if row is None else row.reshape(-1)[i]
        h, g = j.detach().square().T @ h + curved, slope.detach().reshape(-1)
    return {n: found[n] for n, _ in model.named_parameters()}


class Times(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.rand(3, 1, 1) + 0.5)

    def forward(self, x):
        return x * self.p


class Minus(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = nn.Parameter(torch.randn(1))

    def forward(self, x):
        return torch.sub(x, self.q, alpha=0.5)


class Fixed(nn.Module):
    def forward(self, x):
        return -2 * x / torch.arange(1.0, 5.0, dtype=x.dtype)


class Swap(nn.Module):
    def forward(self, x):
        a, b = x.transpose(2, 3).flip(2).split(2, dim=2)
        return torch.cat([b, torch.square(a)], 2)[:, :, ::2]


CHAINS = {
    "convolutions": lambda: [
        nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.Tanh(),
        nn.Conv2d(4, 3, 2, stride=2, dilation=2, bias=False), nn.Flatten(), nn.Linear(12, 4),
    ],
    "transposed": lambda: [
        nn.Conv2d(2, 2, 1), nn.GELU(), nn.ConvTranspose2d(2, 3, 2, stride=2, output_padding=1),
        nn.AvgPool2d(3), nn.Flatten(), nn.LazyLinear(4),
    ],
    "pooling": lambda: [
        nn.Conv2d(2, 3, 2), nn.MaxPool2d(2, 1), nn.AvgPool2d(2, 1), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4),
    ],
    "padding and leaks": lambda: [
        nn.ReflectionPad2d(1), nn.Conv2d(2, 3, 2, stride=2), nn.LeakyReLU(0.3), nn.ZeroPad2d(1),
        nn.Conv2d(3, 2, 2, padding=1), nn.ELU(), nn.Flatten(), nn.LazyLinear(4),
    ],
    "scales and views": lambda: [
        nn.Conv2d(2, 3, 3), Times(), Minus(), Fixed(), nn.Sigmoid(), Swap(), nn.Flatten(),
        nn.LazyLinear(4),
    ],
    "batch norm": lambda: [
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3).eval(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", CHAINS)
def test_layer_by_layer_from_full_jacobians(kind):
    torch.manual_seed(0)
    layers = CHAINS[kind]()
    model = nn.Sequential(*layers).double()
    x = draw(3, 2, 5, 5) if kind != "scales and views" else draw(3, 2, 6, 6)
    model(x)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2.0)
    loss = nn.CrossEntropyLoss(weight=WEIGHTS)
    got = estimate(model, loss, (x, Y[:3]))
    oracle.assert_exact(got, dense(model, loss, x, Y[:3], layers), 1e-10)


# ------------------------------------------------------------------ where it is exact


def test_exact_for_one_layer_on_vectors():
    torch.manual_seed(0)
    model, x = nn.Linear(6, 4).double(), draw(5, 6)
    for loss, y in ((F.cross_entropy, Y), (F.mse_loss, draw(5, 4, seed=2)), (l2(model), Y)):
        oracle.assert_exact(estimate(model, loss, (x, y)), oracle.diagonal(model, loss, [(x, y)]))


def test_exact_where_nothing_interacts():
    """Every channel is a chain of its own, and the loss is a sum over channels and positions."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(3, 3, 1, groups=3), nn.Tanh(), nn.Conv1d(3, 3, 1, groups=3), nn.Softplus()
    ).double()
    x, y = draw(5, 3, 1), draw(5, 3, 1, seed=2)
    oracle.assert_exact(
        estimate(model, F.huber_loss, (x, y)), oracle.diagonal(model, F.huber_loss, [(x, y)])
    )


def test_the_last_layer_is_exact_and_the_first_is_not():
    model, x = mlp(nn.Tanh).double(), draw(5, 6)
    got = estimate(model, F.cross_entropy, (x, Y))
    gaps = oracle.gap(got, oracle.diagonal(model, F.cross_entropy, [(x, Y)]))
    assert max(gaps["4.weight"], gaps["4.bias"]) < 1e-12
    assert gaps["0.weight"] > 0.01


def test_uses_of_one_parameter_and_residual_sums_add():
    """f = V (relu(W a) + 2 relu(W b)): h_W = Σ h_a φ'² a² + 4 h_a φ'² b², cross terms left out."""
    torch.manual_seed(0)
    model, x, y = Parallel().double(), draw(5, 6), draw(5, 4, seed=2)
    got = estimate(model, F.mse_loss, (x, y))
    w, c = model.lin.weight.detach(), model.lin.bias.detach()
    h_a = (2 / 20) * model.head.weight.detach().square().sum(0)
    want = torch.zeros(5, 3).double()
    for rows, factor in ((x[:, :3], 1), (x[:, 3:], 4)):
        on = ((rows @ w.T + c) > 0).double()
        want += factor * (on * h_a).T @ rows.square()
    assert torch.allclose(got["lin.weight"], want, rtol=1e-12)


def test_batches_and_names():
    model, x = mlp(nn.GELU).double(), draw(5, 6)
    whole = estimate(model, l2(model), (x, Y))
    parts = estimate(model, l2(model), [(x[:2], Y[:2]), (x[2:], Y[2:])])
    oracle.assert_exact(parts, dict(whole), 1e-12)
    one = estimate(model, l2(model), (x, Y), names=["2.weight"])
    oracle.assert_exact(one, {"2.weight": whole["2.weight"]}, 1e-12)


# ---------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("network", "operation"),
    [("layer-norm", "NativeLayerNorm"), ("attention", "Softmax"),
     ("residual-bn-train", "NativeBatchNorm"), ("custom-function", "StraightThrough")],
)  # fmt: skip
def test_an_operation_without_a_rule_is_named(network, operation):
    model, inputs = build(network)
    x = inputs(5, torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match=rf"(no diagonal rule for .*{operation}|'stem.weight')"):
        hessian.estimate(model, F.cross_entropy, (x, Y), "becker-lecun")


def test_parameters_above_it_are_served():
    model, inputs = build("layer-norm")
    x = inputs(5, torch.Generator().manual_seed(1))
    got = estimate(model, F.cross_entropy, (x, Y), names=["out.weight"])
    want = oracle.diagonal(model, F.cross_entropy, [(x, Y)])
    oracle.assert_exact(got, {"out.weight": want["out.weight"]})


def test_a_pool_of_uneven_windows_is_refused():
    model = nn.Sequential(nn.Conv1d(1, 2, 1), nn.AdaptiveAvgPool1d(2), nn.Flatten()).double()
    with pytest.raises(ValueError, match=r"no diagonal rule for .*Pool"):
        hessian.estimate(model, F.mse_loss, (draw(3, 1, 5), draw(3, 4)), "becker-lecun")


def test_coupled_samples_and_coupled_terms_are_refused():
    model, x = mlp(nn.ReLU).double(), draw(5, 6)
    coupled = lambda o, t: o.mean(0).pow(2).sum() * o.pow(2).sum()  # noqa: E731
    with pytest.raises(ValueError, match=r"kind='becker-lecun'.*couples samples"):
        hessian.estimate(model, coupled, (x, Y), "becker-lecun")
    normed = lambda o, t: F.cross_entropy(o, t) + model[0].weight.norm()  # noqa: E731
    with pytest.raises(ValueError, match=r"'0\.weight' in a way that is not a sum"):
        hessian.estimate(model, normed, (x, Y), "becker-lecun")
