"""Made-up measurements without training: gradients, curvature and rules at single points.

As in `made_up.py`: what is true is said by arguments, and without noise they are exact.
"""

import numpy as np

SEEDS = (0, 1, 2, 3)
SIZES = (32, 128, 512, 2048)


def near(rng, value, noise, count=6):
    """Some values about one."""
    return (value + noise * rng.normal(size=count)).tolist()


def discarded(rng, small=0.0, random=0.0, fixed_too=True, noise=0.02):
    """Powers by which mean |g| grows with the discarded share, in two networks."""
    from paper_checks.papers.gao2020.figures.fig9 import SHARES

    kept = [round(100 * (1 - p)) for p in SHARES]
    cases = []
    for name in ("net", "other net"):
        values = {}
        for kind, power in (("small", small), ("random", random), ("large", -1.0)):
            values[kind] = [
                [
                    float(np.exp(power * p + noise * rng.normal()))
                    / (1 - p if fixed_too and kind == "small" else 1)
                    for p in SHARES
                ]
                for _ in range(6)
            ]
        cases.append(
            {"case": name, "samples": 1000, "n": 100, "batches": 6, "kept": kept, "values": values}
        )
    return {"seeds": [0], "samples": 1000, "cases": cases}


def warmed(rng, warm=0.0, full=0.0, top=0.0, top_full=0.0, noise=0.02):
    """Changes of the spread and of the sharpest layer's log10 |h|, by protocol."""
    rows = []
    for protocol, change, moved in (
        ("warm-up", warm, top),
        ("full rate", full, top_full),
        ("rate of the warm-up's start", 0.0, 0.0),
    ):
        for seed in SEEDS:
            for step, share in ((0, 0.0), (30, 1.0)):
                layers = {"fc1.weight": 1.0 + share * moved, "fc2.weight": -1.0, "fc3.weight": -2.0}
                rows.append(
                    {"protocol": protocol, "seed": seed, "step": step}
                    | {"spread": 0.6 + share * change + noise * rng.normal()}
                    | {"layers": {k: v + noise * rng.normal() for k, v in layers.items()}}
                )
    facts = {"seeds": list(SEEDS), "samples": 1437, "network": "mlp"}
    return facts | {"n": [235], "steps": 30, "lr": 0.2, "rows": rows}


def ranks(rng, first=0.0, second=0.0, noise=0.02):
    """Rank correlations of loss and gradient in two networks."""
    cases = [
        {"case": f"net {k}", "ranks": near(rng, value, noise)}
        | {"ranks_shuffled": near(rng, 0.0, noise)}
        for k, value in enumerate((first, second))
    ]
    return {"seeds": [0], "samples": 1, "cases": cases}


def enlarged(rng, *powers, noise=0.02):
    """Factors by which each method enlarges the gradient."""
    from paper_checks.papers.gao2020.claims.other_enlargers import METHODS

    values = {"plain": np.exp(near(rng, 0.0, noise)).tolist()}
    for name, factor in zip(METHODS, powers or (1, 1, 1), strict=True):
        values[name] = (factor * np.exp(near(rng, 0.0, noise))).tolist()
    return {"seeds": [0], "samples": 1, "n": 235, "values": values}


def fallen(rng, last=0.125, error=0.005):
    """E|g| at the two ends; 0.125 is 1/√n."""
    ends = [1.0, last * float(np.exp(error / last * rng.normal()))]
    facts = {"n": [32, 2048], "mean": ends, "standard_error": [0.01, error]}
    return facts | {"abs_mu_mean": 0.1, "batches": 8, "seeds": [0], "samples": 1}


def networks(rng, tensors=10, **columns):
    """One network a seed; a column is a number or `column(rng, k)` for tensor k."""
    made = [
        {
            "seed": seed,
            "rows": [
                {"parameter": f"fc{k}.weight", "size": 1000}
                | {
                    name: value(rng, k) if callable(value) else value
                    for name, value in columns.items()
                }
                for k in range(tensors)
            ],
        }
        for seed in SEEDS
    ]
    return {"seeds": list(SEEDS), "samples": 1, "networks": made}


def chance(share, yes, no):
    """A column that is `yes` with a probability, else `no`."""
    return lambda rng, k: yes if rng.random() < share else no


