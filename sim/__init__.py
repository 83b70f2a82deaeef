"""Networks, data and measurements. May use `hessian`, never `theory`."""

from sim import data, models, optimizers
from sim._compare_radii import compare_radii
from sim._gradients import GradientMoments, gradient_moments, mean_abs_gradient

__all__ = [
    "GradientMoments",
    "compare_radii",
    "data",
    "gradient_moments",
    "mean_abs_gradient",
    "models",
    "optimizers",
]
