"""Extreme eigenpairs against dense matrices of differences and matrices of known spectra."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import eigsh, lobpcg
from torch import nn

import hessian
from hessian import _hessian
from hessian._spectrum import basis as _basis
from hessian._spectrum import lanczos
from hessian._spectrum import products as _products
from hessian._spectrum import terms as _terms

from .networks import build
from .spectra import Copies, hessian_matrix, noise, quadratic, tanh_net, turned


def _data(n=7, width=3, classes=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, width, generator=generator, dtype=torch.float64)
    return x, torch.arange(n) % classes


def _flat(pair):
    return torch.cat([v.reshape(-1) for v in pair.vector.values()]).numpy()


def test_both_ends_are_those_of_the_differences_of_gradients():
    torch.manual_seed(0)
    model, (x, y) = tanh_net(3, 5, 4, 3), _data()
    dense = hessian_matrix(model, F.cross_entropy, x, y)
    want = np.linalg.eigvalsh(dense)
    h = hessian.operator(model, F.cross_entropy, (x, y))
    top = h.top(4, tolerance=1e-9, accuracy="vector")
    bottom = h.bottom(3, tolerance=1e-9, accuracy="vector")
    # Differences with a step of 1e-4.
    np.testing.assert_allclose(top.values, want[::-1][:4], rtol=1e-6)
    np.testing.assert_allclose(bottom.values, want[:3], rtol=1e-5)
    assert bottom.values[0] < 0 < top.values[0]
    for pair in (*top, *bottom):
        v = _flat(pair)
        assert np.linalg.norm(v) == pytest.approx(1, abs=1e-12)
        assert {n: t.shape for n, t in pair.vector.items()} == {
            n: p.shape for n, p in model.named_parameters()
        }
        assert np.linalg.norm(dense @ v - pair.value * v) <= 1e-6 * want[-1]
        assert pair.converged
        # The residual that is told is that of the matrix, by products of their own.
        assert np.linalg.norm(h @ v - pair.value * v) == pytest.approx(
            pair.residual, rel=1e-3, abs=1e-13
        )
    assert top.products < 80
    assert h.samples == 7


def test_magnitude_takes_negative_eigenvalues_in_their_place():
    matrix, _ = turned(np.array([5.0, -7.0, 3.0, 1.0, -2.0, 0.5, *np.linspace(-0.1, 0.1, 30)]))
    h = hessian.operator(*quadratic(matrix))
    np.testing.assert_allclose(h.top(3, by="magnitude", tolerance=1e-8).values, [-7, 5, 3])
    np.testing.assert_allclose(h.top(3, tolerance=1e-8).values, [5, 3, 1])
    np.testing.assert_allclose(h.bottom(2, tolerance=1e-8).values, [-7, -2])


def test_repeated_eigenvalues_come_out_with_their_multiplicity():
    x, _ = _data()
    target = torch.zeros(7, 9, dtype=torch.float64)
    one = Copies(1, lambda: tanh_net(3, 2, 3))
    want = np.linalg.eigvalsh(hessian_matrix(one, F.mse_loss, x, target[:, :3]))[::-1] / 3
    model = Copies(3, lambda: tanh_net(3, 2, 3))  # the mean is over thrice as many outputs
    h = hessian.operator(model, F.mse_loss, (x, target))
    for block in (1, 2, 3):
        top = h.top(6, tolerance=1e-7, block=block)
        np.testing.assert_allclose(top.values, np.repeat(want[:2], 3), rtol=1e-5)
        basis = np.stack([_flat(pair) for pair in top])
        np.testing.assert_allclose(basis @ basis.T, np.eye(6), atol=1e-6)
        assert 0 <= top.missed <= 0.01
    # From one vector a Krylov space holds one copy of each.
    single = h.top(2, tolerance=1e-3, missed=None)
    np.testing.assert_allclose(single.values, want[:2], rtol=1e-3)
    assert np.isnan(single.missed)
    assert 0 <= h.top(1).missed <= 0.01


def test_copies_that_rounding_has_pulled_apart_are_copies():
    values = np.concatenate([[10.0, 7, 7, 7, 5, 5], np.linspace(-1, 1, 194)])
    matrix = turned(values)[0].astype(np.float32)
    top = hessian.operator(*quadratic(matrix)).top(6, tolerance=1e-6)
    np.testing.assert_allclose(top.values, values[:6], rtol=1e-5)
    assert top.missed <= 0.01
    assert top.products < 60


@pytest.mark.parametrize(("end", "starts"), [("top", 40), ("bottom", 15)])
def test_the_probability_of_a_miss_is_what_it_is_said_to_be(end, starts):
    """Copies in a spectrum without a gap, where the look for them is hardest."""
    values = np.concatenate([[2.0, 1.9], np.linspace(-1.9, 1.7, 118)])
    matrix = torch.as_tensor(turned(np.concatenate([values, [2.0]]))[0])
    order = "largest" if end == "top" else "smallest"
    matrix = matrix if end == "top" else -matrix

    def pairs(seed, missed):
        search = lanczos.Search(3, order, 1, 1e-3, True, missed, 1000, len(matrix))
        generator = torch.Generator().manual_seed(seed)
        return lanczos.extreme(lambda rows: rows @ matrix, matrix[:1], search, generator)

    searched = [pairs(seed, 0.2) for seed in range(starts)]
    assert all(each.missed <= 0.2 for each in searched)
    seen = [abs(float(each.values[1])) > 1.95 for each in searched]
    assert sum(seen) >= starts * 0.8 - 3 * np.sqrt(starts * 0.8 * 0.2)
    # Each has looked: some products are beyond those that the pairs took.
    assert pairs(0, None).products < searched[0].products


def test_a_look_that_is_cut_short_says_so():
    values = np.concatenate([[2.0, 1.9], np.linspace(-1.9, 1.7, 118)])
    h = hessian.operator(*quadratic(turned(values)[0]))
    enough = h.top(2, missed=None).products
    with pytest.warns(RuntimeWarning, match=r"copies of repeated ones, may be missing"):
        cut = h.top(2, products=enough + 3)
    assert cut.converged
    assert cut.missed > 0.01


@pytest.mark.parametrize("block", [1, 2, 4])
def test_a_space_that_closes_goes_on_in_another_direction(block):
    """A Krylov space of a matrix with two eigenvalues has two dimensions for each start."""
    matrix, _ = turned(np.array([2.0] * 5 + [0.0] * 7))
    h = hessian.operator(*quadratic(matrix))
    top = h.top(6, block=block)
    np.testing.assert_allclose(top.values, [2, 2, 2, 2, 2, 0], atol=1e-12)
    none = hessian.operator(*quadratic(np.zeros((4, 4)))).top(4, block=block)
    assert none.values.tolist() == [0, 0, 0, 0]
    assert none.converged


def test_pure_noise_has_the_edge_of_its_own_dense_spectrum():
    matrix = noise(150)
    want = np.linalg.eigvalsh(matrix)
    h = hessian.operator(*quadratic(matrix))
    top = h.top(3, tolerance=1e-6)
    np.testing.assert_allclose(top.values, want[::-1][:3], rtol=1e-6)
    # Asked for the residual, it goes on for longer, and the values are then good to its square.
    strict = h.top(3, tolerance=1e-6, accuracy="vector")
    assert strict.products > top.products
    assert float(strict.residual.max()) <= 1e-6 * want[-1]


def test_an_eigenvalue_lies_within_every_error_that_is_told():
    matrix = noise(150)
    want = np.linalg.eigvalsh(matrix)
    h = hessian.operator(*quadratic(matrix))
    with pytest.warns(RuntimeWarning, match=r"3 of 3 eigenpairs.*tolerance=1e-12.*products=20"):
        early = h.top(3, tolerance=1e-12, products=20)
    assert early.products == 20
    assert not early.converged
    for pair in early:
        assert np.abs(want - pair.value).min() <= pair.residual
    assert "not converged" in str(early)


def test_a_restart_within_the_memory_finds_the_same(monkeypatch):
    values = np.concatenate([[9.0, 8.0, 8.0, 7.0], np.linspace(-1, 5, 196)])
    h = hessian.operator(*quadratic(turned(values)[0]))
    for block in (1, 2):
        free = h.top(4, tolerance=1e-9, missed=None, block=block)
        with monkeypatch.context() as patch:
            restarts = []
            right = _basis.Basis.restart
            patch.setattr(_hessian, "BASIS", 1)  # 18 to 20 vectors all the same
            patch.setattr(
                _basis.Basis, "restart", lambda *a, r=restarts, f=right: r.append(1) or f(*a)
            )
            tight = h.top(4, tolerance=1e-9, missed=None, block=block)
            assert restarts
            assert tight.products >= free.products > 20
        np.testing.assert_allclose(tight.values[0], 9, rtol=1e-9)
        if block == 2:
            np.testing.assert_allclose(tight.values, [9, 8, 8, 7], rtol=1e-9)
    looked = h.top(4, tolerance=1e-6)
    np.testing.assert_allclose(looked.values, [9, 8, 8, 7], rtol=1e-6)


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not():
    torch.manual_seed(0)
    h = hessian.operator(tanh_net(3, 5, 3), F.cross_entropy, _data())

    def top(seed):
        generator = torch.Generator().manual_seed(seed)
        return h.top(2, generator=generator, tolerance=1e-2)

    one, again, other = top(3), top(3), top(4)
    assert torch.equal(one.values, again.values)
    assert all(torch.equal(a, again[1].vector[n]) for n, a in one[1].vector.items())
    assert not torch.equal(one[1].vector["0.weight"], other[1].vector["0.weight"])
    assert torch.equal(h.top(2).values, h.top(2).values)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda h: h.top(4), "k is 4, more than the 3 eigenvalues"),
        (lambda h: h.bottom(0), "k must be an integer >= 1, got 0"),
        (lambda h: h.top(by="size"), "by must be one of value, magnitude"),
        (lambda h: h.top(tolerance=0), "tolerance must be a positive number"),
        (lambda h: h.top(2, products=1), "products must be an integer >= 2"),
        (lambda h: h.top(accuracy="both"), "accuracy must be one of"),
        (lambda h: h.top(missed=0), "missed must be a positive number"),
        (lambda h: h.top(block=0), "block must be an integer >= 1"),
        (lambda h: h.restricted("x*"), "'x\\*' matches none of the parameters w"),
        (lambda h: h.restricted(), "patterns is empty"),
        (lambda h: h.top(generator=3), "generator must be a torch.Generator"),
        (lambda h: h @ np.array([1j, 0, 0]), "complex"),
    ],
)
def test_wrong_arguments_are_refused_before_any_product(call, match):
    h = hessian.operator(*quadratic(np.eye(3)))
    with pytest.raises((ValueError, TypeError), match=match):
        call(h)
    assert h.samples == 0


def test_a_product_that_is_not_finite_is_refused():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)

    def loss(output, target):
        return output.abs().sum().pow(1.5)

    h = hessian.operator(model, loss, (torch.ones(1, 1), torch.zeros(1)))
    with pytest.raises(ValueError, match="not finite"):
        h.top(1)


# ------------------------------------------------------------------------- tapes that are kept


def _counted(model):
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def test_tapes_are_built_once_for_all_products_if_they_fit():
    torch.manual_seed(0)
    model, (x, y) = tanh_net(3, 5, 3), _data(8)
    batches = [(x[:5], y[:5]), (x[5:], y[5:])]
    calls = _counted(model)
    h = hessian.operator(model, F.cross_entropy, batches)
    free = h.top(2, tolerance=1e-8)
    assert len(calls) == 2
    tight = hessian.operator(model, F.cross_entropy, batches, memory=2**10)
    np.testing.assert_allclose(tight.top(2, tolerance=1e-8).values, free.values, rtol=1e-8)
    assert len(calls) > 30
    assert tight.parts > 1


@pytest.mark.parametrize("kind", _products.KINDS)
def test_a_kept_batch_weighs_what_it_weighs(kind):
    """Where some batches fit, the others, and their draws of dropout, are made anew."""
    torch.manual_seed(0)
    layers = nn.Linear(3, 5), nn.Dropout(0.3), nn.Tanh(), nn.Linear(5, 3)
    model, (x, y) = nn.Sequential(*layers).double(), _data(9)
    batches = [(x[:2], y[:2]), (x[2:8], y[2:8]), (x[8:], y[8:])]
    h = hessian.operator(model, F.cross_entropy, batches, kind=kind)
    eye = np.eye(h.shape[0])
    want = h @ eye
    scale = np.abs(want).max()
    for fits in ({0}, {1}, {0, 2}, {0, 1, 2}):
        with pytest.MonkeyPatch.context() as patch:
            sizes = iter([0 if i in fits else 2**60 for i in range(3)] + [2**60] * 99)
            right = _products.Products._run

            def run(self, *args, sizes=sizes, right=right):
                size = next(sizes)
                with pytest.MonkeyPatch.context() as inner:
                    inner.setattr(self._store, "fits", lambda *_: size == 0)
                    right(self, *args)

            patch.setattr(_products.Products, "_run", run)
            with h.kept():
                got = [h @ eye[:, i : i + 3] for i in range(0, len(eye), 3)]
        assert np.abs(np.concatenate(got, 1) - want).max() <= 1e-13 * scale
        assert h.samples == 9


@pytest.mark.parametrize("network", ["dropout-train", "residual-bn-train"])
def test_kept_products_are_those_of_the_draw_and_the_statistics_at_the_start(network):
    model, inputs = build(network)
    x, y = inputs(6, torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 0, 1])
    h = hessian.operator(model, F.cross_entropy, [(x[:2], y[:2]), (x[2:], y[2:])])
    v = np.random.default_rng(0).standard_normal((h.shape[0], 2))
    want = np.stack([h @ v[:, 0], h @ v[:, 1]], 1)
    before = {k: b.clone() for k, b in model.state_dict().items()}
    torch.manual_seed(99)
    state = torch.get_rng_state()
    with h.kept():
        assert np.abs(h @ v - want).max() <= 1e-12 * np.abs(want).max()
        assert np.abs(h @ v - want).max() <= 1e-12 * np.abs(want).max()
    assert all(torch.equal(b, before[k]) for k, b in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_scipys_solvers_take_the_operator():
    torch.manual_seed(0)
    model, data = tanh_net(3, 5, 3), _data()
    h = hessian.operator(model, F.cross_entropy, data)
    want = np.linalg.eigvalsh(hessian_matrix(model, F.cross_entropy, *data))
    calls = _counted(model)
    with h.kept() as inside, inside.kept():
        assert eigsh(inside, k=1, which="LA")[0][0] == pytest.approx(want[-1], rel=1e-6)
        start = np.random.default_rng(0).standard_normal((h.shape[0], 3))
        found, _ = lobpcg(inside, start, largest=True, tol=1e-6, maxiter=200)
        np.testing.assert_allclose(np.sort(found), want[-3:], rtol=1e-5)
        # Its own methods use the same tapes.
        assert float(h.top().values[0]) == pytest.approx(want[-1], rel=1e-3)
    assert len(calls) == 1


def test_a_loss_that_differentiates_by_a_frozen_parameter_is_taken_whole():
    torch.manual_seed(0)
    model, (x, y) = tanh_net(3, 4, 3), _data()

    def loss(output, target):
        value = F.cross_entropy(output, target)
        (slope,) = torch.autograd.grad(value, model[0].weight, create_graph=True)
        return value + slope.square().sum()

    whole = hessian.operator(model, loss, (x, y)) @ np.eye(31)
    h = hessian.operator(model, loss, (x, y), names=["2.*"])
    assert h.names == ("2.weight", "2.bias")
    with h.kept():
        got = h @ np.eye(15)
    assert np.abs(got - whole[16:, 16:]).max() <= 1e-12
    want = np.linalg.eigvalsh(whole[16:, 16:])[-1]
    assert float(h.top(tolerance=1e-8).values[0]) == pytest.approx(want, rel=1e-8)


def test_several_vectors_at_once_and_one_by_one_are_the_same(monkeypatch):
    torch.manual_seed(0)
    model, data = tanh_net(3, 5, 3), _data()
    h = hessian.operator(model, F.cross_entropy, data)
    eye = np.eye(h.shape[0])
    together = h @ eye
    monkeypatch.setattr(_terms, "SMALL", 0)
    assert np.abs(h @ eye - together).max() <= 1e-14
    monkeypatch.setattr(_terms, "SMALL", 2**60)

    def none(self, vectors):
        raise RuntimeError("no batching rule")

    monkeypatch.setattr(_terms.HessianTerm, "several", none)
    assert np.abs(h @ eye - together).max() <= 1e-14


@pytest.mark.parametrize("network", ["attention", "relu-cnn", "residual-bn-train", "layer-norm"])
def test_several_vectors_at_once_through_other_operations(network, monkeypatch):
    model, inputs = build(network)
    x, y = inputs(3, torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2])
    h = hessian.operator(model, F.cross_entropy, (x, y))
    v = np.random.default_rng(0).standard_normal((h.shape[0], 5))
    found = []
    for small in (0, 2**60):
        monkeypatch.setattr(_terms, "SMALL", small)
        found.append(h @ v)
    assert np.abs(found[0] - found[1]).max() <= 1e-12 * np.abs(found[0]).max()


# ------------------------------------------------------------------------------- restrictions


def test_patterns_choose_the_block_of_a_layer():
    torch.manual_seed(0)
    model, data = tanh_net(3, 4, 4, 3), _data()
    h = hessian.operator(model, F.cross_entropy, data)
    want = h @ np.eye(h.shape[0])
    block = h.restricted("2.*")
    assert block.names == ("2.weight", "2.bias")
    assert block.shapes == ((4, 4), (4,))
    at = slice(16, 36)
    assert np.abs(block @ np.eye(20) - want[at, at]).max() <= 1e-14
    named = hessian.operator(model, F.cross_entropy, data, names=["[24].weight", "0.bias"])
    assert named.names == ("0.bias", "2.weight", "4.weight")
    diagonal = hessian.diagonal(model, F.cross_entropy, data, names=["*.bias"])
    assert list(diagonal) == ["0.bias", "2.bias", "4.bias"]
    with pytest.raises(ValueError, match=r"the pattern '3\.\*' matches no parameter"):
        hessian.operator(model, F.cross_entropy, data, names=["3.*"])


def test_float32_and_half_come_out_in_float32():
    torch.manual_seed(0)
    model, (x, y) = tanh_net(3, 5, 3), _data()
    want = hessian.operator(model, F.cross_entropy, (x, y)).top(2, tolerance=1e-9).values
    single = hessian.operator(model.float(), F.cross_entropy, (x.float(), y)).top(2)
    assert single[0].vector["0.weight"].dtype == torch.float32
    np.testing.assert_allclose(single.values, want, rtol=1e-3)
    double = hessian.operator(model, F.cross_entropy, (x.float(), y), dtype=torch.float64)
    assert double.top()[0].vector["0.weight"].dtype == torch.float64
    half = hessian.operator(model.bfloat16(), F.cross_entropy, (x.bfloat16(), y)).top()
    assert half[0].vector["0.weight"].dtype == torch.float32


def test_tapes_are_kept_in_the_precision_that_is_found_to_be_needed():
    """The loss of the second batch asks for float64, after the first one's tape was kept."""
    torch.manual_seed(0)
    model, (x, y) = tanh_net(3, 5, 3).float(), _data()
    batches = [(x[:3].float(), y[:3]), (x[3:].float(), y[3:])]

    def loss(output, target):
        return F.cross_entropy(output if len(target) == 3 else output.double(), target)

    eye = np.eye(38)
    want = hessian.operator(model, loss, batches, dtype=torch.float64) @ eye
    with hessian.operator(model, loss, batches).kept() as h:
        for _ in range(2):
            got = h @ eye
            # The first pass begins in float32, and the result is in it.
            assert np.abs(got - want).max() <= 1e-6 * np.abs(want).max()
        pairs = h.top(2, tolerance=1e-5)
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(want)[::-1][:2], rtol=1e-5)


