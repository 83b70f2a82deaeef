"""What `gpu_record.py` does: seven stages of tasks, each a function to plain numbers."""

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cases
import contestants
import step
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import hessian
import sim
from hessian import devices

Task = Callable[[], Any]
# Of C backward passes, and of SGD steps: what AlexNet and CBLR are to stay below.
DIAGONAL_TARGET, STEP_TARGET = 1.2, 6.0


@dataclass
class Setting:
    """Where and how large: `small` is the dry run."""

    device: torch.device
    small: bool
    data: Path | None
    out: Path

    def images(self, count: int) -> tuple[Tensor, Tensor]:
        """The first images of CIFAR-10 on the device; random ones in small."""
        if self.small:
            generator = torch.Generator("cpu").manual_seed(0)
            x = torch.randn(count, 3, 32, 32, generator=generator)
            return x, torch.randint(0, 10, (count,), generator=generator)
        if self.data is None:
            raise ValueError("data: give --data or CBLR_DATA, the folder of CIFAR-10")
        x, y = _cifar10(self.data)
        return x[:count].to(self.device), y[:count].to(self.device)

    @contextmanager
    def tensor_cores(self, allowed: bool) -> Iterator[None]:
        """float32 in TF32, as torch takes convolutions by default, or in full, as `hessian` does.

        What is compared does the same work.
        """
        owners: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]
        if self.device.type != "cuda":
            yield
        elif not all(hasattr(owner, "fp32_precision") for owner in owners):  # torch before 2.9
            owners = [torch.backends.cuda.matmul, torch.backends.cudnn]
            before = [owner.allow_tf32 for owner in owners]
            owners[0].allow_tf32, owners[1].allow_tf32 = False, allowed
            try:
                yield
            finally:
                for owner, value in zip(owners, before, strict=True):
                    owner.allow_tf32 = value
        else:
            before = [owner.fp32_precision for owner in owners]
            owners[0].fp32_precision = "ieee"
            owners[1].fp32_precision = "tf32" if allowed else "ieee"
            try:
                yield
            finally:
                for owner, value in zip(owners, before, strict=True):
                    owner.fp32_precision = value

    def seconds(self, run: Callable[[], object], rounds: int = 5) -> float:
        """The median of rounds after a first one."""
        times = []
        for number in range(2 if self.small else rounds + 1):
            devices.synchronize(self.device)
            start = time.perf_counter()
            run()
            devices.synchronize(self.device)
            if number:
                times.append(time.perf_counter() - start)
        return statistics.median(times)


@lru_cache(maxsize=1)
def _cifar10(folder: Path) -> tuple[Tensor, Tensor]:
    return sim.data.load("cifar10", folder).pair


# ---------------------------------------------------------------------- (1) agreement


def agreement(setting: Setting) -> dict[str, Task]:
    """Every network of the tests, on both devices in float64: max|Δ| / max|h|."""
    from tests.hessian.modules import MODULES
    from tests.hessian.networks import NETWORKS

    # Two devices draw other masks.
    networks = sorted(set(NETWORKS) - {"dropout-train"})
    modules = [name for name in MODULES if "dropout" not in name]
    if setting.small:
        networks, modules = networks[:2], modules[:2]
    return {
        **{name: partial(_network_gap, setting, name) for name in networks},
        **{f"module {name}": partial(_module_gap, setting, name) for name in modules},
    }


def _network_gap(setting: Setting, name: str) -> dict[str, Any]:
    from tests.hessian.networks import build

    model, inputs = build(name)
    return _gap(setting, model, inputs(5, torch.Generator("cpu").manual_seed(1)),
                torch.tensor([0, 1, 2, 3, 0]))  # fmt: skip


def _module_gap(setting: Setting, name: str) -> dict[str, Any]:
    from tests.hessian.modules import build

    model, x, y, _, _ = build(name)
    return _gap(setting, model, x, y)


