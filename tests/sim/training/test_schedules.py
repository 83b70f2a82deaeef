import math

import pytest

from sim.training import Decay, Phase, TrainConfig, Warmup

N = 50


def plan(**fields):
    return TrainConfig(batch_size=20, **{"lr": 1.0, **fields}).plan(N)


def shapes(passes):
    return [(each.batch_size, each.steps, each.lr) for each in passes]


def test_remainders_are_kept_or_dropped():
    assert shapes(plan(epochs=2)[0]) == [(20, 3, 1.0)] * 2
    assert shapes(plan(epochs=2, drop_last=True)[0]) == [(20, 2, 1.0)] * 2
    sizes = (1024, 2048, 4096, 8192, 16384, 49152)
    for n in sizes:
        (first,), _ = TrainConfig(epochs=1, batch_size=n).plan(50000)
        assert 50000 - (first.steps - 1) * n == 848


def test_a_number_of_steps_breaks_the_last_pass_off():
    passes, rates = plan(steps=5)
    assert [(each.first, each.steps) for each in passes] == [(0, 3), (3, 2)]
    assert len(rates) == 5


def test_the_papers_first_epoch_and_its_controls():
    base = {"epochs": 3, "lr": 0.05}
    treated = plan(phases=[Phase(epochs=1, batch_size=5, lr=0.005)], **base)[0]
    assert shapes(treated) == [(5, 10, 0.005), (20, 3, 0.05), (20, 3, 0.05)]
    only_rate = plan(phases=[Phase(epochs=1, lr=0.005)], **base)[0]
    assert shapes(only_rate) == [(20, 3, 0.005), (20, 3, 0.05), (20, 3, 0.05)]
    # As many steps as the smaller batches would make, at the larger batch size.
    only_steps = plan(phases=[Phase(steps=10, lr=0.005)], epochs=6, lr=0.05)[0]
    assert shapes(only_steps) == [
        (20, 3, 0.005),
        (20, 3, 0.005),
        (20, 3, 0.005),
        (20, 1, 0.005),
        (20, 3, 0.05),
        (20, 3, 0.05),
    ]
    assert [each.first for each in only_steps] == [0, 3, 6, 9, 10, 13]


def test_phases_follow_one_another_and_the_end_of_the_run_cuts_them():
    phases = [Phase(epochs=1, batch_size=10), Phase(epochs=2, batch_size=25, lr=0.5)]
    assert shapes(plan(phases=phases, epochs=4)[0]) == [
        (10, 5, 1.0),
        (25, 2, 0.5),
        (25, 2, 0.5),
        (20, 3, 1.0),
    ]
    assert shapes(plan(phases=phases, epochs=2)[0]) == [(10, 5, 1.0), (25, 2, 0.5)]
    assert shapes(plan(phases=phases, steps=6)[0]) == [(10, 5, 1.0), (25, 1, 0.5)]


@pytest.mark.parametrize(
    ("warmup", "factors"),
    [
        ({"steps": 4, "start": 0.2}, [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1]),
        ({"epochs": 1, "start": 0.1}, [0.1, 0.4, 0.7, 1, 1, 1, 1, 1, 1]),
        ({"kind": "gradual", "epochs": 2, "start": 0}, [0, 0, 0, 0.5, 0.5, 0.5, 1, 1, 1]),
        ({"kind": "constant", "epochs": 1, "start": 0.3}, [0.3, 0.3, 0.3, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_warmups(warmup, factors):
    assert plan(epochs=3, warmup=Warmup(**warmup), lr=2.0)[1] == pytest.approx(
        [2 * factor for factor in factors], rel=1e-15
    )


@pytest.mark.parametrize(
    ("decay", "factors"),
    [
        ({"kind": "step", "milestones": (1, 2), "factor": 0.5}, [1, 1, 1, 0.5, 0.5, 0.5, 0.25]),
        ({"kind": "cosine"}, [(1 + math.cos(math.pi * t / 7)) / 2 for t in range(7)]),
        ({"kind": "polynomial", "power": 3}, [(1 - t / 7) ** 3 for t in range(7)]),
        ({"kind": "polynomial", "power": 1, "final": 0.3}, [1 - 0.7 * t / 7 for t in range(7)]),
    ],
)
def test_decays(decay, factors):
    assert plan(steps=7, decay=Decay(**decay))[1] == pytest.approx(factors, rel=1e-14)


def test_decay_begins_after_the_warmup():
    rates = plan(steps=6, warmup=Warmup(steps=2, start=0.5), decay=Decay(kind="cosine"))[1]
    after = [(1 + math.cos(math.pi * t / 4)) / 2 for t in range(4)]
    assert rates == pytest.approx([0.5, 0.75, *after], rel=1e-14)


def test_factors_multiply_the_rate_of_a_phase():
    rates = plan(epochs=2, phases=[Phase(epochs=1, lr=4.0)], warmup=Warmup(steps=2, start=0.5))[1]
    assert rates == [2.0, 3.0, 4.0, 1.0, 1.0, 1.0]


def test_a_batch_larger_than_the_data():
    with pytest.raises(ValueError, match=r"^batch_size: got 51, .* give at most 50"):
        plan(epochs=1, phases=[Phase(epochs=1, batch_size=51)])
