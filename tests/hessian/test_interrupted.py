"""Everything is as found: after a result, an error or Ctrl-C at any point of any route."""

import contextlib
import gc
import random
import signal
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessian
from hessian._runtime import ledger as _ledger

from .networks import build, mlp


class Stateful(nn.Module):
    """Buffers that change, dropout, a bounded embedding, a frozen parameter, hooks, both modes."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Embedding(7, 6, max_norm=0.5)
        self.norm = nn.BatchNorm1d(6)
        self.mix, self.out = nn.Linear(6, 5), nn.Linear(5, 4)
        self.out.bias.requires_grad_(False)
        self.register_buffer("calls", torch.zeros(()))
        self.norm.train()
        self.register_forward_hook(lambda m, a, o: None)

    def forward(self, tokens):
        self.calls = self.calls + 1  # rebound, as lazy statistics do
        x = F.dropout(torch.tanh(self.norm(self.rows(tokens).mean(1))), 0.2)
        return self.out(F.gelu(self.mix(x)))


def snapshot(model):
    modules = list(model.modules())
    return {
        "values": {k: v.clone() for k, v in model.state_dict().items()},
        "tensors": {k: id(v) for k, v in (*model.named_parameters(), *model.named_buffers())},
        "addresses": {k: v.data_ptr() for k, v in model.named_parameters()},
        "grad": [None if p.grad is None else (id(p.grad), p.grad.clone())
                 for p in model.parameters()],
        "free": [p.requires_grad for p in model.parameters()],
        "training": [m.training for m in modules],
        "hooks": [[dict(getattr(m, name)) for name in vars(m) if name.endswith("_hooks")]
                  for m in modules],
        "attributes": [sorted(vars(m)) for m in modules],
        "random": torch.get_rng_state(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "dtype": torch.get_default_dtype(),
        "matmul": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "kernels": (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled(),
                    torch.backends.cuda.mem_efficient_sdp_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "modes take part": torch._C._get_torch_function_state(),
        "modes": len(torch.overrides._get_current_function_mode_stack()),
        "threads": torch.get_num_threads(),
        "warnings": list(warnings.filters),
    }  # fmt: skip


def assert_same(before, after):
    for key, value in before.items():
        other = after[key]
        if key == "values":
            assert list(value) == list(other)
            assert all(torch.equal(v, other[k]) for k, v in value.items())
        elif key == "grad":
            for a, b in zip(value, other, strict=True):
                assert (a is None) == (b is None)
                assert a is None or (a[0] == b[0] and torch.equal(a[1], b[1]))
        elif key == "random":
            assert torch.equal(value, other)
        else:
            assert value == other, key


def stateful():
    torch.manual_seed(0)
    model = Stateful().double()
    model.mix.eval()
    model.mix.weight.grad = torch.ones_like(model.mix.weight)
    x = torch.randint(0, 7, (5, 3), generator=torch.Generator().manual_seed(1))
    return model, x, torch.arange(5) % 4


def network(name):
    def make():
        model, inputs = build(name)
        return model, inputs(5, torch.Generator().manual_seed(1)), torch.arange(5) % 4

    return make


def standard(call):
    return lambda m, x, y, loss: call(m, loss, (x, y))


def spectrum(call, kind="hessian"):
    return standard(lambda *a: call(hessian.operator(*a, kind=kind)))


def within_kept(h):
    with h.kept():
        h @ torch.ones(h.shape[0], 2).numpy()


CALLS = {
    "diagonal": (stateful, standard(hessian.diagonal)),
    "verified": (stateful, standard(lambda *a: hessian.diagonal(*a, verify=2))),
    "in float32": (stateful, standard(lambda *a: hessian.diagonal(*a, dtype=torch.float32))),
    "two batches": (
        stateful, lambda m, x, y, loss: hessian.diagonal(m, loss, [(x, y), (x[:3], y[:3])]),
    ),
    "affine": (network("relu-cnn"), standard(lambda *a: hessian.diagonal(*a, method="affine"))),
    "chain": (network("gelu-mlp"), standard(lambda *a: hessian.diagonal(*a, method="chain"))),
    "preactivation": (
        network("tanh-mlp"), standard(lambda *a: hessian.diagonal(*a, method="preactivation")),
    ),
    "parameter": (
        network("tied-in-series"), standard(lambda *a: hessian.diagonal(*a, method="parameter")),
    ),
    "columns": (network("coupled"), standard(hessian.diagonal)),
    "in parts": (network("dropout-train"), standard(lambda *a: hessian.diagonal(*a, memory=1))),
    "standard error": (
        network("tanh-mlp"), standard(lambda *a: hessian.diagonal(*a, standard_error=True)),
    ),
    "plan": (stateful, standard(hessian.plan)),
    "sample": (
        stateful,
        standard(lambda *a: hessian.sample(*a, 3, generator=torch.Generator().manual_seed(0))),
    ),
    "operator": (
        stateful, lambda m, x, y, loss: (
            lambda h: h @ torch.ones(h.shape[0]).numpy())(hessian.operator(m, loss, (x, y))),
    ),
    **{f"operator, {what}": (network("dropout-train"), spectrum(call)) for what, call in {
        "top": lambda h: h.top(2, products=12, tolerance=0.5, missed=None),
        "trace": lambda h: h.trace(method="hutch++", products=6),
        "exact trace": lambda h: h.trace(method="exact"),
        "density": lambda h: h.density(starts=2, steps=2),
        "layers": lambda h: h.layers(method="probes", probes=2),
        "kept": within_kept,
    }.items()},
    "operator, gauss-newton": (
        network("tanh-mlp"),
        spectrum(lambda h: h.top(1, products=6, tolerance=0.5, missed=None), "ggn"),
    ),
    "coordinates": (
        network("tanh-mlp"),
        standard(lambda *a: hessian.coordinate_minimum(
            *a, 1, generator=torch.Generator().manual_seed(0), names=["4.bias"])),
    ),
    **{f"estimate {kind}": (
        network("relu-mlp"), standard(lambda *a, kind=kind: hessian.estimate(*a, kind, probes=2)),
    ) for kind in ("hutchinson", "preactivation", "gauss-newton", "gauss-newton-mc",
                   "empirical-fisher", "becker-lecun")},
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_result_leaves_everything_as_found(name):
    make, call = CALLS[name]
    model, x, y = make()
    before = snapshot(model)
    call(model, x, y, F.cross_entropy)
    assert_same(before, snapshot(model))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_at_any_derivative_leaves_everything_as_found(name, error, monkeypatch):
    """Raised by the first, second, fourth, ... call of autograd, until one is never reached."""
    make, call = CALLS[name]
    right = torch.autograd.grad
    at, raised = 1, 0
    while True:
        model, x, y = make()
        calls = [0]

        def grad(*args, calls=calls, at=at, **options):
            calls[0] += 1
            if calls[0] == at:
                raise error
            return right(*args, **options)

        before = snapshot(model)
        with monkeypatch.context() as patch:
            patch.setattr(torch.autograd, "grad", grad)
            try:
                call(model, x, y, F.cross_entropy)
            except error:
                raised += 1
        assert_same(before, snapshot(model))
        if calls[0] < at:
            break
        at *= 2
    if name != "coordinates":  # values come by torch.func there
        assert raised >= 1


@pytest.mark.parametrize("place", ["model", "loss"])
@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_in_the_users_code_leaves_everything_as_found(name, place):
    make, call = CALLS[name]
    for at in (1, 2, 3):
        model, x, y = make()
        count = [0]

        def stop(count=count, at=at):
            count[0] += 1
            if count[0] == at:
                raise KeyboardInterrupt

        def loss(o, t, stop=stop):
            if place == "loss":
                stop()
            return F.cross_entropy(o, t)

        handle = model.register_forward_pre_hook(lambda m, a: stop() if place == "model" else None)
        before = snapshot(model)
        try:
            call(model, x, y, loss)
        except KeyboardInterrupt:
            assert count[0] == at
        assert_same(before, snapshot(model))
        handle.remove()


def test_no_warning_of_ours():
    """User code under -W error sees none; pytest here turns every warning into an error as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for make, call in CALLS.values():
            model, x, y = make()
            call(model, x, y, F.cross_entropy)


