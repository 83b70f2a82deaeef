"""What other curvature tools get wrong in silence, or refuse: each as a fixture of its own.

The list was made by running BackPACK, curvlinops, AdaHessian and others. A fixture that a tool
gets wrong carries that tool's mistake, and the test says that the mistake would be seen here.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations

import hessian

from . import oracle
from .networks import WEIGHTS, Parallel, Series, l2, mlp

N = 5
Y = torch.tensor([0, 1, 2, 3, 0])


def draw(*dims, seed=1):
    return torch.randn(*dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = draw(N, 6)


def ready(make):
    """The network in float64, its parameters away from special values such as a scale of one."""
    torch.manual_seed(0)
    model = make().double()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model


def exact(model, loss, data, **options):
    """The diagonal, found equal to the naive one under the same random draw."""
    kept = {name: b.clone() for name, b in model.named_buffers()}
    torch.manual_seed(3)
    got = hessian.diagonal(model, loss, data, **options)
    torch.manual_seed(3)
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        want = oracle.diagonal(model, loss, [data])
    for name, buffer in model.named_buffers():
        buffer.copy_(kept[name])
    oracle.assert_exact(got, want)
    return got


def off(got, other):
    """How far another tool's result is from ours, relative to the largest entry."""
    return max(oracle.gap(other, dict(got)).values())


def gauss_newton(model, loss, x, y):
    """diag(Jᵀ H J), which several tools call the Hessian's diagonal."""
    output = model(x)
    cut = output.detach().requires_grad_()
    (g,) = torch.autograd.grad(loss(cut, y), cut, create_graph=True)
    h = torch.stack(
        [torch.autograd.grad(e, cut, retain_graph=True)[0].flatten() for e in g.view(-1)]
    )
    result = {}
    for name, p in model.named_parameters():
        j = torch.stack(
            [torch.autograd.grad(e, p, retain_graph=True)[0].flatten() for e in output.view(-1)]
        )
        result[name] = torch.einsum("ak,ab,bk->k", j, h, j).reshape(p.shape)
    return result


# ------------------------------------------------------------ silently wrong elsewhere


def test_targets_that_are_ignored():
    """A mean over the targets that count, not over all samples."""
    model, y = ready(lambda: mlp(nn.ReLU)), Y.clone()
    y[1] = -100
    got = exact(model, F.cross_entropy, (X, y))
    assert off(got, {k: h * 4 / 5 for k, h in got.items()}) > 0.1
    assert off(got, hessian.diagonal(model, F.cross_entropy, (X, Y))) > 0.05


def test_class_weights():
    model = ready(lambda: mlp(nn.ReLU))
    got = exact(model, nn.CrossEntropyLoss(weight=WEIGHTS), (X, Y))
    assert off(got, hessian.diagonal(model, F.cross_entropy, (X, Y))) > 0.05


def test_three_times_the_loss():
    model = ready(lambda: mlp(nn.ReLU))
    got = exact(model, lambda o, t: 3 * F.cross_entropy(o, t), (X, Y))
    one = hessian.diagonal(model, F.cross_entropy, (X, Y))
    assert max(oracle.gap({k: 3 * h for k, h in one.items()}, dict(got)).values()) < 1e-12


def test_an_l2_term_read_from_the_live_parameters():
    model = ready(lambda: mlp(nn.ReLU))
    got = exact(model, l2(model), (X, Y))
    bare = hessian.diagonal(model, F.cross_entropy, (X, Y))
    assert all(torch.allclose(h, bare[k] + 0.1, rtol=1e-12) for k, h in got.items())


def test_gauss_newton_is_not_the_hessian_under_tanh():
    model = ready(lambda: mlp(nn.Tanh))
    got = exact(model, F.cross_entropy, (X, Y))
    assert off(got, gauss_newton(model, F.cross_entropy, X, Y)) > 0.1


@pytest.mark.parametrize("make", [Series, Parallel])
def test_tied_weights(make):
    """One parameter with two uses: neither the sum of the uses' diagonals, nor Gauss-Newton."""
    model = ready(make)
    got = exact(model, F.cross_entropy, (X, Y))

    class Apart(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x):
            return self.head(F.relu(self.b(F.relu(self.a(x)))))

    if make is Series:
        twin = Apart().double()
        for mine in (twin.a, twin.b):
            mine.load_state_dict(model.lin.state_dict())
        twin.head.load_state_dict(model.head.state_dict())
        parts = hessian.diagonal(twin, F.cross_entropy, (X, Y))
        summed = parts["a.weight"] + parts["b.weight"]
        assert float((summed - got["lin.weight"]).abs().max() / summed.abs().max()) > 0.05


