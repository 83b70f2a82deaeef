"""The interface of `hessian.diagonal`: data, weights, dtypes, memory, state, errors."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hessian
from hessian._batch import execute as _execute
from hessian._routes import affine as _affine
from hessian._site import sums as _sums
from hessian._site.site import Site

from . import oracle
from .networks import LOSSES, NETWORKS, build, mlp

X = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 3, 0, 1])


def net(activation=nn.ReLU):
    torch.manual_seed(0)
    return mlp(activation).double()


# ---------------------------------------------------------------- wrong formulas


@pytest.mark.parametrize(
    "wrong",
    [
        lambda h: 1.01 * h,
        lambda h: -h,
        lambda h: h + 1e-7 * h.abs().max(),
        lambda h: h.flip(0),
        lambda h: h.abs(),
    ],
)
def test_the_oracle_catches_a_wrong_result(wrong):
    model, (make, _) = net(nn.Tanh), LOSSES["concave"]
    target = torch.randn(6, 4, dtype=torch.float64)
    want = oracle.diagonal(model, make(model), [(X, target)])
    oracle.assert_exact(hessian.diagonal(model, make(model), (X, target)), want)
    with pytest.raises(AssertionError):
        oracle.assert_exact({k: wrong(h) for k, h in want.items()}, want)


def test_uses_in_parallel_are_summed_inside_the_square(monkeypatch):
    """Squaring each use by itself, the peers' mistake with tied weights, is seen."""
    model, inputs = build("tied-in-parallel")
    x, y = inputs(5, torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 0])
    want = oracle.diagonal(model, F.cross_entropy, [(x, y)])
    oracle.assert_exact(hessian.diagonal(model, F.cross_entropy, (x, y)), want)
    right = _sums.sum_of_squares

    def apart(found, adjoints, *rest):
        for site, adjoint in zip(found, adjoints, strict=True):
            right([site], [adjoint], *rest)

    monkeypatch.setattr(_affine, "sum_of_squares", apart)
    with pytest.raises(AssertionError):
        oracle.assert_exact(hessian.diagonal(model, F.cross_entropy, (x, y)), want)


# ------------------------------------------------------------------- data, weights


def test_any_split_of_a_mean_gives_what_the_concatenation_gives():
    model = net(nn.Tanh)
    whole = hessian.diagonal(model, F.cross_entropy, (X, Y))
    parts = hessian.diagonal(model, F.cross_entropy, [(X[:1], Y[:1]), (X[1:], Y[1:])])
    assert max(oracle.gap(parts, whole).values()) < 1e-12
    assert parts.samples == whole.samples == 6
    assert parts.loss == pytest.approx(whole.loss, rel=1e-12)
    assert max(oracle.gap(parts.gradient, whole.gradient).values()) < 1e-12


def test_weights_of_batches():
    model = net()
    pairs = [(X[:2], Y[:2]), (X[2:], Y[2:])]
    total = lambda o, t: F.cross_entropy(o, t, reduction="sum")  # noqa: E731
    whole = hessian.diagonal(model, total, (X, Y), weight="sum")
    summed = hessian.diagonal(model, total, pairs, weight="sum")
    assert max(oracle.gap(summed, whole).values()) < 1e-12
    mean = hessian.diagonal(model, F.cross_entropy, (X, Y))
    assert max(oracle.gap({k: h / 6 for k, h in whole.items()}, mean).values()) < 1e-12
    chosen = hessian.diagonal(model, F.cross_entropy, pairs, weight=lambda b: float(len(b[1])))
    assert max(oracle.gap(chosen, whole).values()) < 1e-12


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, left, right):
        return {"logits": F.relu(self.a(left)) + self.b(right), "unused": self.a(left)}