def test_a_default_dtype_of_the_user_stays():
    torch.set_default_dtype(torch.float64)
    try:
        model, x, y = mlp(nn.GELU), torch.randn(4, 6), torch.arange(4)
        before = snapshot(model)
        h = hessian.diagonal(model, F.cross_entropy, (x, y), verify=2)
        assert h["0.weight"].dtype == torch.float64
        assert_same(before, snapshot(model))
    finally:
        torch.set_default_dtype(torch.float32)


class Interrupt:
    """Raises KeyboardInterrupt at the n-th call or line of Python code, whosoever's it is."""

    def __init__(self, at=None):
        self.at, self.count = at, 0

    def trace(self, frame, event, argument):
        if event in ("call", "line"):
            self.count += 1
            if self.count == self.at:
                raise KeyboardInterrupt
        return self.trace

    def __enter__(self):
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_):
        sys.settrace(None)


# What strikes while a generator is dropped Python swallows, and says so: nothing was interrupted.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["diagonal", "in parts", "verified", "operator", "coordinates"])
def test_an_interrupt_between_any_two_lines_leaves_everything_as_found(name):
    """Drawn lines of the whole call, and many of its ends, where settings change hands."""
    make, call = CALLS[name]

    def run(at=None):
        model, x, y = make()
        before = snapshot(model)
        with Interrupt(at) as interrupt:
            try:
                call(model, x, y, F.cross_entropy)
            except KeyboardInterrupt:
                pass
            except (ValueError, RuntimeError) as error:
                # torch loses an interrupt while it takes a mode off its stack.
                if "empty" not in str(error):
                    raise
        assert_same(before, snapshot(model))
        assert not _ledger._LOCK._is_owned()
        return interrupt.count

    run()  # what is computed once a process
    total = run()
    draw = random.Random(0)
    ends = [*range(1, 200), *range(total - 200, total)]
    for at in draw.sample(range(1, total), 8) + draw.sample(ends, 16):
        run(at)


