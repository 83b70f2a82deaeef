"""Networks in half precision, in several precisions and under autocast, beside float64 twins.

A twin has the same parameters and converts nothing. What is computed is its function, in float32
at least: results differ from it by what they are rounded to in the end, and by the float32 of the
computation. Double backward through the half types themselves is off by ten times as much.
"""

import copy
import itertools
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

import hessian

from . import oracle


class Net(nn.Module):
    """`convert(x, dtype)` is how the forward pass changes precision; the twin's does nothing."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.compute, self.real = forward, False

    def to_(self, x, dtype):
        return x if self.real else x.to(dtype)

    def under(self, dtype, enabled=True):
        return torch.autocast("cpu", dtype=dtype, enabled=enabled and not self.real)

    def forward(self, x):
        return self.compute(self, x)


BF, FP, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64


def body(dtype, act, dims=(5, 6, 5, 3)):
    layers = []
    for a, b in itertools.pairwise(dims):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers[:-1]).to(dtype)


def float_logits(dtype, act):
    return lambda: Net(lambda m, x: m.to_(m.net(x), F32), net=body(dtype, act)), dtype


def adapters(train_base):
    def make():
        base = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3)).to(BF).requires_grad_(train_base)

        def forward(m, x):
            h = m.base[0](x) + m.to_(m.up(m.down(m.to_(x, F32))), BF)
            h = F.gelu(h)
            return m.to_(m.base[1](h), F32) + m.out(m.to_(h, F32))

        return Net(forward, base=base, down=nn.Linear(5, 2, bias=False),
                   up=nn.Linear(2, 6, bias=False), out=nn.Linear(6, 3))  # fmt: skip

    return make, BF


def autocast_inside(dtype, act):
    def forward(m, x):
        with m.under(BF):
            h = m.net(x)
            with m.under(BF, enabled=False):
                h = m.norm(m.to_(h, F32))
            return m.to_(m.out(h), F32)

    return lambda: Net(forward, net=body(dtype, act, (5, 6, 4)), norm=nn.LayerNorm(4).to(dtype),
                       out=nn.Linear(4, 3).to(dtype)), dtype  # fmt: skip


def attention(dtype):
    def forward(m, x):
        h = m.norm(x + m.mix(x, x, x)[0])
        p = torch.softmax(m.score(h), 1, dtype=None if m.real else F32)
        return m.to_((m.to_(p, dtype) * h).sum(1), F32)

    def make():
        torch.manual_seed(0)
        return Net(forward, mix=nn.MultiheadAttention(4, 2, batch_first=True).to(dtype),
                   norm=nn.LayerNorm(4).to(dtype), score=nn.Linear(4, 1).to(dtype))  # fmt: skip

    return make, dtype


def convolution(dtype):
    def forward(m, x):
        return m.to_(m.out(F.relu(m.norm(m.conv(x))).flatten(1)), F32)

    return lambda: Net(forward, conv=nn.Conv2d(1, 2, 3).to(dtype),
                       norm=nn.BatchNorm2d(2).eval().to(dtype),
                       out=nn.Linear(8, 3).to(dtype)), dtype  # fmt: skip


def written(dtype):
    """Results are put into tensors made in the default dtype, and states start from zeros."""

    def forward(m, x):
        state = torch.zeros(len(x), 4)
        for _ in range(3):
            state = torch.tanh(m.step(m.to_(state, dtype)) + m.read(x))
        out = torch.zeros(len(x), 3, dtype=None if m.real else F32)
        out[:, :2] = m.out(state)
        out[:, 2] += m.to_(state, F32).sum(1) * m.scale
        return out

    return lambda: Net(forward, step=nn.Linear(4, 4).to(dtype), read=nn.Linear(5, 4).to(dtype),
                       out=nn.Linear(4, 2).to(dtype),
                       scale=nn.Parameter(torch.tensor(0.5, dtype=dtype))), dtype  # fmt: skip


def detour(dtype, act):
    """A float32 network a layer of which computes in another precision."""

    def forward(m, x):
        h = m.net[:2](x)
        h = m.to_(F.linear(m.to_(h, dtype), m.to_(m.net[2].weight, dtype)), F32) + m.net[2].bias
        return m.net[3:](h)

    return lambda: Net(forward, net=body(F32, act)), F32


def checkpointed(dtype, enabled):
    """A part that is computed again in the backward pass, and changes precision inside."""

    def forward(m, x):
        def part(x):
            with m.under(BF, enabled=enabled):
                return m.to_(m.net(m.to_(x, dtype)), dtype)

        h = torch.utils.checkpoint.checkpoint(part, x, use_reentrant=False)
        return m.to_(m.out(h), F32)

    return lambda: Net(forward, net=body(dtype, nn.Tanh, (5, 4, 4)),
                       out=nn.Linear(4, 3).to(dtype)), dtype  # fmt: skip


def penalised(dtype):
    """A derivative inside forward."""

    def forward(m, x):
        x = x.clone().requires_grad_()
        o = m.net(x)
        (g,) = torch.autograd.grad(m.to_(o, F32).square().sum(), x, create_graph=True)
        return m.to_(torch.cat([o, g.square().sum(1, keepdim=True)], 1), F32)

    return lambda: Net(forward, net=body(dtype, nn.Tanh, (5, 4, 2))), dtype


def recurrent(dtype):
    def forward(m, x):
        return m.to_(m.out(m.net(x)[0][:, -1]), F32)

    return lambda: Net(forward, net=nn.LSTM(4, 3, batch_first=True).to(dtype),
                       out=nn.Linear(3, 3).to(dtype)), dtype  # fmt: skip


NETWORKS = {
    "bfloat16, float logits, relu": float_logits(BF, nn.ReLU),
    "bfloat16, float logits, tanh": float_logits(BF, nn.Tanh),
    "float16, float logits, relu": float_logits(FP, nn.ReLU),
    "float16, float logits, gelu": float_logits(FP, nn.GELU),
    "float32 adapters": adapters(False),
    "float32 adapters, all trained": adapters(True),
    "autocast inside, relu": autocast_inside(F32, nn.ReLU),
    "autocast inside, silu": autocast_inside(F32, nn.SiLU),
    "autocast inside, bfloat16": autocast_inside(BF, nn.Tanh),
    "attention": attention(BF),
    "attention, float16": attention(FP),
    "convolution": convolution(BF),
    "written": written(BF),
    "written, float16": written(FP),
    "bfloat16 detour": detour(BF, nn.Tanh),
    "float64 detour": detour(F64, nn.ReLU),
    "checkpoint": checkpointed(BF, False),
    "checkpoint, autocast": checkpointed(F32, True),
    "penalty": penalised(BF),
    "recurrent": recurrent(BF),
}


def checkpointed(dtype, enabled):
    """A part that is computed again in the backward pass, and changes precision inside."""

    def forward(m, x):
        def part(x):
            with m.under(BF, enabled=enabled):
                return m.to_(m.net(m.to_(x, dtype)), dtype)

        h = torch.utils.checkpoint.checkpoint(part, x, use_reentrant=False)
        return m.to_(m.out(h), F32)

    return lambda: Net(forward, net=body(dtype, nn.Tanh, (5, 4, 4)),
                       out=nn.Linear(4, 3).to(dtype)), dtype  # fmt: skip


def penalised(dtype):
    """A derivative inside forward."""

    def forward(m, x):
        x = x.clone().requires_grad_()
        o = m.net(x)
        (g,) = torch.autograd.grad(m.to_(o, F32).square().sum(), x, create_graph=True)
        return m.to_(torch.cat([o, g.square().sum(1, keepdim=True)], 1), F32)

    return lambda: Net(forward, net=body(dtype, nn.Tanh, (5, 4, 2))), dtype


def recurrent(dtype):
    def forward(m, x):
        return m.to_(m.out(m.net(x)[0][:, -1]), F32)

    return lambda: Net(forward, net=nn.LSTM(4, 3, batch_first=True).to(dtype),
                       out=nn.Linear(3, 3).to(dtype)), dtype  # fmt: skip


# Adapters on a base leave a float32 tensor's rounding where the base's inputs are rounded.
EPS = {BF: 2**-8, FP: 2**-10, F32: 2**-18}


def case(name):
    make, _ = NETWORKS[name]
    torch.manual_seed(0)
    model = make()
    generator = torch.Generator().manual_seed(1)
    dims = {"a": (5, 3, 4), "c": (5, 1, 4, 4)}
    shape = (
        dims["a"]
        if name[:4] in ("atte", "recu")
        else dims["c"]
        if "convolution" in name
        else (5, 5)
    )
    x = torch.randn(shape, generator=generator).to(next(model.parameters()).dtype)
    if "autocast" in name:
        x = x.to(next(model.parameters()).dtype)
    y = torch.arange(5) % 3
    twin = copy.deepcopy(model).double()
    twin.real = True
    return model, twin, x, y


def alike(got, want, model, slack=1.0, of=None):
    """In the parameter's dtype; off by half a unit in its last place, and by float32 sums."""
    top = max(float(v.abs().max()) for v in (of or want).values())
    assert list(got) == list(want)
    for name, p in model.named_parameters():
        if name in got:
            assert got[name].dtype == p.dtype
            gap = float((got[name].double() - want[name].double()).abs().max())
            size = max(float((of or want)[name].abs().max()), 1e-3 * top)
            assert gap <= slack * EPS[p.dtype] * size, (name, gap / size)


