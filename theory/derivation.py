"""A derivation of one of the laws: what is claimed, how firmly, and the steps that check it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from theory.equation import Step

FIRMNESS = ("theorem", "under assumptions", "asymptotic")


@dataclass(frozen=True)
class Statement:
    """A sentence and how firmly it holds: a theorem, under assumptions, or asymptotic with a rate.

    `rate` is the order of the relative error, which an asymptotic statement must have.

    Raises ValueError for a firmness that is none of the three, or an asymptotic one without a rate.

    >>> Statement("theorem", "A mean of n terms has variance sigma^2/n.").firmness
    'theorem'
    """

    firmness: str
    text: str
    rate: str = ""

    def __post_init__(self) -> None:
        if self.firmness not in FIRMNESS:
            raise ValueError(
                f"firmness is {self.firmness!r}; it must be one of {', '.join(FIRMNESS)}"
            )
        if (self.firmness == "asymptotic") != bool(self.rate):
            raise ValueError(
                f"rate is {self.rate!r}; an asymptotic statement must have one, no other may"
            )


@dataclass(frozen=True)
class Derivation:
    """The derivation of a law. `formulas` and `steps` are built on first use and kept.

    `laws` names the public functions it supports; `formulas` maps the LaTeX of a left-hand side to
    the sympy expression that the public function itself returns, so that there is no second copy.

    >>> from theory import DERIVATIONS
    >>> DERIVATIONS["bend"].laws
    ('bend_batch_size', 'gradient_noise_scale')
    >>> all(step.check() for step in DERIVATIONS["bend"].steps)
    True
    """

    name: str
    title: str
    laws: tuple[str, ...]
    statements: tuple[Statement, ...]
    source: str
    make_formulas: Callable[[], Mapping[str, Any]] = field(repr=False)
    make_steps: Callable[[], tuple[Step, ...]] = field(repr=False)

    @cached_property
    def formulas(self) -> Mapping[str, Any]:
        """LaTeX of a left-hand side to what the public function returns for symbols."""
        return dict(self.make_formulas())

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The checked steps."""
        return self.make_steps()
