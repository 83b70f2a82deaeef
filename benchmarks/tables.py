"""The tables of docs, README.md and benchmarks/README.md, from the records in benchmarks/results.

python benchmarks/tables.py
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def load(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plus_minus(mean: float, width: float, digits: int = 3) -> str:
    return f"{mean:.{digits}f} ± {width:.{digits}f}"


def rules() -> str:
    """Test accuracy and training loss of every rule, batch size and budget."""
    record = load("rules-digits.json")
    gaps = {(d["rule"], d["batch"], d["equal"]): d for d in record["differences"]}
    rows = []
    for row in record["rows"]:
        gap = gaps.get((row["rule"], row["batch"], row["equal"]))
        rows.append(
            [
                f"{row['equal']}, {row['steps']} steps",
                str(row["batch"]),
                row["rule"],
                f"{row['gamma']:.2g}",
                plus_minus(row["test accuracy"], row["test accuracy ±"]),
                "" if gap is None else f"{gap['test accuracy']:+.3f} ± {gap['±']:.3f}",
                f"{row['training loss']:.2g} ± {row['training loss ±']:.1g}",
            ]
        )
    head = ["equal", "batch", "rule", "γ", "test accuracy", "less LARS", "training loss"]
    return markdown(head, rows)


def outcome(row: dict[str, Any]) -> str:
    if row["loss"] is None:
        return f"diverged in step {len(row['losses'])}"
    return f"{row['loss']:.2f} ({row['accuracy']:.0%})"


def trained(name: str) -> str:
    """Loss and accuracy after training as found and with one thing changed, a column a seed."""
    runs = load(name)["runs"]
    rows = [
        [
            "start",
            *(f"{run['before']['loss']:.2f} ({run['before']['accuracy']:.0%})" for run in runs),
        ]
    ]
    for i, row in enumerate(runs[0]["after"]):
        # Ten times what was found, which differs between seeds.
        longer = row["variant"].startswith("interval")
        name = "interval ten times as long" if longer else row["variant"]
        rows.append([name, *(outcome(run["after"][i]) for run in runs)])
    found = [
        f"γ = {run['found']['lr']:.2g}, R_max = {run['found']['max_radius']:.0e}, "
        f"every {run['found']['refresh_interval']}"
        for run in runs
    ]
    head = ["", *(f"seed {run['seed']}: {text}" for run, text in zip(runs, found, strict=True))]
    return markdown(head, rows)


def steps() -> str:
    """The cost of a training step, relative to SGD."""
    rows = [
        [
            row["optimizer"],
            f"{row['times SGD']:.2f}",
            f"{row['least']:.2f} to {row['most']:.2f}",
        ]
        for row in load("step.json")["rows"]
    ]
    return markdown(["optimizer", "times SGD", "in single rounds"], rows)


def times(row: dict[str, Any]) -> str:
    low, high = row["quartiles"]
    return f"{row['times as fast']:.2f} ({low:.2f} to {high:.2f})"


CASES = {
    "mlp-8": "mlp 128-128, n = 8",
    "mlp-32": "mlp 128-128, n = 32",
    "mlp-128": "mlp 128-128, n = 128",
    "lenet-128": "lenet, n = 128",
    "transformer-128": "transformer, n = 128",
    "resnet18-64": "resnet18 × 1/4, n = 64",
    "alexnet-128": "alexnet × 1/2, n = 128",
}


def throughput() -> str:
    """`sim.train` beside a plain loop, times as fast."""
    measured = ("nothing measured", "layers every 10th", "layers every step")
    cases = load("training.json")["cases"]
    cifar10 = load("training-cifar10.json")["cases"]
    several = [(label, cases[case]) for case, label in CASES.items()]
    several += [(f"{CASES[case]}, CIFAR-10", cifar10[case]) for case in cifar10]
    rows = []
    for label, timings in several:
        found = {row["contestant"]: times(row) for row in timings}
        rows.append([label, *(found[f"sim.train, {name}"] for name in measured)])
    return markdown(
        ["digits, or as said", "nothing measured", "every 10th step", "every step (the default)"],
        rows,
    )


def lanes() -> str:
    """Seeds as lanes beside the same seeds one after another, times as fast."""
    cases = load("training.json")["cases"]
    rows = []
    for size in (16, 32, 128):
        kinds = ("", ", measured", ", whole sweep", ", whole sweep, two cores", ", hidden 32")
        found = [times(cases[f"lanes-{size}{kind}"][1]) for kind in kinds]
        rows.append([str(size), *found])
    head = ["n", "128-128, nothing measured", "every step", "the whole sweep", "on two cores"]
    return markdown([*head, "32, every step"], rows)


def monitor() -> str:
    """What measurements along training cost, in training steps and as a share."""
    rows = [
        [
            row["network"],
            f"{row['samples']}",
            f"`{row['measure']}`",
            f"{row['steps']:.1f} ({row['least']:.1f} to {row['most']:.1f})",
            f"{row['share']:.1%}",
        ]
        for row in load("monitor.json")["rows"]
    ]
    return markdown(["network", "samples", "measure", "training steps", "at every 50th"], rows)


NETWORKS = {
    "alexnet": "AlexNet, 10 classes, 128 images",
    "alexnet-quarter": "a quarter of its width",
    "alexnet-100-classes": "AlexNet, 100 classes, 24 images",
    "tanh-256": "tanh 784-256-256-10, 128 samples",
    "tanh-512": "tanh 784-512-512-512-10, 128 samples",
    "residual-256": "GELU residual blocks of width 256, 64 samples",
}


def digits(value: float) -> str:
    """Three of them, and none after the point from a hundred on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def diagonals() -> str:
    """The exact diagonal beside gradients, C backward passes and the peer that can do it."""
    rows = []
    found = {row["case"]: row for row in load("diagonal.json")["rows"]}
    for row in (found[case] for case in NETWORKS):
        peer = row["peer"].removeprefix("BackPACK ")
        share = row["memory, share of the peer's"]
        rows.append(
            [
                NETWORKS[row["case"]],
                f"{digits(row['seconds'] * 1e3)} ms",
                f"{row['gradients']:.1f}",
                f"{row['C backward passes']:.2f}",
                f"{digits(row['times as fast'][row['peer']])} ({peer})",
                "" if share is None else f"{share:.2f}",
            ]
        )
    head = ["", "time", "gradients", "of C passes", "times as fast as", "memory, of the peer's"]
    return markdown(head, rows)


