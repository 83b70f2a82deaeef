# %% [markdown]
# # Reading the audit
#
# `cblr audit` writes a page for people and `results.json` for programs. This one runs four checks,
# reads their results, judges stored measurements again, and says what the verdicts mean.

# %%
from pathlib import Path
from tempfile import mkdtemp

import paper_checks

out = Path(mkdtemp())
results = paper_checks.run(only=["eq4", "eq11", "eq17", "fig6"], out=out)
for result in results:
    print(f"{result.id:5} {result.verdict:15} {result.title}")

# %% [markdown]
# ## One result
#
# Each has what the paper says, the criterion that was fixed before the run, the number that the
# verdict is read from and its interval, and the reason in a sentence.

# %%
constant = results[0]
print(constant.statement)
print("criterion:", constant.criterion)
print("predicted:", constant.predicted)
print("measured: ", constant.measured, constant.interval)
print("reason:   ", constant.reason)

# %% [markdown]
# An equation's verdict is a theorem's: it is derived, and the measurement beside it is there to be
# looked at. The derivation is in `theory`, step by step, and each step is computed:

# %%
import theory

equation = theory.EQUATIONS["4"]
print(equation.verdict, "by the factor", equation.factor)
for step in equation.steps:
    print("-", step.sentence, step.check())

# %% [markdown]
# ## Figures and claims
#
# | verdict | means |
# |---|---|
# | *holds* | the 95 % interval lies inside what the paper says, and so do the controls |
# | *holds in part* | the core of the sentence is shown, a control that decides what it means is not |
# | *contradicted* | the interval lies outside |
# | *inconclusive* | neither: too few runs, or noise; nobody is contradicted by noise |
# | *skipped* | it needs a GPU or data that are not there |
# | *illustration* | a sketch, redrawn; its mathematics is checked |

# %% tags=["hidden"] alt="Figure 6 of the paper, redrawn: minimum, gradient, step and loss decrease on a parabola"
from IPython.display import SVG

figure = next(result for result in results if result.figure)
SVG(filename=str(out / figure.figure))

# %% [markdown]
# ## Judging again
#
# Measuring and judging are two steps, and a verdict is a pure function of the stored measurements.
# So a results.json from elsewhere can be judged by the code that is here:

# %%
for before, after in paper_checks.rejudge(out / "results.json"):
    print(before.id, before.verdict, "→", after.verdict)

# %% [markdown]
# In the shell the same is `cblr audit --only eq4 --only fig6 --out report`, and
# `cblr audit --compare old/results.json` says what has changed since another run.
# [How the audit is made](../audit.md) has the profiles and what the numbers can decide; [what it
# found](../verdicts.md) has every verdict.
