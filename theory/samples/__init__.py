"""E|g_n| where per-sample gradients are not Gaussian: closed forms, and any distribution at all."""

from theory.samples.characteristic import characteristic_integral, expected_abs_mean
from theory.samples.edgeworth import edgeworth_abs_gradient
from theory.samples.exponential import exponential_abs_gradient
from theory.samples.laplace import laplace_abs_gradient
from theory.samples.stable import stable_abs_gradient
from theory.samples.student import student_abs_gradient

__all__ = [
    "characteristic_integral",
    "edgeworth_abs_gradient",
    "expected_abs_mean",
    "exponential_abs_gradient",
    "laplace_abs_gradient",
    "stable_abs_gradient",
    "student_abs_gradient",
]
