"""Descent along lines, where slopes are those of the values and where they are not."""

import pytest
import torch

from hessian._descent import Limits, Search

NOISE = 1e-9


class Lines:
    """Functions of one variable with slopes of their own, which note where they were looked at."""

    def __init__(self, value, slope):
        self.value, self.slope = value, slope
        self.points: list[tuple[float, float]] = []

    def __call__(self, lanes, t):
        v, s = self.value(t), self.slope(t)
        self.points += list(zip(t.tolist(), v.tolist(), strict=True))
        return v, s

    def search(self, most=200, h=0.0):
        zero = torch.zeros(1, dtype=torch.float64)
        slope = self.slope(zero)
        return Search(
            self, slope, torch.full_like(slope, h), float(self.value(zero)),
            Limits(reach=100.0, size=1.0, tolerance=1e-6, noise=NOISE, most=most),
        )  # fmt: skip


def parabola(t):
    return (t - 1) ** 2


def downhill(t):
    return torch.full_like(t, -1.0)


def test_the_minimum_of_a_parabola():
    end = Lines(parabola, lambda t: 2 * (t - 1)).search(h=2.0).nearest()
    assert bool(end.converged)
    assert float(end.displacement) == pytest.approx(1.0, abs=1e-6)
    assert float(end.decrease) == pytest.approx(1.0, abs=1e-9)
    assert not bool(end.kink)


def test_the_minimum_of_a_corner():
    end = Lines(lambda t: (t - 1).abs(), lambda t: (t - 1).sign()).search().nearest()
    assert bool(end.converged)
    assert bool(end.kink)
    assert float(end.displacement) == pytest.approx(1.0, abs=1e-5)


def test_slopes_that_lead_on_through_a_smooth_minimum_are_not_believed():
    """As those of a straight-through estimator: the values turn, the slopes never do."""
    lines = Lines(parabola, downhill)
    end = lines.search(most=500).nearest()
    assert not bool(end.converged)
    assert not bool(end.kink)
    t, v = min(lines.points, key=lambda point: point[1])
    assert float(end.displacement) == t
    assert float(end.decrease) == pytest.approx(1.0 - v, abs=1e-12)


def test_a_jump_that_slopes_do_not_see_is_a_minimum():
    end = Lines(lambda t: torch.where(t < 1, -t, 5.0), downhill).search(most=500).nearest()
    assert bool(end.converged)
    assert float(end.displacement) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("most", [2, 3, 5, 8])
def test_a_search_that_is_cut_ends_at_the_least_value_seen(most):
    """Values rise and fall on the way, so the last point is not the least."""
    lines = Lines(lambda t: torch.cos(3 * t) + 0.01 * t, downhill)
    search = lines.search(most=most)
    end = search.nearest()
    assert len(lines.points) == most
    assert not bool(end.converged)
    here = float(lines.value(torch.zeros((), dtype=torch.float64)))
    t, v = min([*lines.points, (0.0, here)], key=lambda point: point[1])
    assert float(end.displacement) == t
    assert float(end.decrease) == here - v


def test_where_every_look_is_higher_nothing_is_gained():
    lines = Lines(lambda t: t.abs(), downhill)
    end = lines.search(most=4).nearest()
    assert not bool(end.converged)
    assert float(end.decrease) == 0.0
    assert float(end.displacement) == 0.0
