"""The laws the paper's assumptions imply; each takes numbers or sympy symbols."""

from theory.laws.abs_distance import expected_abs_distance
from theory.laws.abs_gradient import expected_abs_gradient
from theory.laws.abs_step import expected_abs_step
from theory.laws.loss_decrease import expected_loss_decrease
from theory.laws.numeric import numeric

__all__ = [
    "expected_abs_distance",
    "expected_abs_gradient",
    "expected_abs_step",
    "expected_loss_decrease",
    "numeric",
]