def test_layer_norm():
    model = ready(
        lambda: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 4))
    )
    got = exact(model, F.cross_entropy, (X, Y))
    assert off(got, gauss_newton(model, F.cross_entropy, X, Y)) > 0.1


def test_batch_norm_in_training_mode():
    model = ready(
        lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4))
    )
    got = exact(model.train(), F.cross_entropy, (X, Y))
    assert off(got, hessian.diagonal(model.eval(), F.cross_entropy, (X, Y))) > 0.1


def test_negative_curvature_keeps_its_sign():
    """|Hz| and squares of gradients, which others return, are never negative."""
    model = ready(lambda: mlp(nn.Tanh))
    got = exact(model, F.cross_entropy, (X, Y))
    assert min(float(h.min()) for h in got.values()) < 0


def test_probes_are_signs_of_both_kinds():
    """One tool's Rademacher draw was constantly -1: a row sum of H, with no spread."""
    model = ready(lambda: mlp(nn.Tanh))
    for kind in ("hutchinson", "preactivation"):
        got = hessian.estimate(model, F.cross_entropy, (X, Y), kind, probes=20)
        assert all(bool(e.any()) for k, e in got.standard_error.items() if k == "0.weight")


# ------------------------------------------------------------------- refused elsewhere


class Block(nn.Module):
    """A custom forward whose activation is the caller's."""

    def __init__(self, act, residual=False):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.act, self.residual = act, residual

    def forward(self, x):
        x = self.act(self.a(x))
        y = self.act(self.b(x))
        return self.c(x + y if self.residual else y)


def custom(act, residual=False):
    return lambda: Block(act, residual)


REFUSED = {
    "reused relu module": custom(nn.ReLU()),
    "functional relu": custom(F.relu),
    "relu in place": custom(nn.ReLU(inplace=True)),
    "functional relu in place": custom(lambda x: F.relu_(x)),
    "custom forward": custom(torch.tanh),
    "residual sum": custom(F.relu, residual=True),
    "residual sum under tanh": custom(torch.tanh, residual=True),
    "gelu": lambda: mlp(nn.GELU),
    "gelu, tanh form": custom(lambda x: F.gelu(x, approximate="tanh")),
    "silu": lambda: mlp(nn.SiLU),
    "softplus": lambda: mlp(nn.Softplus),
    "layer norm": lambda: nn.Sequential(
        nn.Linear(6, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 4)
    ),
    "dropout": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 4)),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_networks_that_are_refused_elsewhere(kind):
    got = exact(ready(REFUSED[kind]).train(), F.cross_entropy, (X, Y))
    if "relu" in kind:
        assert set(got.plan.methods().values()) == {"affine"}


@pytest.mark.parametrize("delta", [0.3, 1.0])
def test_huber(delta):
    loss = nn.HuberLoss(delta=delta)
    exact(ready(lambda: mlp(nn.Tanh)), loss, (X, draw(N, 4, seed=2)))


# ------------------------------------------------------------------- parametrizations


def spectral(layer):
    return parametrizations.spectral_norm(layer, n_power_iterations=2)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "wrap", [parametrizations.weight_norm, spectral, parametrizations.orthogonal]
)
def test_parametrizations(wrap, training):
    torch.manual_seed(0)
    model = nn.Sequential(wrap(nn.Linear(6, 4).double()), nn.Tanh(), nn.Linear(4, 4).double())
    got = exact(model.train(training), F.cross_entropy, (X, Y))
    inside = [name for name in got if "parametrizations" in name]
    assert inside
    assert all(bool(got[name].any()) for name in inside)


# -------------------------------------------------------- recurrent cells and attention


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.cell = kind(2, 3, batch_first=True, **options)
        width = 3 * (2 if options.get("bidirectional") else 1)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_cells(kind):
    model = ready(lambda: Recurrent(kind))
    got = exact(model, F.cross_entropy, (draw(N, 3, 2), Y))
    # The fused kernels of float32 have no second derivative; ours must be the same function.
    rough = hessian.diagonal(model.float(), F.cross_entropy, (draw(N, 3, 2).float(), Y))
    # 1e-7 per operation, some hundred operations
    assert max(oracle.gap({k: h.double() for k, h in rough.items()}, dict(got)).values()) < 1e-4


def test_two_layers_both_ways():
    exact(
        ready(lambda: Recurrent(nn.GRU, num_layers=2, bidirectional=True)),
        F.cross_entropy, (draw(3, 2, 2), Y[:3]),
    )  # fmt: skip