def test_an_interrupt_of_the_system_leaves_everything_as_found():
    """As Ctrl-C does it: a signal after a time, handled by Python between two instructions."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("no timers here")

    def stop(number, frame):
        raise KeyboardInterrupt

    make, call = CALLS["diagonal"]
    model, x, y = make()
    call(model, x, y, F.cross_entropy)
    before, draw = snapshot(model), random.Random(0)
    old, interrupts = signal.signal(signal.SIGALRM, stop), 0
    try:
        for _ in range(60):
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-5, 0.02))
                call(model, x, y, F.cross_entropy)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupts += 1
            except (ValueError, RuntimeError) as error:
                if "empty" not in str(error):
                    raise
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert_same(before, snapshot(model))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert interrupts


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError, SystemExit])
def test_an_interrupt_between_the_steps_of_an_undoing_is_made_good(error):
    """Undoing goes on where it was, and what a signal's handler raised is raised afterwards."""
    done, raised = [], []

    def undo(name):
        if name == "second" and not raised:
            raised.append(name)
            raise error
        done.append(name)

    def block():
        with _ledger.Guard(), _ledger.settled():
            for name in ("third", "second", "first"):
                _ledger.owe(lambda name=name: undo(name))

    with pytest.raises(error):
        block()
    assert done == ["first", "second", "third"]


def test_a_mode_left_on_the_stack_is_taken_off():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Left(torch.overrides.BaseTorchFunctionMode):
        pass

    class LeftBelow(TorchDispatchMode):
        pass

    with torch.no_grad():
        with _ledger.Guard():
            Left().__enter__()
            torch._C.DisableTorchFunction().__enter__()
            LeftBelow().__enter__()
            torch._C._functorch._vmap_increment_nesting(2, "error")
            torch.enable_grad().__enter__()
            torch.autocast("cpu", dtype=torch.bfloat16).__enter__()
        assert torch._C._len_torch_function_stack() == 0
        assert torch._C._len_torch_dispatch_stack() == 0
        assert torch._C._is_torch_function_all_disabled() is False
        assert torch._C._functorch.maybe_current_level() is None
        assert not torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")


def test_a_mode_left_on_the_stack_takes_no_part_in_the_undoing():
    """A watch that an interrupt left behind would note what is put back, and undo it again."""
    seen = []

    class Left(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    p = torch.zeros(2)
    with _ledger.Guard(), _ledger.settled():
        _ledger.owe(lambda: p.data.copy_(torch.ones(2)))
        Left().__enter__()
    assert not seen
    assert p.tolist() == [1.0, 1.0]
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.parametrize("way", ["in", "out"])
def test_a_context_that_an_interrupt_struck_does_not_end_later(way):
    """torch takes a mode off its stack in one, and would push it when the traceback is dropped."""
    code = "def enter(self):\n    next(self.gen)\n    raise KeyboardInterrupt\n"
    names = {}
    exec(compile(code, contextlib.__file__, "exec"), names)  # as `__enter__` there

    def trace(frame, event, argument):
        inside = frame.f_code.co_filename == contextlib.__file__
        if event == "line" and inside and frame.f_code.co_name == "__exit__":
            raise KeyboardInterrupt
        return trace

    def block():
        with _ledger.Guard():
            torch.overrides.BaseTorchFunctionMode().__enter__()
            if way == "in":
                names["enter"](torch.overrides._pop_mode_temporarily())
            sys.settrace(trace)
            with torch.overrides._pop_mode_temporarily():
                pass

    try:
        block()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        sys.settrace(None)
    gc.collect()
    assert interrupted
    assert torch._C._len_torch_function_stack() == 0
