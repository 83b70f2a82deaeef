"""The density of a spectrum by stochastic Lanczos quadrature.

From a random start z a Lanczos run of m steps gives nodes θ and weights w (the squares of the first
entries of the tridiagonal matrix's eigenvectors) with Σ w f(θ) = zᵀf(M)z/zᵀz for every polynomial f
of degree 2m-1 at most, the expectation of which is tr f(M)/P (Golub & Meurant 1994; Lin, Saad &
Yang 2016; Ghorbani, Krishnan & Xiao 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessian._runtime.extras import extra
from hessian._spectrum.basis import Multiply, signs

Array = NDArray[np.float64]


class Density:
    """Where the eigenvalues lie: a density of mass one, its nodes and weights.

    Attributes:
        grid: values at which the density is given, ``[points]``.
        density: of the spectrum, broadened by a Gaussian of standard deviation `width`.
        band: lower and upper end ``[2, points]`` of the pointwise interval of level 0.95 from the
            spread over starts (Student's); NaN for a single start.
        nodes, weights: ``[starts, steps]``; the weights of a start sum to 1. Where a run ended
            early the rest have weight zero.
        width: of the broadening, in units of the eigenvalues.
        size: number of eigenvalues P.
        products: products with a vector that were taken.
    """

    def __init__(
        self, nodes: Array, weights: Array, size: int, products: int,
        grid: Array | None, points: int, width: float | None,
    ) -> None:  # fmt: skip
        self.nodes, self.weights, self.size, self.products = nodes, weights, size, products
        live = nodes[weights > 0]
        low, high = float(live.min()), float(live.max())
        reach = high - low or max(abs(high), 1.0)
        self.width = 0.01 * reach if width is None else float(width)
        margin = 4 * self.width
        self.grid = np.linspace(low - margin, high + margin, points) if grid is None else grid
        each = np.stack([self._broadened(n, w) for n, w in zip(nodes, weights, strict=True)])
        self.density = each.mean(0)
        half = _half_width(each)
        self.band = np.stack([self.density - half, self.density + half])

    def _broadened(self, nodes: Array, weights: Array) -> Array:
        gaps = (self.grid[:, None] - nodes) / self.width
        bells = np.exp(-0.5 * gaps**2) / (self.width * math.sqrt(2 * math.pi))
        result: Array = bells @ weights
        return result

    def mean(self, function: Callable[[Array], Array] = lambda t: t) -> tuple[float, float]:
        """tr f(H)/P with its standard error over starts, f elementwise; the mean eigenvalue.

        Exact in expectation for polynomials of degree 2·steps - 1.
        """
        values = np.where(self.weights > 0, function(self.nodes), 0.0)
        each = (values * self.weights).sum(1)
        count = len(each)
        error = float(each.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
        return float(each.mean()), error

    def plot(self, axes: Any = None) -> Any:
        """Draw density and band on a logarithmic scale, into matplotlib axes or new ones.

        Raises:
            ModuleNotFoundError: matplotlib, of the extra `display`, is not installed.
        """
        if axes is None:
            with extra("display", "Density.plot"):
                from matplotlib.figure import Figure
            axes = Figure(figsize=(7, 4), layout="constrained").subplots()
        floor = 1e-3 / (self.size * self.width)  # a thousandth of one eigenvalue's peak
        axes.fill_between(
            self.grid, np.maximum(self.band[0], floor), np.maximum(self.band[1], floor),
            alpha=0.3, linewidth=0,
        )  # fmt: skip
        axes.plot(self.grid, np.maximum(self.density, floor))
        axes.set(yscale="log", xlabel="eigenvalue", ylabel="density")
        axes.set_ylim(bottom=floor)
        return axes

    def save_picture(self, path: str | Path) -> None:
        """Write the plot to a file, whose ending says in which format.

        Raises:
            ModuleNotFoundError: matplotlib, of the extra `display`, is not installed.
        """
        self.plot().figure.savefig(path)


def _half_width(each: Array) -> Array:
    """Half of Student's interval for the mean over the first axis."""
    from scipy.stats import t

    count = len(each)
    if count < 2:
        return np.full(each.shape[1], np.nan)
    spread: Array = each.std(0, ddof=1) / math.sqrt(count) * float(t.ppf(0.975, count - 1))
    return spread


def quadrature(
    multiply: Multiply,
    like: Tensor,
    starts: int,
    steps: int,
    generator: torch.Generator,
    tick: Callable[[int], None] = lambda _: None,
) -> tuple[Array, Array, int]:
    """Nodes and weights ``[starts, steps]``, and the products taken.

    All starts take a step together; every run is orthogonalised against all of its vectors, twice.
    """
    now = signs(starts, generator, like)
    now /= now.norm(dim=1, keepdim=True)
    vectors = [now]
    diagonal, beside = np.zeros((starts, steps)), np.zeros((starts, steps))
    lengths = np.full(starts, steps)  # how far each run came
    scale = np.zeros(starts)
    alive = np.arange(starts)
    spent = 0
    for step in range(steps):
        product = torch.zeros_like(now)
        product[torch.from_numpy(alive).to(now.device)] = multiply(
            vectors[-1][torch.from_numpy(alive).to(now.device)]
        )
        spent += len(alive)
        tick(len(alive))
        alpha = (product * vectors[-1]).double().sum(1).cpu().numpy()
        diagonal[alive, step] = alpha[alive]
        for _ in range(2):
            for old in vectors:
                product = product - (product * old).sum(1, keepdim=True) * old
        beta = product.double().norm(dim=1).cpu().numpy()
        scale = np.maximum(scale, np.abs(alpha) + beta)
        noise = 100 * torch.finfo(like.dtype).eps * scale
        ended = [i for i in alive if beta[i] <= noise[i]]
        lengths[ended] = np.minimum(lengths[ended], step + 1)
        alive = np.array([i for i in alive if beta[i] > noise[i]], dtype=np.int64)
        if step + 1 == steps or not len(alive):
            break
        beside[alive, step] = beta[alive]
        divisor = torch.from_numpy(np.where(beta > noise, beta, np.inf)).to(product)
        vectors.append(product / divisor.unsqueeze(1))
    nodes, weights = np.zeros((starts, steps)), np.zeros((starts, steps))
    for i, m in enumerate(lengths):
        off = beside[i, : m - 1]
        matrix = np.diag(diagonal[i, :m]) + np.diag(off, 1) + np.diag(off, -1)
        nodes[i, :m], basis = np.linalg.eigh(matrix)
        weights[i, :m] = basis[0] ** 2
    return nodes, weights, spent
