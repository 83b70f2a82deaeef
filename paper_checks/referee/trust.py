"""Which estimate may be trusted for what, and two published sentences, judged from a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_checks.check import Judgement
from paper_checks.numbers import short, spread
from paper_checks.statistics import Estimate, at_least, conclude, mean, more, too_few
from paper_checks.verdicts import CONTRADICTED, HOLDS, IN_PART, INCONCLUSIVE

if TYPE_CHECKING:
    import pandas as pd

# In so many of the networks an estimate must serve a purpose.
MOST = 0.8
FEWEST_SEEDS = 3
TRACE_ERROR, TRACE_SHARE = 0.1, 0.9
ORDER_ONE, SMALL = 1 / 3, 0.1


@dataclass(frozen=True)
class Purpose:
    """What an estimate is for: `serves` says of one cell's rows whether it would do.

    The rows are those of one estimate: by tensor, and as a whole (`*`).
    """

    title: str
    criterion: str
    serves: Callable[["pd.DataFrame", Any], bool]


PURPOSES: dict[str, Purpose] = {
    "learning rate": Purpose(
        "a learning rate for each layer",
        "in 9 of 10 tensors the sum over the tensor is off by at most a tenth of Σ|h|",
        lambda tensors, whole: bool(
            (tensors[tensors["bias"].notna()]["trace_error"] <= 0.1).mean() >= 0.9
        ),
    ),
    "pruning": Purpose(
        "pruning",
        "of the tenth of the weights with the least w²|h| it finds 0.8",
        lambda tensors, whole: bool(whole["pruning_overlap"] >= 0.8),
    ),
    "Laplace posterior": Purpose(
        "a Laplace posterior's variances",
        "for 9 of 10 entries it has the sign of h and is within a factor of two",
        lambda tensors, whole: bool(whole["within_factor_2"] >= 0.9),
    ),
    "sharpness": Purpose(
        "a bound on sharpness",
        "its greatest entry is 0.8 to 1.25 times the exact one",
        lambda tensors, whole: bool(0.8 <= whole["largest_ratio"] <= 1.25),
    ),
}


def shares(table: "pd.DataFrame", estimate: str) -> dict[str, Estimate]:
    """For each purpose the share of the networks and states that the estimate serves, by seed.

    Where it cannot be computed it serves no purpose.
    """
    cells = table[["network", "state", "seed"]].drop_duplicates()
    rows = dict(tuple(table[table["estimate"] == estimate].groupby(["network", "state", "seed"])))
    by_purpose: dict[str, Estimate] = {}
    for name, purpose in PURPOSES.items():
        by_seed: dict[int, list[bool]] = {}
        for network, state, seed in cells.itertuples(index=False):
            part = rows.get((network, state, seed))
            served = False
            if part is not None:
                whole = part[part["parameter"] == "*"].iloc[0]
                served = purpose.serves(part[part["parameter"] != "*"], whole)
            by_seed.setdefault(seed, []).append(served)
        step = 1 / max(map(len, by_seed.values()))
        by_purpose[name] = mean([float(np.mean(values)) for values in by_seed.values()], step)
    return by_purpose


def percent(share: Estimate) -> str:
    """The interval of a share, as far as a share can go."""
    return spread([100 * min(1.0, max(0.0, end)) for end in share.interval()])


def judge_estimate(served: Mapping[str, Estimate], seeds: int) -> Judgement:
    """Holds if it serves every purpose, in part if one, contradicted if it is shown to serve none.

    A purpose is served where the 95 % interval over seeds of the share of networks lies at or above
    `MOST`.
    """
    predicted = f"≥ {MOST:g}"
    best = max(served.values(), key=lambda each: each.value)
    shares = "; ".join(
        f"{PURPOSES[name].title} {100 * each.value:.0f} % {percent(each)}"
        for name, each in served.items()
    )
    reason = f"Share of the networks in which it would do for {shares}."
    if seeds < FEWEST_SEEDS:
        return too_few(predicted, f"Only {seeds} seeds. {reason}")
    parts = [at_least(each, MOST) for each in served.values()]
    if all(part.holds for part in parts):
        verdict = HOLDS
    elif any(part.holds for part in parts):
        verdict = IN_PART
    else:
        verdict = CONTRADICTED if all(part.fails for part in parts) else INCONCLUSIVE
    return Judgement(verdict, predicted, best.value, reason, best.interval())


def judge_traces(traces: Sequence[Mapping[str, Any]]) -> Judgement:
    """arXiv 2605.25674: 5 to 10 Hutchinson probes give a layer's trace well enough.

    Judged by probes of each layer alone, the milder reading; those of the whole network, which
    give all layers at once, are told beside it.
    """
    predicted = f"≥ {TRACE_SHARE:g}"
    seeds = sorted({row["seed"] for row in traces})
    if len(seeds) < FEWEST_SEEDS:
        return too_few(predicted, f"Only {len(seeds)} seeds.")

    def by_seed(probes: int, way: str = "layer") -> list[list[float]]:
        return [
            [
                row["error"]
                for row in traces
                if row["seed"] == s and row["probes"] == probes and row["way"] == way
            ]
            for s in seeds
        ]

    near = {
        probes: mean(
            [float(np.mean(np.array(errors) <= TRACE_ERROR)) for errors in by_seed(probes)]
        )
        for probes in (5, 10)
    }
    median = {probes: float(np.median(np.concatenate(by_seed(probes)))) for probes in (5, 10)}
    reason = "; ".join(
        f"{probes} probes: within {100 * TRACE_ERROR:g} % of the trace in "
        f"{100 * near[probes].value:.0f} % of the weight tensors "
        f"{percent(near[probes])}, middle error "
        f"{short(100 * median[probes])} %"
        for probes in (5, 10)
    )
    whole = np.concatenate(by_seed(10, "network"))
    if whole.size:
        reason += (
            f"; 10 probes of the whole network instead, for all layers at once: "
            f"{100 * float(np.mean(whole <= TRACE_ERROR)):.0f} %, middle error "
            f"{short(100 * float(np.median(whole)))} %"
        )
    core = at_least(near[10], TRACE_SHARE)
    return conclude(core, [at_least(near[5], TRACE_SHARE)], predicted, near[10], f"{reason}.")


def judge_blocks(blocks: Sequence[Mapping[str, Any]]) -> Judgement:
    """arXiv 2602.00816: block-diagonal approximations have errors of order one."""
    predicted = f"≥ {ORDER_ONE:.2g}"
    seeds = sorted({row["seed"] for row in blocks})
    if len(seeds) < FEWEST_SEEDS:
        return too_few(predicted, f"Only {len(seeds)} seeds.")

    def error(row: Mapping[str, Any]) -> float:
        return float(np.sqrt(max(0.0, 1 - row["within"] / row["whole"])))

    middle = mean([float(np.median([error(r) for r in blocks if r["seed"] == s])) for s in seeds])
    large = mean(
        [float(np.mean([error(r) >= ORDER_ONE for r in blocks if r["seed"] == s])) for s in seeds]
    )
    reason = (
        f"‖H - blocks‖/‖H‖ with the exact blocks of the layers: middle of the networks "
        f"{short(middle.value)} {spread(middle.interval())}; at least a third in "
        f"{100 * large.value:.0f} % of them {percent(large)}."
    )
    core = more(middle, ORDER_ONE, SMALL)
    return conclude(core, [at_least(large, MOST)], predicted, middle, reason)


CRITERIA = {
    "estimate": (
        "It holds if the 95 % interval over the seeds of the share of networks and states lies at "
        f"or above {MOST:g} for all four purposes; in part, for one; contradicted if below for "
        "all. " + "; ".join(f"{each.title}: {each.criterion}" for each in PURPOSES.values()) + "."
    ),
    "traces": (
        "Holds if 5 and 10 probes both are within "
        f"{100 * TRACE_ERROR:g} % of the exact trace in at least {TRACE_SHARE:g} of weight tensors "
        "(95 % interval over the seeds); in part if 10 are; contradicted if the interval of 10 "
        "lies below."
    ),
    "blocks": (
        "Of order one is at least a third. Holds if the 95 % interval over the seeds of the "
        "networks' middle error lies above a third, and the share of networks with at least a "
        f"third at or above {MOST:g}; in part if only the first; contradicted if it lies below a "
        "tenth."
    ),
}
