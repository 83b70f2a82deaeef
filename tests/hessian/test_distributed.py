"""One diagonal by 1, 2 and 4 real processes (gloo): the same as by one, and errors, not hangs."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

import hessian
from hessian._runtime.share import Share

from . import oracle
from .networks import LOSSES, build

# Every route, a loss that reads parameters, one that couples samples, dropout's one draw.
CASES = {
    "relu-cnn": ("cross-entropy", {}),
    "residual-bn-eval": ("l2-term", {"method": "affine"}),
    "tanh-mlp": ("cross-entropy", {}),
    "gelu-mlp": ("mse", {"method": "preactivation"}),
    "residual-bn-train": ("label-smoothing", {}),
    "coupled": ("coupling", {}),
    "dropout-train": ("class-weights", {"memory": 20_000}),
    "tied-in-parallel": ("three-times", {}),
    # Each process another memory: the batch would be cut otherwise.
    "layer-norm": ("cross-entropy", {"memory": (9_000, 2**30, 300, 1)}),
}
BATCHES = ((0, 3), (3, 4), (4, 6), (6, 8))
# Sums over processes in another order: rounding of float64, with room for cancellation.
LOOSE = 1e-11

WORKER = """
import datetime, importlib.util, os, signal, sys, time
import torch, torch.distributed as dist, torch.nn.functional as F

rank, folder, tests = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("networks", f"{tests}/networks.py")
networks = importlib.util.module_from_spec(spec); spec.loader.exec_module(networks)
import hessian
from hessian import diagonal
cases, batches = eval(sys.argv[4])

dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=4,
                        timeout=datetime.timedelta(seconds=60))
groups = {1: dist.new_group([0]), 2: dist.new_group([0, 1]), 4: dist.group.WORLD}
kept = {}

def problem(name, loss):
    model, inputs = networks.build(name, 0)
    make, targets = networks.LOSSES[loss]
    generator = torch.Generator().manual_seed(1)
    return model, make(model), inputs(5, generator), targets(5, generator)

for size, group in groups.items():
    if rank >= size:
        continue
    for name, (loss, options) in cases.items():
        model, criterion, x, y = problem(name, loss)
        torch.manual_seed(7)
        if isinstance(options.get("memory"), tuple):
            options = {"memory": options["memory"][rank]}
        got = diagonal(model, criterion, (x, y), group=group, verify=2, **options)
        kept[name, size] = dict(got), got.gradient, got.loss, got.samples, dict(got.deviation)
    model, inputs = networks.build("tanh-mlp")
    generator = torch.Generator().manual_seed(1)
    x, y = inputs(8, generator), torch.arange(8) % 4
    pairs = [(x[a:b], y[a:b]) for a, b in batches][rank::size]
    got = diagonal(model, F.cross_entropy, pairs, group=group, split="data", verify=2)
    kept["data", size] = dict(got), got.gradient, got.loss, got.samples, dict(got.deviation)
torch.save(kept, f"{folder}/{rank}.pt")

def refused(what, run):
    start = time.monotonic()
    try:
        run()
    except (RuntimeError, ValueError) as error:
        text = f"{type(error).__name__} {error}"
    else:
        text = "no error"
    open(f"{folder}/{what}-{rank}.txt", "w").write(f"{time.monotonic() - start:.1f}s {text}")

model, criterion, x, y = problem("relu-mlp", "cross-entropy")
world = dist.group.WORLD
shifted = x + 0.1 * rank
refused("data", lambda: diagonal(model, criterion, (shifted, y), group=world))
nan = torch.full_like(x, torch.nan) if rank == 2 else x
refused("fails", lambda: diagonal(model, criterion, (nan, y), group=world))
early = "auto" if rank != 1 else "newton"
refused("early", lambda: diagonal(model, criterion, (x, y), group=world, method=early))
none = [(x, y)] if rank else []
refused("empty", lambda: diagonal(model, criterion, none, group=world, split="data"))
if rank == 1:
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
refused("parameters", lambda: diagonal(model, criterion, (x, y), group=world, split="data"))

def dies(output, target):
    if rank == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return criterion(output, target)