@pytest.fixture(autouse=True)
def _in_float64(request):
    """The twin's own `torch.zeros` must not round: its default dtype is float64."""
    yield
    torch.set_default_dtype(torch.float32)


def exact(twin, loss, pairs):
    torch.set_default_dtype(torch.float64)
    try:
        return oracle.diagonal(twin, loss, pairs)
    finally:
        torch.set_default_dtype(torch.float32)


def in_double(call):
    torch.set_default_dtype(torch.float64)
    try:
        return call()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_method_gives_the_twins_diagonal(name):
    model, twin, x, y = case(name)
    want = exact(twin, F.cross_entropy, [(x.double(), y)])
    pair = x, y
    h = hessian.diagonal(model, F.cross_entropy, pair)
    alike(h, want, model)
    (value,) = (F.cross_entropy(twin(x.double()), y).item(),) if "written" not in name else (
        in_double(lambda: F.cross_entropy(twin(x.double()), y).item()),)  # fmt: skip
    assert abs(h.loss - value) <= 1e-5 * abs(value)
    for method in ("affine", "chain", "preactivation", "parameter"):
        names = oracle.proved(model, F.cross_entropy, pair, method)
        if names:
            part = hessian.diagonal(model, F.cross_entropy, pair, method=method, names=names)
            alike(part, {n: want[n] for n in names}, model)
    alike(hessian.diagonal(model, F.cross_entropy, pair, memory=1), want, model)
    halves = [(x[:2], y[:2]), (x[2:], y[2:])]
    alike(hessian.diagonal(model, F.cross_entropy, halves), want, model)
    assert all(p.dtype == t.dtype for p, t in zip(
        model.parameters(), NETWORKS[name][0]().parameters(), strict=True))  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_float64_checks_are_not_rounded_on_their_way(name):
    """`.float()`, ``.to(...)`` and autocast inside leave nothing of half precision there."""
    model, twin, x, y = case(name)
    want = exact(twin, F.cross_entropy, [(x.double(), y)])
    h = hessian.diagonal(model, F.cross_entropy, (x, y), dtype=torch.float64)
    oracle.assert_exact(h, want, 1e-12 if "adapters" in name else 1e-10)
    verified = hessian.diagonal(model, F.cross_entropy, (x, y), verify=3)
    # Compared in the precision of the computation, before anything is rounded to a half type.
    assert max(v for n, v in verified.deviation.items() if v == v and n != "score.bias") <= 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_samples_products_and_spreads(name):
    model, twin, x, y = case(name)
    want = exact(twin, F.cross_entropy, [(x.double(), y)])
    draw = torch.Generator().manual_seed(0)
    samples = hessian.sample(model, F.cross_entropy, (x, y), 3, generator=draw)
    alike({n: s.value for n, s in samples.items()},
          {n: want[n].reshape(-1)[s.index] for n, s in samples.items()}, model)  # fmt: skip
    h = hessian.operator(model, F.cross_entropy, (x, y))
    widest = max((p.dtype for p in model.parameters()), key=lambda d: d.itemsize)
    assert h.dtype == (np.float64 if widest == F64 else np.float32)
    for dtype in (np.float32, np.float64):
        rows = h @ np.eye(h.shape[0], dtype=dtype)
        diagonal = torch.cat([v.reshape(-1) for v in want.values()]).numpy()
        top = np.abs(diagonal).max()
        assert np.abs(np.diag(rows) - diagonal).max() <= 1e-4 * top
        assert np.abs(rows - rows.T).max() <= 1e-4 * np.abs(rows).max()
    if name[:4] in ("writ", "atte", "recu", "pena"):
        return  # columns of single samples there take long and say nothing new
    spread = hessian.diagonal(model, F.cross_entropy, (x, y), standard_error=True)
    twins = hessian.diagonal(twin, F.cross_entropy, (x.double(), y), standard_error=True)
    alike(spread.standard_error, twins.standard_error, model)


