"""Statements that are no expressions: a distribution, `x ~ D`, `x -> x0`."""

from typing import Any

from sympy import Basic, sympify


class Gaussian(Basic):
    """The normal distribution with a mean and a *standard deviation*, as the paper writes it.

    >>> from theory.symbols import sigma
    >>> Gaussian(0, sigma)
    Gaussian(0, sigma)
    """

    def __new__(cls, mean: Any, sd: Any) -> Any:
        return Basic.__new__(cls, sympify(mean), sympify(sd))

    def _latex(self, printer: Any, exp: Any = None) -> str:
        mean, sd = (printer._print(part) for part in self.args)
        return rf"\mathcal{{N}}\left({mean}, {sd}\right)"


class Distributed(Basic):
    """The statement that a variable has a distribution.

    >>> from theory.symbols import g, sigma
    >>> Distributed(g, Gaussian(0, sigma)).args[0]
    g
    """

    def __new__(cls, variable: Any, distribution: Any) -> Any:
        return Basic.__new__(cls, sympify(variable), sympify(distribution))

    def _latex(self, printer: Any, exp: Any = None) -> str:
        variable, distribution = (printer._print(part) for part in self.args)
        return rf"{variable} \sim {distribution}"


class Tends(Basic):
    """The condition that a variable goes to a value.

    >>> from theory.symbols import w
    >>> Tends(w, 0).args
    (w, 0)
    """

    def __new__(cls, variable: Any, value: Any) -> Any:
        return Basic.__new__(cls, sympify(variable), sympify(value))

    def _latex(self, printer: Any, exp: Any = None) -> str:
        variable, value = (printer._print(part) for part in self.args)
        return rf"{variable} \to {value}"