model, criterion, x, y = problem("relu-mlp", "cross-entropy")
refused("dies", lambda: diagonal(model, dies, (x, y), group=world))
os._exit(0)  # gloo's threads may abort an orderly exit once a connection is broken
"""


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What four processes kept and wrote; the last of them kills itself at the end."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "worker.py").write_text(WORKER)
    given = [str(folder), str(Path(__file__).parent), repr((CASES, BATCHES))]
    running = [
        subprocess.Popen(
            [sys.executable, str(folder / "worker.py"), str(rank), *given],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(4)
    ]
    start, errors = time.monotonic(), []
    for process in running:
        errors.append(process.communicate(timeout=200)[1])
    took = time.monotonic() - start
    assert running[3].returncode == -9, errors[3][-2000:]
    assert [p.returncode for p in running[:3]] == [0, 0, 0], "\n".join(errors)[-3000:]
    kept = [torch.load(folder / f"{rank}.pt") for rank in range(4)]
    written = {path.stem: path.read_text() for path in folder.glob("*.txt")}
    return kept, written, took


def alone(name):
    loss, options = CASES[name]
    model, inputs = build(name, 0)
    make, targets = LOSSES[loss]
    generator = torch.Generator().manual_seed(1)
    x, y = inputs(5, generator), targets(5, generator)
    torch.manual_seed(7)
    if isinstance(options.get("memory"), tuple):
        options = {}
    return hessian.diagonal(model, make(model), (x, y), verify=2, **options)


def equal(got, want):
    h, gradient, loss, samples, deviation = got
    oracle.assert_exact(h, dict(want), tolerance=LOOSE)
    oracle.assert_exact(gradient, want.gradient, tolerance=LOOSE)
    assert loss == pytest.approx(want.loss, rel=1e-12)
    assert samples == want.samples
    assert max(deviation.values()) < 1e-8
    assert list(deviation) == list(want.deviation)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("name", CASES)
def test_the_work_shared_out_gives_the_same(name, size, processes):
    kept, _, _ = processes
    want = alone(name)
    for rank in range(size):
        equal(kept[rank][name, size], want)
    for rank in range(1, size):
        first, other = kept[0][name, size][0], kept[rank][name, size][0]
        assert all(torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_each_with_its_own_batches_gives_all_of_them(size, processes):
    kept, _, _ = processes
    model, inputs = build("tanh-mlp")
    x, y = inputs(8, torch.Generator().manual_seed(1)), torch.arange(8) % 4
    pairs = [(x[a:b], y[a:b]) for a, b in BATCHES]
    want = hessian.diagonal(model, F.cross_entropy, pairs, verify=2)
    for rank in range(size):
        equal(kept[rank]["data", size], want)


@pytest.mark.parametrize(
    ("what", "ranks", "message"),
    [
        ("data", (0, 1, 2, 3), "ValueError group: processes hold different data"),
        ("fails", (0, 1, 3), "RuntimeError group: process 2 of 4 failed.*NaN or infinite"),
        ("early", (0, 2, 3), "RuntimeError group: process 1 of 4 failed.*method must be one of"),
        ("empty", (1, 2, 3), "RuntimeError group: process 0 of 4 failed.*data is empty"),
        ("parameters", (0, 1, 2, 3), "ValueError group: the parameters differ between processes"),
        ("dies", (0, 1, 2), "RuntimeError group: another process ended or stopped answering"),
    ],
)
def test_what_goes_wrong_in_one_ends_all_with_its_reason(what, ranks, message, processes):
    _, written, _ = processes
    for rank in ranks:
        assert re.search(message, written[f"{what}-{rank}"]), written[f"{what}-{rank}"]
        assert float(written[f"{what}-{rank}"].split("s ")[0]) < 50  # before any timeout


def test_the_process_that_failed_keeps_its_own_error(processes):
    _, written, _ = processes
    assert "NaN or infinite" in written["fails-2"]
    assert "group:" not in written["fails-2"]


def test_shares_cover_everything_once():
    for n in (0, 1, 5, 8):
        for size in (1, 2, 3, 7):
            parts = [Share(rank, size).of(n) for rank in range(size)]
            assert [i for part in parts for i in range(n)[part]] == list(range(n))
            dealt = [i for rank in range(size) for i in Share(rank, size).among(range(n))]
            assert sorted(dealt) == list(range(n))


def test_arguments_are_checked_at_once():
    model, inputs = build("relu-mlp")
    x, y = inputs(3, torch.Generator().manual_seed(1)), torch.arange(3)
    with pytest.raises(ValueError, match="split must be one of work, data, got 'rows'"):
        hessian.diagonal(model, F.cross_entropy, (x, y), split="rows")
    assert not dist.is_initialized()
    with pytest.raises(ValueError, match=r"torch\.distributed is not initialised; call"):
        hessian.diagonal(model, F.cross_entropy, (x, y), group=object())


def test_a_group_of_one_in_this_process(tmp_path):
    """The whole path without a second process; and what is refused with a group."""
    store = f"file://{tmp_path}/meeting"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        model, inputs = build("relu-cnn")
        x, y = inputs(4, torch.Generator().manual_seed(1)), torch.arange(4)
        want = hessian.diagonal(model, F.cross_entropy, (x, y))
        got = hessian.diagonal(model, F.cross_entropy, (x, y), group=dist.group.WORLD)
        oracle.assert_exact(got, want, tolerance=LOOSE)
        with pytest.raises(TypeError, match=r"must be a torch\.distributed\.ProcessGroup, got int"):
            hessian.diagonal(model, F.cross_entropy, (x, y), group=3)
        with pytest.raises(ValueError, match="standard_error=True is not available with a group"):
            hessian.diagonal(
                model, F.cross_entropy, (x, y), group=dist.group.WORLD, standard_error=True
            )
    finally:
        dist.destroy_process_group()