def test_several_inputs_and_a_mapping_out():
    torch.manual_seed(0)
    model = TwoInputs().double()
    loss = lambda o, t: F.cross_entropy(o["logits"], t)  # noqa: E731
    want = oracle.diagonal(model, loss, [((X, 2 * X), Y)])
    for data in ([((X, 2 * X), Y)], ({"left": X, "right": 2 * X}, Y)):
        oracle.assert_exact(hessian.diagonal(model, loss, data), want)
    swapped = hessian.diagonal(model, loss, (X, Y), forward=lambda m, x: m(x, 2 * x))
    oracle.assert_exact(swapped, want)


def test_names_frozen_unused_and_tied():
    model = nn.ModuleDict({"a": nn.Linear(6, 4), "b": nn.Linear(6, 4), "c": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    model["a"].bias.requires_grad_(False)
    model = model.double()

    def forward(m, x):
        return F.relu(m["a"](x)) + m["b"](x)

    got = hessian.diagonal(model, F.cross_entropy, (X, Y), forward=forward)
    assert list(got) == ["a.weight", "b.bias", "c.weight", "c.bias"]
    assert not got["c.weight"].any()
    assert got.plan["c.weight"].method == "zero"
    one = hessian.diagonal(model, F.cross_entropy, (X, Y), forward=forward, names=["b.bias"])
    assert list(one) == ["b.bias"]
    assert torch.equal(one["b.bias"], got["b.bias"])
    assert model["a"].weight.requires_grad
    assert not model["a"].bias.requires_grad


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("network", ["relu-cnn", "scales", "embedding", "residual-bn-eval"])
def test_few_samples(network, n):
    """With one sample nothing can couple; two or four coincide with other sizes in the shapes."""
    model, inputs = build(network)
    x = inputs(n, torch.Generator().manual_seed(1))
    y = torch.arange(n) % 4
    got = hessian.diagonal(model, F.cross_entropy, (x, y))
    oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))


CONVOLUTIONS = {
    "1d": (lambda: nn.Conv1d(2, 4, 3, stride=2, padding=1, dilation=2), (2, 11)),
    "2d-same": (lambda: nn.Conv2d(2, 4, (1, 3), padding="same", bias=False), (2, 5, 6)),
    "2d-circular": (lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), (2, 5, 5)),
    "2d-grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, stride=(2, 1)), (4, 7, 5)),
    "depthwise": (lambda: nn.Conv2d(3, 3, 3, groups=3, padding=1), (3, 4, 4)),
    "3d": (lambda: nn.Conv3d(2, 3, 2, stride=2), (2, 4, 5, 4)),
    "transposed-1d": (lambda: nn.ConvTranspose1d(2, 4, 3, stride=2, output_padding=1), (2, 5)),
    "transposed-2d": (
        lambda: nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, groups=2, dilation=2),
        (4, 4, 3),
    ),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_take_the_affine_route(kind):
    make, dims = CONVOLUTIONS[kind]
    torch.manual_seed(0)
    # Circular padding copies slices in place, which hides what lies below it.
    below = len(dims) == 3 and kind != "2d-circular"
    first = nn.Conv2d(dims[0], dims[0], 1) if below else nn.Identity()
    model = nn.Sequential(first, nn.ReLU(), make(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    model = model.double()
    x, y = torch.randn(4, *dims).double(), torch.tensor([0, 1, 2, 0])
    model(x)
    got = hessian.diagonal(model, F.cross_entropy, (x, y), method="affine")
    assert set(got.plan.methods().values()) == {"affine"}
    oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))


NORMS = {
    "group": lambda: nn.GroupNorm(2, 4),
    "batch": lambda: nn.BatchNorm1d(4).eval(),
    "layer": lambda: nn.LayerNorm([4, 6]),
    "instance": lambda: nn.InstanceNorm1d(4, affine=True),
}


