"""The radius |w/g| over a layer: its distribution, and every layer-wise rule made from it."""

from theory.ratio.distribution import (
    ratio_density,
    ratio_mean,
    ratio_probability,
    ratio_quantile,
)
from theory.ratio.distributions import rule_limit_of
from theory.ratio.estimate import RuleEstimate, rule_estimate
from theory.ratio.finite_layer import (
    lars_mean,
    percent_delta_centre,
    percent_delta_mean,
    percent_delta_moments,
)
from theory.ratio.identities import (
    lars_ratio_mean,
    percent_delta_ratio_mean,
    ratio_quantile_bounds,
)
from theory.ratio.rules import RULES, rule_growth_exponent, rule_limit, rule_standard_error

__all__ = [
    "RULES",
    "RuleEstimate",
    "lars_mean",
    "lars_ratio_mean",
    "percent_delta_centre",
    "percent_delta_mean",
    "percent_delta_moments",
    "percent_delta_ratio_mean",
    "ratio_density",
    "ratio_mean",
    "ratio_probability",
    "ratio_quantile",
    "ratio_quantile_bounds",
    "rule_estimate",
    "rule_growth_exponent",
    "rule_limit",
    "rule_limit_of",
    "rule_standard_error",
]