ESTIMATED = [
    "bfloat16, float logits, tanh", "float16, float logits, relu", "float32 adapters, all trained",
    "autocast inside, silu", "attention", "convolution", "float64 detour",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["hutchinson", "preactivation", "gauss-newton", "gauss-newton-mc",
                                  "empirical-fisher", "becker-lecun"])  # fmt: skip
@pytest.mark.parametrize("name", ESTIMATED)
def test_every_estimator_gives_the_twins_estimate(name, kind):
    """With the same probes: they are drawn without regard to the dtype."""
    model, twin, x, y = case(name)
    if kind == "gauss-newton-mc":
        # Random signs of eigenvectors: those of equal eigenvalues are any, compare the mean.
        a = hessian.estimate(model, F.cross_entropy, (x, y), kind, 100)
        b = hessian.estimate(model, F.cross_entropy, (x, y), "gauss-newton")
        top = max(float(v.double().abs().max()) for v in b.values())
        error = {n: 6 * a.standard_error[n].double() + 0.02 * b[n].double().abs().max() + 1e-3 * top
                 for n in a}  # fmt: skip
        assert all(bool(((a[n] - b[n]).double().abs() <= error[n]).all()) for n in a)
        return
    try:
        want = in_double(lambda: hessian.estimate(twin, F.cross_entropy, (x.double(), y), kind, 2))
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)[:30].replace("(", r"\(")):
            hessian.estimate(model, F.cross_entropy, (x, y), kind, 2)
        return
    h = hessian.estimate(model, F.cross_entropy, (x, y), kind, 2)
    alike(h, dict(want), model)
    # Small differences of the two probes: rounding is that of what they are differences of.
    alike(h.standard_error, want.standard_error, model, 8.0, of=want)


