"""Exact curvature radii of every parameter tensor (equation 9)."""

from typing import Any

import torch
from torch import Tensor

import hessian
from hessian import devices
from sim.training.config.losses import PerSample
from sim.training.engine.network import Network

QUANTILES = (0.25, 0.5, 0.75)


def curvature(
    network: Network, per_sample: PerSample, pair: tuple[Tensor, Tensor], step: int
) -> list[dict[str, Any]]:
    """A row for every parameter tensor, from the mean loss over the given samples.

    The network is in evaluation mode: dropout is off, batch norm uses its running statistics.
    """

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return per_sample(output, target).mean()

    with network.evaluating(), devices.without_autocast(pair[0].device):
        diagonal = hessian.diagonal(network.model, loss, pair)
    rows = []
    for name, h in diagonal.items():
        g = diagonal.gradient[name]
        radius = hessian.radius(g, h).flatten().double()
        low, median, high = (_quantile(radius, q) for q in QUANTILES)
        rows.append(
            {
                "lane": 0,
                "step": step,
                "parameter": name,
                "size": h.numel(),
                "gradient_abs": float(g.abs().mean(dtype=torch.float64)),
                "curvature_abs": float(h.abs().mean(dtype=torch.float64)),
                "radius_median": median,
                "radius_low": low,
                "radius_high": high,
                "zero_curvature": float((h == 0).double().mean()),
                "negative_curvature": float((h < 0).double().mean()),
            }
        )
    return rows


def _quantile(values: Tensor, q: float) -> float:
    """The value below which a share q lies, without interpolation: radii may be infinite."""
    k = max(1, min(values.numel(), round(q * (values.numel() - 1)) + 1))
    return float(values.kthvalue(k).values)
