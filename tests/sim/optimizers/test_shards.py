"""Rules on parameters that two processes share: what one process does, on real gloo processes."""

import subprocess
import sys

import pytest
import torch

SCRIPT = r"""
import itertools
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from sim import optimizers
from sim.optimizers import _lamb, _lars

rank, size, address, target = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
if size > 1:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    mesh = init_device_mesh("cpu", (size,))

CASES = {
    "CBLR": [{}, {"decay": "coupled", "negative": "zero"}, {"decay": "decoupled", "damping": 0.1}],
    "LARS": [{"like": like, "floor": 0.01} for like in _lars.REFERENCES],
    "LAMB": [{"like": like} for like in _lamb.REFERENCES] + [{"decay": "l2"}],
    "MCLR": [
        {"reading": reading, "zero_norm": zero}
        for reading in ("absolute", "ratio", "signed") for zero in ("floor", "one", "literal")
    ] + [{"limit": None}],
    "PercentDelta": [{"zero_norm": z} for z in ("floor", "google", "literal", "nonzero")],
}


class Net(nn.Module):
    # Uneven: 5 rows over two processes, one row (nothing on the second), no dimension of one's own.
    def __init__(self, dtype):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(7, 5)
        self.second = nn.Linear(5, 1)
        self.scale = nn.Parameter(torch.zeros(3))
        # In parts of a cache; away from zero, where g/w would enlarge roundings of w.
        self.large = nn.Parameter((1 + torch.rand(301, 257)) * torch.randn(301, 257).sign() / 16)
        self.to(dtype)

    def forward(self, x):
        y = self.second(torch.tanh(self.first(x))) * (1 + self.scale.sum())
        return y + (x @ self.large[:7, :9]).tanh().sum(-1, keepdim=True)


def shard(model):
    if size == 1:
        return model
    if model.first.weight.dtype == torch.float64:
        # By hand, along another dimension too, and one whole on both.
        for name, parameter in list(model.named_parameters()):
            place = Shard(1) if name == "first.weight" else Shard(0)
            place = Replicate() if name == "second.bias" else place
            owner, _, last = name.rpartition(".")
            value = distribute_tensor(parameter.detach(), mesh, [place])
            setattr(model.get_submodule(owner), last, nn.Parameter(value))
        return model
    return fully_shard(model, mesh=mesh)


def full(value):
    return value.full_tensor() if isinstance(value, DTensor) else value


def gradients(model, step):
    # The same numbers on both sides, whoever computes them.
    for k, (name, p) in enumerate(model.named_parameters()):
        g = torch.Generator().manual_seed(100 * step + k)
        value = torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype)
        if step == 1 and name == "second.weight":
            value.zero_()
        if isinstance(p, DTensor):
            value = distribute_tensor(value, mesh, p.placements)
        p.grad = value


def curvature(model, step, kind):
    found = {}
    for k, (name, p) in enumerate(model.named_parameters()):
        g = torch.Generator().manual_seed(1000 * step + k)
        value = torch.randn(p.shape, generator=g, dtype=torch.float64)
        if kind == "sharded" and isinstance(p, DTensor):
            value = distribute_tensor(value, mesh, p.placements)
        found[name] = value
    return found


def moved(rule, options, dtype, kind):
    model = shard(Net(dtype))
    groups = [
        {"params": [(n, p) for n, p in model.named_parameters() if n != "scale"]},
        {"params": [("scale", model.scale)], "weight_decay": 0.0},
    ]
    optimizer = getattr(optimizers, rule)(groups, 0.01, **options)
    for step in range(3):
        gradients(model, step)
        if rule == "CBLR":
            optimizer.step(curvature(model, step, kind) if step < 2 else None)
        else:
            optimizer.step()
    result = {name: full(p).detach().clone() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        for key, value in optimizer.state[p].items():
            if torch.is_tensor(value):
                assert isinstance(value, DTensor) == (size > 1), (rule, name, key)
                result[f"{name}:{key}"] = full(value).clone()
    if rule == "CBLR":
        rates = optimizer.radius(curvature(model, 5, kind))
        result |= {f"{name}:rate": full(value) for name, value in rates.items()}
    # What is saved whole goes on in a new optimizer.
    whole = StateDictOptions(full_state_dict=True)
    saved = get_optimizer_state_dict(model, optimizer, options=whole)
    again = getattr(optimizers, rule)(
        [{"params": list(zip(g["param_names"], g["params"]))} for g in optimizer.param_groups],
        0.01, **options,
    )
    model.zero_grad()  # torch makes a place to load into only where there are no gradients
    set_optimizer_state_dict(model, again, saved, options=whole)
    for name, p in model.named_parameters():
        for key, value in optimizer.state[p].items():
            if torch.is_tensor(value):
                assert torch.equal(full(value), full(again.state[p][key])), (rule, name, key)
    return result


results = {}
for rule, cases in CASES.items():
    for number, options in enumerate(cases):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            for foreach in (None, True, False):
                if foreach is not None and (number or dtype == torch.bfloat16):
                    continue
                both = rule != "CBLR" and dtype == torch.float64
                for grouping in ("tensor", "group") if both else (None,):
                    if grouping == "group" and foreach is False:
                        continue
                    given = {**options, "momentum": 0.9, "weight_decay": 0.1, "foreach": foreach}
                    if grouping:
                        given["grouping"] = grouping
                    for kind in ("whole", "sharded") if rule == "CBLR" else ("whole",):
                        results[f"{rule} {given} {dtype} {kind}"] = moved(rule, given, dtype, kind)

# A value that is not finite, in one process's part only: both refuse.
model = shard(Net(torch.float32))
optimizer = optimizers.CBLR(model.named_parameters(), 0.01)
gradients(model, 0)
h = curvature(model, 0, "sharded")
bad = full(h["first.weight"]).clone()
bad[4, 0] = torch.nan
if size > 1:
    bad = distribute_tensor(bad, mesh, model.first.weight.placements)
h["first.weight"] = bad
try:
    optimizer.step(h)
except ValueError as error:
    results["refused"] = str(error)


def trained(rule, mesh, nested):
    # Real training steps; every process has the same batches.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3), nn.LayerNorm(3))
    if mesh is not None:
        for layer in (model[0], model[2]) if nested else ():
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = getattr(optimizers, rule)(
        model.named_parameters(), 0.01, momentum=0.9, weight_decay=0.1
    )
    generator = torch.Generator().manual_seed(1)
    for step in range(3):
        x = torch.randn(6, 7, generator=generator)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step(*([curvature(model, step, "whole")] if rule == "CBLR" else []))
    return {name: full(p).detach().clone() for name, p in model.named_parameters()}


for rule in CASES:
    if size == 1:
        results[f"trained {rule}"] = trained(rule, None, False)
    else:
        for nested in (False, True):
            results[f"trained {rule} {nested}"] = trained(rule, mesh, nested)
if size == 1:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    for rule in CASES:
        results[f"alone {rule}"] = trained(rule, init_device_mesh("cpu", (1,)), True)
    dist.destroy_process_group()
if rank == 0:
    torch.save(results, target)
if size > 1:
    dist.barrier()
    dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")

    def start(rank, size):
        target = folder / f"{size}.pt"
        address = f"file://{folder / 'meeting'}"
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(rank), str(size), address]
        return subprocess.Popen([*command, str(target)], stderr=subprocess.PIPE, text=True)

    processes = [start(0, 1), start(0, 2), start(1, 2)]
    for process in processes:
        _, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors[-3000:]
    return [torch.load(folder / f"{size}.pt") for size in (1, 2)]


@pytest.mark.parametrize("rule", ["CBLR", "LAMB", "LARS", "MCLR", "PercentDelta"])
def test_two_processes_do_what_one_does(results, rule):
    one, two = results
    cases = [case for case in one if case.startswith(rule)]
    assert len(cases) > 5
    for case in cases:
        for name, value in one[case].items():
            other = two[case][name]
            assert value.dtype == other.dtype
            if rule == "CBLR":
                torch.testing.assert_close(value, other, rtol=0, atol=0, equal_nan=True)
                continue
            # Norms are summed in another order, in float64: a weight may round the other way, and
            # in float64 the sums of 77357 entries round themselves, by the root of their number.
            eps = torch.finfo(value.dtype).eps * (75 if value.dtype == torch.float64 else 1)
            scale = value[value.isfinite()].abs().max().item() if value.isfinite().any() else 1.0
            torch.testing.assert_close(
                value,
                other,
                rtol=4 * eps,
                atol=4 * eps * scale,
                equal_nan=True,
            )


@pytest.mark.parametrize("rule", ["CBLR", "LAMB", "LARS", "MCLR", "PercentDelta"])
def test_training_under_fully_shard_is_training_without(results, rule):
    """On one process and on two, a whole network or layer by layer."""
    one, two = results
    want = one[f"trained {rule}"]
    runs = one[f"alone {rule}"], two[f"trained {rule} False"], two[f"trained {rule} True"]
    for sharded in runs:
        assert list(sharded) == list(want)
        for name, value in want.items():
            # Gradients are averaged over the processes: (g + g) / 2, which rounds nothing; norms
            # are summed in another order, and the network carries that on for three steps.
            torch.testing.assert_close(sharded[name], value, rtol=1e-5, atol=1e-6)


def test_both_processes_refuse(results):
    message = "curvature: 'first.weight' holds a value that is not finite"
    assert all(each["refused"].startswith(message) for each in results)


@pytest.mark.parametrize("rule", ["LAMB", "LARS", "MCLR", "PercentDelta"])
def test_flat_parameters(rule):
    from sim import optimizers

    parameter = torch.nn.Parameter(torch.ones(3))
    parameter._fsdp_flattened = True
    with pytest.raises(ValueError, match=r"is a piece of a flat parameter .*; shard by"):
        getattr(optimizers, rule)([parameter], 0.1)