@pytest.mark.parametrize("kind", NORMS)
def test_scale_and_shift_of_norms(kind):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 4, 1), NORMS[kind](), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)
    )
    model = model.double()
    for p in model[1].parameters():
        nn.init.uniform_(p, 0.5, 1.5)
    x, y = torch.randn(5, 2, 6).double(), torch.tensor([0, 1, 2, 0, 1])
    got = hessian.diagonal(model, F.cross_entropy, (x, y))
    assert got.plan["1.weight"].method in ("affine", "columns", "chain")
    oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))


class Sequence(nn.Module):
    """Time first, a linear layer over all tokens, an output per token."""

    def __init__(self, flat):
        super().__init__()
        self.flat = flat
        self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 4, bias=False)

    def forward(self, x):  # [n, T, 3]
        z = self.b(F.relu(self.a(x.transpose(0, 1))))  # [T, n, 4]
        return z.transpose(0, 1).reshape(-1, 4) if self.flat else z.permute(1, 2, 0)


@pytest.mark.parametrize("flat", [True, False])
def test_outputs_per_token(flat):
    torch.manual_seed(0)
    model = Sequence(flat).double()
    x, y = torch.randn(4, 3, 3).double(), torch.randint(0, 4, (4, 3))
    y[1, 2] = -100
    y = y.reshape(-1) if flat else y
    got = hessian.diagonal(model, F.cross_entropy, (x, y))
    assert set(got.plan.methods().values()) == {"affine"}
    assert got.plan.columns == 9  # three tokens, three columns each
    oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))


# ------------------------------------------------------------- methods, memory, dtype


@pytest.mark.parametrize("network", NETWORKS)
def test_parameter_route_and_small_memory_agree_with_auto(network):
    model, inputs = build(network)
    x, y = inputs(5, torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 0])
    torch.manual_seed(5)
    auto = hessian.diagonal(model, F.cross_entropy, (x, y))
    torch.manual_seed(5)
    forced = hessian.diagonal(model, F.cross_entropy, (x, y), method="parameter")
    torch.manual_seed(5)
    tight = hessian.diagonal(model, F.cross_entropy, (x, y), memory=1)
    assert set(forced.plan.methods().values()) <= {"parameter", "zero"}
    oracle.assert_exact(forced, dict(auto))
    chained = {n for n, m in auto.plan.methods().items() if m == "chain"}
    assert bool(chained) == (network in ("tanh-mlp", "gelu-mlp", "layer-norm", "attention"))
    oracle.assert_exact(tight, dict(auto))


@pytest.mark.parametrize("method", ["chain", "preactivation"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_forced_route_is_exact_wherever_it_is_proved(network, method):
    model, inputs = build(network)
    x, y = inputs(5, torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 0])
    torch.manual_seed(5)
    want = oracle.diagonal(model, F.cross_entropy, [(x, y)])
    names = oracle.proved(model, F.cross_entropy, (x, y), method)
    if not names:
        # Batch statistics below everything, and weights used in series, leave nothing to prove.
        assert network in ("residual-bn-train", "tied-in-series", "coupled", "custom-function")
        with pytest.raises(ValueError, match=f"method='{method}' is not proved"):
            hessian.diagonal(model, F.cross_entropy, (x, y), method=method)
        return
    for memory in (None, 200_000):
        torch.manual_seed(5)
        got = hessian.diagonal(
            model, F.cross_entropy, (x, y), method=method, names=names, memory=memory
        )
        assert set(got.plan.methods().values()) <= {method, "zero", "separable"}
        gaps = oracle.gap(got, {name: want[name] for name in names}, want)
        assert max(gaps.values()) <= 1e-9, gaps


def test_the_chain_says_how_much_memory_one_sample_takes():
    with pytest.raises(ValueError, match=r"memory=100 is too little .* bytes for a single sample"):
        hessian.diagonal(net(nn.Tanh), F.cross_entropy, (X, Y), method="chain", memory=100)


def test_affine_is_refused_where_it_is_not_proved():
    with pytest.raises(ValueError, match=r"method='affine' .* '0.weight': Tanh.*names="):
        hessian.diagonal(net(nn.Tanh), F.cross_entropy, (X, Y), method="affine")


def test_float32_and_computing_in_float64():
    model = net(nn.Tanh).float()
    x = X.float()
    rough = hessian.diagonal(model, F.cross_entropy, (x, Y))
    exact = hessian.diagonal(model, F.cross_entropy, (x, Y), dtype=torch.float64)
    want = oracle.diagonal(copy.deepcopy(model).double(), F.cross_entropy, [(x.double(), Y)])
    oracle.assert_exact(exact, want)
    assert rough["0.weight"].dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in model.parameters())
    # 1e-7 per operation, some hundred operations
    assert max(oracle.gap({k: h.double() for k, h in rough.items()}, want).values()) < 1e-4


