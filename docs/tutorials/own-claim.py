# %% [markdown]
# # Auditing a claim of your own
#
# A sentence from some paper, a criterion that is written down before anything is run, a measurement
# over seeds, and a verdict from an interval. The claim of this page: *after training, the biases of
# a network have more curvature than its weights.*

# %%
import torch
from torch import nn

import hessian
import sim
from paper_checks.check import Check
from paper_checks.statistics import conclude, more, ratio

SEEDS = range(5)

# %% [markdown]
# ## Measure
#
# A measurement returns plain numbers, as JSON could hold them, and decides nothing. Here: the
# median |d²L/dw²| of biases and of weights, for one network a seed.


# %%
def measure(context):
    data = sim.data.load("digits")
    rows = []
    for seed in SEEDS:
        model = sim.models.build(
            "mlp", in_shape=data.shape, hidden=[32], activation="tanh", seed=seed
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(5):
            for index in torch.randperm(len(data), generator=generator).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(
                    model(data.inputs[index]), data.targets[index]
                ).backward()
                optimizer.step()
        h = hessian.diagonal(model, nn.functional.cross_entropy, data.pair)
        kinds = {
            kind: torch.cat([v.abs().flatten() for k, v in h.items() if k.endswith(kind)])
            for kind in ("bias", "weight")
        }
        rows.append({kind: float(values.median()) for kind, values in kinds.items()})
    return {"rows": rows}


# %% [markdown]
# ## Judge
#
# A judge is a pure function of the measurement. `ratio` pairs the arms seed by seed and gives a
# mean with Student's interval on the logarithm; `more` says whether that interval lies above a
# bound; `conclude` makes the verdict of it. The bound is the criterion's: twice, not just more.

# %%
BOUND = 2.0


def judge(measurements):
    rows = measurements["rows"]
    estimate = ratio([row["bias"] for row in rows], [row["weight"] for row in rows])
    return conclude(
        more(estimate, BOUND, least=1.0), [], f"> {BOUND:g}", estimate,
        f"median |h| of biases over that of weights, {len(rows)} seeds",
    )  # fmt: skip


check = Check(
    id="claim-sharp-biases",
    kind="claim",
    title="Biases are sharper than weights",
    section="of this page",
    statement="After training, the biases of a network have more curvature than its weights.",
    criterion=f"The ratio of medians of |d²L/dw²| is above {BOUND:g}: shown where its 95 % "
    "interval lies above, excluded where it lies below 1. Five seeds.",
    measure=measure,
    judge=judge,
)
print("criterion's hash:", check.criterion_hash[:12])

# %% [markdown]
# The hash of sentence and criterion goes into every result, so a criterion that is changed after
# the run shows.
#
# ## Run, and see it turn
#
# An interval between 1 and 2 shows neither "twice" nor its opposite, and the verdict says so:

# %%
measurements = measure(None)
verdict = check.judge(measurements)
print(verdict.verdict, f"{verdict.measured:.3g}", [round(end, 2) for end in verdict.interval])

# %% [markdown]
# A judge that cannot say no, or yes, is worth nothing. So make the biases three times as sharp, turn
# the measurement round, and put noise in its place:

# %%
sharper = {"rows": [{**row, "bias": 3 * row["bias"]} for row in measurements["rows"]]}
print(check.judge(sharper).verdict)

turned = {"rows": [{"bias": r["weight"], "weight": r["bias"]} for r in measurements["rows"]]}
print(check.judge(turned).verdict)

noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).exp().tolist()
print(check.judge({"rows": [{"bias": a, "weight": b} for a, b in noise]}).verdict)

# %% [markdown]
# ## Into the report
#
# To have it in the report beside the others, give it an entry in `claims/registry.toml` of a
# paper's folder (quotation, page, criterion, thresholds) and put `measure` and `judge` into a
# module of the same name beside it; "Adding a check" in CONTRIBUTING.md has the details. Measurements
# that several checks share are declared with `@reads(…)`, and made once.