def test_a_loss_in_float64_and_one_that_reads_half_parameters():
    model, twin, x, y = case("bfloat16, float logits, tanh")

    def loss(module):
        def scalar(o, t):
            own = sum(p.float().square().sum() if not module.real else p.square().sum()
                      for p in module.parameters())  # fmt: skip
            return F.cross_entropy(o.double(), t) + 0.1 * own

        return scalar

    want = exact(twin, loss(twin), [(x.double(), y)])
    alike(hessian.diagonal(model, loss(model), (x, y)), want, model)
    single = body(F32, nn.ReLU)
    data = torch.randn(5, 5), y
    h = hessian.diagonal(single, lambda o, t: F.cross_entropy(o.double(), t), data)
    want = oracle.diagonal(copy.deepcopy(single).double(), F.cross_entropy, [(data[0].double(), y)])
    alike(h, want, single, 2**-5)  # float64 throughout, rounded once


def test_small_probabilities_keep_their_digits_in_a_float64_loss():
    """Where a float32 pass would leave nothing: the highest precision met is kept everywhere."""
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[40.0, 0.0], [0.0, 0.0]]))
    x, y = torch.tensor([[1.0, 0.5]]), torch.tensor([0])

    def loss(o, t):
        return -torch.log1p(-torch.softmax(o.double(), 1)[:, 1]).sum()

    h = hessian.diagonal(model, loss, (x, y))
    p = 1 / (1 + torch.tensor(40.0, dtype=F64).exp())
    want = (p * (1 - p)) * torch.tensor([1.0, 0.25], dtype=F64).expand(2, 2)
    assert torch.allclose(h["weight"].double(), want, rtol=1e-5, atol=0)