class Attend(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.mix = nn.MultiheadAttention(4, 2, batch_first=True) if kind == "module" else None
        self.qkv = nn.Linear(4, 12) if kind != "module" else None
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        if self.mix is not None:
            return self.head(self.mix(x, x, x)[0].mean(1))
        q, k, v = self.qkv(x).chunk(3, -1)
        causal = self.kind == "causal"
        return self.head(F.scaled_dot_product_attention(q, k, v, is_causal=causal)[:, -1])


@pytest.mark.parametrize("kind", ["module", "full", "causal"])
def test_attention(kind):
    exact(ready(lambda: Attend(kind)), F.cross_entropy, (draw(N, 3, 4), Y))


class Encode(nn.Module):
    def __init__(self, first, dropout):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            4, 2, 6, dropout=dropout, batch_first=True, norm_first=first, activation="gelu"
        )

    def forward(self, x):
        return self.layer(x).mean(1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_transformer_encoder_layer(first, training):
    exact(ready(lambda: Encode(first, 0.2)).train(training), F.cross_entropy, (draw(N, 3, 4), Y))


def test_the_fast_path_of_the_encoder_layer_is_off_inside():
    """Where gradients are off and the mode is evaluation, torch takes one fused operation."""
    model, x = ready(lambda: Encode(False, 0.0)).eval(), draw(N, 3, 4)
    want = exact(model, F.cross_entropy, (x, Y))
    with torch.no_grad():
        got = hessian.diagonal(model, F.cross_entropy, (x, Y))
    assert torch.backends.mha.get_fastpath_enabled()
    assert all(torch.equal(got[k], want[k]) for k in want)


# -------------------------------------------------------------------------- convolutions

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TURNED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def convolve(below, layer):
    return nn.Sequential(below, nn.Tanh(), layer, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))


def check_convolution(dims, layer):
    size = {1: (6,), 2: (4, 3), 3: (3, 3, 2)}[dims]
    x = draw(3, 1, *size)
    torch.manual_seed(0)
    model = convolve(CONV[dims](1, 2, 1), layer).double()
    model(x)
    exact(model, F.cross_entropy, (x, Y[:3] % 3))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("dims", CONV)
def test_padding_modes(dims, mode):
    torch.manual_seed(1)
    check_convolution(dims, CONV[dims](2, 2, 2, padding=1, padding_mode=mode))


@pytest.mark.parametrize("dims", CONV)
@pytest.mark.parametrize("make", [CONV, TURNED])
def test_strides_dilations_and_groups(dims, make):
    torch.manual_seed(1)
    check_convolution(dims, make[dims](2, 4, 2, stride=2, dilation=2, padding=1, groups=2))


# ---------------------------------------------------------------- inputs, outputs, names


class Pair(nn.Module):
    """Two inputs, a tuple or a mapping out, one parameter unused and one frozen."""

    def __init__(self, mapping):
        super().__init__()
        self.a, self.b, self.idle = nn.Linear(6, 4), nn.Linear(3, 4), nn.Linear(2, 2)
        self.a.bias.requires_grad_(False)
        self.mapping = mapping

    def forward(self, left, right):
        one, two = torch.tanh(self.a(left)), self.b(right)
        return {"one": one, "two": [two]} if self.mapping else (one, two)


@pytest.mark.parametrize("mapping", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_several_inputs_and_outputs(mapping, named):
    model, right = ready(lambda: Pair(mapping)), draw(N, 3, seed=4)

    def loss(output, target):
        one, two = (output["one"], output["two"][0]) if mapping else output
        return F.cross_entropy(one * two, target) + F.mse_loss(one, two)

    inputs = {"left": X, "right": right} if named else (X, right)
    if named:
        got = exact(model, loss, (inputs, Y))
    else:  # a tuple of inputs needs a list of pairs around it
        got = hessian.diagonal(model, loss, [(inputs, Y)])
        oracle.assert_exact(got, oracle.diagonal(model, loss, [(inputs, Y)]))
    assert "a.bias" not in got
    assert not got["idle.weight"].any()
    assert got.plan["idle.weight"].method == "zero"


def test_errors_name_what_is_wrong():
    model = ready(lambda: Pair(True))
    with pytest.raises(ValueError, match=r"model could not be called .*missing 1 required"):
        hessian.diagonal(model, F.mse_loss, (X, Y))
    with pytest.raises(ValueError, match=r"'a\.bias' is frozen"):
        hessian.diagonal(model, F.mse_loss, (X, Y), names=["a.bias"])
    with pytest.raises(TypeError, match="loss must return a scalar"):
        hessian.diagonal(ready(lambda: mlp(nn.ReLU)), lambda o, t: {"loss": o}, (X, Y))
