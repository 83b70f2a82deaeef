"""Made-up measurements of training: small, with a known effect and known noise.

Each function takes a generator of random numbers and what is true of each arm, and returns the
JSON that a judge reads. What is not said is the same in all arms, so without arguments every
measurement is pure noise.
"""

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
    from paper_checks.training import DISCARDED

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