def statistics(power, noise=0.05):
    """Layer statistics that go with a power of the exact radius."""
    return {
        "error_count": 500,
        "radius_finite_q50": lambda rng, k: 10.0**k,
        **dict.fromkeys(
            ("ratio_median", "ratio_finite_mean", "eq24_nonzero"),
            lambda rng, k: 10.0 ** rng.uniform(-9, 9),
        ),
        "eq23": lambda rng, k: 10.0 ** (power * k + noise * rng.normal()),
    }


def layers(rng, decades, inside=0.1, noise=0.05):
    """Layers that lie apart by so many decades from the first to the last."""
    found = networks(rng, 4, log_radius_variance=inside)
    for network in found["networks"]:
        for k, row in enumerate(network["rows"]):
            mean = decades * k / 3 + noise * rng.normal()
            row.update(log_radius_mean=mean, radius_finite_q50=10.0**mean)
    return found


def placed(rng, share=0.0, decayed=None, tensors=10):
    """Tensors most of whose entries have |b| < |w|, with that probability."""
    decayed = share if decayed is None else decayed
    rows = [
        {"seed": seed, "parameter": f"fc{k}.weight", "count": 500}
        | {
            f"{name}{end}": value
            for end, odds in (("", share), ("_decayed", decayed))
            for name, value in (
                ("share", 0.9 if rng.random() < odds else 0.1),
                ("quantiles", [0.1, 0.2, 0.5, 0.8, 0.9]),
            )
        }
        for seed in SEEDS
        for k in range(tensors)
    ]
    return {"seeds": list(SEEDS), "samples": 1, "rows": rows}


def ranked(rng, rank=0.0, error=0.0, noise=0.02, positive=None):
    """Rank correlations of |w/g| with R, and how far the typical one is off in decades."""
    rows = []
    for seed in SEEDS:
        for k in range(6):
            value = float(np.clip(rank + noise * rng.normal(), -1, 1))
            low = value - 0.02 if positive is None else (1 if rng.random() < positive else -1)
            rows.append(
                {"seed": seed, "parameter": f"fc{k}.weight", "count": 500, "rank": value}
                | {"low": low, "high": value + 0.02, "rank_shuffled": 0.0, "rank_gradient": 0.1}
                | {"log10_error": error + noise * rng.normal()}
            )
    density = {"exact": [0.0, 1.0, 2.0], "ratio": [0.0, 1.0, 2.0], "counts": [[1, 0], [2, 3]]}
    density |= {"entries": 6, "left_out": 1}
    return {"seeds": list(SEEDS), "samples": 1, "network": "net", "rows": rows, "density": density}


def bent(rng, factor=1.0, width=0.05):
    """Bends at `factor` times the noise scale, with an interval of that relative half width."""
    sizes, cases = [2**k for k in range(14)], []
    for k, scale in enumerate((40.0, 400.0)):
        bend = scale * factor * float(np.exp(width / 1.96 * rng.normal()))
        ends = [bend * float(np.exp(sign * width)) for sign in (-1, 1)]
        mean = np.sqrt(1 / np.array(sizes) + 1 / scale)
        cases.append(
            {"case": f"layer {k}", "n": sizes, "mean": mean.tolist(), "bend": bend}
            | {"interval": ends, "noise_scale": scale, "crossing": scale}
            | {"level": float(1 / np.sqrt(scale))}
        )
    return {"seeds": [0], "samples": 100, "cases": cases}


def critical(rng, mclr=3, lars=3, growth=(20.0, 10.0), noise=0.02):
    """Which place of n is the first where a run fails (5 for none), a number or one each run."""
    sizes, start, runs = [4, 16, 64, 256, 1024], 2.3, 5
    cases = []
    for rule, first, grown in zip(("MCLR", "LARS"), (mclr, lars), growth, strict=True):
        places = [first] * runs if isinstance(first, int) else first
        cases.append(
            {"rule": rule, "gamma": 0.01, "sharpness": [1.0, 2.0, 4.0, 8.0, grown]}
            | {"single": np.exp(near(rng, 0.0, noise)).tolist()}
            | {"losses": [[start + 1 if k >= p else 1.0 for p in places] for k in range(5)]}
        )
    facts = {"seeds": [0], "samples": 1024, "n": sizes, "predicted": 128.0, "start": start}
    return facts | {"cases": cases}


