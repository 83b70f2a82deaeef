"""Second derivatives of a function of one number from its values alone.

D(s) = (f(s) - 2 f(0) + f(-s)) / s² over steps s that halve, extrapolated to s = 0 in powers of s²
(Richardson 1911; Ridders, Advances in Engineering Software 4, 1982). Two errors are weighed: what
neighbouring cells of the tableau disagree by, and the noise of f, which a difference amplifies by
4/s². A kink between -s and s makes cells disagree until the steps are smaller than its distance;
at the point itself the jump of the slope, s·D(s), stays as s shrinks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

# Bits of a float64: half the distance between 1 and the next number.
ROUNDING = 2.0**-53
# The first step in units of a power of two.
ODD = 0.8391
# Of points for the noise, in units of the first step: third differences of f are below 1e-18 f'''.
SPACING = 0.9173e-6
# Cells past this power of s² only mix in noise.
ORDERS = 5
# Neighbouring cells may agree better than they are right: near the top of a kink's share.
SAFETY = 2.0
# The shortest and the longest ladder; the longest reaches steps of 1e-8 of the first.
LEAST, MOST = 4, 28
# How often the first step may be doubled where larger ones are still smooth.
DOUBLINGS = 6


@dataclass(frozen=True)
class Difference:
    """The second derivative of a function at zero, from its values.

    Attributes:
        value: the estimate; NaN at a kink.
        error: how far it may be off; infinite at a kink.
        word: ``"smooth"``; ``"kink"`` where slope, value or second derivative jump at the point
            itself; ``"unclear"`` where no steps agree to a tenth of the value.
        step: the largest step that the estimate uses, all of it on this side of any kink.
        evaluations: how often the function was called.
    """

    value: float
    error: float
    word: str
    step: float
    evaluations: int


def noise(values: Sequence[float]) -> float:
    """Standard deviation of the rounding errors in values at equally spaced points.

    The k-th differences of a smooth function vanish with the spacing; those of independent errors
    of variance σ² have variance σ² (2k)! / (k!)². The least over k is taken, floored by the
    rounding of the values themselves.

    Source: Moré & Wild, Estimating computational noise, SIAM J. Sci. Comput. 33 (2011).
    """
    differences, sizes = list(values), []
    for k in range(1, len(values) - 2):
        differences = [b - a for a, b in pairwise(differences)]
        if k >= 2:
            mean = math.fsum(d * d for d in differences) / len(differences)
            sizes.append(math.sqrt(mean / math.comb(2 * k, k)))
    return max([min(sizes, default=0.0), *(ROUNDING * abs(v) for v in values)])


def spaced(f: Callable[[float], float], unit: float) -> list[float]:
    """Values at equally spaced points on one side, near enough for any smooth f to be straight.

    The spacing is no round number: rounding to float32 on the way is seen too.
    """
    return [f(k * SPACING * unit) for k in range(1, 10)]


@dataclass
class _Cell:
    value: float
    noise: float
    error: float


@dataclass
class _Tableau:
    """Richardson's extrapolation of estimates whose error is a series in powers of `ratio`."""

    ratio: float
    rows: list[list[_Cell]] = field(default_factory=list)

    def add(self, value: float, error: float) -> None:
        """Append the estimate at the next, halved step, with its noise."""
        row = [_Cell(value, error, math.inf)]
        if self.rows:
            above = self.rows[-1]
            row[0].error = SAFETY * abs(value - above[0].value) + error
            factor = 1.0
            for j in range(min(len(above), ORDERS)):
                factor *= self.ratio
                left, over = row[j], above[j]
                better = left.value + (left.value - over.value) / (factor - 1)
                spread = (factor * left.noise + over.noise) / (factor - 1)
                apart = max(abs(better - left.value), abs(better - over.value))
                row.append(_Cell(better, spread, SAFETY * apart + spread))
        self.rows.append(row)

    def best(self, row: int) -> int:
        """The cell of a row with the least error."""
        cells = self.rows[row]
        return min(range(len(cells)), key=lambda j: cells[j].error)

    def cell(self) -> tuple[int, int, float]:
        """Row, order and error of the best cell; a row that later ones contradict is worse.

        Among some sixty cells of a rough function a few agree by chance; smaller steps do not.
        """
        best = [self.rows[k][self.best(k)] for k in range(len(self.rows))]
        choice = (0, 0, math.inf)
        for k, cell in enumerate(best):
            apart = (abs(cell.value - after.value) - 3 * after.noise for after in best[k + 1 :])
            error = max(cell.error, *apart, 0.0)
            if error < choice[2]:
                choice = (k, self.best(k), error)
        return choice


