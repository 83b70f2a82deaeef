"""Other matrices that an operator holds: the block of some parameters, or scaled by rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from torch import Tensor

from hessian._call.names import fits
from hessian._spectrum.scaled import Scaled, roots


class Views:
    """What of `Hessian` gives another one, of the same model, loss and data."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: Any
    _source: Any

    def layer(self, pattern: str) -> Self:
        """The diagonal block of some parameters: ``"layer1"``, ``"layer1.*"``, ``"*.bias"``.

        Raises:
            ValueError: none of the names fits.
        """
        fitting = any(fits(name, pattern) for name in self.names)
        return self.restricted(pattern if fitting else f"{pattern}.*")

    def restricted(self, *patterns: str) -> Self:
        """The diagonal block of the parameters whose names match, e.g. ``"layer1.*"``.

        Raises:
            ValueError: a pattern matches none of `names`.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> from hessian import operator
            >>> model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
            >>> data = torch.ones(1, 2), torch.ones(1, 1)
            >>> operator(model, nn.functional.mse_loss, data).restricted("2.*").names
            ('2.weight', '2.bias')
        """
        for pattern in patterns:
            if not any(fits(name, pattern) for name in self.names):
                raise ValueError(
                    f"patterns: {pattern!r} matches none of the parameters "
                    f"{', '.join(self.names[:8])}{', …' if len(self.names) > 8 else ''}"
                )
        if not patterns:
            raise ValueError('patterns is empty; name parameters, e.g. restricted("layer1.*")')
        chosen = [
            (name, shape)
            for name, shape in zip(self.names, self.shapes, strict=True)
            if any(fits(name, pattern) for pattern in patterns)
        ]
        source = self._source.of_names([name for name, _ in chosen])
        return self._of(source, tuple(shape for _, shape in chosen))

    def scaled(self, radius: Mapping[str, Tensor]) -> Self:
        """The preconditioned matrix ρ^½ H ρ^½, with the same methods: ρ is a rate for every entry.

        It has the eigenvalues of ρH. The step w ← w - γ ρ ∇L, with ρ held, has the Jacobian
        1 - γ ρ H, so a quadratic loss is descended in every direction just where γ is below 2/λ of
        ``top()``, which for plain gradient descent (ρ = 1) is the sharpness, and for CBLR, Adam or
        RMSprop the preconditioned sharpness. Its eigenvectors v are not those of ρH, which are
        ρ^½ v.

        Args:
            radius: name → ρ ≥ 0, finite, in the parameter's shape, for each of `names`; other
                names are left. `sim.optimizers.CBLR.radius` gives that of CBLR; that of Adam is
                1/(√v + ε).

        Raises:
            ValueError: a rate is missing, of another shape, negative or not finite.

        Source: Cohen et al. (2022), Adaptive Gradient Methods at the Edge of Stability.

        Example:
            L = mean (w·x)² with x = e₁, 2e₂, 3e₃ has the eigenvalues 2/3, 8/3 and 6.

            >>> import torch
            >>> from torch import nn
            >>> from hessian import operator
            >>> model = nn.Linear(3, 1, bias=False)
            >>> x, y = torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.zeros(3, 1)
            >>> h = operator(model, nn.functional.mse_loss, (x, y))
            >>> rates = {"weight": torch.tensor([[9.0, 0.0, 0.5]])}
            >>> h.scaled(rates).top(2).values.round(decimals=4)
            tensor([6., 3.], dtype=torch.float64)
        """
        scale = roots(radius, self.names, self.shapes)
        if isinstance(self._source, Scaled):
            return self._of(self._source.by(scale), self.shapes)
        return self._of(Scaled(self._source, scale), self.shapes)

    def _of(self, source: Any, shapes: tuple[tuple[int, ...], ...]) -> Self:
        return type(self)(source, shapes, np.dtype(self.dtype))  # type: ignore[call-arg]