def _gap(setting: Setting, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    want = hessian.diagonal(copy.deepcopy(model), F.cross_entropy, (x, y))
    there = setting.device
    h = hessian.diagonal(model.to(there), F.cross_entropy, (x.to(there), y.to(there)))
    top = max(float(v.abs().max()) for v in want.values() if v.numel())
    gap = max(
        float((h[name].cpu() - v).abs().max()) / max(float(v.abs().max()), 1e-6 * top)
        for name, v in want.items()
        if v.numel()
    )
    if not gap <= 1e-9:
        raise AssertionError(f"the devices differ by {gap:.1e} of the largest entry")
    return {"gap": gap, "methods": h.plan.methods()}


# ---------------------------------------------------------------------- (2) the diagonal

PART = 5000  # images of a task, so that the 50,000 are resumed


def diagonal(setting: Setting) -> dict[str, Task]:
    """AlexNet beside C backward passes, BackPACK and the limit; the Triton kernel."""
    count, part = (8, 4) if setting.small else (50_000, PART)
    width, batch = (1 / 16, 4) if setting.small else (1.0, 500)
    make = partial(_alexnet, setting, width, batch)
    return {
        "one batch": lambda: _beside(setting, make(0, batch)),
        "BackPACK": lambda: _backpack(setting, make(0, batch)),
        "limit": lambda: _limit(setting, make(0, batch)),
        "kernel": lambda: _kernel(setting),
        **{
            f"images {first} to {first + part}": partial(_over, setting, make, first, part)
            for first in range(0, count, part)
        },
    }


def _alexnet(setting: Setting, width: float, batch: int, first: int, count: int) -> cases.Case:
    x, y = setting.images(first + count)
    case = cases.image_case(width, 10, 1).to(str(setting.device))
    case.x, case.y = x[first:], y[first:]
    return case


def _beside(setting: Setting, case: cases.Case) -> dict[str, Any]:
    ours = setting.seconds(lambda: contestants.ours(case))
    with setting.tensor_cores(False):
        columns = setting.seconds(lambda: contestants.plain_columns(case))
        gradient = setting.seconds(lambda: contestants.gradient(case))
    with setting.tensor_cores(True):
        rough = setting.seconds(lambda: contestants.plain_columns(case))
    return {
        "batch": len(case.x), "seconds": ours, "C backward passes": ours / columns,
        "gradients": ours / gradient, "target": DIAGONAL_TARGET,
        "C backward passes in TF32": ours / rough,
    }  # fmt: skip


def _backpack(setting: Setting, case: cases.Case) -> dict[str, Any]:
    try:
        h, _ = contestants.backpack_exact(case)
    except ImportError:
        return {"installed": False}
    exact, _ = contestants.ours(case)
    gap = max(float((h[n] - v).abs().max() / v.abs().max().clamp_min(1e-30))
              for n, v in exact.items())  # fmt: skip
    with setting.tensor_cores(False):
        taken = setting.seconds(lambda: contestants.backpack_exact(case))
    ours = setting.seconds(lambda: contestants.ours(case))
    return {"installed": True, "gap": gap, "times as fast": taken / ours}


def _limit(setting: Setting, case: cases.Case) -> dict[str, Any]:
    """The least time of C backward passes: their multiplications at the rate of large products."""
    counter = FlopCounterMode(display=False)
    with counter:
        contestants.plain_columns(case)
    size = 256 if setting.small else 8192
    a = torch.randn(size, size, device=setting.device)
    with setting.tensor_cores(False):
        rate = 2 * size**3 / setting.seconds(lambda: a @ a)
    least = counter.get_total_flops() / rate
    return {"flops": counter.get_total_flops(), "flops a second": rate, "seconds": least,
            "times the limit": setting.seconds(lambda: contestants.ours(case)) / least}  # fmt: skip


# Samples, columns, groups, outputs, entries of a filter, positions.
SHAPES = ((64, 9, 1, 64, 27, 1024), (64, 9, 1, 192, 576, 256), (64, 9, 1, 256, 3456, 64))


def _kernel(setting: Setting) -> dict[str, Any]:
    from hessian._site import contraction, kernel

    rows: dict[str, Any] = {}
    for shape in SHAPES:
        m, c, g, o, k, p = (min(v, 8) for v in shape) if setting.small else shape
        generator = torch.Generator("cpu").manual_seed(0)
        drawn = (torch.randn(s, generator=generator) for s in ((m, c, g, o, p), (m, g, k, p)))
        s, u = (t.to(setting.device) for t in drawn)
        weights = torch.ones(m, c, device=setting.device)
        want = torch.zeros(g, o, k, device=setting.device)
        into = torch.zeros_like(want)
        portable = partial(contraction.batched_squares, s, u, weights)
        portable(want)
        row = {"portable": setting.seconds(partial(portable, into))}
        if setting.device.type in devices.TRITON and kernel.available(want):
            fused = partial(kernel.fused_squares, s, u, weights)
            fused(into.zero_())
            row["gap"] = float((into - want).abs().max() / want.abs().max())
            row["kernel"] = setting.seconds(partial(fused, into))
        rows["x".join(map(str, (m, c, g, o, k, p)))] = row
    return rows


def _over(
    setting: Setting, make: Callable[[int, int], cases.Case], first: int, count: int
) -> dict[str, Any]:
    """One exact diagonal over many images, in batches, and the plain passes over the same."""
    case = make(first, count)
    batch = min(500, count)
    pairs = list(zip(case.x.split(batch), case.y.split(batch), strict=True))

    def ours() -> Any:
        return hessian.diagonal(case.model, F.cross_entropy, pairs)

    def columns() -> None:
        for x, y in pairs:
            contestants.plain_columns(cases.Case(case.model, x, y, case.peer, case.classes))

    taken = {"seconds": setting.seconds(ours, 1)}
    with setting.tensor_cores(False):
        taken["columns"] = setting.seconds(columns, 1)
    return {**taken, "C backward passes": taken["seconds"] / taken["columns"],
            "target": DIAGONAL_TARGET}  # fmt: skip


# ---------------------------------------------------------------------- (3) CBLR


def cblr(setting: Setting) -> dict[str, Task]:
    """A step of every rule beside one of SGD, AlexNet with dropout."""
    batches, width = ((4, 6), 1 / 16) if setting.small else ((128, 8192), 1.0)
    return {f"batch {n}": partial(_steps, setting, width, n) for n in batches}


def _steps(setting: Setting, width: float, batch: int) -> dict[str, Any]:
    runs = step.contestants(width, batch, str(setting.device))
    with setting.tensor_cores(False):
        seconds = {name: setting.seconds(run, 3) / steps for name, (run, steps) in runs.items()}
    with setting.tensor_cores(True):
        seconds["SGD in TF32"] = setting.seconds(runs["SGD"][0], 3)
    return {
        "seconds": seconds,
        "SGD steps": {name: s / seconds["SGD"] for name, s in seconds.items()},
        "target": STEP_TARGET,
    }


# ---------------------------------------------------------------------- (4) ResNet-18


def resnet(setting: Setting) -> dict[str, Task]:
    """All of it in evaluation mode; random entries in training mode, where batch norm couples."""
    count, width = (4, 1 / 16) if setting.small else (512, 1.0)

    def model(training: bool) -> nn.Module:
        built = sim.models.build("resnet18", width=width, classes=10, seed=0)
        return built.to(setting.device).train(training)

    def evaluated() -> dict[str, Any]:
        net, data = model(False), setting.images(count)
        run = partial(hessian.diagonal, net, F.cross_entropy, data)
        h = run(verify=4)
        gap = max(v for v in h.deviation.values() if v == v)
        return {"seconds": setting.seconds(run, 2), "methods": h.plan.methods(), "deviation": gap}

    def sampled() -> dict[str, Any]:
        net, data = model(True), setting.images(count)
        entries = 1 if setting.small else 16
        # What is sampled when the time is over stays.
        path = setting.out / "runs" / "resnet18.sample"
        path.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        values = hessian.sample(net, F.cross_entropy, data, entries,
                                generator=torch.Generator("cpu").manual_seed(0),
                                checkpoint=path)  # fmt: skip
        path.unlink(missing_ok=True)
        return {"seconds of the last call": time.perf_counter() - start, "tensors": len(values),
                "largest": max(float(s.value.abs().max()) for s in values.values())}  # fmt: skip

    return {"evaluation mode": evaluated, "training mode, by sample": sampled}


# ---------------------------------------------------------------------- (5) transformers


def transformers(setting: Setting) -> dict[str, Task]:
    """The forms of llama and GPT-2 as Hugging Face builds them, beside batched products."""
    names = ["gpt2"] if setting.small else list(cases.FORMS)

    def form(name: str) -> dict[str, Any]:
        case = cases.named(name).to(str(setting.device))
        chosen = ["*ln_f*"] if setting.small else None
        run = partial(hessian.diagonal, case.model, case.loss, (case.x, case.y), names=chosen)
        h = run(verify=2)
        return {"seconds": setting.seconds(run, 2), "entries": sum(map(torch.numel, h.values())),
                "methods": sorted(set(h.plan.methods().values())),
                "deviation": max(v for v in h.deviation.values() if v == v)}  # fmt: skip

    return {name: partial(form, name) for name in names}


# ---------------------------------------------------------------------- (6) training


def training(setting: Setting) -> dict[str, Task]:
    """Seconds an epoch and test accuracy of AlexNet and ResNet-18, in full and in bfloat16."""
    lengths = {"alexnet": 30, "resnet18": 15}

    def trained(model: str, precision: str) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "dataset": "cifar10", "model": model, "optimizer": "sgd", "lr": 0.05,
            "optimizer_options": {"momentum": 0.9, "weight_decay": 5e-4}, "batch_size": 128,
            "epochs": lengths[model], "augment": {}, "decay": {"kind": "cosine"},
            "precision": precision, "device": str(setting.device), "measure": {"layers_every": 0},
        }  # fmt: skip
        if setting.small:
            fields |= {"dataset": "digits", "samples": 32, "batch_size": 16, "epochs": 1,
                       "model_options": {"width": 1 / 16}, "augment": None}  # fmt: skip
        folder = setting.out / "runs" / f"{model}-{precision}"
        run = sim.train(fields, out=folder, root=setting.data if not setting.small else None)
        return {"seconds an epoch": run.seconds / max(1, len(run.epochs)), "status": run.status,
                "epochs": len(run.epochs), "accuracy": float(run.epochs.test_accuracy.iloc[-1]),
                }  # fmt: skip

    return {
        f"{model}, {precision}": partial(trained, model, precision)
        for model in lengths
        for precision in ("full", "bfloat16")
    }


# ---------------------------------------------------------------------- (7) the audit


def audit(setting: Setting) -> dict[str, Task]:
    """The checks of the full profile one by one; first those that read the fewest runs."""
    from paper_checks.registry import IDS, rows_read

    names = sorted(IDS, key=lambda name: len(rows_read(name)))
    if setting.small:
        names = names[:1]

    def check(name: str) -> dict[str, Any]:
        import paper_checks

        small = {"profile": "quick"}
        full = {"profile": "full", "dataset": "cifar10", "data": setting.data,
                "device": str(setting.device)}  # fmt: skip
        options: dict[str, Any] = small if setting.small else full
        (result,) = paper_checks.run(only=name, out=setting.out / "audit", **options)
        return {
            "verdict": result.verdict,
            "reason": result.reason,
            "measured": str(result.measured),
        }

    return {name: partial(check, name) for name in names}


STAGES: dict[str, Callable[[Setting], dict[str, Task]]] = {
    "agreement": agreement,
    "diagonal": diagonal,
    "cblr": cblr,
    "resnet": resnet,
    "transformers": transformers,
    "training": training,
    "audit": audit,
}
