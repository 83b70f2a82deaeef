"""What the automatic plan takes over the best plan that can be forced, on seventy networks.

    python benchmarks/regret.py                     # all, a table and results/regret.json
    python benchmarks/regret.py --only mlp "gpt block"

Forced are the public methods, wherever they are proved for all parameters, and three that no option
asks for: every curved parameter left to other methods than the chain, all of them on the chain, and
the affine ones with them. One thread; seconds of the processor, medians of turns in which every
plan runs once. A plan that has taken three times what the automatic one takes is given up: it is no
rival. Finished networks are kept in the record, and a run goes on from it.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import networks
import record
import torch

import hessian
from hessian._batch import chain_choice

RESULTS = Path(__file__).parent / "results" / "regret.json"
METHODS = ("affine", "chain", "preactivation", "parameter")
TURNS, GIVE_UP = 5, 3.0
SECONDS = 20.0  # of turns for a network, of which there is one at least


class Slow(Exception):
    """A plan took longer than it may."""


def leave(choices: list[Any], kind: str) -> list[Any]:
    """Of the choices that the planner compares, those of one kind; all where there is none."""
    most = max(choice.count for choice in choices)
    some = [
        choice for choice in choices
        if (kind == "no chain" and not choice.count and not choice.affine)
        or (kind == "curved by chain" and choice.count == most and not choice.affine)
        or (kind == "all by chain" and choice.count == most and choice.affine)
    ]  # fmt: skip
    return some or choices


@contextmanager
def forced(kind: str) -> Iterator[None]:
    """The planner restricted to one kind of choice."""
    compared = chain_choice._choices
    with mock.patch.object(
        chain_choice, "_choices", lambda *arguments: leave(compared(*arguments), kind)
    ):
        yield


def run(problem: networks.Problem, plan: str) -> hessian.Diagonal:
    torch.manual_seed(1)
    method = plan if plan in METHODS else "auto"
    with forced(plan):
        return hessian.diagonal(problem.model, problem.loss, problem.data, method=method)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises `Slow` after so many seconds of this process's processor."""

    def stop(*_: Any) -> None:
        raise Slow

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def seconds(compute: Callable[[], object]) -> float:
    start = time.process_time()
    compute()
    return time.process_time() - start


def rivals(problem: networks.Problem, limit: float) -> list[str]:
    """The plans that differ from the automatic one, may be forced and do not take too long."""
    automatic = hessian.plan(problem.model, problem.loss, problem.data)
    plans, seen = [], {tuple(automatic.methods().values())}
    for plan in (*METHODS, "no chain", "curved by chain", "all by chain"):
        try:
            with at_most(max(1.0, limit)):
                methods = tuple(run(problem, plan).plan.methods().values())
        except ValueError:  # not proved for some parameter, or too little memory
            continue
        except Slow:
            plans.append(f"{plan} (given up)")
            continue
        if methods not in seen:
            plans.append(plan)
            seen.add(methods)
    return plans


def measure(name: str) -> dict[str, Any]:
    problem = networks.named(name)
    automatic = run(problem, "auto").plan
    first = seconds(lambda: run(problem, "auto"))
    plans = rivals(problem, GIVE_UP * first)
    abandoned = [plan.removesuffix(" (given up)") for plan in plans if "given up" in plan]
    times: dict[str, list[float]] = {
        plan: [] for plan in ("auto", *plans) if "given up" not in plan
    }
    begun = time.process_time()
    for turn in range(TURNS):
        for plan, taken in times.items():
            if plan != "auto" and taken and taken[0] > GIVE_UP * times["auto"][0]:
                continue
            taken.append(seconds(lambda plan=plan: run(problem, plan)))  # type: ignore[misc]
        if turn and time.process_time() - begun > SECONDS:
            break
    medians = {plan: statistics.median(taken) for plan, taken in times.items()}
    planning = statistics.median(
        seconds(lambda: hessian.plan(problem.model, problem.loss, problem.data)) for _ in range(3)
    )
    entries = [entry for entry in automatic if entry.method == "parameter"]
    return {
        "network": name,
        "parameters": sum(entry.numel for entry in automatic),
        "methods": sorted(set(automatic.methods().values())),
        "passes": automatic.backward,
        "seconds": medians,
        "given_up": abandoned,
        "regret": medians["auto"] / min(medians.values()),
        "planning": planning / medians["auto"],
        "by_entries": {entry.name: entry.reason for entry in entries},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The record in Markdown, the largest regret on top."""
    lines = [
        "| network | entries | methods | ms | best | regret |", "|---|---:|---|---:|---|---:|"
    ]  # fmt: skip
    for row in sorted(rows, key=lambda row: -row["regret"]):
        times = row["seconds"]
        best = min(times, key=times.__getitem__)
        lines.append(
            f"| {row['network']} | {row['parameters']:,} | {', '.join(row['methods'])} "
            f"| {1e3 * times['auto']:.1f} | {best} | {row['regret']:.2f} |"
        )
    return "\n".join(lines)


def summary(rows: list[dict[str, Any]]) -> str:
    regrets = sorted(row["regret"] for row in rows)
    within = sum(regret <= 1.3 for regret in regrets)
    ninth = regrets[min(len(regrets) - 1, math.ceil(0.9 * len(regrets)) - 1)]
    return (
        f"{len(rows)} networks: at most 1.3 times the best in {within} "
        f"({100 * within / len(rows):.0f} %), 90 % within {ninth:.2f}, largest {regrets[-1]:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="networks whose names hold one of these words")
    parser.add_argument("--again", action="store_true", help="measure what the record holds, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = {}
    if RESULTS.exists():
        rows = {row["network"]: row for row in json.loads(RESULTS.read_text("utf-8"))["networks"]}
    for name in networks.NETWORKS:
        if arguments.only and not any(word in name for word in arguments.only):
            continue
        if name in rows and not arguments.again and not arguments.only:
            continue
        rows[name] = row = measure(name)
        times = "  ".join(f"{plan} {1e3 * s:.1f}" for plan, s in row["seconds"].items())
        print(f"{row['regret']:5.2f}  {name:34s} {times}", flush=True)
        record.write(RESULTS, networks=[rows[n] for n in networks.NETWORKS if n in rows])
    print(table(list(rows.values())))
    print(summary(list(rows.values())))


if __name__ == "__main__":
    main()