@pytest.mark.parametrize("network", ["tanh-mlp", "dropout-train", "residual-bn-train", "relu-cnn"])
def test_verify_reports_the_deviation_from_float64(network):
    model, inputs = build(network)
    model = model.float()
    x = inputs(5, torch.Generator().manual_seed(1))
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0])  # float32, owned by no module
    loss = lambda o, t: F.cross_entropy(o, t, weight=weights)  # noqa: E731
    got = hessian.diagonal(model, loss, (x.float(), torch.tensor([0, 1, 2, 3, 0])), verify=24)
    assert set(got.deviation) == set(got)
    # float32 rounding, amplified by a batch norm over few samples
    assert 0 < max(got.deviation.values()) < 1e-3
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_verify_sees_a_wrong_result(monkeypatch):
    right = _affine.by_sites

    def wrong(outputs, factor, targets, *rest):
        right(outputs, factor, targets, *rest)
        for target in targets:
            target.into.mul_(1.01)

    model = net()
    assert (
        max(hessian.diagonal(model, F.cross_entropy, (X, Y), verify=3).deviation.values()) < 1e-12
    )
    monkeypatch.setattr("hessian._batch.execute._affine.by_sites", wrong)
    deviation = hessian.diagonal(model, F.cross_entropy, (X, Y), verify=30).deviation
    assert all(d > 1e-3 for d in deviation.values())


# --------------------------------------------------------------------------- state


def snapshot(model):
    return (
        {k: (v.data_ptr(), v.clone()) for k, v in model.state_dict().items()},
        [p.grad for p in model.parameters()],
        [p.requires_grad for p in model.parameters()],
        [m.training for m in model.modules()],
        torch.get_rng_state(),
    )


def assert_same(before, after):
    assert list(before[0]) == list(after[0])
    for (address, value), (now, new) in zip(before[0].values(), after[0].values(), strict=True):
        assert address == now
        assert torch.equal(value, new)
    assert all(a is b for a, b in zip(before[1], after[1], strict=True))
    assert before[2:4] == after[2:4]
    assert torch.equal(before[4], after[4])


@pytest.mark.parametrize("dtype", [None, torch.float32])
@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("network", ["residual-bn-train", "dropout-train", "gelu-mlp"])
def test_everything_is_left_as_found(network, fail, dtype):
    model, inputs = build(network)
    x, y = inputs(5, torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 0])
    next(iter(model.parameters())).grad = torch.ones_like(next(iter(model.parameters())))
    calls = []

    def loss(output, target):
        calls.append(1)
        if fail and len(calls) == 3:
            raise KeyboardInterrupt
        return F.cross_entropy(output, target)

    before = snapshot(model)
    pairs = [(x, y), (x, y)]
    if fail:
        with pytest.raises(KeyboardInterrupt):
            hessian.diagonal(model, loss, pairs, verify=1, dtype=dtype)
    else:
        hessian.diagonal(model, loss, pairs, verify=1, dtype=dtype)
    assert_same(before, snapshot(model))
    assert torch.is_grad_enabled()


def test_works_where_gradients_are_switched_off():
    model = net()
    want = hessian.diagonal(model, F.cross_entropy, (X, Y))
    with torch.no_grad():
        got = hessian.diagonal(model, F.cross_entropy, (X, Y))
    assert all(torch.equal(got[k], want[k]) for k in want)


