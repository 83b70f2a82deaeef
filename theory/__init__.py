"""What the paper's assumptions imply, derived with sympy. Knows no torch.

| question | answer |
|---|---|
| What does equation 4 print, what follows, does it hold? | `EQUATIONS["4"]`: `.printed`, `.derived`, `.verdict`, `.factor`, `.note` |
| Why? | `.steps`: sentences with relations; `step.check()` computes each |
| What could the text mean? | `.readings`, `.reading_verdicts` |
| How large is the mean absolute gradient of a batch of n? | `expected_abs_gradient(n, sigma, mu, population)` |
| How long is a step, with momentum? | `expected_abs_step(lr, n, sigma, mu, population, momentum)` |
| How much does a step lower the loss, and on which data? | `expected_loss_decrease(lr, n, sigma, mu, curvature, on, population)` |
| How far is a parameter from the minimum, and of which loss? | `expected_abs_distance(a, n, sigma, mu, population, on)` |
| The numbers, over arrays? | `numeric(expression, *symbols)` |
| In which symbols? | `symbols` |

>>> EQUATIONS["4"].verdict
<Verdict.WRONG_CONSTANT: 'wrong constant'>
>>> all(step.check() for step in EQUATIONS["4"].steps)
True
"""  # noqa: E501

from theory import symbols
from theory._objects import Distributed, Gaussian, Tends
from theory.derivation import Derivation, Statement
from theory.derivations import DERIVATIONS
from theory.equation import Equation, Reading, Repair, Small, Step
from theory.equations import EQUATIONS
from theory.laws import (
    bend_batch_size,
    expected_abs_distance,
    expected_abs_gradient,
    expected_abs_step,
    expected_loss_decrease,
    finite_population_abs_mean,
    gradient_noise_scale,
    numeric,
)
from theory.quadrature import Computed
from theory.ratio import (
    RULES,
    RuleEstimate,
    lars_mean,
    percent_delta_centre,
    percent_delta_mean,
    percent_delta_moments,
    ratio_density,
    ratio_mean,
    ratio_probability,
    ratio_quantile,
    rule_estimate,
    rule_growth_exponent,
    rule_limit,
    rule_standard_error,
)
from theory.samples import (
    characteristic_integral,
    edgeworth_abs_gradient,
    expected_abs_mean,
    exponential_abs_gradient,
    laplace_abs_gradient,
    stable_abs_gradient,
    student_abs_gradient,
)
from theory.verdict import Verdict, judge

__all__ = [
    "DERIVATIONS",
    "EQUATIONS",
    "RULES",
    "Computed",
    "Derivation",
    "Distributed",
    "Equation",
    "Gaussian",
    "Reading",
    "Repair",
    "RuleEstimate",
    "Small",
    "Statement",
    "Step",
    "Tends",
    "Verdict",
    "bend_batch_size",
    "characteristic_integral",
    "edgeworth_abs_gradient",
    "expected_abs_distance",
    "expected_abs_gradient",
    "expected_abs_mean",
    "expected_abs_step",
    "expected_loss_decrease",
    "exponential_abs_gradient",
    "finite_population_abs_mean",
    "gradient_noise_scale",
    "judge",
    "laplace_abs_gradient",
    "lars_mean",
    "numeric",
    "percent_delta_centre",
    "percent_delta_mean",
    "percent_delta_moments",
    "ratio_density",
    "ratio_mean",
    "ratio_probability",
    "ratio_quantile",
    "rule_estimate",
    "rule_growth_exponent",
    "rule_limit",
    "rule_standard_error",
    "stable_abs_gradient",
    "student_abs_gradient",
    "symbols",
]
