"""Made-up measurements of training: small, with a known effect and known noise.

Each function takes a generator of random numbers and what is true of each arm, and returns the
JSON that a judge reads. What is not said is the same in all arms, so without arguments every
measurement is pure noise.
"""

import copy

import numpy as np

SIZES = [4, 16, 64, 256]
SEEDS = list(range(8))
BASE = {"seeds": SEEDS, "samples": 1437, "network": "mlp"}
OURS = "first epoch 512 / 0.005"
PROTOCOLS = (
    "baseline",
    OURS,
    "only the rate",
    "only the batch",
    "as many steps more",
    "warm-up",
)


def first_epoch(rng, stride=0.0, path=0.0, displacement=0.0, batch=0.0, held=0.0, noise=0.02):
    """Powers of n by reading, and the relative noise of every single value."""
    powers = {
        "stride": stride,
        "path": path,
        "displacement": displacement,
        "decrease_batch": batch,
        "decrease_held_out": held,
    }
    rows = [
        {"n": n, "seed": seed, "steps": 1437 // n, "gradient_abs": 1.0}
        | {name: n**power * float(np.exp(noise * rng.normal())) for name, power in powers.items()}
        for n in SIZES
        for seed in SEEDS
    ]
    return BASE | {"n": SIZES, "lr": 0.02, "rows": rows}


def schedules(rng, noise=0.02, **changes):
    """One value by quantity and protocol: `loss`, `accuracy`, `stumble`, `dip`, `spread`, …

    `stumble` is the size of upward moves of the loss, `dip` that of downward moves of the
    accuracy, `spread` the deviation over the seeds of the accuracy at the end.
    """
    usual = {"loss": 0.5, "accuracy": 0.8, "stumble": 0.1, "dip": 0.05, "spread": 0.01}
    usual |= {"first_stride": 1.0, "first_path": 1.0, "first_displacement": 1.0}
    rows, epochs = [], np.arange(30)

    def value(name, protocol):
        return changes.get(name, {}).get(protocol, usual[name])

    for seed in SEEDS:
        for protocol in changes.get("protocols", PROTOCOLS):
            luck = float(np.exp(noise * rng.normal()))
            odd = np.abs(rng.normal(size=30)) * (epochs % 2) * (epochs < 24)
            dips = np.abs(rng.normal(size=30)) * (epochs % 2) * (epochs < 24)
            loss = value("loss", protocol) * luck * (1 + 3 * np.exp(-epochs / 2))
            end = value("accuracy", protocol) + value("spread", protocol) * rng.normal()
            losses = loss + value("stumble", protocol) * odd
            accuracies = end * (1 - np.exp(-(epochs + 1) / 2)) - value("dip", protocol) * dips
            rows.append(
                {"protocol": protocol, "seed": seed, "first_steps": 6}
                | {"losses": losses.tolist(), "accuracies": accuracies.tolist()}
                | {
                    name: value(name, protocol) * float(np.exp(noise * rng.normal()))
                    for name in ("first_stride", "first_path", "first_displacement")
                }
            )
    curves = {
        protocol: {
            "train_loss": [row["losses"] for row in rows if row["protocol"] == protocol],
            "test_accuracy": [row["accuracies"] for row in rows if row["protocol"] == protocol],
        }
        for protocol in PROTOCOLS
    }
    return BASE | {"n": [15, 235], "epochs": 30, "rows": rows, "curves": curves}


def discarding(rng, noise=0.005, **gains):
    """What each protocol gains at each n, by the first word of its name; seeds share their luck."""
    from paper_checks.papers.gao2020.measurements.training import DISCARDED

    sizes, rows, curves = [57, 230, 471], [], {}
    for place, n in enumerate(sizes):
        luck = 0.02 * rng.normal(size=len(SEEDS))
        for name in DISCARDED:
            gain = gains.get("fixed" if "fixed" in name else name.split(" ")[0], 0.0)
            gain = gain[place] if isinstance(gain, tuple) else gain
            values = (0.8 + gain + luck + noise * rng.normal(size=len(SEEDS))).tolist()
            rows.append(
                {"n": n, "protocol": name, "accuracy": values, "accuracy_late": values}
                | {"train_accuracy": values}
            )
            curves[f"{name}-{n}"] = {"epoch": [0, 1], "mean": [0.5, 0.8], "sd": [0.1, None]}
    facts = {"n": sizes, "epochs": 2, "share": 0.3, "lr": 0.05}
    return BASE | facts | {"rows": rows, "curves": curves}


def ruled(rng, noise=0.004, series=("epochs", "steps"), sizes=(29, 235, 942), **accuracy):
    """Accuracies by rule: a number, or one for each n, or by series; the second γ is the best."""
    from paper_checks.papers.gao2020.measurements.training import GAMMAS

    rows, seeds = [], list(range(10))
    stage = ["tuning"] * 4 + ["reading"] * 6
    for name in series:
        for place, n in enumerate(sizes):
            luck = 0.02 * rng.normal(size=len(seeds))
            for rule in GAMMAS:
                value = accuracy.get(rule.replace("-", "_"), 0.8)
                value = value[name] if isinstance(value, dict) else value
                value = value[place] if isinstance(value, tuple) else value
                for cap, below in ((10.0, 0.1), (100.0, 0.0), (1000.0, 0.1)):
                    for rate, loss in enumerate((0.1, 0.0, 0.2)):
                        shape = value - loss - (below if rule == "cblr" else 0.0) + luck
                        values, training = (
                            (shape + noise * rng.normal(size=len(seeds))).tolist() for _ in range(2)
                        )
                        if rule != "cblr" and cap != 100.0:
                            continue
                        rows.append(
                            {"series": name, "n": n, "rule": rule, "rate": rate, "diverged": 0}
                            | {"gamma": 0.001 * 10**rate, "cap": cap if rule == "cblr" else None}
                            | {"seeds": seeds, "stage": stage}
                            | {"accuracy": values, "train_accuracy": training}
                        )
    facts = {"n": list(sizes), "epochs": 10, "equal_steps": 60, "series": list(series)}
    return BASE | facts | {"seeds": seeds, "rows": rows}


def ends_cut(found, rule):
    """The rule's rates above its best one were not tried."""
    found["rows"] = [row for row in found["rows"] if row["rule"] != rule or row["rate"] < 2]


FLAT = (0.9,) * 4


def tuned(rng, epochs=FLAT, steps=FLAT, noise=0.004, cost=(0.0,) * 4, path=None, longer=1.0):
    """Accuracies at the end by n at the best of three rates; the others lose 0.1 and `cost`.

    `path(rate, rng)` is the path, `longer` its factor at equal steps.
    """
    rows, seeds = [], list(range(10))
    stage = ["tuning"] * 4 + ["reading"] * 6
    for series, values in (("epochs", epochs), ("steps", steps)):
        luck = 0.02 * rng.normal(size=len(seeds))
        for place, (n, accuracy) in enumerate(zip(SIZES, values, strict=True)):
            for rate, loss in enumerate((0.1, 0.0, 0.1)):
                more = loss + (cost[place] if loss else 0.0)
                reached = accuracy - more + luck + noise * rng.normal(size=len(seeds))
                paths = [
                    (longer if series == "steps" else 1.0)
                    * (path(rate, rng) if path else float(np.exp(0.1 * rng.normal())))
                    for _ in seeds
                ]
                rows.append(
                    {"series": series, "n": n, "rate": rate, "lr": 0.01 * (rate + 1)}
                    | {"diverged": 0, "seeds": seeds, "stage": stage, "path": paths}
                    | {"accuracy": reached.tolist(), "train_accuracy": reached.tolist()}
                )
    facts = {"n": SIZES, "epochs": 10, "equal_steps": 100, "series": ["epochs", "steps"]}
    return BASE | facts | {"seeds": seeds, "rows": rows}


def rates_cut(found, n):
    """The rates above the best one of this n were not tried."""
    found["rows"] = [row for row in found["rows"] if row["n"] != n or row["rate"] < 2]


def steps_like_epochs(found, **changes):
    """At equal steps something else is true."""
    for row in found["rows"]:
        if row["series"] == "steps":
            for name, change in changes.items():
                row[name] = [change(row["n"], value) for value in row[name]]


WHOLE = ((False, "one"), (False, "grows"), (True, "one"))


def whole(rng, noise=0.02, paths=(1,) * 4, accuracy=None, steps=None, absolute=None):
    """Paths and accuracies by n, `steps` for the accuracies at equal steps, fluctuation by arm.

    `absolute[remainder, rates]` is the fluctuation by n; arms that it lacks are flat.
    """
    absolute = absolute or {}
    rows, curves = [], {}
    for series in ("epochs", "steps"):
        for n in SIZES:
            curves[f"{series}-{n}"] = {
                "epoch": [0, 1],
                "stride": [0.1 / n, 0.05 / n],
                "path": [1.0, 1.0],
                "displacement": [0.5, 0.5],
                "accuracy": [0.5, 0.9],
                "step": [0, 1, 2],
                "loss": [2.0, 1.0, 0.5],
            }
        for remainder, rates in WHOLE:
            for seed in SEEDS:
                for k, n in enumerate(SIZES):
                    known = steps if series == "steps" and steps is not None else accuracy
                    reached = known[k] if known else rng.uniform(0.1, 0.9)
                    size = absolute.get((remainder, rates), (1,) * 4)[k]
                    far = paths[k] * float(np.exp(noise * rng.normal()))
                    rows.append(
                        {"series": series, "n": n, "seed": seed, "steps": 10, "loss": 0.5}
                        | {"remainder": remainder, "rates": rates, "accuracy": reached}
                        | {"path": far, "displacement": far / 2}
                        | {"absolute": size * float(np.exp(noise * rng.normal())), "relative": 1.0}
                    )
    facts = {"n": SIZES, "lr": 0.02, "epochs": 2, "equal_steps": 10}
    return BASE | facts | {"rows": rows, "curves": curves}


def sharp(rng, one=3.0, grows=3.0, noise=0.05):
    """λ_max of the largest n where that of the others is 3."""
    rows = [
        {"n": n, "seed": seed, "rates": rates, "accuracy": 0.9, "loss": 0.1}
        | {"sharpness": middle * float(np.exp(noise * rng.normal()))}
        for rates, largest in (("one", one), ("grows", grows))
        for n, middle in ((15, 3.0), (59, 3.0), (1413, largest))
        for seed in SEEDS
    ]
    return BASE | {"n": [15, 59, 1413], "equal_steps": 240, "rows": rows}


# ---- ways to change a measurement ------------------------------------------------------------


def swap(column, first, second):
    """The rows that say `first` say `second`, and the other way round."""

    def change(found):
        names = {first: second, second: first}
        for row in found["rows"]:
            row[column] = names.get(row[column], row[column])

    return change


def same(column, source, target, *names):
    """The rows of the arm `target` get the values of the arm `source`: the control does it too."""

    def change(found):
        def key(row):
            return row.get("n"), row.get("parameter"), row.get("seed")

        rows = {key(row): row for row in found["rows"] if row[column] == source}
        for row in found["rows"]:
            if row[column] == target:
                row.update({name: copy.deepcopy(rows[key(row)][name]) for name in names})

    return change


def same_rule(source, target):
    """The best setting of the rule `target` gets the accuracies of that of `source`."""

    def change(found):
        for row in found["rows"]:
            if row["rule"] == target and row["rate"] == 1:
                row["accuracy"] = next(
                    list(other["accuracy"])
                    for other in found["rows"]
                    if (other["series"], other["n"], other["rule"], other["rate"])
                    == (row["series"], row["n"], source, 1)
                    and other["cap"] in (None, 100.0)
                )

    return change


def lift(found, rule, gain):
    """A rule is better than it was."""
    for row in found["rows"]:
        if row["rule"] == rule:
            row["accuracy"] = [value + gain for value in row["accuracy"]]
