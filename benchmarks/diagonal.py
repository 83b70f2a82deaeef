"""The exact diagonal beside its peers: same work, one run, medians of ratios.

    python benchmarks/diagonal.py [--only NAME ...] [--rounds 3] [--device cpu] [--out DIR]

Needs the extra ``benchmarks``. Every row first checks that the results agree: BackPACK's in every
entry, torch.func's on the samples it did, Hessian-vector products (curvlinops, batched ones) in the
entries they did. Then the contestants are timed in turn, round by round, and medians of the ratios
within a round are reported, so that a machine whose speed drifts does not matter. Peak memory is
taken in a process of its own for each (`memory.py`). ``--only growth`` gives the growth with
samples, classes, width and depth. Writes a JSON record with hardware and versions.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cases
import contestants
import memory
import torch
from cases import CASES, GROWTH, Case
from contestants import Result
from record import environment

Run = Callable[[Case], tuple[Result, float]]
# These do a small part of the work, which takes long enough to be timed once.
ONCE = ("curvlinops", "torch.func")
# Seconds up to which a case takes further rounds.
ENOUGH = 40


def seconds(run: Run, case: Case) -> float:
    if case.x.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    run(case)
    if case.x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def repeated(run: Run, case: Case) -> float:
    """Short runs are repeated: neither a scheduling hiccup nor another's caches are the result."""
    gc.collect()
    first = seconds(run, case)
    if first > 0.5:
        return first
    return statistics.median(seconds(run, case) for _ in range(max(5, min(50, int(0.5 / first)))))


def ratio(over: list[float], under: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def measure(name: str, rounds: int, device: str) -> dict[str, Any]:
    case = cases.named(name).to(device)
    exact = contestants.ours(case)[0]
    peers = contestants.peers(case)
    gaps, parts = {}, {}
    for who, run in peers.items():
        got, parts[who] = run(case)
        gaps[who] = contestants.compared(case, exact, got, parts[who])
    once = {who: seconds(run, case) / parts[who] for who, run in peers.items() if who in ONCE}
    racing = {"ours": contestants.ours, **contestants.MEASURES}
    racing |= {who: run for who, run in peers.items() if who not in ONCE}
    times: dict[str, list[float]] = {who: [] for who in racing}
    start = time.perf_counter()
    # Where a round is short more of them cost little, and a median of three is still noisy.
    while len(times["ours"]) < rounds or (
        time.perf_counter() - start < ENOUGH and len(times["ours"]) < 5 * rounds
    ):
        for who, run in racing.items():
            times[who].append(repeated(run, case) / parts.get(who, 1.0))
    t = times["ours"]
    main = next(iter(peers))
    watched = ["ours", "gradient", *([main] if parts[main] == 1 else [])]
    extra = {who: memory.peak(name, who, device) for who in watched}
    return {
        "case": name,
        "parameters": sum(p.numel() for p in case.model.parameters()),
        "batch": len(case.x),
        "classes": case.classes,
        "methods": sorted(set(exact.plan.methods().values())),  # type: ignore[attr-defined]
        "largest relative difference": gaps,
        "part of the work that was timed": parts,
        "seconds": statistics.median(t),
        "gradients": ratio(t, times["gradient"]),
        "C backward passes": ratio(t, times["C backward passes"]),
        "peer": main,
        "times as fast": {
            **{who: ratio(times[who], t) for who in peers if who not in ONCE},
            **{who: taken / statistics.median(t) for who, taken in once.items()},
        },
        "extra memory, bytes": extra,
        "memory, share of the peer's": extra["ours"] / extra[main] if main in extra else None,
        "all seconds": times,
    }


def growth(rounds: int, device: str) -> list[dict[str, Any]]:
    """Time relative to a gradient and to C backward passes, and memory, along each axis."""
    rows = []
    for axis, (values, make) in GROWTH.items():
        for value in values:
            torch.manual_seed(0)
            case = make(value).to(device)
            contestants.ours(case)
            times: dict[str, list[float]] = {"ours": [], "gradient": [], "C backward passes": []}
            for _ in range(rounds):
                for who, run in {"ours": contestants.ours, **contestants.MEASURES}.items():
                    times[who].append(repeated(run, case))
            name = f"{axis}={value:g}"
            row = {
                "axis": axis,
                "value": value,
                "seconds": statistics.median(times["ours"]),
                "gradients": ratio(times["ours"], times["gradient"]),
                "C backward passes": ratio(times["ours"], times["C backward passes"]),
                "extra memory, bytes": {
                    who: memory.peak(name, who, device) for who in ("ours", "gradient")
                },
            }
            rows.append(row)
            print(
                f"{name:20} {row['seconds']:8.3f} {row['gradients']:10.1f} "
                f"{row['C backward passes']:9.2f} "
                f"{row['extra memory, bytes']['ours'] / 1e6:8.0f} MB"
                f" (a gradient {row['extra memory, bytes']['gradient'] / 1e6:.0f} MB)",
                flush=True,
            )
    return rows


def surroundings(device: str) -> dict[str, Any]:
    found = {**environment(), "processor": cases.processor()}
    found["memory, bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    for name in ("backpack-for-pytorch", "curvlinops-for-pytorch"):
        found[name] = version(name)
    return found


def line(row: dict[str, Any]) -> str:
    main, extra = row["peer"], row["extra memory, bytes"]
    share = row["memory, share of the peer's"]
    others = ", ".join(
        f"{who} {row['times as fast'][who]:.0f}x" for who in row["times as fast"] if who != main
    )
    return (
        f"{row['case']:20} {row['seconds']:8.3f} {row['gradients']:10.1f} "
        f"{row['C backward passes']:9.2f} {row['times as fast'][main]:8.1f}x "
        f"{extra['ours'] / 1e6:7.0f} MB {'' if share is None else f'{share:.2f} of the peer':16} "
        f"{max(row['largest relative difference'].values()):.0e}  {main}; {others}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=[*CASES, "growth"], default=[*CASES, "growth"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / ("diagonal.json" if options.device == "cpu" else "diagonal-cuda.json")
    record: dict[str, Any] = {"environment": surroundings(options.device), "rows": []}
    if (
        file.exists()
        and (old := json.loads(file.read_text()))["environment"] == record["environment"]
    ):
        record = old  # what is not measured again stays
    print(
        f"{'case':20} {'seconds':>8} {'gradients':>10} {'C passes':>9} {'vs peer':>9} "
        f"{'extra memory':>10}              difference"
    )
    for name in (n for n in options.only if n != "growth"):
        row = measure(name, options.rounds, options.device)
        kept = {r["case"]: r for r in record["rows"]} | {name: row}
        record["rows"] = [kept[case] for case in CASES if case in kept]
        print(line(row), flush=True)
        file.write_text(json.dumps(record, indent=1) + "\n")
    if "growth" in options.only:
        record["growth"] = growth(options.rounds, options.device)
    file.write_text(json.dumps(record, indent=1) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
