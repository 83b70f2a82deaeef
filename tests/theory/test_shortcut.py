"""The laws of the shortcut's error beyond their oracles: printed forms, limits, samples."""

import numpy as np
import pytest
import sympy
from scipy.stats import norm

import theory

rng = np.random.default_rng(20)


def test_the_printed_form():
    for p, w, h, n, sigma in ((0.1, 0.3, 2.0, 32, 0.7), (0.9, 2.0, 1e-4, 4096, 1e-3)):
        printed = w * h * n**0.5 / (sigma * norm.ppf(1 - p / 2))
        assert float(theory.shortcut_ratio_quantile(p, w, h, n, sigma)) == pytest.approx(printed)
        printed = w * (h * n) ** 0.5 / norm.ppf(1 - p / 2)
        assert float(theory.shortcut_ratio_quantile(p, w, h, n)) == pytest.approx(printed)


def test_batches_without_replacement_have_these_quantiles():
    """A population of 60 gradients with a mean, all its batches of 12 sampled."""
    population = rng.normal(0.4, 1.0, 60)
    mu, sigma = population.mean(), population.std()
    batches = np.array([rng.permutation(population)[:12].mean() for _ in range(40_000)])
    ratio = np.abs(1.7 / batches) * 0.3
    for p in (0.1, 0.5, 0.9):
        quantile = float(theory.shortcut_ratio_quantile(p, 1.7, 0.3, 12, sigma, mu, 60))
        # Of 40000 draws 5 standard deviations, and the normality of means of 12.
        assert (ratio <= quantile).mean() == pytest.approx(p, abs=5 * 0.5 / 200 + 0.01)
    # Without the mean, or without the population, a tenth would lie elsewhere.
    for wrong in ((0, 60), (mu, sympy.oo)):
        other = float(theory.shortcut_ratio_quantile(0.1, 1.7, 0.3, 12, sigma, *wrong))
        assert abs((ratio <= other).mean() - 0.1) > 5 * 0.5 / 200 + 0.01


def test_past_the_noise_scale_the_ratio_is_of_the_mean():
    law = [float(theory.shortcut_ratio_quantile(p, 3, 2, 10**8, 1, mu=0.5)) for p in (0.01, 0.99)]
    assert law == pytest.approx([12, 12], rel=1e-3)


def test_the_whole_population_leaves_nothing_to_chance():
    assert theory.shortcut_ratio_quantile(0.3, 3, 2, 10, 1, mu=-2, population=10) == 3
    assert theory.shortcut_ratio_quantile(0.3, 3, 2, 10, 1, population=10) == sympy.oo


def test_a_layer_of_varied_curvatures_follows_the_root_of_the_radius():
    size = 400_000
    w, log_h = rng.normal(0, 0.1, size), rng.normal(-6, 2, size)
    h = np.exp(log_h)
    ratio = np.abs(w / (rng.normal(size=size) * np.sqrt(h / 64)))
    slope = np.polyfit(-log_h, np.log(ratio), 1)[0]
    error = np.pi / 2 / 2 / size**0.5  # the residual's deviation over that of log h
    assert slope == pytest.approx(float(theory.shortcut_radius_slope(1, 2)), abs=5 * error)
    correlation = np.corrcoef(-log_h, np.log(ratio))[0, 1]
    law = float(theory.shortcut_radius_correlation(1, 2))
    assert correlation == pytest.approx(law, abs=5 / size**0.5)
    median = float(theory.shortcut_layer_median(0.1, np.exp(-6.0), 64))
    assert np.median(ratio * h) == pytest.approx(median, rel=5 * np.pi / 2 / size**0.5 * 2)
    mixture = theory.shortcut_entries_quantile(0.5, w[:5000], h[:5000], 64)
    assert mixture == pytest.approx(median, rel=0.15)


def test_entries_agree_with_one_entry_and_with_draws():
    w, h, mu = rng.normal(size=50), 10.0 ** rng.uniform(-3, 0, 50), rng.normal(size=50) / 20
    g = mu + rng.normal(size=(4000, 50)) * np.sqrt(h / 16)
    below = (np.abs(w / g) * h <= 0.7).mean()
    law = theory.shortcut_entries_probability(0.7, w, h, 16, mu=mu)
    assert below == pytest.approx(law, abs=5 * 0.5 / 200_000**0.5)
    one = theory.shortcut_ratio_quantile(0.3, 2, 0.5, 16, 0.4, mu=0.1, population=100)
    many = theory.shortcut_entries_quantile(0.3, [2.0] * 3, [0.5] * 3, 16, 0.4, 0.1, 100)
    assert many == pytest.approx(float(one), rel=1e-10)


def test_momentum_with_curvature_takes_the_steps_that_a_simulation_takes():
    lr, m, h, lanes = 0.5, 0.5, 1.0, 20_000
    w, v = np.zeros(lanes), np.zeros(lanes)
    for _ in range(60):
        v = m * v + h * w + rng.normal(size=lanes)
        step = -lr * v
        w += step
    law = float(theory.stationary_squared_step(lr, 1, 1, h, m))
    independent = float(theory.stationary_squared_step(lr, 1, 1, 0, m))
    assert (step**2).mean() == pytest.approx(law, rel=5 * (2 / lanes) ** 0.5)
    assert abs((step**2).mean() / independent - 1) > 0.1
    assert np.abs(step).mean() == pytest.approx(
        float(theory.stationary_abs_step(lr, 1, 1, h, m)), rel=5 * (0.6 / lanes) ** 0.5
    )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: theory.shortcut_ratio_probability(1, 1, 1, 4, 0), "^sigma is 0, and nothing is"),
        (lambda: theory.shortcut_entries_quantile(0.5, [0.0], [1.0], 1), "^w is zero in so many"),
        (lambda: theory.shortcut_entries_quantile(0.5, [1.0], [0.0], 1), "^h is nowhere positive"),
        (lambda: theory.shortcut_entries_quantile(0.5, [1.0], [1.0], 5, population=5),
         "^population is 5; it must be greater than n = 5"),
        (lambda: theory.layer_abs_gradient(1, [1, 2], [1]), "^mus has 1 values and sigmas 2"),
        (lambda: theory.ratio_quantile_bounds([1], [1, 2]), "^w has 1 values and g 2"),
        (lambda: theory.matrix_loss_decrease(1, 1, [[1]], [[1]], [1, 2]),
         "^gradient is .*; it must be a vector of 1 entries"),
    ],
)  # fmt: skip
def test_what_is_refused_says_why(call, says):
    with pytest.raises(ValueError, match=says):
        call()
