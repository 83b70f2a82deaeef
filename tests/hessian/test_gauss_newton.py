"""Gauss-Newton and Fisher products against Jacobians by differences and Hessians by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian

from .networks import build, coupling
from .spectra import hessian_matrix, jacobian, tanh_net

N = 6


def _data(classes=3):
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(N, 3, generator=generator, dtype=torch.float64),
        torch.tensor([0, 2, 1, 0, 1, 2]) % classes,
    )


def _net(*widths):
    torch.manual_seed(0)
    return tanh_net(*widths)


def _matrix(model, loss, data, kind, **options):
    h = hessian.operator(model, loss, data, kind=kind, **options)
    assert h.kind == ("gauss-newton" if kind == "ggn" else kind)
    return h @ np.eye(h.shape[0]), h


def _probabilities(model, x):
    z = model(x).detach().numpy()
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def _close(got, want):
    # Jacobians of differences with a step of 1e-4.
    assert np.abs(got - want).max() <= 1e-6 * np.abs(want).max()


def _softmax_curvature(model, x, weights):
    """Σ_n w_n J_nᵀ (diag p - ppᵀ) J_n."""
    total = 0
    for j, p, w in zip(jacobian(model, x), _probabilities(model, x), weights, strict=True):
        total = total + w * j.T @ (np.diag(p) - np.outer(p, p)) @ j
    return total


MEMORY = [None, 1]  # whole, and sample by sample


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("kind", ["ggn", "fisher"])
def test_cross_entropy(kind, memory):
    model, (x, y) = _net(3, 4, 3), _data()
    got, h = _matrix(model, F.cross_entropy, (x, y), kind, memory=memory)
    _close(got, _softmax_curvature(model, x, [1 / N] * N))
    assert h.parts == (1 if memory is None else N)
    assert np.linalg.eigvalsh(got)[0] >= -1e-12
    true = hessian_matrix(model, F.cross_entropy, x, y)
    assert np.abs(got - true).max() > 0.1 * np.abs(true).max()  # it is not the Hessian


@pytest.mark.parametrize("memory", MEMORY)
def test_cross_entropy_with_class_weights_and_ignored_targets(memory):
    model, (x, y) = _net(3, 4, 3), _data()
    y = y.clone()
    y[3] = -100
    weight = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    loss = nn.CrossEntropyLoss(weight)
    each = np.where(y >= 0, weight.numpy()[y.clamp_min(0)], 0.0)
    got, _ = _matrix(model, loss, (x, y), "gauss-newton", memory=memory)
    _close(got, _softmax_curvature(model, x, each / each.sum()))
    got, _ = _matrix(model, F.cross_entropy, (x, y), "fisher", memory=memory)
    _close(got, _softmax_curvature(model, x, np.where(y >= 0, 1 / (N - 1), 0.0)))
    with pytest.raises(ValueError, match="weighs samples by their targets"):
        _matrix(model, loss, (x, y), "fisher", memory=memory)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("kind", ["ggn", "fisher"])
def test_squares_and_bernoulli(kind, memory):
    model, (x, _) = _net(3, 4, 2), _data()
    target = torch.randn(N, 2, dtype=torch.float64)
    rows = jacobian(model, x).reshape(2 * N, -1)
    got, _ = _matrix(model, F.mse_loss, (x, target), kind, memory=memory)
    _close(got, 2 * rows.T @ rows / (2 * N))
    p = 1 / (1 + np.exp(-model(x).detach().numpy().reshape(-1)))
    bernoulli = F.binary_cross_entropy_with_logits
    got, _ = _matrix(model, bernoulli, (x, (target > 0).double()), kind, memory=memory)
    _close(got, (rows.T * (p * (1 - p))) @ rows / (2 * N))


@pytest.mark.parametrize("memory", MEMORY)
def test_a_term_of_the_parameters_is_added(memory):
    model, data = _net(3, 4, 3), _data()

    def loss(output, target):
        penalty = sum(p.pow(4).sum() for p in model.parameters())
        return F.cross_entropy(output, target) + penalty

    got, _ = _matrix(model, loss, data, "ggn", memory=memory)
    w = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy()
    _close(got, _softmax_curvature(model, data[0], [1 / N] * N) + np.diag(12 * w**2))
    with pytest.raises(ValueError, match=r"reads parameter '0.weight' by itself"):
        _matrix(model, loss, data, "fisher", memory=memory)


def test_a_loss_that_couples_samples():
    model, (x, _) = _net(3, 4, 2), _data()
    target = torch.randn(N, 2, dtype=torch.float64)
    z = model(x).detach().requires_grad_()
    curvature = torch.autograd.functional.hessian(lambda o: coupling(o, target), z)
    curvature = curvature.reshape(2 * N, 2 * N).numpy()
    rows = jacobian(model, x).reshape(2 * N, -1)
    want = rows.T @ curvature @ rows
    got, h = _matrix(model, coupling, (x, target), "ggn", memory=1)
    _close(got, want)
    assert h.held
    trace = h.trace(products=40)
    assert trace.method == "hutch++"
    assert abs(float(trace) - np.trace(want)) <= 5 * trace.standard_error + 1e-6 * np.trace(want)
    with pytest.raises(ValueError, match=r"samples apart|separable"):
        _matrix(model, coupling, (x, target), "empirical-fisher")


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("weight", [None, "sum"])
def test_the_empirical_fisher_is_the_sum_of_outer_products_of_gradients(weight, memory):
    model, (x, y) = _net(3, 4, 3), _data()
    p = _probabilities(model, x)
    rows = [j.T @ (q - np.eye(3)[t]) for j, q, t in zip(jacobian(model, x), p, y, strict=True)]
    want = sum(np.outer(g, g) for g in rows)
    batches = [(x[:2], y[:2]), (x[2:], y[2:])]
    if weight is None:
        loss, want = F.cross_entropy, want / N
    else:

        def loss(output, target):
            return F.cross_entropy(output, target, reduction="sum")

    got, h = _matrix(model, loss, batches, "empirical-fisher", weight=weight, memory=memory)
    _close(got, want)
    assert h.trace().method == "exact"
    assert float(h.trace()) == pytest.approx(np.trace(want), rel=1e-6)


@pytest.mark.parametrize("network", ["relu-cnn", "attention", "residual-bn-train", "layer-norm"])
def test_networks_of_other_kinds(network):
    """JᵀCJ from the operator, against Jacobians of differences."""
    model, inputs = build(network)
    x, y = inputs(3, torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    h = hessian.operator(model, F.cross_entropy, (x, y), kind="ggn")
    v = np.random.default_rng(0).standard_normal(h.shape[0])
    got = h @ v
    assert all(torch.equal(b, before[k]) for k, b in model.state_dict().items())
    # One directional difference of the outputs, and one backward pass of what C makes of it.
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    sizes = [p.numel() for p in parameters.values()]

    def outputs(step):
        pieces = torch.from_numpy(step * v).split(sizes)
        moved = {
            name: (p + piece.view(p.shape)).requires_grad_()
            for (name, p), piece in zip(parameters.items(), pieces, strict=True)
        }
        buffers = {name: b.clone() for name, b in model.named_buffers()}
        return torch.func.functional_call(model, {**moved, **buffers}, (x,)), moved

    tangent = (outputs(1e-5)[0] - outputs(-1e-5)[0]).detach() / 2e-5
    z, leaves = outputs(0.0)
    p = z.detach().softmax(1)
    pushed = (p * tangent - p * (p * tangent).sum(1, keepdim=True)) / len(x)
    want = torch.autograd.grad(z, list(leaves.values()), pushed, materialize_grads=True)
    flat = torch.cat([g.reshape(-1) for g in want]).numpy()
    assert np.abs(got - flat).max() <= 1e-6 * np.abs(flat).max()


def test_spectra_of_the_gauss_newton_matrix():
    model, data = _net(3, 4, 3), _data()
    dense = _softmax_curvature(model, data[0], [1 / N] * N)
    want = np.linalg.eigvalsh(dense)
    h = hessian.operator(model, F.cross_entropy, data, kind="fisher")
    np.testing.assert_allclose(h.top(3, tolerance=1e-8).values, want[::-1][:3], rtol=1e-6)
    assert h.trace().method == "exact"
    assert float(h.trace()) == pytest.approx(want.sum(), rel=1e-6)
    layers = h.layers(probes=16)
    assert layers["0"].trace == pytest.approx(np.trace(dense[:16, :16]), rel=1e-6)
    assert layers["0"].frobenius == pytest.approx(np.linalg.norm(dense[:16, :16]), rel=1e-6)
    density = h.density(starts=2, steps=20)
    assert density.nodes[density.weights > 1e-9].min() > -1e-9


REFUSED = {
    "label smoothing": lambda o, t: F.cross_entropy(o, t, label_smoothing=0.1),
    "weights of samples": lambda o, t: (
        F.cross_entropy(o, t, reduction="none") * torch.arange(1.0, 7.0)
    ).mean(),
    "log-probabilities as outputs": lambda o, t: F.nll_loss(o, t),
    "a square of it": lambda o, t: F.cross_entropy(o, t).square(),
    "huber": lambda o, t: F.huber_loss(o, t.double().unsqueeze(1).expand(-1, 3)),
    "squares of probabilities": lambda o, t: F.mse_loss(
        o.log_softmax(1), t.double().unsqueeze(1).expand(-1, 3)
    ),
    "positive weights": lambda o, t: F.binary_cross_entropy_with_logits(
        o, t.double().unsqueeze(1).expand(-1, 3) / 2, pos_weight=torch.tensor(2.0)
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_fisher_of_what_is_no_known_likelihood_is_refused(name):
    model, data = _net(3, 4, 3), _data()
    h = hessian.operator(model, REFUSED[name], data, kind="fisher")
    for call in (lambda: h @ np.ones(h.shape[0]), h.trace, h.top):
        with pytest.raises(ValueError, match='Use kind="gauss-newton"'):
            call()


def test_unknown_kinds_and_hidden_ways_are_refused():
    model, data = _net(3, 4, 3), _data()
    with pytest.raises(ValueError, match="kind must be one of hessian, gauss-newton"):
        hessian.operator(model, F.cross_entropy, data, kind="kfac")
    seen = []
    model[1].register_forward_hook(lambda m, a, o: seen.append(o))

    def loss(output, target):
        return F.cross_entropy(output, target) + seen[-1].square().mean()

    with pytest.raises(ValueError, match="reads more of the network"):
        _matrix(model, loss, data, "ggn")

    def norm(output, target):
        return F.cross_entropy(output, target) + model[0].weight.norm()

    model = _net(3, 4, 3)
    with pytest.raises(ValueError, match="not a sum over its entries"):
        _matrix(model, norm, data, "ggn")