def convergent(rng, factor=1.0, power=0.0, groups=400, noise=0.0):
    """Spreads that are `factor`·k^`power` times the law's on real layers."""
    from paper_checks.papers.gao2020.figures.fig_convergence import RULES, SETTLE

    sizes = [64, 256, 1024, 4096]
    law = {rule: [1 / k**0.5 for k in sizes] for rule in SETTLE}
    cases = []
    for name, times, bent_by in (("independent Gaussians", 1.0, 0.0), ("layer", factor, power)):
        spread = {
            rule: [
                times
                * k ** (bent_by - 0.5)
                * float(np.exp(noise * (name == "layer") * rng.normal()))
                for k in sizes
            ]
            for rule in RULES
        }
        typical = {rule: [1.0] * len(sizes) for rule in RULES}
        many = [groups if name == "layer" else 400] * len(sizes)
        cases.append(
            {"case": name, "size": sizes, "groups": many, "spread": spread, "typical": typical}
        )
    return {"seeds": [0], "samples": 1, "cases": cases, "law_size": sizes, "law": law}


def falling(rng, constant=1.128, noise=0.001):
    """Figure 3's curves with a constant; 1.128 is the printed one, 0.798 the corrected."""
    sizes = list(SIZES)
    curves = [
        {"dropout": dropout, "replacement": replacement}
        | {"mean": [constant / n**0.5 * (1 + noise * rng.normal()) for n in sizes]}
        | {"standard_error": [noise * constant / n**0.5 for n in sizes]}
        for dropout in ("on", "off")
        for replacement in (True, False)
    ]
    constants = {"printed": 1.128, "corrected": 0.798, "means": 0.798, "finite": 0.798}
    lines = {name: [c / n**0.5 for n in sizes] for name, c in constants.items()}
    moments = {"sigma_mean": 1.0, "abs_mu_mean": 0.01, "mask_sigma_mean": 0.0, "sigma_layer": 1.0}
    facts = {"seeds": [0], "samples": 2048, "n": sizes, "batches": 24, "training_set": 2048}
    facts |= {"dataset": "digits", "parameter": "fc1.weight"}
    both = {"on": lines, "off": lines}, {"on": moments, "off": moments}
    return facts | {"curves": curves, "lines": both[0], "moments": both[1]}


def law(rng, fresh=1.0, trained=1.0, noise=0.001):
    """fig-law's networks, at so many times the full law."""
    from paper_checks.papers.gao2020.figures.fig_law import LINES

    sizes, cases = [1, 32, 128, 512], []
    finite = [(1 / n - 1 / 600) ** 0.5 for n in sizes]
    for name, times in (("net", fresh), ("trained net", trained)):
        cases.append(
            {"case": name, "parameter": "fc1.weight", "samples": 600, "n": sizes}
            | {"mean": [times * v * (1 + noise * rng.normal()) for v in finite]}
            | {"standard_error": [noise * times * v for v in finite], "batches": [32] * 4}
            | {"lines": {line: [2**0.5 * v for v in finite] for line in LINES} | {"finite": finite}}
            | {"trained": name != "net", "dataset": "digits"}
        )
    return {"seeds": [0], "samples": 600, "cases": cases}


def shortcuts(rng, times=1.0, noise=0.01):
    """fig-shortcut's medians, so many times those of the law; free of gradients right at first."""
    from paper_checks.papers.gao2020.figures.fig_shortcut import SIZES as BATCHES

    rows = []
    for seed in range(3):
        for epochs in (0, 1, 5, 20):
            for parameter in ("fc1.weight", "fc2.weight", "fc3.weight"):
                for n in BATCHES:
                    measured = float(n**0.5 * np.exp(noise * rng.normal()))
                    rows.append(
                        {"epochs": epochs, "seed": seed, "parameter": parameter, "n": n}
                        | {"measured": measured, "law": n**0.5 / times}
                        | {"free": n**0.5 / (times * (1 + epochs)), "share": 0.3}
                        | {"share_law": 0.3, "slope": 0.5, "noise": 1.0 / (1 + epochs)}
                    )
    return {"seeds": [0, 1, 2], "samples": 1797, "rows": rows}


def shortcuts_of_layers(rng, times=1.0, noise=0.01):
    """fig-shortcut-alexnet's medians, as those of fig-shortcut."""
    from paper_checks.papers.gao2020.figures.fig_shortcut_alexnet import SIZES as BATCHES

    rows = shortcuts(rng, times, noise)["rows"]
    names = dict(zip(sorted({row["n"] for row in rows}), BATCHES, strict=True))
    rows = [{**row, "n": names[row["n"]]} for row in rows if row["epochs"] in (0, 20)]
    losses = [
        {"epochs": epochs, "seed": seed, "loss": 2.3 - epochs / 20}
        for epochs in (0, 20)
        for seed in range(3)
    ]
    facts = {"seeds": [0, 1, 2], "samples": 256, "network": "alexnet, width 0.25"}
    return facts | {"losses": losses, "rows": rows}