def test_ambient_autocast_and_other_settings_of_the_caller_change_nothing():
    model, _, x, y = case("bfloat16, float logits, tanh")
    single = body(F32, nn.Tanh)
    z = torch.randn(5, 5)
    for network, inputs in ((model, x), (single, z)):
        want = hessian.diagonal(network, F.cross_entropy, (inputs, y))
        for around in (
            torch.autocast("cpu", dtype=BF), torch.no_grad(), torch.inference_mode(),
            torch.autograd.set_detect_anomaly(True),
        ):  # fmt: skip
            with around:
                h = hessian.diagonal(network, F.cross_entropy, (inputs, y))
            assert all(torch.equal(h[n], want[n]) for n in want)
        torch.use_deterministic_algorithms(True)
        torch.set_default_dtype(F64)
        try:
            h = hessian.diagonal(network, F.cross_entropy, (inputs, y))
        finally:
            torch.set_default_dtype(F32)
            torch.use_deterministic_algorithms(False)
        assert all(torch.equal(h[n], want[n]) for n in want)
    # Half inputs of a float32 network: only autocast makes them fit.
    with torch.autocast("cpu", dtype=BF):
        h = hessian.diagonal(single, F.cross_entropy, (z.to(BF), y))
    want = hessian.diagonal(single, F.cross_entropy, (z.to(BF).float(), y))
    assert all(torch.equal(h[n], want[n]) for n in want)


@pytest.mark.parametrize("device", ["meta"])
def test_a_default_device_of_the_caller_changes_nothing(device):
    single, data = body(F32, nn.Tanh), (torch.randn(5, 5), torch.arange(5) % 3)
    calls = [
        lambda: hessian.diagonal(single, F.cross_entropy, data, verify=2),
        lambda: hessian.diagonal(single, F.cross_entropy, data, memory=1),
        lambda: hessian.diagonal(single, F.cross_entropy, data, standard_error=True),
        lambda: {n: s.value for n, s in hessian.sample(
            single, F.cross_entropy, data, 2, generator=torch.Generator().manual_seed(0)).items()},
        lambda: {n: c.displacement for n, c in hessian.coordinate_minimum(
            single, F.cross_entropy, data, 1, generator=torch.Generator().manual_seed(0),
            names=["4.bias"], dtype=F64).items()},
        *(lambda kind=kind: hessian.estimate(single, F.cross_entropy, data, kind)
          for kind in ("hutchinson", "preactivation", "gauss-newton", "gauss-newton-mc",
                       "empirical-fisher", "becker-lecun")),
    ]  # fmt: skip
    for call in calls:
        want = call()
        with torch.device(device):
            got = call()
        assert all(torch.equal(got[n], want[n]) for n in want)


def test_inference_tensors():
    with torch.inference_mode():
        x = torch.randn(4, 3)
        y = torch.randn(4, 2)
        frozen = nn.Linear(3, 2)
    model = nn.Linear(3, 2)
    h = hessian.diagonal(model, F.mse_loss, (x, y))
    want = hessian.diagonal(model, F.mse_loss, (x.clone(), y.clone()))
    assert all(torch.equal(h[n], want[n]) for n in want)
    with pytest.raises(ValueError, match=r"'weight' was made under torch.inference_mode"):
        hessian.diagonal(frozen, F.mse_loss, (x, y))
    want = hessian.diagonal(copy.deepcopy(frozen), F.mse_loss, (x, y))  # as the sentence says
    assert want["weight"].shape == (2, 3)
    norm = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    with torch.inference_mode():
        norm[1].running_mean = torch.zeros(2)
    with pytest.raises(ValueError, match=r"buffer 'running_mean' was made under"):
        hessian.diagonal(norm, F.mse_loss, (x, y))


def test_draws_are_those_of_the_users_own_dtype():
    """Dropout and noise of a bfloat16 network: the same numbers that a plain call would draw."""

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.seen = body(BF, nn.Tanh), None

        def forward(self, x):
            h = self.net[:2](x)
            noise = torch.randn_like(h)
            more = torch.rand(h.shape, dtype=h.dtype) + torch.empty_like(h).exponential_()
            more = more + torch.bernoulli(torch.full_like(h, 0.4))
            self.seen = (noise + more).detach()
            return self.net[2:](F.dropout(h, 0.4) + 0.1 * noise).float()

    torch.manual_seed(0)
    model, x, y = Noisy(), torch.randn(64, 5).to(BF), torch.arange(64) % 3
    torch.manual_seed(3)
    state = torch.get_rng_state()
    model(x)
    plain, after = model.seen, torch.get_rng_state()
    torch.set_rng_state(state)
    hessian.diagonal(model, F.cross_entropy, (x, y), names=["net.4.bias"])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.allclose(model.seen.float(), plain.float(), rtol=2**-6, atol=2**-6)
    assert not torch.equal(after, state)