def test_gradient_and_loss_come_along():
    model = net(nn.Tanh)
    got = hessian.diagonal(model, F.cross_entropy, (X, Y))
    value = F.cross_entropy(model(X), Y)
    want = torch.autograd.grad(value, list(model.parameters()))
    assert got.loss == pytest.approx(float(value.detach()), rel=1e-14)
    for g, w in zip(got.gradient.values(), want, strict=True):
        assert torch.allclose(g, w, rtol=1e-12, atol=1e-15)


def test_progress_prints_a_bar_and_changes_nothing(capsys):
    model = net(nn.Tanh)
    want = hessian.diagonal(model, F.cross_entropy, (X, Y))
    got = hessian.diagonal(model, F.cross_entropy, (X, Y), progress=True)
    assert all(torch.equal(got[k], want[k]) for k in want)


# -------------------------------------------------------------------------- errors


class Flat(nn.Module):
    def forward(self, x):
        return x


NAN = X.clone()
NAN[0, 0] = float("nan")

BAD = {
    "no module": (lambda: hessian.diagonal(3, F.mse_loss, (X, Y)), TypeError, "model must be"),
    "no parameters": (
        lambda: hessian.diagonal(Flat(), F.mse_loss, (X, Y)), ValueError, "no parameters",
    ),
    "all frozen": (
        lambda: hessian.diagonal(net().requires_grad_(False), F.cross_entropy, (X, Y)),
        ValueError, "requires_grad_",
    ),
    "loss not callable": (
        lambda: hessian.diagonal(net(), None, (X, Y)), TypeError, "loss must be a function",
    ),
    "loss not scalar": (
        lambda: hessian.diagonal(net(), lambda o, t: o.mean(0), (X, Y)),
        ValueError, r"loss must return a scalar, got a tensor of shape \(4,\); reduce",
    ),
    "loss a float": (
        lambda: hessian.diagonal(net(), lambda o, t: o.mean().item(), (X, Y)),
        TypeError, "not .item",
    ),
    "nan input": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (NAN, Y)),
        ValueError, "loss is nan on batch 0: the inputs hold 1 values",
    ),
    "nan input in the second batch": (
        lambda: hessian.diagonal(net(), F.cross_entropy, [(X, Y), (NAN, Y)]),
        ValueError, "batch 1",
    ),
    "overflow": (
        lambda: hessian.diagonal(net(), lambda o, t: (1e300 * o).pow(2).mean(), (X, Y)),
        ValueError, "loss is inf on batch 0: inputs and parameters are finite",
    ),
    "empty batch": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X[:0], Y[:0])),
        ValueError, "batch is empty",
    ),
    "empty data": (
        lambda: hessian.diagonal(net(), F.cross_entropy, []), ValueError, "data is empty",
    ),
    "data a tensor": (
        lambda: hessian.diagonal(net(), F.cross_entropy, X), TypeError, "data must be an",
    ),
    "data of arrays": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X.numpy(), Y.numpy())),
        TypeError, r"got ndarray where a tensor is expected; .*from_numpy\(x\)",
    ),
    "data of tensors": (
        lambda: hessian.diagonal(net(), F.cross_entropy, [X, X, X]),
        TypeError, "item 0 of the iterable must be an .* got a tensor of shape",
    ),
    "unknown name": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X, Y), names=["bias"]),
        ValueError, "'bias' is not a parameter of the model",
    ),
    "names a string": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X, Y), names="0.bias"),
        TypeError, "names must be an iterable",
    ),
    "method": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X, Y), method="magic"),
        ValueError, "method must be one of auto, affine, chain, preactivation, parameter, got",
    ),
    "memory": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X, Y), memory=0),
        ValueError, "memory must be a positive number",
    ),
    "dtype": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X, Y), dtype=torch.int64),
        ValueError, "dtype must be a floating",
    ),
    "verify": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X, Y), verify=-1),
        ValueError, "verify must be",
    ),
    "weight": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X, Y), weight="mean"),
        ValueError, 'weight must be None, "sum"',
    ),
    "weight a number": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X, Y), weight=3),
        TypeError, 'weight must be None, "sum" or a function of the batch, got int',
    ),
    "weight gives no number": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X, Y), weight=lambda b: "a"),
        ValueError, r"weight\(batch\) must return a number: could not convert",
    ),
    "weight gives no finite number": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X, Y), weight=lambda b: float("nan")),
        ValueError, r"weight\(batch\) returned nan; it must be a finite number",
    ),
    "names a number": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X, Y), names=3),
        TypeError, "names must be an iterable of parameter names, got int",
    ),
    "names empty": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X, Y), names=[]),
        ValueError, "names is empty; leave it out",
    ),
    "name frozen": (
        lambda: hessian.diagonal(
            net().requires_grad_(False).append(nn.Linear(4, 4).double()), F.cross_entropy, (X, Y),
            names=["0.bias"],
        ),
        ValueError, r"'0.bias' is frozen .* call requires_grad_\(\) on it",
    ),
    "forward": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X, Y), forward=3),
        TypeError, r"forward must be a function of \(model, inputs\), got int",
    ),
    "generator": (
        lambda: hessian.sample(net(), F.cross_entropy, (X, Y), 3, generator=3),
        TypeError, r"generator must be a torch.Generator, got int; e.g. torch.Generator",
    ),
    "loss complex": (
        lambda: hessian.diagonal(net(), lambda o, t: o.sum() * 1j, (X, Y)),
        TypeError, "loss must return a real floating tensor, got torch.complex128",
    ),
    "iterator exhausted": (
        lambda: hessian.diagonal(net(), F.cross_entropy, iter([])), ValueError, "data is empty",
    ),
    "float targets": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X, Y.double())),
        ValueError, r"loss could not be computed with targets of shape \(6,\) in batch 0",
    ),
    "no sample dimension": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (torch.tensor(1.0), Y)),
        ValueError, "no tensor with a leading sample dimension; pass a tensor, a tuple",
    ),
    "shape mismatch": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X[:, :3], Y)),
        ValueError, r"model could not be called on inputs of shape \(6, 3\) in batch 0: mat1",
    ),
    "target mismatch": (
        lambda: hessian.diagonal(net(), F.cross_entropy, (X, Y[:2])),
        ValueError, r"loss could not be computed with targets of shape \(2,\) in batch 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "loss",
    [
        F.multi_margin_loss,
        lambda o, t: F.pdist(o).sum(),
        lambda o, t: F.ctc_loss(o.log_softmax(1).unsqueeze(1), t[None, :2] + 1, [6], [2]),
    ],
)
def test_a_loss_without_second_derivative_is_named(loss):
    with pytest.raises(NotImplementedError, match=r"derivative for .* pass names= without the"):
        hessian.diagonal(net(), loss, (X, Y))


