"""What may be declared of an equation beside its sides: readings, a repair, a small quantity."""

from dataclasses import dataclass
from typing import Any

from sympy import sympify

from theory._compare import by_name


@dataclass(frozen=True)
class Reading:
    """One meaning the text allows: what the printed symbols stand for.

    `replace` are pairs put into the printed object, or `printed` is the whole object as read here;
    `value` is what the result comes to, where
    that is another expression (a limit as the layer grows); `derived` is what follows under this
    reading, where it differs from the equation's own.
    """

    name: str
    meaning: str
    replace: tuple[tuple[Any, Any], ...] = ()
    printed: Any = None
    value: Any = None
    derived: Any = None

    def of(self, printed: Any) -> Any:
        """The printed object with the symbols replaced by what they stand for here."""
        if self.printed is not None:
            return sympify(self.printed)
        return by_name(printed).subs(list(self.replace))


@dataclass(frozen=True)
class Repair:
    """The least change of the notation that makes the printed object right: old becomes new."""

    sentence: str
    old: Any
    new: Any

    def of(self, printed: Any) -> Any:
        """The printed object with the change made."""
        return by_name(printed).xreplace({self.old: self.new})


@dataclass(frozen=True)
class Small:
    """The small quantity of an approximation, and how it is made to vanish.

    `scaled` are pairs (symbol, expression in `symbols.EPSILON`); the leading order is what is
    left as EPSILON goes to zero. `baseline` is subtracted from both sides first, so that a
    constant in common does not hide a difference.
    """

    name: str
    quantity: Any
    scaled: tuple[tuple[Any, Any], ...]
    baseline: Any = 0
