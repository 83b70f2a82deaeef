"""The Hessian's diagonal blocks by layer: traces and Frobenius norms, exact or with an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hessian._spectrum.basis import Multiply, signs

# Vectors that are multiplied together.
TOGETHER = 16


@dataclass(frozen=True)
class Layer:
    """One layer's diagonal block H_l of the matrix, over all parameters of one module.

    Attributes:
        name: of the module; empty for the model itself.
        parameters: names of its parameters.
        size: number of their entries.
        trace: tr H_l.
        trace_error: its standard error, 0 where it is exact.
        diagonal_norm: norm of the block's diagonal; exact with the trace, else NaN.
        frobenius: ‖H_l‖, the root of the sum of all squared entries.
        frobenius_error: its standard error, 0 where it is exact.
    """

    name: str
    parameters: tuple[str, ...]
    size: int
    trace: float
    trace_error: float
    diagonal_norm: float
    frobenius: float
    frobenius_error: float


class Layers(Mapping[str, Layer]):
    """Mapping from module name to `Layer`; ``print`` shows a table.

    Attributes:
        products: products with a vector that were taken.
    """

    def __init__(self, layers: Sequence[Layer], products: int) -> None:
        self._layers = {layer.name: layer for layer in layers}
        self.products = products

    def __getitem__(self, name: str) -> Layer:
        return self._layers[name]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __str__(self) -> str:
        width = max(5, *(len(name) for name in self))
        lines = [f"{'layer':{width}} {'entries':>11} {'trace':>22} {'Frobenius norm':>22}"]
        lines += [
            f"{one.name:{width}} {one.size:11,} {_with(one.trace, one.trace_error):>22} "
            f"{_with(one.frobenius, one.frobenius_error):>22}"
            for one in self.values()
        ]
        return "\n".join(lines)


def _with(value: float, error: float) -> str:
    return f"{value:.5g} (exact)" if error == 0 else f"{value:.4g} ± {error:.1g}"


def by_layer(names: Sequence[str]) -> dict[str, list[str]]:
    """The parameters' names by the module that they belong to, in order."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    return layers


def summed(
    multiply: Multiply,
    like: Tensor,
    sizes: Mapping[str, int],
    diagonal: Mapping[str, Tensor] | None,
    probes: int,
    generator: torch.Generator,
    tick: Callable[[int], None] = lambda _: None,
) -> Layers:
    """Every layer's sums; `sizes` of the parameters in their order, `diagonal` where it is known.

    A block of at most `probes` entries is written out; of others ‖Hz‖² and zᵀHz of random signs z
    on the layer alone are averaged, E‖H_l z‖² being ‖H_l‖² (and E zᵀH_l z the trace).
    """
    starts, first = {}, 0
    for name, size in sizes.items():
        starts[name] = slice(first, first + size)
        first += size
    layers, spent = [], 0
    for layer, members in by_layer(list(sizes)).items():
        places = [starts[name] for name in members]
        entries = torch.cat([torch.arange(s.start, s.stop, device=like.device) for s in places])
        is_exact = len(entries) <= probes
        vectors = (
            torch.eye(len(entries), dtype=like.dtype, device=like.device)
            if is_exact
            else signs(probes, generator, like[..., : len(entries)])
        )
        traces: list[float] = []
        squares: list[float] = []
        for part in vectors.split(TOGETHER):
            full = like.new_zeros((len(part), first))
            full[:, entries] = part
            block = multiply(full)[:, entries].double()
            traces += (block * part).sum(1).tolist()
            squares += block.square().sum(1).tolist()
            tick(len(part))
        spent += len(vectors)
        trace, trace_error = _moments(traces, is_exact)
        square, square_error = _moments(squares, is_exact)
        norm = math.nan
        if diagonal is not None:
            of_layer = torch.cat([diagonal[name].double().reshape(-1).cpu() for name in members])
            trace, trace_error = float(of_layer.sum()), 0.0
            norm = float(of_layer.norm())
        elif is_exact:
            norm = math.sqrt(math.fsum(t * t for t in traces))
        root = math.sqrt(square)
        layers.append(
            Layer(
                layer, tuple(members), len(entries), trace, trace_error, norm,
                root, square_error / (2 * root) if root else square_error,
            )
        )  # fmt: skip
    return Layers(layers, spent)


def _moments(values: Sequence[float], is_exact: bool) -> tuple[float, float]:
    """The sum of all values, without an error; or the mean of some, with its standard error."""
    total = math.fsum(values)
    if is_exact:
        return total, 0.0
    n = len(values)
    mean = total / n
    if n < 2:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n * (n - 1)))