def test_every_call_takes_the_common_arguments():
    """forward, names, memory, dtype, weight and progress, by keyword; data in every form."""
    common = {"forward": lambda m, x: m(x), "names": ("4.bias",), "memory": 10**6,
              "dtype": torch.float64, "weight": "sum", "progress": False}  # fmt: skip
    model, loss = net(nn.Tanh), nn.CrossEntropyLoss(reduction="sum")
    want = hessian.diagonal(model, loss, (X, Y), names=["4.bias"])["4.bias"]
    loader = DataLoader(TensorDataset(X, Y), batch_size=4)
    forms = [(X, Y), [X, Y], [(X, Y)], [[X[:2], Y[:2]], [X[2:], Y[2:]]], loader]
    for data in (*forms, (pair for pair in loader)):
        got = hessian.diagonal(model, loss, data, **common)
        assert float((got["4.bias"] - want).abs().max()) < 1e-12
    assert [e.name for e in hessian.plan(model, loss, (X, Y), **common)] == ["4.bias"]
    draw = torch.Generator().manual_seed(0)
    some = hessian.sample(model, loss, (X, Y), 2, draw, **common)["4.bias"]
    assert some.index.dtype == torch.int64
    assert some.index.shape == some.value.shape == (2,)
    assert torch.allclose(some.value, want[some.index], rtol=1e-12)
    for kind in ("hutchinson", "preactivation", "gauss-newton", "gauss-newton-mc",
                 "empirical-fisher", "becker-lecun"):  # fmt: skip
        got = hessian.estimate(model, loss, (X, Y), kind, 2, draw, **common)
        assert got["4.bias"].shape == got.standard_error["4.bias"].shape == (4,)
    matrix = hessian.operator(model, loss, (X, Y), **common)
    diagonal = torch.tensor((matrix @ torch.eye(4).double().numpy()).diagonal().copy())
    assert torch.allclose(diagonal, want, rtol=1e-9)
    hessian.operator(model, loss, loader, **{**common, "progress": True}).dot([0.0] * 4)
    found = hessian.coordinate_minimum(model, loss, (X, Y), 1, draw, **common)
    assert list(found) == ["4.bias"]


