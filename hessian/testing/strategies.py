"""Hypothesis strategies that draw networks, losses and data, for property tests.

Networks map [n, 3] to [n, 4] and are put together from parts: layers and norms of torch, weights
that are tied or read by the loss, complex numbers, control flow, and whatever stands between
autograd and the user (penalties left in attributes, gradient hooks, custom functions with torch's
names, weight norm, masks of -inf, sequence-first layouts, other dtypes).

Example:
    >>> from hypothesis import given, settings
    >>> from hessian.testing import strategies
    >>> @settings(max_examples=3, derandomize=True, deadline=None)
    ... @given(strategies.problems(parts=["relu", "tanh", "linear"], losses=["mse"]))
    ... def every_second_derivative_is_finite(problem):
    ...     model, loss, pairs = problem.make()
    ...     h = hessian.diagonal(model, loss, pairs)
    ...     assert all(bool(values.isfinite().all()) for values in h.values())
    >>> every_second_derivative_is_finite()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import hessian  # noqa: F401  (for the example)

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        "hessian.testing.strategies needs hypothesis; install it with pip install 'cblr[test]'"
    ) from error

from hessian.testing._kinds import FORMS, KINDS, Penalised, packed
from hessian.testing._losses import LOSSES, Loss
from hessian.testing._modules import MODULES, Module
from hessian.testing._parts import (
    FUNCTIONS,
    WIDTH,
    Broadcast,
    Choice,
    Complex,
    Fn,
    Matrix,
    Pair,
    Part,
    Rows,
    Sum,
    Twice,
)
from hessian.testing._parts import (
    Sequence as Positions,
)

__all__ = ["FORMS", "LOSSES", "PARTS", "Problem", "losses", "networks", "part", "problems"]


def _sum(how: str) -> nn.Module:
    inner = nn.Sequential(Part(WIDTH, WIDTH), nn.ReLU())
    return nn.Sequential(Sum(inner, how), *([Part(2 * WIDTH, WIDTH)] if how == "cat" else []))


def _norm(how: str) -> nn.Module:
    norm = nn.BatchNorm1d(WIDTH)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    assert norm.running_var is not None
    norm.running_var.uniform_(0.5, 2)
    return norm.eval() if how == "eval" else norm


_FAMILIES: dict[str, tuple[Callable[[str], nn.Module], Sequence[str]]] = {
    "sum": (_sum, ("add", "mul", "max", "cat")),
    "twice": (lambda how: Twice(Part(WIDTH, WIDTH), how), ("series", "parallel")),
    "broadcast": (lambda how: Broadcast(WIDTH, how), ("row", "one", "scalar")),
    "sequence": (
        lambda how: Positions(WIDTH, how), ("plain", "conv", "norm", "time-first", "attention"),
    ),
    "matrix": (
        lambda how: Matrix(WIDTH, how), ("matmul", "einsum", "slices", "norm", "symmetric"),
    ),
    "module": (Module, tuple(MODULES)),
    "pair": (Pair, ("one", "both")),
    "complex": (Complex, ("fourier", "modulus")),
    "rows": (Rows, ("plain", "padding", "bag")),
    "choice": (Choice, ("free", "frozen")),
    "batchnorm": (_norm, ("eval", "train")),
}  # fmt: skip
_SINGLE: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: Part(WIDTH, WIDTH),
    "prelu": nn.PReLU,
    "layernorm": lambda: nn.LayerNorm(WIDTH),
    **KINDS,
}

PARTS: tuple[str, ...] = (
    *FUNCTIONS,
    *_SINGLE,
    *(f"{kind}:{how}" for kind, (_, hows) in _FAMILIES.items() for how in hows),
)
"""Names of all parts that `networks` and `problems` draw."""

# Parts whose derivative is another one than that of the loss's value, by definition.
OWN = ("function:Sign",)


def part(name: str) -> nn.Module:
    """A part by its name, one of `PARTS`: a module from [n, 4] to [n, 4].

    Example:
        >>> part("twice:series")(torch.ones(2, 4)).shape
        torch.Size([2, 4])
    """
    if name in FUNCTIONS:
        return Fn(FUNCTIONS[name])
    if name in _SINGLE:
        return _SINGLE[name]()
    kind, _, how = name.partition(":")
    if kind not in _FAMILIES or how not in _FAMILIES[kind][1]:
        raise ValueError(f"name must be one of PARTS, got {name!r}")
    return _FAMILIES[kind][0](how)


@dataclass(frozen=True)
class Problem:
    """A network, a loss and data as they are drawn; `make` builds them.

    Attributes:
        parts: names of the parts between the first and the last layer.
        loss: name of the loss, one of `LOSSES`.
        n: number of samples.
        last: samples of a second, last batch; 0 for one batch.
        form: how inputs and outputs are packed, one of `FORMS`.
        seed: of weights and data.
        memory: bytes for `hessian.diagonal`; small ones make it take the batch in parts.
    """

    parts: tuple[str, ...]
    loss: str
    n: int
    last: int
    form: str
    seed: int
    memory: int | None

    def network(self) -> nn.Module:
        """The network in float64, as a plain module from [n, 3] to [n, 4]."""
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(self.seed)
            parts = [part(name) for name in self.parts]
            return nn.Sequential(Part(3, WIDTH), *parts, Part(WIDTH, 4)).double()

    def make(self) -> tuple[nn.Module, Loss, list[tuple[Any, Tensor]]]:
        """Model, loss and batches.

        Example:
            >>> problem = Problem(("tanh",), "mse", 5, 2, "tuple", 0, None)
            >>> model, loss, pairs = problem.make()
            >>> [len(targets) for _, targets in pairs], loss(model(pairs[0][0]), pairs[0][1]).dim()
            ([3, 2], 0)
        """
        network = self.network()
        generator = torch.Generator("cpu").manual_seed(self.seed)
        make_loss, targets = LOSSES[self.loss]
        plain = make_loss(network)
        penalised = [m for m in network.modules() if isinstance(m, Penalised)]

        def criterion(output: Any, target: Any) -> Tensor:
            total = plain(output, target)
            for module in penalised:
                assert module.penalty is not None
                total = total + module.penalty
            return total

        x = torch.randn(self.n, 3, generator=generator, dtype=torch.float64, device="cpu")
        y = targets(self.n, generator)
        if self.loss.startswith(("ignore", "weights")):
            y[-1] = 1  # a batch of ignored targets only has no loss
        cut = self.n - self.last
        pieces = [(x[:cut], y[:cut]), (x[cut:], y[cut:])] if self.last else [(x, y)]
        forms = [packed(network, criterion, some, self.form) for some, _ in pieces]
        pairs = [(inputs, t) for (_, _, inputs), (_, t) in zip(forms, pieces, strict=True)]
        return forms[0][0], forms[0][1], pairs

    def names_of_the_value(self) -> list[str]:
        """The parameters whose derivatives are those of the loss's value.

        Those below a surrogate gradient have another one by definition.
        """
        places = [i + 1 for i, name in enumerate(self.parts) if name in OWN]
        first = max(places, default=-1)
        names = [name for name, p in self.network().named_parameters() if p.requires_grad]
        return [f"inner.{name}" for name in names if int(name.split(".")[0]) > first]


def problems(
    parts: Sequence[str] = PARTS,
    losses: Sequence[str] = tuple(LOSSES),
    forms: Sequence[str] = FORMS,
    memories: Sequence[int | None] = (None, 1, 20_000),
) -> st.SearchStrategy[Problem]:
    """A network of one to five parts with a loss and two to six samples in one or two batches.

    Args:
        parts, losses, forms: names to draw from, of `PARTS`, `LOSSES` and `FORMS`.
        memories: bytes for `hessian.diagonal` to draw from.

    Example:
        >>> from hypothesis import find
        >>> find(problems(losses=["mse"]), lambda p: p.n > 3 and p.last > 0).loss
        'mse'
    """

    @st.composite
    def draw(draw: Callable[[Any], Any]) -> Problem:
        n = draw(st.integers(2, 6))
        return Problem(
            parts=tuple(draw(st.lists(st.sampled_from(parts), min_size=1, max_size=5))),
            loss=draw(st.sampled_from(losses)),
            n=n,
            last=draw(st.sampled_from([0, 0, n - n // 2, 2])) if n >= 4 else 0,
            form=draw(st.sampled_from(forms)),
            seed=draw(st.integers(0, 2**20)),
            memory=draw(st.sampled_from(memories)),
        )

    return draw()


def networks(parts: Sequence[str] = PARTS) -> st.SearchStrategy[nn.Module]:
    """A network in float64 from [n, 3] to [n, 4], of one to five parts.

    Example:
        >>> from hypothesis import find
        >>> network = find(networks(["tanh", "linear"]), lambda m: len(m) > 3)
        >>> network(torch.ones(2, 3).double()).shape
        torch.Size([2, 4])
    """
    return problems(parts, forms=("tensor",)).map(Problem.network)


def losses(names: Sequence[str] = tuple(LOSSES)) -> st.SearchStrategy[Any]:
    """A pair of functions: ``model → loss(output, target)`` and ``(n, generator) → targets``.

    Outputs are [n, 4].

    Example:
        >>> from hypothesis import find
        >>> make, targets = find(losses(["mse"]), lambda _: True)
        >>> targets(3, torch.Generator().manual_seed(0)).shape
        torch.Size([3, 4])
    """
    return st.sampled_from(names).map(LOSSES.__getitem__)
