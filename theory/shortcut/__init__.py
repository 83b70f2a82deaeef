"""The error of equation 17, |w/g| for the radius: of one parameter, and over a layer."""

from theory.shortcut.entries import shortcut_entries_probability, shortcut_entries_quantile
from theory.shortcut.entry import (
    shortcut_largest_share,
    shortcut_ratio_probability,
    shortcut_ratio_quantile,
    shortcut_share_within,
)
from theory.shortcut.layer import (
    shortcut_layer_median,
    shortcut_layer_quantile,
    shortcut_layer_share_within,
    shortcut_radius_correlation,
    shortcut_radius_slope,
)

__all__ = [
    "shortcut_entries_probability",
    "shortcut_entries_quantile",
    "shortcut_largest_share",
    "shortcut_layer_median",
    "shortcut_layer_quantile",
    "shortcut_layer_share_within",
    "shortcut_radius_correlation",
    "shortcut_radius_slope",
    "shortcut_ratio_probability",
    "shortcut_ratio_quantile",
    "shortcut_share_within",
]