def test_an_operation_without_second_derivative_is_named():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.exp()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad):
            return grad

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 4)

        def forward(self, x):
            return Once.apply(self.a(x))

    with pytest.raises(NotImplementedError, match="no second derivative"):
        hessian.diagonal(Net().double(), F.cross_entropy, (X, Y))


def test_a_loader_is_read_once():
    model = net()
    loader = DataLoader(TensorDataset(X, Y), batch_size=4)
    reads = []

    def counted():
        for item in loader:
            reads.append(1)
            yield item

    got = hessian.diagonal(model, F.cross_entropy, counted(), verify=1)
    assert len(reads) == 2
    oracle.assert_exact(got, hessian.diagonal(model, F.cross_entropy, (X, Y)))


# ---------------------------------------------------------------------- plan, radius


def test_the_plan_is_a_table_and_counts_passes():
    plan = hessian.plan(net(nn.Tanh), F.cross_entropy, (X, Y))
    text = str(plan)
    assert "Tanh" in text
    # One walk down the network serves all; its cost is given in backward passes.
    assert {e.method for e in plan} == {"chain"}
    assert plan.backward == 1 + plan["0.weight"].backward
    pulled = hessian.plan(
        net(nn.Tanh), F.cross_entropy, (X, Y), method="preactivation", names=["0.weight", "0.bias"]
    )
    # A hidden layer of five outputs: weight and bias share its products.
    assert pulled["0.weight"].backward == pulled["0.bias"].backward == 2 * 5
    assert pulled.backward == 2 + 2 * 5
    columns = hessian.plan(net(nn.ReLU), F.cross_entropy, (X, Y))
    assert columns.columns == columns["4.weight"].backward == 3
    assert columns.backward == 1 + 3
    entries = hessian.plan(net(nn.Tanh), F.cross_entropy, (X, Y), method="parameter")
    assert entries.backward == 2 + 2 * (30 + 5 + 25 + 5 + 20 + 4)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(str(i) in text for i in (plan.forward, plan.backward))


def test_radius():
    g = torch.tensor([0.0, 3.0, -3.0, 0.0, 1e-3, 1e200], dtype=torch.float64)
    h = torch.tensor([-4.0, 0.5, 2.0, 0.0, 1e-8, 1.0], dtype=torch.float64)
    want = torch.tensor(
        [0.25, 10**1.5 / 0.5, 10**1.5 / 2, torch.inf, 1.0000015e8, torch.inf],
        dtype=torch.float64,
    )
    assert torch.allclose(hessian.radius(g, h), want, rtol=1e-9)
    with pytest.raises(TypeError, match=r"curvature must be a torch\.Tensor, got float"):
        hessian.radius(g, 1.0)
    with pytest.raises(ValueError, match="does not broadcast"):
        hessian.radius(g, torch.ones(5))