def rate_terms():
    """fig-rate-terms' factors of one tensor, with their product."""
    from paper_checks.papers.gao2020.figures.fig_rate_terms import RULES

    terms = {"compression": 1e-3, "batch": 6.0, "weight": 0.02}
    rows = [
        {"network": "MLP", "parameter": "fc1.weight", "size": 8, "rule": rule, **terms}
        | {"whole": 1e-3 * 6.0 * 0.02}
        for rule in RULES
    ]
    return {"seeds": [0], "samples": 32, "terms": list(terms), "rows": rows}


def stepped(rng, right=1.0, far=None, near=0.0, count=240):
    """Entries whose parabola points at the minimum with a probability; `far` in the farther half.

    `near` is the share whose minimum is within a hundredth of a weight.
    """
    points = []
    for samples in (64, 1024):
        for k in range(count):
            true = float(rng.uniform(0.5, 1.0) if k % 2 else rng.uniform(5.0, 10.0))
            odds = right if far is None or k % 2 else far
            newton = true * (1.1 if rng.random() < odds else 9.0)
            if rng.random() < near:
                true, newton = 1e-3, 1.1e-3
            points.append(
                {"seed": 0, "samples": samples, "parameter": "fc1.weight"}
                | {"network": "MLP at initialisation", "weight": float(rng.normal())}
                | {"true": true, "newton": newton, "gradient": -true, "kink": False}
            )
    return {"seeds": [0], "samples": 1024, "points": points}


def shaped(rng, fresh=0.3, trained=10.0, sigma=1.0, noise=0.02):
    """Excess kurtosis at initialisation and trained, and σ trained over initial."""
    rows = [
        {"network": f"MLP {when}", "parameter": f"fc{k}.weight", "seed": seed, "samples": 1437}
        | {"excess": [v - 0.2, v - 0.1, v, v + 0.1, v + 0.2], "absolute": 0.9}
        | {"pooled_excess": 2 * v, "mean_over_sigma": 0.1, "dead": 0.0}
        | {"sigma": size * float(np.exp(noise * rng.normal()))}
        for seed in SEEDS
        for when, value, size in (("at initialisation", fresh, 1.0), ("trained", trained, sigma))
        for k in (1, 2)
        for v in [value * float(np.exp(noise * rng.normal()))]
    ]
    return {"seeds": list(SEEDS), "samples": 1437, "rows": rows}


def decayed(rng, trained=1.0, added=1.0, without=5.0, noise=0.05):
    """Mean misfits of the three arms."""
    from paper_checks.papers.gao2020.claims.weight_decay_centres_minimum import ARMS

    rows = [
        {"seed": seed, "arm": arm, "parameter": f"fc{k}.weight", "entries": 100}
        | {"misfit": value + shift}
        for seed in SEEDS
        for arm, value in zip(ARMS, (trained, added, without), strict=True)
        for shift in [noise * rng.normal()]
        for k in range(5)
    ]
    return {"seeds": list(SEEDS), "samples": 1, "beta": 0.0005, "rows": rows}


def rates(rng, power=1.0, noise=0.05, spread=3.0):
    """A rule's rates that go with a power of the layers' radii, which spread over decades."""
    found = networks(rng, 8)
    for network in found["networks"]:
        for k, row in enumerate(network["rows"]):
            row["radius_finite_q50"] = 10.0 ** (spread * k / 7)
            row["rate"] = 10.0 ** (power * spread * k / 7 + noise * rng.normal())
    return found | {"rule": "lars", "identity": 1e-16}


def failing(rng, single=1e6, whole=1e12, noise=0.05):
    """Factors by which a layer's rate changes, for one entry and for all."""
    changes = [
        {
            f"{rule}: {many} {what}": factor * float(np.exp(noise * rng.normal()))
            for rule in ("lars", "percentdelta")
            for many, factor in (("one", single), ("all", whole))
            for what in ("w", "g")
        }
        for _ in SEEDS
    ]
    facts = {"seeds": list(SEEDS), "samples": 1, "parameter": "fc1.weight", "entries": 1000}
    return facts | {"changes": changes}