def test_results_that_a_half_type_cannot_hold_are_refused():
    model = nn.Linear(1, 1, bias=False).half()
    data = torch.tensor([[300.0]]).half(), torch.tensor([[0.0]]).half()
    with pytest.raises(ValueError, match=r"'weight' reaches 1.8e\+05, more than torch.float16"):
        hessian.diagonal(model, F.mse_loss, data)
    h = hessian.diagonal(model, F.mse_loss, data, dtype=torch.float32)
    assert h["weight"].tolist() == [[180000.0]]


def test_rounding_to_eight_bits_is_the_users_own():
    """Conversion to float8 quantises: the value is the rounded one, its derivative one."""

    def fake(w):
        return w.to(torch.float8_e4m3fn).to(w.dtype)

    model = nn.Linear(3, 2, bias=False)
    x, y = torch.randn(4, 3), torch.arange(4) % 2

    def forward(m, inputs):
        return F.linear(inputs, fake(m.weight))

    h = hessian.diagonal(model, F.cross_entropy, (x, y), forward=forward)
    other = nn.Linear(3, 2, bias=False)
    other.load_state_dict({"weight": fake(model.weight.detach())})
    want = hessian.diagonal(other, F.cross_entropy, (x, y))
    assert torch.allclose(h["weight"], want["weight"], rtol=1e-5, atol=1e-7)


def test_reading_the_bits_of_numbers_is_refused():
    model = nn.Linear(3, 2).to(BF)

    def forward(m, x):
        return m(x).view(torch.int16).view(torch.bfloat16)

    data = torch.randn(4, 3).to(BF), torch.arange(4) % 2
    with pytest.raises(ValueError, match="reads the bits"):
        hessian.diagonal(model, F.cross_entropy, data, forward=forward)


def test_code_that_insists_on_a_dtype_is_told_what_it_meets():
    model = nn.Linear(3, 2).to(BF)

    def forward(m, x):
        assert x.dtype == BF, "bfloat16 only"
        return m(x)

    data = torch.randn(4, 3).to(BF), torch.arange(4) % 2
    with pytest.raises(ValueError, match=r"bfloat16 only.*computed in torch.float32 here"):
        hessian.diagonal(model, F.cross_entropy, data, forward=forward)


def test_half_types_and_a_loss_in_float64_are_computed_in_float64():
    """`.double()` and ``.to(torch.float64)`` alike ask for more than float32."""
    model = nn.Linear(2, 2, bias=False).to(BF)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[40.0, 0.0], [0.0, 0.0]]))
    data = torch.tensor([[1.0, 0.5]]).to(BF), torch.tensor([0])
    p = 1 / (1 + torch.tensor(40.0, dtype=F64).exp())
    want = (p * (1 - p)) * torch.tensor([1.0, 0.25], dtype=F64).expand(2, 2)
    for up in (lambda o: o.double(), lambda o: o.to(F64), lambda o: o.to(dtype=F64)):

        def loss(o, t, up=up):
            return -torch.log1p(-torch.softmax(up(o), 1)[:, 1]).sum()

        h = hessian.diagonal(model, loss, data)["weight"]
        assert h.dtype == BF
        assert torch.allclose(h.double(), want, rtol=2**-8, atol=0)


def test_parameters_in_float32_and_float64():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3).double())
    x, y = torch.randn(6, 3), torch.arange(6) % 3
    twin = copy.deepcopy(model).double()

    def forward(m, x):
        return m[2](m[1](m[0](x)).double())

    want = oracle.diagonal(twin, F.cross_entropy, [(x.double(), y)])
    h = hessian.diagonal(model, F.cross_entropy, (x, y), forward=forward)
    assert [v.dtype for v in h.values()] == [F32, F32, F64, F64]
    for name, value in want.items():
        slack = 2**-23 if h[name].dtype == F32 else 1e-12
        assert (h[name].double() - value).abs().max() <= slack * value.abs().max()
    assert hessian.operator(model, F.cross_entropy, (x, y), forward=forward).dtype == np.float64


def test_a_network_of_one_dtype_is_not_converted():
    """No second dtype on the tape: parameters, inputs and results are the same objects' own."""
    model, data = body(F32, nn.Tanh), (torch.randn(5, 5), torch.arange(5) % 3)
    calls = []

    def forward(m, x):
        calls.append((x is data[0], {p.data_ptr() for p in m.parameters()}))
        table = torch.arange(3, dtype=F64)  # constants in other dtypes are not the tape's
        return m(x) + table.float() * torch.tensor(0.5, dtype=F64)

    here = {p.data_ptr() for p in model.parameters()}
    hessian.diagonal(model, F.cross_entropy, data, forward=forward)
    assert calls
    assert all(same and places == here for same, places in calls)