class _Ladder:
    """Values of f at ± steps that halve, and what they say."""

    def __init__(self, f: Callable[[float], float], here: float, sigma: float) -> None:
        self.f, self.here, self.sigma = f, here, sigma
        self.evaluations = 0
        self.steps: list[float] = []
        self.sides: list[tuple[float, float]] = []  # f(s) - f(0) and f(-s) - f(0)

    def pair(self, step: float) -> tuple[float, float] | None:
        """f(s) - f(0) and f(-s) - f(0), None where one is not finite."""
        self.evaluations += 2
        sides = self.f(step) - self.here, self.f(-step) - self.here
        return sides if math.isfinite(sides[0]) and math.isfinite(sides[1]) else None

    def climb(self, step: float) -> None:
        """Append a step."""
        sides = self.pair(step)
        if sides is None:  # beyond a pole: only what is nearer counts
            self.steps, self.sides = [], []
            return
        self.steps.append(step)
        self.sides.append(sides)

    def central(self) -> _Tableau:
        """Extrapolation of D(s)."""
        tableau = _Tableau(4.0)
        for s, (up, down) in zip(self.steps, self.sides, strict=True):
            tableau.add((up + down) / s**2, 4 * self.sigma / s**2)
        return tableau

    def one_sided(self, side: int, start: int) -> _Tableau:
        """Extrapolation of (f(2s) - 2 f(s) + f(0)) / s², or of its mirror image, from a step on."""
        tableau = _Tableau(2.0)
        for k in range(start + 1, len(self.steps)):
            s = self.steps[k]
            wide, near = self.sides[k - 1][side], self.sides[k][side]
            tableau.add((wide - 2 * near) / s**2, 4 * self.sigma / s**2)
        return tableau

    def jumps(self) -> bool:
        """Whether slope or value jump at the point itself."""
        for power in (1, 2):
            terms = [
                ((up + down) / s ** (2 - power), 4 * self.sigma / s ** (2 - power))
                for s, (up, down) in zip(self.steps, self.sides, strict=True)
            ]
            clear = [k for k, (term, error) in enumerate(terms) if abs(term) > 50 * error]
            if len(clear) < 4 or clear[-1] < 6:
                continue
            last = clear[-1]
            # The part of s·D(s) that is linear in s, and of s²·D(s) that is so, taken away.
            limits = [2 * terms[k][0] - terms[k - 1][0] for k in (last, last - 1, last - 2)]
            if any(abs(limits[0]) > 50 * error for _, error in terms[last + 1 :]):
                continue  # smaller steps would show it, and do not
            near = abs(terms[last][0] - limits[0]) <= 0.1 * abs(limits[0])
            if near and all(abs(a - limits[0]) <= 0.1 * abs(limits[0]) for a in limits):
                return True
        return False

    def bends(self, start: int) -> bool:
        """Whether the second derivative differs between the sides, by the steps from one on."""
        while len(self.steps) < start + 4:
            self.climb(self.steps[-1] / 2)
            if not self.steps:  # not finite nearer by
                return False
        limits = []
        for side in (0, 1):
            tableau = self.one_sided(side, start)
            k, j, error = tableau.cell()
            limits.append((tableau.rows[k][j].value, error))
        (up, up_error), (down, down_error) = limits
        apart = abs(up - down)
        return apart > 20 * (up_error + down_error) and apart > 1e-2 * max(abs(up), abs(down))


def second_difference(
    f: Callable[[float], float],
    unit: float = 1.0,
    *,
    here: float | None = None,
    sigma: float | None = None,
    enough: float = 0.0,
    size: float = 0.0,
) -> Difference:
    """The second derivative of f at 0 with an error of its own.

    Args:
        f: the function; values that are not finite are stepped over.
        unit: the first step, of the size on which f is expected to change.
        here: f(0), if it is known.
        sigma: standard deviation of the errors in f; measured if it is not known.
        enough: an error below which no better estimate is looked for.
        size: of the number that the displacement is added to: it is rounded too.

    Example:
        >>> found = second_difference(math.exp)
        >>> abs(found.value - 1) < found.error < 1e-9
        True
        >>> second_difference(abs).word
        'kink'
    """
    here = f(0.0) if here is None else here
    if not math.isfinite(here):
        return Difference(math.nan, math.inf, "unclear", 0.0, 1)
    extra = 0
    if sigma is None:
        sigma, extra = noise(spaced(f, unit)), 9
    # No round number: on a lattice of steps a rounded function looks like the smooth one.
    unit = ODD * 2.0 ** math.floor(math.log2(unit))
    ladder = _Ladder(f, here, max(3 * sigma, ROUNDING * abs(here)))
    for step in _steps(ladder, unit, enough):
        ladder.climb(step)
        if len(ladder.steps) == 1:  # the number itself is rounded when a step is added to it
            up, down = ladder.sides[0]
            ladder.sigma += ROUNDING * (size + step) * abs(up - down) / (2 * step)
    return _read(ladder, extra)


def _steps(ladder: _Ladder, unit: float, enough: float) -> Iterator[float]:
    """Steps that halve until they agree well enough or drown in noise; then larger ones."""
    for k in range(MOST):
        yield unit * 2.0**-k
        if len(ladder.steps) >= LEAST:
            tableau = ladder.central()
            last, before = (tableau.rows[i][tableau.best(i)] for i in (-1, -2))
            if max(last.error, before.error, abs(last.value - before.value)) <= enough:
                return
            error = tableau.cell()[2]
            if 4 * ladder.sigma / ladder.steps[-1] ** 2 > 4 * error:
                break
    # Where the first, largest steps are the best of all, larger ones may be better still.
    for _ in range(DOUBLINGS):
        if not ladder.steps:
            return
        tableau = ladder.central()
        k, j, error = tableau.cell()
        if k - j > 0 or error <= enough:
            return
        wide = 2 * ladder.steps[0]
        sides = ladder.pair(wide)
        if sides is None:
            return
        ladder.steps.insert(0, wide)
        ladder.sides.insert(0, sides)
        if ladder.central().cell()[2] >= error:
            return


def _read(ladder: _Ladder, extra: int) -> Difference:
    """What the values of a ladder say."""
    if len(ladder.steps) < 2:
        return Difference(math.nan, math.inf, "unclear", 0.0, ladder.evaluations + extra)
    tableau = ladder.central()
    k, j, error = tableau.cell()
    value, step = tableau.rows[k][j].value, ladder.steps[k - j]
    if (error > 1e-3 * abs(value) and ladder.jumps()) or ladder.bends(k - j):
        return Difference(math.nan, math.inf, "kink", step, ladder.evaluations + extra)
    clear = error <= max(0.1 * abs(value), 4 * tableau.rows[k][j].noise)
    word = "smooth" if clear else "unclear"
    return Difference(value, error, word, step, ladder.evaluations + extra)
