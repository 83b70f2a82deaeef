"""The laws the paper's assumptions imply; each takes numbers or sympy symbols."""

from theory.laws.abs_distance import expected_abs_distance
from theory.laws.abs_gradient import expected_abs_gradient
from theory.laws.abs_step import expected_abs_step
from theory.laws.bend import bend_batch_size, gradient_noise_scale
from theory.laws.finite_population import finite_population_abs_mean
from theory.laws.loss_decrease import expected_loss_decrease
from theory.laws.numeric import numeric

__all__ = [
    "bend_batch_size",
    "expected_abs_distance",
    "expected_abs_gradient",
    "expected_abs_step",
    "expected_loss_decrease",
    "finite_population_abs_mean",
    "gradient_noise_scale",
    "numeric",
]
