"""Threads that share the samples: the same result, and nothing left changed."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._routes import affine as _affine
from hessian._routes import sweep as _sweep
from hessian._runtime import workers as _workers
from tests.hessian import oracle


@pytest.fixture
def threads(monkeypatch):
    monkeypatch.setattr(_affine, "LARGE", 0)
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 6, 3, padding=1),
        nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 8), nn.ReLU(), nn.Linear(8, 4),
    ).double().eval()  # fmt: skip
    return model, torch.randn(7, 2, 6, 6, dtype=torch.float64), torch.randint(0, 4, (7,))


@pytest.mark.parametrize("count", [1, 2, 3, 8, 11])
def test_any_number_of_threads_gives_the_diagonal(threads, count, monkeypatch):
    calls = []
    monkeypatch.setattr(
        _workers, "run", lambda jobs, run=_workers.run: (calls.append(len(jobs)), run(jobs))
    )
    model, x, y = network()
    want = oracle.diagonal(model, F.cross_entropy, [(x, y)])
    threads(count)
    oracle.assert_exact(hessian.diagonal(model, F.cross_entropy, (x, y)), want)
    assert torch.get_num_threads() == count
    assert calls == [min(count, len(x), _workers.MOST)]


def test_weights_in_several_places_and_small_parts(threads, monkeypatch):
    monkeypatch.setattr(_sweep, "CACHE", 1)
    torch.manual_seed(0)
    tied = nn.Conv1d(5, 5, 3, padding=1)
    model = nn.Sequential(
        tied, nn.ReLU(), nn.Conv1d(5, 5, 1), nn.ReLU(), tied, nn.Flatten()
    ).double()
    x, y = torch.randn(9, 5, 2, dtype=torch.float64), torch.randint(0, 10, (9,))
    threads(3)
    got = hessian.diagonal(model, F.cross_entropy, (x, y))
    oracle.assert_exact(got, oracle.diagonal(model, F.cross_entropy, [(x, y)]))


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_failure_ends_the_others_and_is_raised(threads, failing):
    threads(3)
    stopped = []

    def job(number):
        def run(check):
            if number == failing:
                raise ValueError(f"job {number}")
            try:
                for _ in range(10**6):
                    check()
                    threading.Event().wait(0.001)
            except _workers.Stopped:
                stopped.append(number)
                raise

        return run

    with pytest.raises(ValueError, match=f"job {failing}"):
        _workers.run([job(k) for k in range(3)])
    assert sorted([*stopped, failing]) == [0, 1, 2]
    assert torch.get_num_threads() == 3


def test_an_interrupt_waits_for_the_others(threads):
    threads(2)
    ended = threading.Event()

    def first(check):
        raise KeyboardInterrupt

    def second(check):
        try:
            while True:
                check()
                threading.Event().wait(0.001)
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        _workers.run([first, second])
    assert ended.is_set()
    assert torch.get_num_threads() == 2


def test_each_has_its_share_of_the_processor(threads):
    threads(4)
    seen = {}

    def job(number):
        def run(check):
            seen[number] = (torch.get_num_threads(), torch.is_grad_enabled())
            if number == 0:  # a second caller meanwhile works on its own thread
                _workers.run([lambda check: seen.update(a=1), lambda check: seen.update(b=1)])

        return run

    _workers.run([job(k) for k in range(2)])
    assert seen == {0: (2, False), 1: (2, False), "a": 1, "b": 1}