def test_integer_and_boolean_buffers_stay():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 3).to(BF)
            self.register_buffer("count", torch.zeros((), dtype=torch.long))
            self.register_buffer("mask", torch.tensor([True, False, True]))
            self.register_buffer("scale", torch.tensor(2.0))

        def forward(self, x):
            self.count += 1
            return self.net(x * self.mask).float() * self.scale

    model = Masked()
    x, y = torch.randn(4, 3).to(BF), torch.arange(4) % 3
    before = {k: v.clone() for k, v in model.state_dict().items()}
    h = hessian.diagonal(model, F.cross_entropy, (x, y), verify=3)
    assert max(v for v in h.deviation.values() if v == v) < 1e-4
    assert all(v.dtype == before[k].dtype and torch.equal(v, before[k])
               for k, v in model.state_dict().items())  # fmt: skip
    assert float(h["net.weight"][:, 1].abs().max()) == 0


def test_a_minimum_along_a_half_weight():
    """L = (w - 1/3)²: the minimum is looked for in float32 at least."""
    model = nn.Linear(1, 1, bias=False).to(BF)
    with torch.no_grad():
        model.weight.fill_(1.0)
    data = torch.ones(1, 1).to(BF), torch.full((1, 1), 1 / 3)
    (line,) = hessian.coordinate_minimum(
        model, lambda o, t: (o.float() - t).square().sum(), data
    ).values()
    assert line.displacement.dtype == F32
    assert abs(float(line.displacement) + 2 / 3) < 1e-3
    line = hessian.coordinate_minimum(model, F.mse_loss, data, dtype=F64)["weight"]
    assert abs(float(line.displacement) + 2 / 3) < 1e-7


def test_constants_of_a_loss_in_other_dtypes():
    generator = random.Random(0)
    weights = torch.tensor([generator.random() + 0.1 for _ in range(3)])
    model, twin, x, y = case("bfloat16, float logits, tanh")
    for dtype in (BF, F32, F64):
        held = weights.to(dtype)
        got = hessian.diagonal(
            model, lambda o, t, held=held: F.cross_entropy(o, t, held.to(o.dtype)), (x, y)
        )
        want = exact(
            twin, lambda o, t, held=held: F.cross_entropy(o, t, held.double()), [(x.double(), y)]
        )
        alike(got, want, model)


def test_a_tensor_of_the_users_that_is_written_in_place():
    """What is written to it in another dtype is read there again, and gone afterwards."""
    torch.manual_seed(0)
    model, x, y = body(BF, nn.Tanh, (5, 4, 3)), torch.randn(4, 5).to(BF), torch.arange(4) % 3
    twin = copy.deepcopy(model).double()
    want = oracle.diagonal(twin, F.cross_entropy, [(x.double(), y)])
    for dtype in (BF, F32, F64):
        store, sums = torch.zeros(8, 4, dtype=dtype), torch.zeros(4, 3, dtype=dtype)

        def forward(m, inputs, store=store, sums=sums):
            sums.zero_()
            store[: len(inputs)] = m[:2](inputs)
            torch.add(sums[: len(inputs)], 0.0, out=sums[: len(inputs)])
            return (m[2](store[: len(inputs)].to(m[2].weight.dtype)) + sums.sum()).float()

        h = hessian.diagonal(model, F.cross_entropy, (x, y), forward=forward)
        alike(h, want, model)
        assert dtype == F32 or not store.any()  # a stand-in was written to


def test_float64_of_a_float32_network_draws_and_converts_as_the_network_does():
    """Noise of float32, other numbers than float64 would draw; `.float()` rounds nothing."""
    model, x, y = body(F32, nn.Tanh), torch.randn(5, 5), torch.arange(5) % 3
    noise = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))

    def forward(m, inputs):
        torch.manual_seed(0)
        o = m(inputs)
        return o.float() + torch.randn_like(o)

    twin = copy.deepcopy(model).double()
    want = oracle.diagonal(
        twin, lambda o, t: F.cross_entropy(o + noise.double(), t), [(x.double(), y)]
    )
    h = hessian.diagonal(model, F.cross_entropy, (x, y), forward=forward, dtype=F64)
    oracle.assert_exact(h, want, 1e-10)
