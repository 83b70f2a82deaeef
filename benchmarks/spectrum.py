"""The trace to 1 % and the five largest eigenvalues to 1e-3, beside the peers.

    python benchmarks/spectrum.py [--samples 64] [--rounds 5] [--out benchmarks/results]

ResNet-20 in its CIFAR form (269,722 parameters), trained for a little on scikit-learn's digits,
resized to 32x32, in evaluation mode. Peers that are not installed are left out and named. They go
without their dependencies, which are here or of no use to this:

    pip install --no-deps pyhessian==0.1 hessian-eigenthings==1.0.0a5 curvlinops-for-pytorch==3.0.1

Seconds are the processor's, on one thread (OMP_NUM_THREADS=1). What costs is products. All
contestants take one in turn, round by round: medians of the ratios within a round. Then each is run
for what it needs to be as exact as asked for; its own tolerance is tightened until it is, by the
eigenvalues in float64.

Traces are compared at a standard error of 1 %. Ours is exact. A peer's Hutchinson estimate needs
(standard deviation of a probe / 1 % of the trace)² products, a Hutch++ estimate so many as bring
its standard error there: 30 probes and three budgets tell how many, and their time is that of one
product in proportion.
"""

import argparse
import copy
import importlib
import importlib.metadata
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, eigsh
from sklearn.datasets import load_digits
from torch import Tensor, nn

import hessian

K, ERROR, PART = 5, 1e-3, 0.01
MEMORY = 6 * 2**30
PROBES = 30
PEERS = {
    "PyHessian": ("pyhessian", "pyhessian"),
    "hessian-eigenthings": ("hessian_eigenthings", "hessian-eigenthings"),
    "curvlinops": ("curvlinops", "curvlinops-for-pytorch"),
}
Product = Callable[[Tensor], Tensor]


class Block(nn.Module):
    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.pad = stride, (out - width) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:  # He et al. (2016), option A: a shortcut without parameters
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(x + y)


