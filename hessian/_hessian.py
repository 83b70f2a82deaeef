"""The matrix that `operator` returns: products, eigenpairs, traces, densities, sums by layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from hessian._known_diagonal import known_diagonal
from hessian._results.storage import storable
from hessian._runtime.progress import Ticker
from hessian._spectrum import arguments
from hessian._spectrum.density import Density, quadrature
from hessian._spectrum.display import Display
from hessian._spectrum.eigenpairs import Eigenpairs
from hessian._spectrum.lanczos import Search, extreme
from hessian._spectrum.layers import Layers, summed
from hessian._spectrum.products import TOGETHER, Products
from hessian._spectrum.scaled import Scaled
from hessian._spectrum.source import Source
from hessian._spectrum.trace import Trace, estimated
from hessian._spectrum.views import Views
from hessian._spectrum.written_out import WrittenOut

T = TypeVar("T")

# Vectors of a basis, with their products, where the memory has room for more; bytes for them
# whatever the memory.
BASIS, LEAST = 400, 2**22


@storable
class Hessian(Display, Views, LinearOperator):
    """The P×P Hessian over the parameters in the model's order, flattened and concatenated.

    With ``kind=`` it is the Gauss-Newton matrix or a Fisher matrix, with the same methods.

    Attributes:
        kind: which matrix it is.
        names: parameter names in that order.
        shapes: their shapes.
        samples: number of samples in the data of the last product; 0 before the first.
        parts: the most parts of its samples that a batch was taken in, in the last product.
        held: why a batch that needs more than the memory given was held whole there, or empty.
    """

    def __init__(
        self,
        source: Source | WrittenOut | Scaled,
        shapes: tuple[tuple[int, ...], ...],
        dtype: np.dtype[Any],
    ) -> None:
        self.kind, self.names, self.shapes = source.kind, source.names, shapes
        self.samples, self.parts, self.held = 0, 1, ""
        self._source = source
        self._open: Any = None  # products whose tapes are kept
        size = sum(self._sizes().values())
        super().__init__(dtype=dtype, shape=(size, size))

    @classmethod
    def _of_fields(cls, **fields: Any) -> Hessian:
        source = WrittenOut(**fields)
        return cls(source, source.shapes, np.dtype(str(source.rows.dtype).removeprefix("torch.")))

    def __copy__(self) -> Hessian:
        return Hessian(self._source, self.shapes, np.dtype(self.dtype))

    def _sizes(self) -> dict[str, int]:
        """Number of entries by parameter."""
        return {n: torch.Size(s).numel() for n, s in zip(self.names, self.shapes, strict=True)}

    def _matvec(self, vector: NDArray[Any]) -> NDArray[Any]:
        return self._matmat(np.asarray(vector).reshape(-1, 1)).reshape(-1)

    def _matmat(self, matrix: NDArray[Any]) -> NDArray[Any]:
        columns = np.asarray(matrix)
        if np.iscomplexobj(columns):
            raise TypeError(
                "the vector is complex; multiply its real and its imaginary part, one by one"
            )

        def compute(products: Products, _: Ticker) -> NDArray[Any]:
            rows = torch.from_numpy(np.ascontiguousarray(columns.T)).to(products.like)
            result: NDArray[Any] = products(rows).cpu().numpy().T.astype(self.dtype)
            return result

        product: NDArray[Any] = self._within(compute, keep=columns.shape[1] > TOGETHER, walks=True)
        return product

    def _adjoint(self) -> Hessian:
        return self  # a Hessian is symmetric

    def _transpose(self) -> Hessian:
        return self

    def _within(self, compute: Any, keep: bool = True, walks: bool = False) -> Any:
        """What `compute` makes of the products, on tapes that are kept already or from here on."""

        def noted(products: Products, bar: Ticker) -> Any:
            result = compute(products, bar)
            if products.count:
                self.samples = products.samples
                self.parts, self.held = products.division.parts, products.division.held
            return result

        if self._open is not None:
            return noted(self._open, Ticker())
        return self._source.lent(noted, keep, walks)

    @contextmanager
    def kept(self) -> Iterator[Hessian]:
        """A block in which products share the tapes of the forward pass and the gradient.

        As far as these fit into the memory; `top` and its like do so by themselves. The model is
        lent until the block ends: leave it alone inside, and let other threads wait.

        Example:
            >>> from scipy.sparse.linalg import eigsh
            >>> from torch import nn
            >>> from hessian import operator
            >>> model = nn.Linear(3, 1, bias=False)
            >>> x, y = torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.zeros(3, 1)
            >>> with operator(model, nn.functional.mse_loss, (x, y)).kept() as h:
            ...     values = eigsh(h, k=1, return_eigenvectors=False)
            >>> values.round(4).tolist()
            [6.0]
        """
        if self._open is not None:
            yield self
            return
        with self._source.kept() as products:
            self._open = products
            try:
                yield self
            finally:
                self._open = None

    def top(
        self,
        k: int = 1,
        *,
        by: str = "value",
        tolerance: float = 1e-3,
        accuracy: str = "value",
        missed: float | None = 0.01,
        block: int = 1,
        products: int = 1000,
        generator: torch.Generator | None = None,
    ) -> Eigenpairs:
        """The k largest eigenvalues, largest first, with their vectors by parameter name.

        Largest by value, negative ones being the smallest, unless `by` says otherwise. A block
        Krylov space with full reorthogonalisation, on tapes that are kept between products.

        Args:
            k: how many.
            by: ``"value"``, or ``"magnitude"`` for the largest |λ|.
            tolerance: relative to each eigenvalue.
            accuracy: what must come within it: ``"value"``, the eigenvalue (the residual, or the
                estimate residual²/gap where that is less; the vector is then within about
                residual/gap), or ``"vector"``, the residual ‖Hv - λv‖ itself.
            missed: with at most this probability an eigenvalue is missing that lies a hundredth of
                the first one beyond it, or before the last and a hundredth of the largest size from
                all others; or one that is repeated comes out less often than it is there. To look
                for these takes products more; `None` to leave both.
            block: vectors that are multiplied at a time, and copies that the first search meets.
            products: how many may be spent. What did not converge by then is returned with what is
                known of it, and a warning.
            generator: source of the start (CPU); seeded with 0 by default.

        Returns:
            `Eigenpairs`: a sequence of `Eigenpair`, each with its residual and error; ``.values``.

        Raises:
            TypeError, ValueError: an argument is wrong, k more than P; as `operator`.

        Warns:
            RuntimeWarning: some pairs did not converge, or some may be missing.

        Source: Wu & Simon (2000) for thick restarts, Parlett (1998) for the bounds; the
        probability by the Christoffel function of the quadrature (Golub & Meurant 2010).

        Example:
            L = mean (w·x)² with x = e₁, 2e₂, 3e₃ has the eigenvalues 2/3, 8/3 and 6.

            >>> from torch import nn
            >>> from hessian import operator
            >>> model = nn.Linear(3, 1, bias=False)
            >>> x, y = torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.zeros(3, 1)
            >>> pairs = operator(model, nn.functional.mse_loss, (x, y)).top(2)
            >>> [round(pair.value, 4) for pair in pairs]
            [6.0, 2.6667]
            >>> pairs[0].vector["weight"].abs().round(decimals=4)
            tensor([[0., 0., 1.]])
        """
        arguments.one_of("by", by, ("value", "magnitude"))
        order = "largest" if by == "value" else "magnitude"
        return self._extreme(k, order, tolerance, accuracy, missed, block, products, generator)

    def bottom(
        self,
        k: int = 1,
        *,
        tolerance: float = 1e-3,
        accuracy: str = "value",
        missed: float | None = 0.01,
        block: int = 1,
        products: int = 1000,
        generator: torch.Generator | None = None,
    ) -> Eigenpairs:
        """The k smallest eigenvalues by value, the most negative first; arguments as for `top`.

        The smallest in magnitude lie inside the spectrum, where products alone do not reach;
        `density` says how many there are.

        Example:
            >>> from torch import nn
            >>> from hessian import operator
            >>> model = nn.Linear(3, 1, bias=False)
            >>> x, y = torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.zeros(3, 1)
            >>> h = operator(model, nn.functional.mse_loss, (x, y))
            >>> round(h.bottom()[0].value, 4)
            0.6667
        """
        return self._extreme(k, "smallest", tolerance, accuracy, missed, block, products, generator)

    def _extreme(
        self, k: int, order: str, tolerance: float, accuracy: str, missed: float | None,
        block: int, budget: int, generator: torch.Generator | None,
    ) -> Eigenpairs:  # fmt: skip
        size = self.shape[0]
        arguments.count("k", k)
        if k > size:
            raise ValueError(f"k is {k}, more than the {size} eigenvalues that there are")
        arguments.positive("tolerance", tolerance)
        arguments.one_of("accuracy", accuracy, ("value", "vector"))
        arguments.count("products", budget, k)
        if missed is not None:
            arguments.positive("missed", missed)
        width = min(arguments.count("block", block), size, budget)
        draw = arguments.Draw(generator)
        bytes_ = self._source.memory

        def compute(products: Products, bar: Ticker) -> Eigenpairs:
            like = products.like
            share = max(LEAST, (bytes_ or products.bound) // 2)
            room = share // (2 * size * like.element_size())
            most = min(size, max(2 * k + 2 * width + 8, min(BASIS, room)))
            is_value = accuracy == "value"
            search = Search(k, order, width, tolerance, is_value, missed, budget, most)
            bar.begin("eigenpairs", budget)
            ritz = extreme(products, like, search, draw(), bar.tick)
            return Eigenpairs(ritz, self.names, self.shapes)

        pairs: Eigenpairs = self._within(compute)
        if late := pairs.shortfall(budget, tolerance, missed):
            warnings.warn(late, RuntimeWarning, stacklevel=3)
        return pairs

    def trace(
        self,
        *,
        method: str = "auto",
        products: int = 90,
        relative_error: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Trace:
        """The trace: exact where `plan` says that the diagonal is cheap, else estimated.

        Args:
            method: ``"exact"``, the sum of the exact diagonal; ``"hutch++"`` or ``"hutchinson"``,
                from products with random signs; ``"auto"``, exact where that takes no more
                passes than the products would.
            products: how many may be spent on an estimate.
            relative_error: stop as soon as the standard error is below this part of the value
                (looked at from the fourth probe on).
            generator: source of the signs (CPU); seeded with 0 by default.

        Returns:
            A `Trace` with ``.value``, ``.standard_error`` and ``.products``; ``float`` of it is
            the value.

        Raises:
            TypeError, ValueError: an argument is wrong; as `operator`, and as `estimate` for the
                exact trace of another kind than the Hessian.

        Source: Hutchinson (1990); Meyer, Musco, Musco & Woodruff (2021).

        Example:
            >>> from torch import nn
            >>> from hessian import operator
            >>> model = nn.Linear(3, 1, bias=False)
            >>> x, y = torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.zeros(3, 1)
            >>> h = operator(model, nn.functional.mse_loss, (x, y))
            >>> print(h.trace())
            9.333333 (exact)
        """
        arguments.one_of("method", method, ("auto", "exact", "hutch++", "hutchinson"))
        arguments.count("products", products, 3 if method in ("auto", "hutch++") else 2)
        if relative_error is not None:
            arguments.positive("relative_error", relative_error)
        draw = arguments.Draw(generator)
        if (known := known_diagonal(self._source, method, products)) is not None:
            total = sum(float(h.double().sum()) for h in known.values())
            return Trace(total, 0.0, 0, "exact")
        chosen = "hutch++" if method == "auto" else method

        def compute(vectors: Products, bar: Ticker) -> Trace:
            bar.begin("trace", products)
            like = vectors.like
            return estimated(vectors, like, chosen, products, relative_error, draw(), bar.tick)

        result: Trace = self._within(compute)
        return result

    def density(
        self,
        *,
        starts: int = 8,
        steps: int = 40,
        grid: NDArray[np.float64] | None = None,
        points: int = 1000,
        width: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Density:
        """The density of the eigenvalues by stochastic Lanczos quadrature.

        Args:
            starts: random vectors (signs), whose spread gives the band.
            steps: products with each: as many nodes.
            grid: where to give the density; `points` places over the spectrum by default.
            width: standard deviation of the Gaussian that broadens it; by default a hundredth of
                the range of the nodes.
            generator: source of the starts (CPU); seeded with 0 by default.

        Returns:
            A `Density`: grid, density, band, nodes and weights; ``.plot()``,
            ``.save_picture(path)``, and ``.mean(f)`` for tr f(H)/P with its standard error.

        Raises:
            TypeError, ValueError: an argument is wrong; as `operator`.

        Source: Ghorbani, Krishnan & Xiao (2019); Lin, Saad & Yang (2016).

        Example:
            >>> from torch import nn
            >>> from hessian import operator
            >>> model = nn.Linear(3, 1, bias=False)
            >>> x, y = torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.zeros(3, 1)
            >>> density = operator(model, nn.functional.mse_loss, (x, y)).density(starts=2)
            >>> density.nodes[0, :3].round(3).tolist(), round(density.mean()[0] * 3, 3)
            ([0.667, 2.667, 6.0], 9.333)
        """
        arguments.count("starts", starts)
        arguments.count("steps", steps)
        arguments.count("points", points, 2)
        if width is not None:
            arguments.positive("width", width)
        places = None if grid is None else arguments.grid(grid)
        draw = arguments.Draw(generator)
        length = min(steps, self.shape[0])

        def compute(products: Products, bar: Ticker) -> Density:
            bar.begin("density", starts * length)
            found = quadrature(products, products.like, starts, length, draw(), bar.tick)
            return Density(*found[:2], self.shape[0], found[2], places, points, width)

        result: Density = self._within(compute)
        return result

    def layers(
        self,
        *,
        method: str = "auto",
        probes: int = 32,
        generator: torch.Generator | None = None,
    ) -> Layers:
        """Trace and Frobenius norm of every layer's diagonal block.

        A layer is a module with parameters of its own. Its trace is exact, the sum of its exact
        diagonal, where `plan` says that this is cheap; the Frobenius norm is exact for layers of
        at most `probes` entries, and estimated by E‖H_l z‖² over random signs z for all others.

        Args:
            method: ``"exact"`` or ``"probes"`` for the traces, ``"auto"`` as for `trace`.
            probes: products for each layer.
            generator: source of the signs (CPU); seeded with 0 by default.

        Returns:
            `Layers`: module name → `Layer`, which holds every value with its standard error, 0
            where it is exact; ``print`` shows a table.

        Raises:
            TypeError, ValueError: as `trace`.

        Example:
            >>> from torch import nn
            >>> from hessian import operator
            >>> model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1))
            >>> data = torch.ones(1, 2), torch.ones(1, 1)
            >>> with torch.no_grad():
            ...     for p in model.parameters():
            ...         _ = p.fill_(1.0)
            >>> layers = operator(model, nn.functional.mse_loss, data).layers()
            >>> layers["0"].trace, layers["1"].trace, round(layers["0"].frobenius, 4)
            (4.0, 10.0, 4.0)
        """
        arguments.one_of("method", method, ("auto", "exact", "probes"))
        arguments.count("probes", probes, 2)
        draw = arguments.Draw(generator)
        sizes = self._sizes()
        known = known_diagonal(self._source, method, probes * len(sizes))

        def compute(products: Products, bar: Ticker) -> Layers:
            bar.begin("layers", probes * len(sizes))
            return summed(products, products.like, sizes, known, probes, draw(), bar.tick)

        result: Layers = self._within(compute)
        return result