def peers() -> str:
    """The exact diagonal in short: its time, and how many times as fast it is as the best peer."""
    rows = []
    found = {row["case"]: row for row in load("diagonal.json")["rows"]}
    for row in (found[case] for case in NETWORKS if case != "alexnet-quarter"):
        ratio = row["times as fast"][row["peer"]]
        rows.append(
            [
                NETWORKS[row["case"]],
                f"{row['parameters']:,}",
                f"{digits(row['seconds'] * 1e3)} ms",
                f"{row['gradients']:.0f}",
                f"{digits(float(f'{ratio:.2g}'))} × {row['peer']}",
            ]
        )
    return markdown(["", "parameters", "time", "in gradients", "as fast as"], rows)


def growth() -> str:
    """Time and memory as samples, classes, width and depth grow."""
    rows = []
    for row in load("diagonal.json")["growth"]:
        held = row["extra memory, bytes"]
        rows.append(
            [
                row["axis"],
                f"{row['value']:g}",
                f"{digits(row['seconds'] * 1e3)} ms",
                f"{row['gradients']:.1f}",
                f"{row['C backward passes']:.2f}",
                f"{held['ours'] / 1e6:.0f} MB",
                f"{held['gradient'] / 1e6:.0f} MB",
            ]
        )
    head = ["", "", "time", "gradients", "of C passes", "memory", "a gradient's"]
    return markdown(head, rows)


def estimators() -> str:
    """Pre-activation probes beside Hutchinson's at equal time."""
    rows = []
    for row in load("estimators.json")["rows"]:
        low, high = row["smallest and largest over seeds"]
        rows.append(
            [
                row["network"],
                f"{row['error of hutchinson']:.3g} of {row['probes of hutchinson']:g}",
                f"{row['error of preactivation']:.2g}",
                f"{row['times as small']:.3g} ({low:.3g} to {high:.3g})",
            ]
        )
    return markdown(
        [
            "network",
            "Hutchinson's error, of so many probes",
            "pre-activation's, of one",
            "times as small (smallest to largest over seeds)",
        ],
        rows,
    )


def spectrum() -> str:
    """The trace and five eigenvalues beside the peers."""
    found = load("spectrum.json")
    trace, top, both = found["trace"], found["top"], found["seconds"]
    rows = []
    for name, seconds in both.items():
        each = trace[name]
        work = each["method"] if name == "ours" else f"{each['products']:,} of {each['method']}"
        rows.append(
            [
                name,
                f"{found['product'][name]['times ours']:.2g}",
                f"{each['seconds']:.3g} s ({work})",
                f"{each['seconds'] / trace['ours']['seconds']:,.0f}",
                f"{top[name]['seconds']:.3g} s ({top[name]['products']} products)",
                f"{top[name]['seconds'] / top['ours']['seconds']:.2g}",
                f"{seconds / both['ours']:,.0f}",
            ]
        )
    bare = top["ours, copies not looked for"]
    rows.append(
        [
            "ours, copies not looked for", "1", "", "",
            f"{bare['seconds']:.3g} s ({bare['products']} products)",
            f"{bare['seconds'] / top['ours']['seconds']:.2g}", "",
        ]
    )  # fmt: skip
    head = [
        "", "a product, times ours", "trace to 1 %", "times ours", "five eigenvalues to 1e-3",
        "times ours", "both, times ours",
    ]  # fmt: skip
    return markdown(head, rows)


TABLES: dict[str, Callable[[], str]] = {
    "rules": rules,
    "digits": lambda: trained("cblr-digits.json"),
    "cifar10": lambda: trained("cblr-cifar10.json"),
    "steps": steps,
    "monitor": monitor,
    "throughput": throughput,
    "lanes": lanes,
    "peers": peers,
    "diagonals": diagonals,
    "growth": growth,
    "estimators": estimators,
    "spectrum": spectrum,
}

if __name__ == "__main__":
    for table in TABLES.values():
        print(table(), end="\n\n")
