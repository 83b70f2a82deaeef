"""The verdict on an equation: a pure function of what is declared, printed and derived."""

from collections.abc import Sequence
from enum import Enum
from itertools import combinations
from typing import Any

from theory._compare import Likeness, compare, same_to_leading_order
from theory.declared import Reading, Repair, Small


class Verdict(Enum):
    """What comparing the printed equation with the derived one gives.

    >>> Verdict.WRONG_CONSTANT.value
    'wrong constant'
    """

    HOLDS = "holds"
    WRONG_CONSTANT = "wrong constant"
    TYPO = "typo"
    SIGN = "sign"
    APPROXIMATION = "approximation"
    AMBIGUOUS = "ambiguous"
    ASSUMPTION = "assumption"
    DEFINITION = "definition"
    FAILS = "fails"
    ABSENT = "absent"


_BY_KIND = {
    "absent": Verdict.ABSENT,
    "assumption": Verdict.ASSUMPTION,
    "definition": Verdict.DEFINITION,
}


def judge(
    kind: str,
    printed: Any,
    derived: Any,
    *,
    readings: Sequence[Reading] = (),
    repair: Repair | None = None,
    small: Small | None = None,
) -> Verdict:
    """Return the verdict; the first rule that applies decides.

    1. The kind: absent, assumption, definition.
    2. Readings that differ from one another: AMBIGUOUS. Readings that agree stand for the text.
    3. Printed equal to derived: HOLDS.
    4. Equal up to the sign: SIGN.
    5. Equal once the declared repair of the notation is made: TYPO.
    6. Equal up to a factor free of symbols: WRONG_CONSTANT.
    7. Ratio tending to one as the declared small quantity goes to zero: APPROXIMATION.
    8. FAILS.

    Two expressions are equal if they agree to 30 digits at several points of their domain, so that
    the form in which they are written does not matter.

    >>> from sympy import Symbol
    >>> x = Symbol("x", positive=True)
    >>> [judge("result", x, y).value for y in (x, -x, 2 * x, x**2)]
    ['holds', 'sign', 'wrong constant', 'fails']
    """
    if kind in _BY_KIND:
        return _BY_KIND[kind]
    if printed is None:
        return Verdict.ABSENT
    if readings:
        said = [reading.of(printed) for reading in readings]
        if any(compare(p, q).likeness is not Likeness.EQUAL for p, q in combinations(said, 2)):
            return Verdict.AMBIGUOUS
        printed = said[0]
    likeness = compare(printed, derived).likeness
    if likeness is Likeness.EQUAL:
        return Verdict.HOLDS
    if likeness is Likeness.SIGN:
        return Verdict.SIGN
    if repair is not None:
        repaired = repair.of(printed)
        if compare(repaired, derived).likeness is Likeness.EQUAL:
            return Verdict.TYPO
    if likeness is Likeness.CONSTANT:
        return Verdict.WRONG_CONSTANT
    if small is not None and same_to_leading_order(
        printed, derived, small.scaled, baseline=small.baseline
    ):
        return Verdict.APPROXIMATION
    return Verdict.FAILS
