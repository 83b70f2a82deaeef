"""Calls from several threads: results and settings as if they had come one after the other."""

import random
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._runtime import ledger as _ledger
from hessian._runtime import workers as _workers


class Attention(nn.Module):
    """What needs every switch: fused attention, the encoder's fast path, and dropout."""

    def __init__(self):
        super().__init__()
        self.mix = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.2, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.mix(x).mean(1))


def settings():
    backends = [
        torch.backends,
        torch.backends.mkldnn,
        torch.backends.mkldnn.matmul,
        torch.backends.cudnn,
        torch.backends.cudnn.conv,
        torch.backends.cuda.matmul,
    ]
    cuda = torch.backends.cuda
    return {
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "kernels": (cuda.flash_sdp_enabled(), cuda.math_sdp_enabled(), cuda.cudnn_sdp_enabled(),
                    cuda.mem_efficient_sdp_enabled()),
        "precision": [getattr(b, "fp32_precision", None) for b in backends],
        "threads": torch.get_num_threads(),
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "dtype": torch.get_default_dtype(),
    }  # fmt: skip


def case(seed):
    """A model, its data and a call; every kind of call, with dropout on for some of them."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = Attention().train(seed % 2 == 0)
    if seed % 3 == 0:
        model.double()
    x = torch.randn(4, 3, 8, generator=generator).to(model.out.weight.dtype)
    y = torch.arange(4) % 3

    def call():
        if seed % 4 == 1:
            return hessian.estimate(model, F.cross_entropy, (x, y), "hutchinson")
        if seed % 4 == 2:
            h = hessian.operator(model, F.cross_entropy, (x, y), names=["out.weight"])
            return {"product": torch.from_numpy(h @ np.ones(h.shape[0]))}
        return hessian.diagonal(model, F.cross_entropy, (x, y), names=["out.weight", "out.bias"])

    return call


def at_once(jobs):
    """Run the jobs in threads of their own; raises what one of them raised."""
    start, failures = threading.Barrier(len(jobs)), []

    def carry(job):
        start.wait()
        try:
            job()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=carry, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a thread waits for ever"
    if failures:
        raise failures[0]


def test_several_threads_get_what_one_after_the_other_gets_and_leave_the_settings():
    calls = [case(seed) for seed in range(8)]
    torch.manual_seed(7)
    before = settings()
    alone = [call() for call in calls]
    assert settings() == before
    together = [[] for _ in calls]

    def job(i):
        for _ in range(3):
            together[i].append(calls[i]())

    at_once([lambda i=i: job(i) for i in range(len(calls))])
    assert settings() == before
    for want, results in zip(alone, together, strict=True):
        assert len(results) == 3
        for h in results:
            assert all(torch.equal(h[name], value) for name, value in want.items())


def test_a_loss_that_computes_a_diagonal_itself_does_not_wait_for_itself():
    inner = nn.Linear(3, 2)
    model = nn.Linear(3, 2)
    x, y = torch.randn(4, 3), torch.arange(4) % 2

    def loss(o, t):
        h = hessian.diagonal(inner, F.cross_entropy, (x, y))
        return F.cross_entropy(o, t) * h["weight"].sum()

    factor = hessian.diagonal(inner, F.cross_entropy, (x, y))["weight"].sum()
    want = hessian.diagonal(model, F.cross_entropy, (x, y))["weight"] * factor
    results = []
    at_once([lambda: results.append(hessian.diagonal(model, loss, (x, y))["weight"])] * 2)
    # Rounding of float32 through another order of factors.
    assert all(torch.allclose(h, want, rtol=1e-5, atol=1e-7) for h in results)


def test_threads_of_one_call_do_not_wait_for_it(monkeypatch):
    """Samples of a convolution are shared out among threads inside a call."""
    seen = []
    right = _workers.run
    monkeypatch.setattr(_workers, "run", lambda jobs: (seen.append(len(jobs)), right(jobs)))
    monkeypatch.setattr(_workers, "count", lambda like: 2)
    monkeypatch.setattr("hessian._routes.affine.LARGE", 1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    data = torch.randn(6, 1, 6, 6), torch.arange(6) % 3
    results = []
    at_once([lambda: results.append(hessian.diagonal(model, F.cross_entropy, data))] * 3)
    assert 2 in seen
    assert all(torch.equal(h["0.weight"], results[0]["0.weight"]) for h in results)


def test_a_waiting_thread_is_let_in_after_an_error_or_an_interrupt():
    model = nn.Linear(3, 2)
    data = torch.randn(4, 3), torch.arange(4) % 2

    def stop(o, t):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hessian.diagonal(model, stop, data)
    with pytest.raises(ValueError, match="loss must return a scalar"):
        hessian.diagonal(model, lambda o, t: o, data)
    at_once([lambda: hessian.diagonal(model, F.cross_entropy, data)])


def test_a_forked_process_does_not_wait_for_a_thread_it_lacks():
    """A fork copies the lock, held or not; the thread that would release it is not copied."""
    inside, go_on = threading.Event(), threading.Event()

    def hold():
        with _ledger.alone():
            inside.set()
            go_on.wait(60)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    inside.wait(60)
    try:
        held = _ledger._LOCK
        _ledger._fresh_lock()  # what a fork does in the child
        assert _ledger._LOCK.acquire(blocking=False)
        _ledger._LOCK.release()
        _ledger._LOCK = held
    finally:
        go_on.set()
        thread.join(60)


def test_a_late_end_of_a_block_undoes_nothing_twice():
    """A generator that an interrupt left behind ends when it is collected, long after."""
    undone = []
    block = _ledger.settled()
    with _ledger.Guard():
        block.__enter__()
        _ledger.owe(lambda: undone.append(1))
    assert undone == [1]
    with _ledger.Guard(), _ledger.settled():
        _ledger.owe(lambda: undone.append(2))
        block.__exit__(None, None, None)
        assert undone == [1]
    assert undone == [1, 2]


@pytest.mark.parametrize("precision", ["tf32", "ieee", "none"])
def test_inherited_precision_stays_inherited(precision):
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("torch before 2.9 has no such setting")
    model, data = nn.Linear(3, 2), (torch.randn(4, 3), torch.arange(4) % 2)
    first = settings()
    try:
        torch.backends.fp32_precision = precision
        before = settings()
        hessian.diagonal(model, F.cross_entropy, data)
        assert settings() == before
    finally:
        torch.backends.fp32_precision = "none"
    assert settings() == first


def test_a_function_mode_of_the_caller_sees_the_callers_code():
    """It is on the stack where the model runs, also for a check, and back there at the end."""

    class Seen(torch.overrides.TorchFunctionMode):
        names: list[str] = []  # noqa: RUF012 - of this test

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.names.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    model, data = nn.Linear(3, 2), (torch.randn(4, 3), torch.arange(4) % 2)
    with Seen() as mode:
        hessian.diagonal(model, F.cross_entropy, data)
        plain = mode.names.count("linear")
        hessian.diagonal(model, F.cross_entropy, data, verify=1)
        assert torch.overrides._get_current_function_mode_stack() == [mode]
    assert 0 < plain < mode.names.count("linear") - plain
    assert "svd" not in mode.names
    assert "_linalg_eigh" not in mode.names


def test_a_thread_that_trains_beside_it_gets_what_it_gets_alone():
    """Its own model, no random numbers: settings change kernels of attention only."""

    def trained():
        generator = torch.Generator().manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 3)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        x, y = torch.randn(32, 6, generator=generator), torch.arange(32) % 3
        for _ in range(200):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    want, results = trained(), []
    calls = [case(seed) for seed in range(3)]
    at_once([lambda: results.append(trained()), *calls])
    assert all(torch.equal(a, b) for a, b in zip(want, results[0], strict=True))