def curvatures(rng, weights=1e4, every=None, noise=0.1, deviation=1e-6):
    """Figure 2's ratios of the layers' radii, by seed."""
    rows = [
        {"parameter": f"fc{k}.weight", "radius": [10.0**k / 2, 10.0**k, 2 * 10.0**k]}
        | {"ratio": [1.0, 2.0, 3.0], "ratio_mean": 4.0}
        for k in range(4)
    ]
    ratios = {
        name: [value * float(np.exp(noise * rng.normal())) for _ in SEEDS]
        for name, value in (("weights", weights), ("all", every or weights))
    }
    facts = {"seeds": list(SEEDS), "samples": 1, "network": "net", "parameters": 4}
    growth = [{"parameter": "fc0.weight", "sizes": [4, 16], "means": [1.0, 2.0]}]
    facts |= {"growth": growth, "reference": {"sizes": [4, 16], "means": [1.0, 2.0]}}
    return facts | {"deviation": deviation, "rows": rows, "ratios": ratios}


def squared(rng, largest=1e-4, quantile=1e-6, noise=0.3):
    """The largest g² and the largest 0.99 quantile, of two networks at two batch sizes."""
    rows = [
        {"network": network, "n": n, "seed": seed}
        | {"largest": largest * float(np.exp(noise * rng.normal()))}
        | {"quantile": quantile * float(np.exp(noise * rng.normal()))}
        for network in ("net", "other net")
        for n in (32, 512)
        for seed in SEEDS
    ]
    return {"seeds": list(SEEDS), "samples": 1, "rows": rows}


def costly(rng, one=5e3, other=5e3, noise=0.05):
    """Gradients that all second derivatives cost in two networks."""
    rows = [
        {"network": network, "seed": seed, "parameters": 10**6, "gradient_seconds": 1.0}
        | {"diagonal_seconds": cost * float(np.exp(noise * rng.normal()))}
        for network, cost in (("net", one), ("coupled net", other))
        for seed in SEEDS
    ]
    return {"seeds": list(SEEDS), "samples": 1, "rows": rows}


def biased(rng, factor=10.0, noise=0.05):
    """Radii of weights that are `factor` times those of the biases."""
    found = networks(rng, 0)
    for network in found["networks"]:
        shift = float(np.exp(noise * rng.normal()))
        for k in range(4):
            for kind, radius in (("weight", factor * 10.0**k * shift), ("bias", 10.0**k)):
                row = {"parameter": f"fc{k}.{kind}", "size": 10, "radius_finite_q50": radius}
                network["rows"].append(row)
    return found


def layer_sigma(rng, constant=1.128, error=0.005):
    """E|g|·√n/σ with the σ of the layer."""
    value = (constant + error * rng.normal()) / 32**0.5
    facts = {"seeds": [0], "samples": 1, "parameter": "fc1.weight", "batches": 8, "n": 32}
    facts |= {"sigma_layer": 1.0, "sigma_mean": 0.5}
    return facts | {"mean": value, "standard_error": error / 32**0.5}


def quotients(rng, fresh=1.0, trained=1.0, noise=0.02):
    """Σ(σ² + μ²) over Σh."""
    rows = [
        {"network": f"MLP {when}", "seed": seed, "parameter": f"fc{k}.weight"}
        | {"quotient": value * float(np.exp(noise * rng.normal()))}
        for when, value in (("at initialisation", fresh), ("trained", trained))
        for seed in SEEDS
        for k in (1, 2)
    ]
    return {"seeds": list(SEEDS), "samples": 1, "rows": rows}


def eliminated(rng, smooth=0.0, random=0.0, flatter=0.5, noise=0.003):
    """Gains in test accuracy of noise on the weights and on the gradient; λ_max over plain."""
    from paper_checks.papers.gao2020.claims.eliminating_sharp_minima import PLAIN, RANDOM, SMOOTH

    rows = [
        {"arm": arm, "seed": seed, "loss": 0.1}
        | {"accuracy": 0.9 + gain + noise * rng.normal()}
        | {"sharpness": top * float(np.exp(0.05 * rng.normal()))}
        for seed in range(6)
        for arm, gain, top in (
            (PLAIN, 0.0, 8.0),
            (SMOOTH, smooth, 8 * flatter),
            (RANDOM, random, 8.0),
        )
    ]
    return {"seeds": list(range(6)), "samples": 1, "steps": 240, "rows": rows}
