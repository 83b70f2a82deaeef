"""Minima of many functions of one variable at once, from their values and slopes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# How much of a step's fall may go unexplained by its mean slope. Larger steps over small ridges.
BENT = 0.05


class Ask(Protocol):
    """(lines, t) → values and slopes; all float64 on the CPU."""

    def __call__(self, lanes: Tensor, t: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass
class Found:
    """The ends of the searches, one for each line."""

    displacement: Tensor
    decrease: Tensor
    kink: Tensor
    converged: Tensor


@dataclass(frozen=True)
class Limits:
    """How far and how closely a search looks."""

    reach: float  # the largest displacement
    size: float  # the scale of the entries
    tolerance: float  # relative width at which a bracket is closed
    noise: float  # values nearer than this are not told apart; slopes decide
    most: int  # looks at one line


class Search:
    """Descent along many lines at once.

    A bracket (a, b) of a line keeps: the slope at a leads towards b, and at b it leads back, or
    the value at b is no less than that at a. Then a local minimum lies between, kink or not. Where
    slopes are not those of the values no such thing need be, and a line ends after so many looks.
    """

    def __init__(
        self,
        ask: Ask,
        g: Tensor,
        h: Tensor,
        value: float,
        limits: Limits,
    ) -> None:
        self.ask, self.g, self.h, self.here, self.limits = ask, g, h, value, limits
        toward = -g.sign() * float("inf")
        self.newton = torch.where(g == 0, 0.0, torch.where(h == 0, toward, -g / h))

    def _begin(self) -> None:
        """No looks yet; the least value seen is that of the present point."""
        self.looks = torch.zeros(len(self.g), dtype=torch.long, device="cpu")
        self.least, self.at_least = torch.full_like(self.g, self.here), torch.zeros_like(self.g)

    def _left(self, lanes: Tensor) -> Tensor:
        """The lines that may be looked at again."""
        return lanes[self.looks[lanes] < self.limits.most]

    def _found(self, t: Tensor, v: Tensor, kink: Tensor, ended: Tensor) -> Found:
        """The ends, and the least value seen where a search did not come to one downhill."""
        ended = ended & ~(v > self.here + self.limits.noise)
        v = torch.where(ended, v, self.least)
        return Found(
            torch.where(ended, t, self.at_least), (self.here - v).clamp_min(0), kink & ended, ended
        )

    def nearest(self) -> Found:
        """The first minimum downhill."""
        k = len(self.g)
        self._begin()
        a, va, sa = torch.zeros_like(self.g), torch.full_like(self.g, self.here), self.g.clone()
        way = torch.where(self.g.isfinite(), -self.g.sign(), 0.0)
        # Half of the parabola's way where there is one; small against the tensor anyway.
        step = torch.where(self.h > 0, self.newton.abs() / 2, torch.inf)
        step = step.clamp(max=min(self.limits.size / 64, self.limits.reach))
        least = step.clone()
        b, vb, sb = a.clone(), va.clone(), sa.clone()
        walking = (way != 0).nonzero().flatten()
        endless = torch.zeros(k, dtype=torch.bool, device="cpu")
        while len(walking):
            t = (a + way * step).clamp(-self.limits.reach, self.limits.reach)[walking]
            v, s = self._at(walking, t)
            # A line that bends little rises by its mean slope. Where it did not, something lies
            # in between: look closer, down to the first step's size.
            stride = t - a[walking]
            guess = va[walking] + (sa[walking] + s) / 2 * stride
            odd = (v - guess).abs() > BENT * (sa[walking] * stride).abs() + self.limits.noise
            odd &= step[walking] > least[walking]
            again, new = walking[odd], walking[~odd]
            step[again] /= 2
            b[new], vb[new], sb[new] = t[~odd], v[~odd], s[~odd]
            turned = (sb[new] * way[new] >= 0) | (vb[new] > va[new] + self.limits.noise)
            on = new[~turned]
            a[on], va[on], sa[on] = b[on], vb[on], sb[on]
            done = on[b[on].abs() >= self.limits.reach]
            endless[done] = True
            on = on[b[on].abs() < self.limits.reach]
            step[on] *= 2
            walking = self._left(torch.cat([on, again]))
        moving = (way != 0) & ~endless
        cut = moving & (self.looks >= self.limits.most)
        t, v, kink, ended = self._close(a, va, sa, b, vb, sb, way, moving & ~cut)
        t = torch.where(endless, way * float("inf"), t)
        return self._found(t, v, kink, ended & ~cut & self.g.isfinite())

    def lowest(self, points: int) -> Found:
        """The same at the lowest of the values on a grid, and on from there."""
        k = len(self.g)
        self._begin()
        grid = torch.linspace(
            -self.limits.reach, self.limits.reach, points, dtype=torch.float64, device="cpu"
        )
        every = torch.arange(k, device="cpu")
        table = [
            self._at(every, torch.full((k,), float(t), dtype=torch.float64, device="cpu"))
            for t in grid
        ]
        values = torch.stack([v for v, _ in table])  # [points, k]
        slopes = torch.stack([s for _, s in table])
        self.looks.zero_()
        best = values.argmin(0)
        a, va, sa = grid[best], values[best, every], slopes[best, every]
        way = -sa.sign()
        endless = ((best == 0) & (way < 0)) | ((best == points - 1) & (way > 0))
        aside = (best + way.long()).clamp(0, points - 1)
        b, vb, sb = grid[aside], values[aside, every], slopes[aside, every]
        t, v, kink, ended = self._close(a, va, sa, b, vb, sb, way, (way != 0) & ~endless)
        far = self._found(torch.where(endless, way * float("inf"), t), v, kink, ended)
        # The grid may be too coarse for the valley of the present point.
        near = self.nearest()
        better = far.decrease > near.decrease + self.limits.noise
        return Found(
            torch.where(better, far.displacement, near.displacement),
            torch.where(better, far.decrease, near.decrease),
            torch.where(better, far.kink, near.kink),
            torch.where(better, far.converged, near.converged),
        )

    def _at(self, lanes: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        v, s = self.ask(lanes, t)
        bad = ~(v.isfinite() & s.isfinite())  # an overflow is uphill
        v, s = torch.where(bad, torch.inf, v), torch.where(bad, t.sign() * torch.inf, s)
        self.looks[lanes] += 1
        less = v < self.least[lanes]
        self.least[lanes[less]], self.at_least[lanes[less]] = v[less], t[less]
        return v, s

    def _close(
        self,
        a: Tensor,
        va: Tensor,
        sa: Tensor,
        b: Tensor,
        vb: Tensor,
        sb: Tensor,
        way: Tensor,
        moving: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Shrink the brackets: secant steps on the slope and halvings, in turn.

        Returns:
            Displacements, values, kinks, and which of them came to an end.
        """
        t, v, ended = a.clone(), va.clone(), ~moving
        kink = torch.zeros(len(a), dtype=torch.bool, device="cpu")
        lanes, start, turn = moving.nonzero().flatten(), sa.abs(), 0
        while len(lanes):
            turn += 1
            fa, fb = sa[lanes] * way[lanes], sb[lanes] * way[lanes]
            share = fa / (fa - fb)  # of the way from a, where fa < 0, to b
            halve = (fb < 0) | ~share.isfinite() | (turn % 2 == 0)
            share = torch.where(halve, 0.5, share)
            m = a[lanes] + share * (b[lanes] - a[lanes])
            vm, sm = self._at(lanes, m)
            fm = sm * way[lanes]
            back = (fm >= 0) | (vm > va[lanes] + self.limits.noise)
            for kept, new in ((b, m), (vb, vm), (sb, sm)):
                kept[lanes[back]] = new[back]
            for kept, new in ((a, m), (va, vm), (sa, sm)):
                kept[lanes[~back]] = new[~back]
            width = (b[lanes] - a[lanes]).abs()
            rounding = 4 * torch.finfo(torch.float64).eps
            narrow = width <= self.limits.tolerance * m.abs() + rounding * self.limits.size
            # A slope this small is zero, where it has been seen to pass through zero; a plateau,
            # where it is zero exactly, is closed in on from the side that falls.
            flat = (
                ((fb >= 0) | (fm > 0))
                & (fm != 0)
                & (fm.abs() <= 0.1 * self.limits.tolerance * start[lanes])
            )
            ends = lanes[narrow]
            lower = vb[ends] < va[ends]
            t[ends] = torch.where(lower, b[ends], a[ends])
            v[ends] = torch.where(lower, vb[ends], va[ends])
            # Through a smooth minimum the slope shrinks with the bracket; at a jump it stays.
            jump = (sb[ends] - sa[ends]).abs()
            kink[ends] = jump > 100 * self.limits.tolerance * start[ends]
            t[lanes[flat]], v[lanes[flat]] = m[flat], vm[flat]
            kink[lanes[flat]] = False
            # Both slopes lead on, but the values rise, and not by a jump: one of them lies.
            lie = (sb[lanes] * way[lanes] < 0) & (vb[lanes] - va[lanes] <= self.limits.noise)
            ended[lanes[(narrow & ~lie) | flat]] = True
            lanes = self._left(lanes[~(narrow | flat)])
        return t, v, kink, ended
