"""What several figures and claims need of every single parameter, reduced to a few numbers."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from paper_checks import drawing

GROUPS = 400
LARGEST = 4**7
Rule = Callable[[Any, Any], Any]
RULES: Mapping[str, tuple[Rule, str, str]] = {
    "lars": (
        lambda w, g: np.sqrt((w**2).mean(1) / (g**2).mean(1)), drawing.BLUE, "o"
    ),
    "mclr-absolute": (
        lambda w, g: np.median(np.abs(w), 1) / np.median(np.abs(g), 1), drawing.ORANGE, "s"
    ),
    "mclr-ratio": (lambda w, g: np.median(np.abs(w / g), 1), drawing.GREEN, "^"),
    "mclr-signed": (
        lambda w, g: np.abs(np.median(w, 1) / np.median(g, 1)), drawing.VERMILION, "v"
    ),
    "percentdelta": (lambda w, g: 1 / np.abs(g / w).mean(1), drawing.PURPLE, "D"),
    "mean": (lambda w, g: np.abs(w / g).mean(1), drawing.GREY, "P"),
}  # fmt: skip
# The three that settle, whose error falls with the root of the size.
SETTLE = ("lars", "mclr-absolute", "mclr-ratio")
RANKED = 20_000
BINS = 60
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
BETA = 5e-4
SMALL = 1e-12
LAYER_RULES = ("lars", "percentdelta")


def ranks(w: Any, g: Any, h: Any, seed: int = 0) -> dict[str, float | int]:
    """Rank correlations of |w/g|, of it with shuffled w and of 1/|g| with R, and the middle error.

    >>> x = np.arange(1.0, 100.0)
    >>> round(ranks(x, 1 + 1 / x, 1 / x)["rank"], 9)
    1.0
    """
    from scipy.stats import spearmanr

    usable = np.flatnonzero((w != 0) & (g != 0) & (h != 0))
    generator = np.random.default_rng(seed)
    if usable.size > RANKED:
        usable = np.sort(generator.choice(usable, RANKED, replace=False))
    if usable.size < 4:
        return {"count": int(usable.size), "rank": 0.0, "low": -1.0, "high": 1.0}
    w, g, h = np.abs(w[usable]), np.abs(g[usable]), np.abs(h[usable])
    radius = (1 + g**2) ** 1.5 / h
    r = float(spearmanr(w / g, radius).statistic)
    # Fisher's z with the variance of Bonett and Wright (2000).
    half = 1.96 * np.sqrt((1 + r**2 / 2) / (usable.size - 3))
    z = np.arctanh(np.clip(r, -0.999999, 0.999999))
    return {
        "count": int(usable.size),
        "rank": r,
        "low": float(np.tanh(z - half)),
        "high": float(np.tanh(z + half)),
        "rank_shuffled": float(spearmanr(generator.permutation(w) / g, radius).statistic),
        "rank_gradient": float(spearmanr(1 / g, radius).statistic),
        "log10_error": float(np.median(np.log10(w / g / radius))),
    }


def density(tensors: list[tuple[Any, Any, Any]]) -> dict[str, Any]:
    """How many parameters lie where in the plane of log10 R and log10 |w/g|.

    >>> x = np.arange(1.0, 50.0)
    >>> density([(x, x, 1 / x)])["entries"]
    49
    """
    w, g, h = (np.concatenate(parts) for parts in zip(*tensors, strict=True))
    usable = (w != 0) & (g != 0) & (h != 0)
    w, g, h = w[usable], g[usable], h[usable]
    exact = np.log10((1 + g**2) ** 1.5 / np.abs(h))
    ratio = np.log10(np.abs(w / g))
    spans = [np.quantile(values, (0.001, 0.999)) for values in (exact, ratio)]
    edges = [np.linspace(low - 0.1, high + 0.1, BINS + 1) for low, high in spans]
    counts, _, _ = np.histogram2d(exact, ratio, bins=edges)
    return {
        "exact": edges[0].tolist(),
        "ratio": edges[1].tolist(),
        "counts": counts.astype(int).tolist(),
        "entries": int(usable.sum()),
        "left_out": int((~usable).sum()),
    }


def place(w: Any, g: Any, h: Any) -> dict[str, Any]:
    """Where b lies, in units of the weight.

    >>> place(np.array([2.0]), np.array([2.0]), np.array([1.0]))["share"]
    1.0
    """
    shares: dict[str, Any] = {}
    for key, beta in (("", 0.0), ("_decayed", BETA)):
        usable = (w != 0) & (h + beta != 0) & (h != 0)
        b = np.abs(1 - (g[usable] / w[usable] + beta) / (h[usable] + beta))
        shares[f"count{key}"] = int(usable.sum())
        shares[f"share{key}"] = float((b < 1).mean()) if b.size else None
        shares[f"quantiles{key}"] = np.quantile(b, LEVELS).tolist() if b.size else None
    usable = (w != 0) & (h != 0)
    shares["share_minimum"] = float((h[usable] > 0).mean()) if usable.any() else None
    return shares


def convergence(tensors: Mapping[str, tuple[Any, Any, Any]], seed: int) -> dict[str, Any]:
    """Gaussians and the three largest weight tensors, with the law at the Gaussians' sizes."""
    w, g = np.random.default_rng(seed).standard_normal((2, GROUPS * LARGEST // 4))
    cases = [case("independent Gaussians", w, g, seed)]
    sizes = {name: w.size for name, (w, _, _) in tensors.items() if name.endswith("weight")}
    largest = sorted(sizes, key=lambda name: sizes[name])[-3:]
    layers = [case(name, *tensors[name][:2], seed) for name in largest]
    # A slope needs two sizes.
    cases += [layer for layer in layers if len(layer["size"]) > 1]
    law = {rule: [float(_law(rule, k)) for k in cases[0]["size"]] for rule in SETTLE}
    return {"cases": cases, "law_size": cases[0]["size"], "law": law}


def _law(rule: str, size: int) -> Any:
    """Theory's standard error relative to the limit, which is one here."""
    from theory import rule_standard_error

    return rule_standard_error(rule, 1, 1, size).evalf()


def case(name: str, w: Any, g: Any, seed: int) -> dict[str, Any]:
    """Spread and typical value of every rule over groups of k entries with g and w not zero."""
    alive = (g != 0) & (w != 0)
    w, g = w[alive], g[alive]
    order = np.random.default_rng(seed).permutation(w.size)
    w, g = w[order], g[order]
    sizes = [k for k in (4**p for p in range(2, 8)) if w.size // k >= 32]
    spread: dict[str, list[float]] = {rule: [] for rule in RULES}
    typical: dict[str, list[float]] = {rule: [] for rule in RULES}
    groups = []
    for k in sizes:
        count = min(GROUPS, w.size // k)
        groups.append(count)
        blocks = (part[: count * k].reshape(count, k) for part in (w, g))
        rows_w, rows_g = blocks
        for rule, (function, _, _) in RULES.items():
            with np.errstate(divide="ignore"):
                logs = np.log(function(rows_w, rows_g))
            low, middle, high = np.quantile(logs, (0.158655, 0.5, 0.841345))
            spread[rule].append(float(high - low) / 2)
            typical[rule].append(float(np.exp(middle)))
    return {"case": name, "size": sizes, "groups": groups, "spread": spread, "typical": typical}


def failures(tensors: Mapping[str, tuple[Any, Any, Any]]) -> dict[str, Any]:
    """`changes` of the largest weight tensor, over the entries of which neither is zero."""
    weights = [name for name in tensors if name.endswith("weight")]
    name = max(weights, key=lambda name: tensors[name][0].size)
    w, g, _ = tensors[name]
    alive = (w != 0) & (g != 0)
    return {
        "parameter": name,
        "entries": int(alive.sum()),
        "changes": changes(w[alive], g[alive]),
    }


def changes(w: Any, g: Any) -> dict[str, float]:
    """How many times larger or smaller a rate gets, by rule and by what is made small.

    >>> x = np.arange(1.0, 101.0)
    >>> factors = changes(x, x)
    >>> factors["lars: one w"] < 2 < factors["lars: all w"]
    True
    """
    factors = {}
    for rule in LAYER_RULES:
        before = rate(rule, w, g)
        for what in ("w", "g"):
            for many in ("one", "all"):
                parts = {"w": w.copy(), "g": g.copy()}
                place = slice(None) if many == "all" else 0
                parts[what][place] *= SMALL
                quotient = rate(rule, parts["w"], parts["g"]) / before
                factors[f"{rule}: {many} {what}"] = float(max(quotient, 1 / quotient))
    return factors


def rate(rule: str, w: Any, g: Any) -> float:
    """Equation 23 or 24 with γ = 1.

    >>> rate("lars", np.array([3.0, 4.0]), np.array([0.0, 5.0]))
    1.0
    >>> rate("percentdelta", np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    1.0
    """
    if rule == "lars":
        return float(np.linalg.norm(w) / np.linalg.norm(g))
    return float(w.size / np.abs(g / w).sum())
