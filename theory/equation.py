"""An equation of the paper beside what follows from its assumptions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from html import escape
from typing import Any

from sympy import Basic, Dummy, Eq, Expr, Le, Lt, Ne, Symbol, latex, sympify

from theory._compare import holds_numerically, ratio
from theory.declared import Reading as Reading
from theory.declared import Repair as Repair
from theory.declared import Small as Small
from theory.verdict import Verdict, judge

KINDS = ("result", "definition", "assumption", "absent")
_RELATIONS = {"=": Eq, "!=": Ne, "<": Lt, "<=": Le}
_LATEX_NAMES = {
    "lr": r"\mathrm{lr}(n)",
    "g": r"g_i",
    "w": r"w_i",
    "h": r"\frac{d^2L}{dw_i^2}",
    "b": r"b_i",
    "d": r"d_i",
    "a": r"a_i",
    "c": r"c_i",
    "R": r"R_i",
}


@dataclass(frozen=True)
class Step:
    """One step of a derivation: a sentence and a relation that `check` computes.

    `lhs` and `rhs` may hold integrals, limits and derivatives not yet carried out. `check` carries
    them out and compares the two sides at 30 digits, at points that the symbols' assumptions or
    `domain` (symbol, (low, high)) allow. An inequality is checked at those points, not proved.

    >>> from sympy import Integral, oo, exp
    >>> from theory.symbols import g
    >>> Step("The exponential is a density.", Integral(exp(-g), (g, 0, oo)), 1).check()
    True
    >>> Step("A wrong one.", Integral(exp(-2 * g), (g, 0, oo)), 1).check()
    False
    """

    sentence: str
    lhs: Any
    rhs: Any
    relation: str = "="
    domain: tuple[tuple[Any, tuple[Any, Any]], ...] = ()

    def __post_init__(self) -> None:
        if self.relation not in _RELATIONS:
            raise ValueError(
                f"relation is {self.relation!r}; it must be one of {', '.join(_RELATIONS)}"
            )
        object.__setattr__(self, "lhs", sympify(self.lhs))
        object.__setattr__(self, "rhs", sympify(self.rhs))

    @property
    def claim(self) -> Any:
        """The relation as one sympy object, not evaluated."""
        if isinstance(self.lhs, Expr) and isinstance(self.rhs, Expr):
            return _RELATIONS[self.relation](self.lhs, self.rhs, evaluate=False)
        return Eq(self.lhs, self.rhs, evaluate=False)

    def check(self) -> bool:
        """Carry out both sides and return whether the relation holds; cached."""
        return _checked(self)

    def latex(self) -> str:
        """The relation in LaTeX."""
        sign = {"=": "=", "!=": r"\neq", "<": "<", "<=": r"\leq"}[self.relation]
        return rf"{to_latex(self.lhs)} {sign} {to_latex(self.rhs)}"


@lru_cache(maxsize=1024)
def _checked(step: Step) -> bool:
    return holds_numerically(step.lhs, step.rhs, step.relation, dict(step.domain))


def _as_readings(readings: Any) -> tuple[Reading, ...]:
    """Readings as given, or made of bare sympy objects with or without names."""
    if isinstance(readings, Mapping):
        named = list(readings.items())
    else:
        named = [(f"reading {place}", r) for place, r in enumerate(readings or (), start=1)]
    return tuple(
        r if isinstance(r, Reading) else Reading(str(name), "", printed=sympify(r))
        for name, r in named
    )


@dataclass(frozen=True, repr=False)
class Equation:
    """One of the paper's 28 equations. `verdict` and `factor` are computed from the rest.

    `printed` and `derived` are right-hand sides where the equation equates something, and `subject`
    is its left-hand side; otherwise they are statements (a distribution, a condition).
    `dataclasses.replace` with another `printed` or `derived` gives another verdict.

    >>> import dataclasses
    >>> from theory import EQUATIONS
    >>> four = EQUATIONS["4"]
    >>> four.verdict.value, four.factor
    ('wrong constant', sqrt(2)/2)
    >>> dataclasses.replace(four, printed=four.derived).verdict.value
    'holds'
    """

    label: str
    section: str
    kind: str
    title: str
    subject: str
    printed: Any
    derived: Any
    note: str
    assumptions: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()
    repair: Repair | None = None
    small: Small | None = None
    steps: tuple[Step, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; it must be one of {', '.join(KINDS)}")
        object.__setattr__(self, "readings", _as_readings(self.readings))
        for name in ("printed", "derived"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Basic):
                object.__setattr__(self, name, sympify(value))

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict by `theory.verdict.judge`, which see for the order of its rules."""
        return judge(
            self.kind,
            self.printed,
            self.derived,
            readings=self.readings,
            repair=self.repair,
            small=self.small,
        )

    @cached_property
    def factor(self) -> Any:
        """derived / printed where both are expressions, otherwise None."""
        return ratio(self.printed, self.derived)

    @cached_property
    def reading_verdicts(self) -> dict[str, Verdict]:
        """The verdict on each reading by itself; empty where the text has one meaning."""
        return {
            reading.name: judge(
                self.kind,
                reading.of(self.printed) if reading.value is None else reading.value,
                self.derived if reading.derived is None else reading.derived,
            )
            for reading in self.readings
        }

    def __repr__(self) -> str:
        """The number, what it is about and the verdict.

        >>> from theory import EQUATIONS
        >>> EQUATIONS["4"].verdict.value in repr(EQUATIONS["4"])
        True
        """
        factor = "" if self.factor in (None, 1) else f", derived / printed = {self.factor}"
        verdict = f"{self.verdict.value}{factor}"
        return f"Equation({self.label}, section {self.section}, {self.title}: {verdict})"

    def _repr_html_(self) -> str:
        """For notebooks, which set the formulas."""
        head = f"Equation {self.label} (section {self.section}): {self.title}"
        parts = [
            f"<p><b>{escape(head)}</b>: {escape(self.verdict.value)}</p>",
            f"$${self.latex()}$$",
        ]
        if self.factor not in (None, 1):
            parts.append(f"<p>derived / printed = ${to_latex(self.factor)}$</p>")
        parts += [f"<p>{escape(text)}</p>" for text in (*self.assumptions, self.note) if text]
        return "".join(parts)

    def latex(self, part: str = "both") -> str:
        """LaTeX of what is printed, what is derived, or both one above the other.

        >>> from theory import EQUATIONS
        >>> EQUATIONS["14"].latex("printed")
        '\\\\frac{d^2L}{dw_i^2} = 2 a_i'
        """
        if part not in ("printed", "derived", "both"):
            raise ValueError(f"part is {part!r}; it must be 'printed', 'derived' or 'both'")
        if part != "both":
            return self._side(getattr(self, part))
        rows = [("printed", self.printed)]
        if self.derived is not None:
            rows.append(("reconstructed" if self.printed is None else "derived", self.derived))
        body = r" \\ ".join(rf"\text{{{name}:}}\quad & {self._side(side)}" for name, side in rows)
        return rf"\begin{{aligned}} {body} \end{{aligned}}"

    def _side(self, side: Any) -> str:
        if side is None:
            return r"\text{(not in the text)}" if self.kind == "absent" else r"\text{(none)}"
        if self.subject and isinstance(side, Expr):
            return f"{self.subject} = {to_latex(side)}"
        return to_latex(side)


def without_dummies(form: Any) -> Any:
    """The object with named symbols for dummies, whose order in print depends on the session."""
    return form.xreplace({d: Symbol(d.name, **d.assumptions0) for d in form.atoms(Dummy)})


def to_latex(form: Any) -> str:
    """LaTeX in the paper's names (g is g_i, lr is lr(n), h is the second derivative).

    >>> from theory.symbols import g, lr
    >>> to_latex(lr * g)
    'g_i \\\\mathrm{lr}(n)'
    """
    form = without_dummies(form)
    names = {
        s: _LATEX_NAMES[s.name]
        for s in form.free_symbols | form.atoms()
        if getattr(s, "name", None) in _LATEX_NAMES and s.is_Symbol
    }
    return str(latex(form, symbol_names=names, order="rev-lex"))
