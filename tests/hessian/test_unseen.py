"""What a Krylov space says of eigenvalues that it has not shown, beside what is really there."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from hessian._spectrum import lanczos, unseen

SIZE = 60


def matrix(values, first, seed=0):
    """Symmetric, with these eigenvalues; `start()` has the part `first` along the first vector."""
    z = start(seed, len(values))
    z = z / np.linalg.norm(z)
    draws = np.random.default_rng(seed).standard_normal((len(values), len(values)))
    other = draws[:, 0] - z * (z @ draws[:, 0])
    draws[:, 0] = first * z + math.sqrt(1 - first**2) * other / np.linalg.norm(other)
    basis = np.linalg.qr(draws)[0]
    return (basis * values) @ basis.T, basis


def start(seed, size):
    """The vector that a search with this generator begins with."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((1, size), generator=generator, dtype=torch.float64)[0].numpy()


def search(values, first, seed=0, *, count=1, order="largest", most=SIZE, tolerance=1e-3):
    m = torch.from_numpy(matrix(values, first, seed)[0])
    wanted = lanczos.Search(count, order, 1, tolerance, True, 0.01, 1000, most)
    generator = torch.Generator().manual_seed(seed)
    return lanczos.extreme(lambda rows: rows @ m, m[:1], wanted, generator)


@pytest.mark.parametrize("order", ["largest", "smallest", "magnitude"])
@pytest.mark.parametrize("most", [10, 14, SIZE])
def test_no_eigenvector_has_more_of_the_start_than_is_said(monkeypatch, order, most):
    """At every eigenvalue, at every look: the true share of the start is no larger."""
    values = np.sort(np.random.default_rng(1).normal(size=SIZE))[::-1]
    m, basis = matrix(values, 1e-3)
    z = start(0, SIZE)
    true = (basis.T @ z) ** 2 / (z @ z)
    looks, restarts, tight = 0, set(), 0
    right = unseen.Start.unseen

    def looked(self, space, *arguments):
        nonlocal looks, tight
        looks += 1
        restarts.add(len(self.filters))
        bounds = self.shares(space, values)
        # At one that has converged the polynomials cancel: some five digits are left.
        assert (bounds >= true * (1 - 1e-4) - 1e-14).all()
        tight += int((bounds < 10 * true).sum())
        return right(self, space, *arguments)

    monkeypatch.setattr(unseen.Start, "unseen", looked)
    tensor = torch.from_numpy(m)
    for count, tolerance in ((1, 1e-2), (3, 1e-2), (3, 1e-8)):
        wanted = lanczos.Search(count, order, 1, tolerance, True, 1e-4, 400, most)
        generator = torch.Generator().manual_seed(0)
        lanczos.extreme(lambda rows: rows @ tensor, tensor[:1], wanted, generator)
    assert looks > 3
    assert tight > looks  # of some it says nearly what is there
    assert (max(restarts) > 1) == (most < SIZE)


@pytest.mark.parametrize("most", [12, SIZE])
def test_the_first_one_of_which_the_start_has_next_to_nothing(most):
    """Twenty times as much as a hundredth of all starts have less of; another converges at once."""
    share = 20 * stats.beta.ppf(0.01, 0.5, (SIZE - 1) / 2)
    values = np.concatenate([[1.0, 0.9], np.linspace(-0.1, 0.1, SIZE - 2)])
    for seed in range(5):
        pairs = search(values, math.sqrt(share), seed, most=most)
        assert pairs.converged.all()
        assert pairs.missed <= 0.01
        assert pairs.values[0] == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("most", [16, SIZE])
@pytest.mark.parametrize("order", ["largest", "smallest", "magnitude"])
def test_one_between_of_which_the_start_has_next_to_nothing(monkeypatch, order, most):
    monkeypatch.setattr(lanczos, "LOOK", 1)  # which would find it by luck
    monkeypatch.setattr(lanczos, "_missing", lambda *a: 0.0)
    share = 20 * stats.beta.ppf(0.01, 0.5, (SIZE - 1) / 2)
    sign = -1 if order == "smallest" else 1
    values = sign * np.concatenate([[0.8, 1.0, 0.5], np.linspace(-0.1, 0.1, SIZE - 3)])
    if order == "magnitude":
        values[0] *= -1
    for seed in range(5):
        pairs = search(values, math.sqrt(share), seed, count=2, order=order, most=most)
        assert pairs.missed <= 0.01
        assert np.abs(pairs.values) == pytest.approx([1.0, 0.8], rel=1e-3)


def test_products_that_end_before_it_is_known():
    values = np.concatenate([[1.0, 0.9], np.linspace(-0.1, 0.1, SIZE - 2)])
    m = torch.from_numpy(matrix(values, 1e-4)[0])
    wanted = lanczos.Search(1, "largest", 1, 1e-3, True, 0.01, 5, SIZE)
    pairs = lanczos.extreme(lambda rows: rows @ m, m[:1], wanted, torch.Generator().manual_seed(0))
    assert pairs.converged.all()
    assert pairs.missed > 0.01


def test_a_chance_is_that_of_a_random_direction():
    draws = np.random.default_rng(0).standard_normal((100_000, 12))
    shares = draws[:, 0] ** 2 / (draws**2).sum(1)
    for limit in (1e-4, 1e-2, 0.2):
        seen = (shares <= limit).mean()
        # Four standard errors of a share of 100,000.
        assert unseen.chance(limit, 12) == pytest.approx(seen, abs=4 * math.sqrt(seen / 1e5))
    assert unseen.chance(7.0, 12) == 1.0


def test_a_restart_is_a_polynomial_applied_to_the_start():
    draws = np.random.default_rng(3)
    off = draws.random(7) + 0.5
    t = np.diag(draws.normal(size=8)) + np.diag(off, 1) + np.diag(off, -1)
    values, weights = np.linalg.eigh(t)
    order = np.argsort(-np.abs(values))  # of both signs
    values, weights = values[order], weights[:, order]
    new = unseen.Start()
    new.restart(values, weights, 4)
    applied = np.eye(8)[0]
    for root in values[4:]:
        applied = (t - root * np.eye(8)) @ applied
    growth = np.linalg.norm(applied)
    kept = weights[:, :4] @ new.coordinates
    assert np.abs(kept - applied / growth).max() < 1e-13
    place = np.abs(values).max() + 1.0
    want = np.prod(place - values[4:]) ** 2 / growth**2
    logarithm = new.filters[0].growth(np.array([place]))
    assert logarithm == pytest.approx(math.log(want), rel=1e-12)


@pytest.mark.parametrize(
    ("order", "want"),
    [
        ("largest", [[1.01, 0.51, 0.99]]),
        ("smallest", [[-0.808, -0.79, -0.01]]),
        ("magnitude", [[1.01, 0.81, 0.99], [-0.808]]),
    ],
)
def test_places_lie_apart_from_all_values_seen(order, want):
    """A hundredth of the largest size beyond the first, and from end to end of every gap."""
    values = np.array([1.0, 0.5, 0.0, -0.8])
    places = unseen._places(values, order, 2)
    for side, (outside, *ends) in zip(places, want, strict=True):
        assert side[0] == pytest.approx(outside)
        if ends:
            assert len(side) == 1 + unseen.BETWEEN
            assert sorted((side[1], side[-1])) == pytest.approx(ends)