SMOOTH = {
    "conv": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2), nn.Tanh(), nn.Conv2d(4, 4, 2, groups=2), nn.GELU(),
        nn.Flatten(), nn.Linear(4, 4), nn.Softmax(1),
    ),
    "batch-norm": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4).eval(), nn.Sigmoid(), nn.Flatten(), nn.LazyLinear(4)
    ),
    "sequence": lambda: nn.Sequential(
        nn.Flatten(2), nn.Linear(36, 5), nn.SiLU(), nn.Linear(5, 3, bias=False), nn.Tanh(),
        nn.Flatten(), nn.Linear(6, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("memory", [None, 1])
@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("kind", SMOOTH)
def test_preactivation_route_where_many_positions_meet(kind, n, memory):
    torch.manual_seed(0)
    model = SMOOTH[kind]().double()
    x, y = torch.randn(n, 2, 6, 6).double(), torch.arange(n)
    model(x)
    names = [n for n, _ in model.named_parameters() if n != "1.weight" or kind != "batch-norm"]
    got = hessian.diagonal(
        model, F.cross_entropy, (x, y), method="preactivation", names=names, memory=memory
    )
    want = oracle.diagonal(model, F.cross_entropy, [(x, y)])
    oracle.assert_exact(got, {name: want[name] for name in names})
    assert set(got.plan.methods().values()) == {"preactivation"}
    auto = hessian.diagonal(model, F.cross_entropy, (x, y))
    oracle.assert_exact(auto, want)


def test_preactivation_is_refused_where_samples_meet():
    model, inputs = build("residual-bn-train")
    x = inputs(5, torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match=r"method='preactivation' .* 'stem.weight'"):
        hessian.diagonal(model, F.cross_entropy, (x, torch.arange(5) % 4), method="preactivation")


class Stored(nn.Module):
    """Dense weights in every way that they are met: as [o, k], as [k, o], and scaled."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 7), nn.Linear(6, 4)
        self.turned = nn.Parameter(torch.randn(7, 6))
        self.shift = nn.Parameter(torch.randn(6))

    def forward(self, x):
        x = torch.tanh(self.first(x))
        return self.last(torch.addmm(self.shift, x, self.turned, beta=0.5, alpha=1.5).relu())


@pytest.mark.parametrize("method", ["affine", "chain", "preactivation"])
def test_a_product_that_is_scaled(method):
    """z = 1.5 U W + b/2: its second derivative goes with the square of the scale."""
    torch.manual_seed(0)
    model, x, y = Stored().double(), torch.randn(9, 5).double(), torch.arange(9) % 4
    names = ["turned", "shift", "last.weight"]
    got = hessian.diagonal(model, F.cross_entropy, (x, y), method=method, names=names)
    assert {entry.method for entry in got.plan} == {method}
    want = oracle.diagonal(model, F.cross_entropy, [(x, y)])
    oracle.assert_exact(got, {name: want[name] for name in names})


def test_gradients_by_the_faster_library_are_autograds(monkeypatch):
    """In float32 weights' gradients are products of our own where the processor wants it."""
    monkeypatch.setattr(_execute, "prefers_onednn", lambda: True)
    used = []
    monkeypatch.setattr(
        Site, "summed", lambda self, a, right=Site.summed: (used.append(1), right(self, a))[1]
    )
    torch.manual_seed(0)
    model, x, y = Stored(), torch.randn(9, 5), torch.arange(9) % 4
    got = hessian.diagonal(model, F.cross_entropy, (x, y)).gradient
    want = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    for g, w in zip(got.values(), want, strict=True):
        assert float((g - w).abs().max()) <= 1e-6 * float(w.abs().max())  # a few roundings
    assert len(used) == 3
