"""Networks, data and measurements. May use `hessian`, never `theory`."""

from sim import data, models, optimizers, training
from sim._measurements.compare_radii import compare_radii
from sim._measurements.gradient_moments import GradientMoments, gradient_moments
from sim._measurements.mean_abs_gradient import mean_abs_gradient
from sim._measurements.monitor import Monitor, monitor
from sim._measurements.sharpness import sharpness
from sim._measurements.stable_gamma import Stability, Trial, stable_gamma
from sim.training import Run, TrainConfig, sweep, train

__all__ = [
    "GradientMoments",
    "Monitor",
    "Run",
    "Stability",
    "TrainConfig",
    "Trial",
    "compare_radii",
    "data",
    "gradient_moments",
    "mean_abs_gradient",
    "models",
    "monitor",
    "optimizers",
    "sharpness",
    "stable_gamma",
    "sweep",
    "train",
    "training",
]