class ResNet20(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        self.layers = nn.Sequential(
            *(Block(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths))
        )
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(F.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


def trained(samples: int, steps: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network after a few steps, and samples."""
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    x = F.interpolate(x, size=32, mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    y = torch.tensor(digits.target)
    model = ResNet20()
    sgd = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(steps):
        some = torch.randint(len(x), (64,))
        sgd.zero_grad()
        F.cross_entropy(model(x[some]), y[some]).backward()
        sgd.step()
    return model.eval(), x[:samples].contiguous(), y[:samples]


class Counted:
    """A product that counts how often it is taken."""

    def __init__(self, product: Product) -> None:
        self.product, self.count = product, 0

    def __call__(self, vector: Tensor) -> Tensor:
        self.count += 1
        return self.product(vector)

    def scipy(self, size: int) -> LinearOperator:
        def multiply(v: Any) -> Any:
            return self(torch.from_numpy(v.reshape(-1).astype(np.float32))).numpy()

        return LinearOperator((size, size), matvec=multiply, dtype=np.float32)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the processor, which other work on the machine changes least."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


# ------------------------------------------------------------------------------- the contestants


def pyhessian_of(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Any, Product]:
    from pyhessian import hessian as of
    from pyhessian.utils import hessian_vector_product

    tool = of(model, F.cross_entropy, data=(x, y), cuda=False)
    sizes = [p.numel() for p in tool.params]

    def product(vector: Tensor) -> Tensor:
        pieces = [v.view_as(p) for v, p in zip(vector.split(sizes), tool.params, strict=True)]
        found = hessian_vector_product(tool.gradsH, tool.params, pieces)
        return torch.cat([h.reshape(-1) for h in found])

    return tool, product


def eigenthings_of(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Any, Product]:
    from hessian_eigenthings import HessianOperator, supervised_loss

    tool = HessianOperator(model, [(x, y)], supervised_loss(F.cross_entropy))
    return tool, tool.matvec


def curvlinops_of(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Any, Product]:
    from curvlinops import HessianLinearOperator

    parameters = [p for p in model.parameters() if p.requires_grad]
    tool = HessianLinearOperator(
        model, nn.CrossEntropyLoss(), parameters, [(x, y)],
        check_deterministic=False, progressbar=False,
    )  # fmt: skip
    return tool, lambda vector: tool @ vector


OF = {
    "PyHessian": pyhessian_of,
    "hessian-eigenthings": eigenthings_of,
    "curvlinops": curvlinops_of,
}


def top_of_pyhessian(tool: Any, truth: Tensor) -> dict[str, Any]:
    """Power iteration with deflation, its tolerance tightened until the values are right.

    It takes the largest in size, so that negative ones would count against it: they are smaller.
    """
    module: Any = sys.modules["pyhessian.hessian"]
    right = module.hessian_vector_product
    tries = []
    for tolerance in (1e-3, 1e-4, 1e-5):
        count = [0]

        def counted(*args: Any, count: list[int] = count) -> Any:
            count[0] += 1
            return right(*args)

        module.hessian_vector_product = counted
        torch.manual_seed(0)
        try:
            seconds, (values, _) = timed(
                lambda t=tolerance: tool.eigenvalues(maxIter=1000, tol=t, top_n=K)
            )
        finally:
            module.hessian_vector_product = right
        tries.append(attempt(tolerance, values, truth, seconds, count[0]))
        if tries[-1]["error"] <= ERROR:
            break
    return {**tries[-1], "tries": tries}


def top_of_eigenthings(tool: Any, fast: Product, truth: Tensor) -> dict[str, Any]:
    """Lanczos of a length that the user gives: the shortest that is right, looked up beforehand."""
    from hessian_eigenthings import LambdaOperator, lanczos, lanczos_tridiagonal

    draw = torch.Generator().manual_seed(0)
    start = torch.randn(tool.size, generator=draw)
    stand_in = LambdaOperator(fast, tool.size)
    run = lanczos_tridiagonal(stand_in, start, 48)
    for length in range(2 * K, 49):
        off = run.betas[: length - 1]
        matrix = torch.diag(run.alphas[:length]) + torch.diag(off, 1) + torch.diag(off, -1)
        values = torch.linalg.eigvalsh(matrix.double()).flip(0)[:K]
        if float(((values - truth) / truth).abs().max()) <= ERROR:
            break
    seconds, found = timed(lambda: lanczos(tool, k=K, max_iter=length, which="LA", seed=0))
    return attempt(length, found.eigenvalues, truth, seconds, length)


def top_of_scipy(product: Product, size: int, truth: Tensor) -> dict[str, Any]:
    """SciPy's `eigsh` with the operator of a library that has no eigensolver."""
    tries = []
    for tolerance in (1e-1, 1e-2, 1e-3):
        counted = Counted(product)
        start = np.random.default_rng(0).standard_normal(size).astype(np.float32)
        seconds, values = timed(
            lambda t=tolerance, c=counted, s=start: eigsh(
                c.scipy(size), k=K, which="LA", tol=t, v0=s, return_eigenvectors=False
            )
        )
        tries.append(
            attempt(tolerance, np.sort(values)[::-1].copy(), truth, seconds, counted.count)
        )
        if tries[-1]["error"] <= ERROR:
            break
    return {**tries[-1], "tries": tries}


def attempt(
    tolerance: float, values: Any, truth: Tensor, seconds: float, products: int
) -> dict[str, Any]:
    values = torch.as_tensor(np.asarray(values, dtype=np.float64))
    error = float(((values - truth) / truth).abs().max())
    print(f"    {tolerance:g}: {products} products, {seconds:.1f} s, error {error:.1e}", flush=True)
    return {"tolerance": tolerance, "products": products, "seconds": seconds, "error": error}


# ------------------------------------------------------------------------------------ the tasks


def paired(products: dict[str, Product], vector: Tensor, rounds: int) -> dict[str, Any]:
    """Median seconds of a product, and the median of its ratio to ours within a round."""
    times: dict[str, list[float]] = {name: [] for name in products}
    for product in products.values():
        product(vector)  # warm
    for _ in range(rounds):
        for name, product in products.items():
            times[name].append(timed(lambda p=product: p(vector))[0])
    ours = times["ours"]
    return {
        name: {
            "seconds": statistics.median(took),
            "times ours": statistics.median(a / b for a, b in zip(took, ours, strict=True)),
        }
        for name, took in times.items()
    }


def needed_by_hutchinson(product: Product, trace: float, size: int) -> dict[str, Any]:
    """Products for a standard error of 1 %."""
    draw = torch.Generator().manual_seed(0)
    probes = 2.0 * torch.randint(0, 2, (PROBES, size), generator=draw) - 1
    values = [float((z * product(z)).double().sum()) for z in probes]
    deviation = statistics.stdev(values)
    return {
        "products": math.ceil((deviation / (PART * trace)) ** 2),
        "mean of probes": statistics.fmean(values),
        "standard error": deviation / math.sqrt(PROBES),
    }


def needed_by_hutch(h: Any, trace: float) -> dict[str, Any]:
    """Products for the same by Hutch++, by the power of the budget that the error falls with."""
    budgets, errors = (60, 120, 240), []
    for budget in budgets:
        found = h.trace(method="hutch++", products=budget)
        print(f"    Hutch++ of {budget}: {found}", flush=True)
        errors.append(found.standard_error / abs(trace))
    rate = -np.polyfit(np.log(budgets), np.log(errors), 1)[0]
    needed = math.ceil(budgets[-1] * (errors[-1] / PART) ** (1 / rate))
    return {"products": needed, "budgets": budgets, "relative errors": errors, "rate": rate}


def traces(h: hessian.Hessian, fast: Product, each: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Seconds for the trace at 1 %, ours exact, and that trace."""
    took = [timed(h.trace) for _ in range(rounds)]
    exact = took[0][1]
    print(f"  trace: {exact}", flush=True)
    result: dict[str, Any] = {
        "ours": {"seconds": statistics.median(t for t, _ in took), "method": exact.method}
    }
    probes = needed_by_hutchinson(fast, exact.value, h.shape[0])
    hutch = needed_by_hutch(h, exact.value)
    print(f"  Hutchinson needs {probes}, Hutch++ {hutch}", flush=True)
    for name in PEERS:
        if name in each:
            best = (
                probes if name == "PyHessian" else min(probes, hutch, key=lambda e: e["products"])
            )
            result[name] = {
                "products": best["products"],
                "method": "Hutchinson" if best is probes else "Hutch++",
                "seconds": best["products"] * each[name]["seconds"],
            }
    return {**result, "value": exact.value, "hutchinson": probes, "hutch++": hutch}


def tops(
    h: hessian.Hessian, tools: dict[str, Any], products: dict[str, Product], truth: Tensor,
    rounds: int,
) -> dict[str, Any]:  # fmt: skip
    """Seconds for the five largest eigenvalues, the tapes of ours built anew in each round."""
    result = {}
    for name, options in (("ours", {}), ("ours, copies not looked for", {"missed": None})):
        took = [timed(lambda o=options: h.top(K, tolerance=ERROR, **o)) for _ in range(rounds)]
        seconds = statistics.median(t for t, _ in took)
        print(f"  top, {name}")
        result[name] = attempt(ERROR, took[0][1].values, truth, seconds, took[0][1].products)
    for name, tool in tools.items():
        print(f"  top, {name}")
        if name == "PyHessian":
            result[name] = top_of_pyhessian(tool, truth)
        elif name == "hessian-eigenthings":
            with h.kept():
                result[name] = top_of_eigenthings(tool, products["ours"], truth)
        else:
            result[name] = top_of_scipy(products[name], h.shape[0], truth)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, x, y = trained(options.samples, options.steps)
    size = sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        loss = float(F.cross_entropy(model(x), y))
    print(f"{size:,} parameters, loss {loss:.4f}", flush=True)
    call = (model, F.cross_entropy, (x, y))
    truth = hessian.operator(*call, memory=2 * MEMORY, dtype=torch.float64).top(
        K, tolerance=1e-6, products=100
    )
    print(truth, flush=True)
    h = hessian.operator(*call, memory=MEMORY)
    versions, tools = {}, {}
    products: dict[str, Product] = {"ours": lambda v: torch.from_numpy(h @ v.numpy())}
    for name, (module, package) in PEERS.items():
        try:
            importlib.import_module(module)
        except ImportError:
            print(f"{name} is not installed")
            continue
        versions[name] = importlib.metadata.version(package)
        # On a copy: PyHessian leaves a tape in .grad.
        tools[name], products[name] = OF[name](copy.deepcopy(model), x, y)
    vector = torch.randn(size, generator=torch.Generator().manual_seed(1))
    with h.kept():
        mine = products["ours"](vector)
        differences = {
            name: float((product(vector) - mine).abs().max() / mine.abs().max())
            for name, product in products.items()
        }
        print("differences", differences)
        each = paired(products, vector, options.rounds)
        print("a product", each, flush=True)
    top = tops(h, tools, products, truth.values, options.rounds)
    with h.kept():
        trace = traces(h, products["ours"], each, options.rounds)
    both = {name: trace[name]["seconds"] + top[name]["seconds"] for name in each if name in trace}
    print(f"{'':20} {'trace':>20} {'top':>20} {'both':>20}")
    for name in both:
        cells = [
            f"{mine[name]:9.1f} s {mine[name] / mine['ours']:7.1f}x"
            for mine in (
                {n: trace[n]["seconds"] for n in both},
                {n: top[n]["seconds"] for n in both},
                both,
            )
        ]
        print(f"{name:20} {cells[0]:>20} {cells[1]:>20} {cells[2]:>20}")
    record.write(
        options.out / "spectrum.json", environment={
            **record.environment(), **versions, "samples": options.samples,
            "training steps": options.steps, "loss": loss, "parameters": size,
        },
        eigenvalues=truth.values.tolist(), differences=differences, product=each, trace=trace,
        top=top, seconds=both,
    )  # fmt: skip


if __name__ == "__main__":
    main()