def test_progress_counts_products(monkeypatch):
    from rich.progress import Progress

    told = []
    right = Progress.update

    def update(self, task, **fields):
        told.append((fields.get("description"), fields.get("total")))
        return right(self, task, **fields)

    monkeypatch.setattr(Progress, "update", update)
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    ticks = []
    monkeypatch.setattr(Progress, "advance", lambda self, task, units: ticks.append(units))
    h = hessian.operator(*quadratic(noise(20)), progress=True)
    assert sum(ticks) == 0
    top = h.top(products=50)
    assert ("eigenpairs", 50) in told
    assert sum(ticks) == top.products


@pytest.mark.parametrize("order", ["largest", "smallest", "magnitude"])
@pytest.mark.parametrize("count", [1, 2])
def test_an_eigenvalue_of_which_the_start_has_next_to_nothing(order, count):
    """A few large ones of 60: Ritz values of others have small residuals before it shows."""
    draws = np.random.default_rng(5)
    worst = 0.0
    for seed in range(60):
        basis = np.linalg.qr(draws.standard_normal((60, 60)))[0]
        values = np.concatenate([np.zeros(55), draws.random(5)])
        values *= {"largest": 1, "smallest": -1, "magnitude": draws.choice([-1, 1], 60)}[order]
        matrix = torch.from_numpy((basis * values) @ basis.T)
        search = lanczos.Search(count, order, 1, 1e-3, True, 0.01, 1000, 60)
        generator = torch.Generator().manual_seed(seed)
        pairs = lanczos.extreme(lambda rows, m=matrix: rows @ m, matrix[:1], search, generator)
        size = np.abs(values).max()
        worst = max(worst, abs(abs(pairs.values[0]) - size) / size)
        assert pairs.converged.all()
    # A hundredth is what a run may overlook, with a probability of 1 %.
    assert worst < 0.01
