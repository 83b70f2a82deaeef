"""Traces, densities and sums by layer against dense matrices and matrices of known spectra."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._spectrum.density import Density

from .networks import build
from .spectra import hessian_matrix, noise, quadratic, tanh_net, turned


def _data(n=7):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, generator=generator, dtype=torch.float64), torch.arange(n) % 3


# ---------------------------------------------------------------------------------- the trace


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_the_exact_trace_is_that_of_the_differences(activation):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), activation(), nn.Linear(5, 3)).double()
    x, y = _data()
    want = np.trace(hessian_matrix(model, F.cross_entropy, x, y))
    h = hessian.operator(model, F.cross_entropy, (x, y))
    for method in ("auto", "exact"):
        found = h.trace(method=method)
        assert (found.method, found.standard_error, found.products) == ("exact", 0.0, 0)
        assert float(found) == pytest.approx(want, rel=1e-6)  # differences with a step of 1e-4
    assert "(exact)" in str(found)


def test_the_exact_trace_has_the_draw_of_the_operator():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 3)).double()
    h = hessian.operator(model, F.cross_entropy, _data())
    want = np.trace(h @ np.eye(h.shape[0]))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert float(h.trace()) == pytest.approx(want, rel=1e-12)
    assert torch.equal(state, torch.get_rng_state())


def test_auto_estimates_where_the_diagonal_takes_more_passes_than_the_products():
    model, inputs = build("tied-in-series")  # one product for each entry
    data = inputs(4, torch.Generator().manual_seed(1)), torch.arange(4) % 3
    h = hessian.operator(model, F.cross_entropy, data)
    passes = hessian.plan(model, F.cross_entropy, data).backward
    assert h.trace(products=-(-passes // 2)).method == "exact"
    few = h.trace(products=passes // 4)
    assert few.method == "hutch++"
    assert few.products <= passes // 4


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_estimates_are_unbiased_and_their_standard_error_is_their_spread(method):
    """Over 200 seeds: the mean within four of its standard errors, the spread within a third."""
    values = np.concatenate([[30.0, -20.0, 10.0], np.linspace(-1, 1, 57)])
    matrix, _ = turned(values)
    h = hessian.operator(*quadratic(matrix))
    with h.kept():
        found = [
            h.trace(method=method, products=24, generator=torch.Generator().manual_seed(s))
            for s in range(200)
        ]
    at = np.array([float(t) for t in found])
    spread = at.std(ddof=1)
    assert abs(at.mean() - values.sum()) <= 4 * spread / math.sqrt(len(at))
    errors = np.sqrt(np.mean([t.standard_error**2 for t in found]))
    assert 2 / 3 <= errors / spread <= 3 / 2
    assert all(t.products == 24 for t in found)
    assert "24 products" in str(found[0])
    # The image of eight vectors holds the three large eigenvalues: what is left is 4.4 large in
    # Frobenius norm, and of eight probes √2·4.4/√8 is 2.2. Hutchinson's has √(2·1420)/√24 = 10.9.
    assert spread < 3.5 if method == "hutch++" else 8 < spread < 14


def test_hutch_is_exact_on_a_matrix_of_low_rank():
    matrix, _ = turned(np.array([5.0, 3.0, -2.0] + [0.0] * 47))
    found = hessian.operator(*quadratic(matrix)).trace(method="hutch++", products=18)
    assert float(found) == pytest.approx(6, abs=1e-10)
    assert found.standard_error < 1e-10
    small = hessian.operator(*quadratic(np.diag([1.0, 2.0]))).trace(method="hutch++", products=30)
    assert (round(float(small), 12), small.standard_error) == (3.0, 0.0)


def test_it_stops_at_the_error_asked_for():
    matrix, _ = turned(np.linspace(-1, 2, 200))
    h = hessian.operator(*quadratic(matrix))
    for method in ("hutchinson", "hutch++"):
        loose = h.trace(method=method, products=90, relative_error=0.1)
        tight = h.trace(method=method, products=90, relative_error=0.001)
        assert loose.standard_error <= 0.1 * float(loose)
        assert loose.products < tight.products == 90
        assert h.trace(method=method, products=90, relative_error=0.1) == loose


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda h: h.trace(method="guess"), "method must be one of auto, exact"),
        (lambda h: h.trace(products=2), "products must be an integer >= 3"),
        (lambda h: h.trace(relative_error=-1), "relative_error must be a positive"),
        (lambda h: h.density(starts=0), "starts must be an integer >= 1"),
        (lambda h: h.density(steps=1.5), "steps must be an integer"),
        (lambda h: h.density(width=0), "width must be a positive number"),
        (lambda h: h.density(grid=[1, 0]), "grid must hold two ascending numbers"),
        (lambda h: h.layers(method="none"), "method must be one of auto, exact, probes"),
        (lambda h: h.layers(probes=1), "probes must be an integer >= 2"),
    ],
)
def test_wrong_arguments_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call(hessian.operator(*quadratic(np.eye(3))))


# -------------------------------------------------------------------------------- the density


def test_moments_are_those_of_the_matrix_from_every_start():
    """zᵀMᵖz/zᵀz, exactly up to p = 2·steps - 1, of the signs that the seed gives."""
    matrix, _ = turned(np.concatenate([[4.0, -3.0], np.linspace(-1, 1, 38)]))
    h = hessian.operator(*quadratic(matrix))
    found = h.density(starts=3, steps=4, generator=torch.Generator().manual_seed(7))
    drawn = torch.randint(0, 2, (3, 40), generator=torch.Generator().manual_seed(7))
    signs = 2.0 * drawn.numpy() - 1
    for p in range(8):
        want = [z @ np.linalg.matrix_power(matrix, p) @ z / 40 for z in signs]
        each = (found.nodes**p * found.weights).sum(1)
        np.testing.assert_allclose(each, want, rtol=1e-9, atol=1e-12)
        value, error = found.mean(lambda t, p=p: t**p)
        assert value == pytest.approx(np.mean(want), abs=1e-12)
        assert error == pytest.approx(np.std(want, ddof=1) / math.sqrt(3), abs=1e-12)
    assert found.products == 12
    assert (found.size, found.nodes.shape) == (40, (3, 4))


def test_the_density_of_pure_noise_is_its_own_histogram():
    matrix = noise(200)
    values = np.linalg.eigvalsh(matrix)
    h = hessian.operator(*quadratic(matrix))
    found = h.density(starts=8, steps=60, width=0.15)
    bells = np.exp(-0.5 * ((found.grid[:, None] - values) / 0.15) ** 2)
    want = bells.mean(1) / (0.15 * math.sqrt(2 * math.pi))
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=1e-3)
    # Sums of 200 squared normal numbers, smoothed over some 15 eigenvalues, of 8 starts.
    assert np.abs(found.density - want).max() <= 0.15 * want.max()
    inside = (found.band[0] <= want) & (want <= found.band[1])
    assert inside.mean() > 0.8  # 0.95 pointwise, neighbours together
    assert (found.band[0] <= found.density).all()


def test_runs_that_end_early_give_the_eigenvalues_themselves():
    values = np.array([2.0] * 4 + [-1.0] * 5 + [0.5])
    matrix, q = turned(values)
    draw = torch.Generator().manual_seed(7)
    found = hessian.operator(*quadratic(matrix)).density(starts=4, steps=10, generator=draw)
    drawn = torch.randint(0, 2, (4, 10), generator=torch.Generator().manual_seed(7))
    shares = (q.T @ (2.0 * drawn.numpy().T - 1)) ** 2 / 10
    for value in (2.0, -1.0, 0.5):
        near = np.abs(found.nodes - value) < 1e-9
        want = shares[values == value].sum(0)
        np.testing.assert_allclose((found.weights * near).sum(1), want, atol=1e-9)
    assert found.products < 30  # three steps each, a few more where rounding was not seen as such
    zero = hessian.operator(*quadratic(np.zeros((3, 3)))).density(starts=2)
    assert zero.mean() == (0.0, 0.0)
    assert np.isfinite(zero.density).all()
    one = hessian.operator(*quadratic(np.eye(3))).density(starts=1, grid=np.linspace(0, 2, 5))
    assert np.isnan(one.band).all()
    assert one.grid.tolist() == [0, 0.5, 1, 1.5, 2]


def test_the_picture_is_drawn_and_importing_needs_no_matplotlib(tmp_path):
    found = Density(np.array([[0.0, 1.0], [0.1, 1.1]]), np.full((2, 2), 0.5), 10, 4, None, 50, 0.1)
    bells = np.exp(-0.5 * ((found.grid[:, None, None] - found.nodes) / 0.1) ** 2)
    one, two = bells.mean(2).T / (0.1 * math.sqrt(2 * math.pi))
    np.testing.assert_allclose(found.density, (one + two) / 2, rtol=1e-12)
    # Student's quantile for one degree of freedom, 12.706, times |one - two| / 2.
    half = np.tan(0.475 * math.pi) * np.abs(one - two) / 2
    np.testing.assert_allclose(found.band[1] - found.density, half, atol=1e-9)
    np.testing.assert_allclose(found.density - found.band[0], half, atol=1e-9)
    axes = found.plot()
    assert axes.get_yscale() == "log"
    (line,) = axes.lines
    drawn = np.maximum(found.density, 1e-3 / (10 * 0.1))
    np.testing.assert_allclose(line.get_ydata(), drawn)
    for name in ("density.png", "density.svg"):
        found.save_picture(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    code = "import sys, hessian; assert 'matplotlib' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ----------------------------------------------------------------------------------- by layer


def _layered():
    torch.manual_seed(0)
    model, data = tanh_net(3, 4, 4, 3), _data()
    dense = hessian_matrix(model, F.cross_entropy, *data)
    blocks = {"0": slice(0, 16), "2": slice(16, 36), "4": slice(36, 51)}
    return hessian.operator(model, F.cross_entropy, data), {
        name: dense[at, at] for name, at in blocks.items()
    }


def test_layers_are_the_blocks_of_the_dense_matrix():
    h, blocks = _layered()
    for layers in (h.layers(), h.layers(method="probes", probes=20)):
        assert list(layers) == ["0", "2", "4"]
        for name, block in blocks.items():
            layer = layers[name]
            assert layer.size == len(block)
            assert (layer.trace_error, layer.frobenius_error) == (0, 0)
            assert layer.trace == pytest.approx(np.trace(block), rel=1e-6)
            assert layer.frobenius == pytest.approx(np.linalg.norm(block), rel=1e-6)
            assert layer.diagonal_norm == pytest.approx(np.linalg.norm(np.diag(block)), rel=1e-6)
    assert layers["2"].parameters == ("2.weight", "2.bias")
    assert layers.products == 51
    assert str(layers).count("(exact)") == 6


def test_layers_that_are_too_large_are_estimated_and_say_so():
    h, blocks = _layered()
    traces, squares = [], []
    with h.kept():
        for seed in range(60):
            draw = torch.Generator().manual_seed(seed)
            layer = h.layers(method="probes", probes=12, generator=draw)["2"]
            assert layer.trace_error > 0 < layer.frobenius_error
            assert math.isnan(layer.diagonal_norm)
            traces.append((layer.trace, layer.trace_error))
            squares.append((layer.frobenius**2, 2 * layer.frobenius * layer.frobenius_error))
        known = h.layers(method="exact", probes=12)["2"]
    assert known.trace_error == 0 < known.frobenius_error
    assert "±" in str(h.layers(probes=12))
    for found, want in (
        (traces, np.trace(blocks["2"])), (squares, np.linalg.norm(blocks["2"]) ** 2)
    ):  # fmt: skip
        at, errors = np.array(found).T
        spread = at.std(ddof=1)
        assert abs(at.mean() - want) <= 4 * spread / math.sqrt(len(at))
        # The spread of 60 values of twelve probes each is good to a few tenths.
        assert 0.6 <= np.sqrt((errors**2).mean()) / spread <= 1.6
