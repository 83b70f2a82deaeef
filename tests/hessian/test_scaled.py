"""ρ^½ H ρ^½ beside the dense product, with every method that the Hessian has."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import hessian
from tests.hessian.spectra import hessian_matrix, tanh_net

WIDTHS = (3, 5, 4)


def problem(seed=0):
    torch.manual_seed(seed)
    model = tanh_net(*WIDTHS)
    data = torch.randn(9, 3, dtype=torch.float64), torch.randint(4, (9,))
    rates = {name: 5 * torch.rand_like(p) ** 3 for name, p in model.named_parameters()}
    rates["2.bias"][0] = 0.0
    return model, data, rates


def dense(model, data, rates):
    """By differences of gradients, and the diagonal matrix of the rates beside it."""
    h = hessian_matrix(model, F.cross_entropy, *data)
    root = np.sqrt(np.concatenate([r.double().numpy().ravel() for r in rates.values()]))
    return root[:, None] * h * root


def matrix(operator):
    return operator @ np.eye(operator.shape[0])


# Central differences of the gradient, exact to some 1e-8 of it.
CLOSE = 1e-6


def test_every_method_is_that_of_the_dense_product():
    model, data, rates = problem()
    want = dense(model, data, rates)
    h = hessian.operator(model, F.cross_entropy, data).scaled(rates)
    values = np.linalg.eigvalsh(want)
    assert h.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert h.kind == "hessian"
    np.testing.assert_allclose(matrix(h), want, atol=CLOSE)
    np.testing.assert_allclose(h.T @ np.ones(h.shape[0]), want.sum(0), atol=CLOSE)
    with h.kept() as inside:
        np.testing.assert_allclose(matrix(inside), want, atol=CLOSE)
    top = h.top(3, tolerance=1e-9)
    np.testing.assert_allclose(top.values, values[::-1][:3], rtol=CLOSE)
    first = np.concatenate([v.numpy().ravel() for v in top[0].vector.values()])
    np.testing.assert_allclose(want @ first, values[-1] * first, atol=CLOSE * values[-1])
    np.testing.assert_allclose(h.bottom(2, tolerance=1e-9).values, values[:2], rtol=1e-5)
    assert h.samples == 9
    for method in ("exact", "auto"):
        trace = h.trace(method=method)
        assert trace.value == pytest.approx(np.trace(want), rel=CLOSE)
        assert trace.standard_error == 0.0
    size = h.shape[0]
    estimate = h.trace(method="hutch++", products=3 * size)
    assert estimate.value == pytest.approx(np.trace(want), rel=CLOSE)
    density = h.density(starts=40, steps=size)
    mean, error = density.mean()
    assert mean == pytest.approx(np.trace(want) / size, abs=4 * error)
    blocks = {"0": slice(0, 20), "2": slice(20, size)}
    for name, layer in h.layers(probes=size).items():
        block = want[blocks[name], blocks[name]]
        assert layer.trace == pytest.approx(np.trace(block), rel=CLOSE)
        assert layer.frobenius == pytest.approx(np.linalg.norm(block), rel=CLOSE)
        assert layer.diagonal_norm == pytest.approx(np.linalg.norm(np.diag(block)), rel=CLOSE)


def test_it_has_the_eigenvalues_of_the_rates_times_the_hessian():
    model, data, rates = problem(1)
    h = hessian_matrix(model, F.cross_entropy, *data)
    rho = np.concatenate([r.numpy().ravel() for r in rates.values()])
    scaled = hessian.operator(model, F.cross_entropy, data).scaled(rates)
    want = max(np.linalg.eigvals(rho[:, None] * h).real)
    assert scaled.top(tolerance=1e-9)[0].value == pytest.approx(want, rel=CLOSE)


def test_blocks_other_scales_and_other_kinds(tmp_path):
    model, data, rates = problem()
    want = dense(model, data, rates)
    h = hessian.operator(model, F.cross_entropy, data)
    part = h.scaled(rates).restricted("*.bias")
    places = [*range(15, 20), *range(40, 44)]
    np.testing.assert_allclose(matrix(part), want[np.ix_(places, places)], atol=CLOSE)
    np.testing.assert_allclose(matrix(h.layer("2").scaled(rates)), want[20:, 20:], atol=CLOSE)
    # Twice is by the product of the rates.
    again = h.scaled(rates).scaled({name: r + 1 for name, r in rates.items()})
    both = dense(model, data, {name: r * (r + 1) for name, r in rates.items()})
    np.testing.assert_allclose(matrix(again), both, atol=10 * CLOSE)
    # Written out, in a file or not, it is that matrix, and can be scaled further.
    h.scaled(rates).save(tmp_path / "h.safetensors")
    stored = hessian.load(tmp_path / "h.safetensors")
    np.testing.assert_allclose(matrix(stored), want, atol=CLOSE)
    np.testing.assert_allclose(matrix(h.to("cpu").scaled(rates)), want, atol=CLOSE)
    assert h.to("cpu").scaled(rates).trace().value == pytest.approx(np.trace(want), rel=CLOSE)
    for kind in ("gauss-newton", "fisher", "empirical-fisher"):
        plain = hessian.operator(model, F.cross_entropy, data, kind=kind)
        root = np.sqrt(np.concatenate([r.numpy().ravel() for r in rates.values()]))
        wanted = root[:, None] * matrix(plain) * root
        scaled = plain.scaled(rates)
        np.testing.assert_allclose(matrix(scaled), wanted, atol=1e-12)
        assert scaled.kind == kind
        assert scaled.trace(method="exact").value == pytest.approx(np.trace(wanted))


def test_float32_and_rates_of_other_types():
    model, (x, y), rates = problem()
    want = dense(model, (x, y), rates)
    h = hessian.operator(model.float(), F.cross_entropy, (x.float(), y))
    scaled = h.scaled({name: r.half().float() for name, r in rates.items()})
    assert scaled.dtype == np.float32
    # Half precision holds a rate to 5e-4 of it.
    np.testing.assert_allclose(matrix(scaled), want, atol=1e-3 * np.abs(want).max())


def test_the_model_is_left_alone_and_rates_are_not_written_to():
    model, data, rates = problem()
    before = {name: r.clone() for name, r in rates.items()}
    h = hessian.operator(model, F.cross_entropy, data)
    plain = matrix(h)
    h.scaled(rates).top()
    assert all(torch.equal(r, before[name]) for name, r in rates.items())
    assert (matrix(h) == plain).all()
    scaled = h.scaled(rates)
    first = matrix(scaled)
    rates["0.weight"].zero_()  # afterwards: the rates are those of the call
    assert (matrix(scaled) == first).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("2.bias"), r"^radius: the parameter '2\.bias' is missing; give a rate"),
        (lambda r: r.update({"0.bias": torch.ones(4)}), r"^radius: '0\.bias' has shape \(4,\)"),
        (lambda r: r["0.bias"].fill_(-1), r"^radius: '0\.bias' holds a negative or infinite rate"),
        (lambda r: r["0.bias"].fill_(torch.inf), r"^radius: '0\.bias' holds a negative or inf"),
        (lambda r: r["0.bias"].fill_(torch.nan), r"^radius: '0\.bias' holds a negative or inf"),
    ],
    ids=["missing", "shape", "negative", "infinite", "nan"],
)
def test_wrong_rates_are_refused_before_any_work(change, message):
    model, data, rates = problem()
    h = hessian.operator(model, F.cross_entropy, data)
    change(rates)
    with pytest.raises(ValueError, match=message):
        h.scaled(rates)
    assert h.samples == 0
