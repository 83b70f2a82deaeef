"""What the automatic plan takes over the best plan that can be forced, on seventy networks.

    python benchmarks/regret.py                     # all: results/regret.json, docs/plans.md
    python benchmarks/regret.py --only mlp "gpt block"

Forced are the public methods, wherever they are proved for all parameters, and three choices that
no option asks for: every curved parameter left to other methods than the chain, all of them on the
chain, and the affine ones with them. One thread; seconds of the processor, medians of turns in
which every plan runs once. A plan that takes two and a half times as long as the automatic one is
given up: it is no rival. Finished networks are kept in the record, and a run goes on from it.
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
from hessian._batch import chain_choice, prices

RESULTS = Path(__file__).parent / "results" / "regret.json"
PAGE = Path(__file__).parents[1] / "docs" / "plans.md"
METHODS = ("affine", "chain", "preactivation", "parameter")
TURNS, GIVE_UP = 5, 2.5
SECONDS = 5.0  # of turns for a network, of which there is one at least


class Slow(Exception):
    """A plan took longer than it may."""


def leave(choices: list[Any], kind: str) -> list[Any]:
    """Of the choices that the planner compares, those of one kind; all where there is none."""
    most = max(choice.count for choice in choices)
    of_kind = [
        choice for choice in choices
        if (kind == "no chain" and not choice.count and not choice.affine)
        or (kind == "curved by chain" and choice.count == most and not choice.affine)
        or (kind == "all by chain" and choice.count == most and choice.affine)
    ]  # fmt: skip
    return of_kind or choices


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


def passes(plan: hessian.Plan) -> dict[str, int]:
    """Backward passes of each method; a Hessian-vector product counts as two."""
    shared = {e.method: e.backward for e in plan if e.method in ("affine", "columns", "chain")}
    sites = {e.site: e.backward for e in plan if e.method == "preactivation"}
    counts = dict(shared)
    counts["preactivation"] = sum(sites.values())
    counts["parameter"] = sum(e.backward for e in plan if e.method == "parameter")
    counts["parameter"] += 2 * sum(e.products for e in plan)
    return {method: count for method, count in counts.items() if count}


def calls(plan: hessian.Plan) -> int:
    """Sites and parameters that take Hessian-vector products."""
    sites = {e.site for e in plan if e.method == "preactivation"}
    return len(sites) + sum(e.method == "parameter" or e.products > 0 for e in plan)


def work(problem: networks.Problem) -> float:
    """Multiplications of a backward pass over the batch, where the chain's steps know them."""
    units: list[float] = []
    unit = prices.Prices.unit.func

    def noted(self: prices.Prices) -> float:
        units.append(unit(self))
        return units[-1]

    with mock.patch.object(prices.Prices, "unit", property(noted)):
        hessian.plan(problem.model, problem.loss, problem.data)
    return units[0] if units else 0.0


def rivals(problem: networks.Problem, limit: float) -> dict[str, hessian.Plan | None]:
    """The plans that differ from the automatic one and may be forced.

    ``None`` for one that takes too long.
    """
    automatic = hessian.plan(problem.model, problem.loss, problem.data)
    plans: dict[str, hessian.Plan | None] = {}
    seen = {tuple(automatic.methods().values())}
    for plan in (*METHODS, "no chain", "curved by chain", "all by chain"):
        try:
            with at_most(max(1.0, limit)):
                forced_plan = run(problem, plan).plan
        except ValueError:  # not proved for some parameter, or too little memory
            continue
        except Slow:
            plans[plan] = None
            continue
        methods = tuple(forced_plan.methods().values())
        if methods not in seen:
            plans[plan] = forced_plan
            seen.add(methods)
    return plans


def measure(name: str) -> dict[str, Any]:
    problem = networks.named(name)
    automatic = run(problem, "auto").plan
    first = seconds(lambda: run(problem, "auto"))
    plans = {"auto": automatic, **rivals(problem, GIVE_UP * first)}
    times: dict[str, list[float]] = {plan: [] for plan, done in plans.items() if done}
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
        "work": work(problem),
        "passes": {plan: passes(done) for plan, done in plans.items() if done},
        "calls": {plan: calls(done) for plan, done in plans.items() if done},
        "seconds": medians,
        "given_up": [plan for plan, done in plans.items() if done is None],
        "regret": medians["auto"] / min(medians.values()),
        "planning": planning / medians["auto"],
        "by_entries": {entry.name: entry.reason for entry in entries},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The record in Markdown, the largest regret on top."""
    lines = [
        "| network | entries | methods | ms | best plan | regret |",
        "|---|---:|---|---:|---|---:|",
    ]
    for row in sorted(rows, key=lambda row: -row["regret"]):
        times = row["seconds"]
        best = min(times, key=times.__getitem__)
        lines.append(
            f"| {row['network']} | {row['parameters']:,} | {', '.join(row['methods'])} "
            f"| {1e3 * times['auto']:.1f} | {'its own' if best == 'auto' else best} "
            f"| {row['regret']:.2f} |"
        )
    return "\n".join(lines)


def summary(rows: list[dict[str, Any]]) -> str:
    regrets = sorted(row["regret"] for row in rows)
    within = sum(regret <= 1.3 for regret in regrets)
    ninth = regrets[min(len(regrets) - 1, math.ceil(0.9 * len(regrets)) - 1)]
    return (
        f"{len(rows)} networks: at most 1.3 times the best in {within} "
        f"({100 * within / len(rows):.0f} %), 90 % within {ninth:.2f}, largest {regrets[-1]:.2f}."
    )


def single_entries(rows: list[dict[str, Any]]) -> str:
    """The parameters that take a product for every entry, by network, and why."""
    lines = ["| network | parameters | why |", "|---|---|---|"]
    for row in rows:
        reasons: dict[str, list[str]] = {}
        for name, reason in row["by_entries"].items():
            reasons.setdefault(reason, []).append(f"`{name}`")
        lines += [
            f"| {row['network']} | {', '.join(names)} | {reason} |"
            for reason, names in reasons.items()
        ]
    return "\n".join(lines)


def page(rows: list[dict[str, Any]]) -> str:
    """The page of the documentation that shows the record."""
    measured = (
        "Which method serves a parameter best is a question of time, and `hessian.plan` answers it "
        "from counts of passes and what they take (`SPEED`, `LANE` and `CALL` in "
        "`hessian._batch.prices`; `benchmarks/prices.py` fits them to the record below). "
        "`benchmarks/regret.py` takes "
        f"{len(rows)} networks, forces every other plan that can be forced, and compares: *regret* "
        "is what the automatic plan takes over the best of all. One thread, medians, in seconds of "
        f"the processor; forced plans that take more than {GIVE_UP} times as long as the automatic "
        "one are given up."
    )
    entries = (
        "A parameter for which nothing better is proved takes a Hessian-vector product for each of "
        "its entries; so does one with so few entries that these cost less than the products of "
        "its site."
    )
    parts = [
        "# The plan, against every other plan", measured, summary(rows), table(rows),
        "## What falls to single entries, and why", entries, single_entries(rows),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


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
    every = [rows[name] for name in networks.NETWORKS if name in rows]
    PAGE.write_text(page(every), encoding="utf-8")
    print(summary(every))


if __name__ == "__main__":
    main()
