"""The laws the paper's assumptions imply; each takes numbers or sympy symbols."""

from theory.laws.abs_distance import expected_abs_distance
from theory.laws.abs_gradient import expected_abs_gradient
from theory.laws.abs_step import expected_abs_step
from theory.laws.bend import bend_batch_size, gradient_noise_scale
from theory.laws.cblr import cblr_basin, cblr_convergence, cblr_largest_gamma, cblr_step
from theory.laws.finite_population import finite_population_abs_mean
from theory.laws.gauss_newton import gauss_newton_gap, kink_curvature
from theory.laws.largest_batch import lars_largest_batch, mclr_largest_batch
from theory.laws.lars import lars_rate
from theory.laws.layer_gradient import layer_abs_gradient, spread_abs_gradient
from theory.laws.loss_decrease import expected_loss_decrease
from theory.laws.matrix_decrease import matrix_loss_decrease, off_diagonal_noise
from theory.laws.numeric import numeric
from theory.laws.stationary_distance import stationary_abs_distance, stationary_distance_deviation
from theory.laws.stationary_step import stationary_abs_step, stationary_squared_step
from theory.laws.tail import radius_tail, radius_tail_constant

__all__ = [
    "bend_batch_size",
    "cblr_basin",
    "cblr_convergence",
    "cblr_largest_gamma",
    "cblr_step",
    "expected_abs_distance",
    "expected_abs_gradient",
    "expected_abs_step",
    "expected_loss_decrease",
    "finite_population_abs_mean",
    "gauss_newton_gap",
    "gradient_noise_scale",
    "kink_curvature",
    "lars_largest_batch",
    "lars_rate",
    "layer_abs_gradient",
    "matrix_loss_decrease",
    "mclr_largest_batch",
    "numeric",
    "off_diagonal_noise",
    "radius_tail",
    "radius_tail_constant",
    "spread_abs_gradient",
    "stationary_abs_distance",
    "stationary_abs_step",
    "stationary_distance_deviation",
    "stationary_squared_step",
]
