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
| Where does 1/sqrt(n) bend? | `bend_batch_size`, `gradient_noise_scale`; means over a layer: `tau` |
| Without replacement, near n = N; dropout? | `finite_population_abs_mean`; `mask`, `common` |
| Gradients that are not Gaussian? | `expected_abs_mean(source, n)` for any; `laplace_`, `exponential_`, `student_`, `stable_`, `edgeworth_abs_gradient`; `characteristic_integral` |
| How far is abs(w/g) from the radius? | `shortcut_ratio_quantile(p, w, h, n, sigma, mu)`, `shortcut_ratio_probability`, `shortcut_share_within`; over a layer `shortcut_layer_median`, `_quantile`, `_share_within`; over its own entries `shortcut_entries_quantile`, `_probability` |
| Does it follow the radius or its root? | `shortcut_radius_slope`, `shortcut_radius_correlation` |
| How is abs(w/g) distributed? | `ratio_density`, `ratio_probability`, `ratio_quantile`, `ratio_mean` |
| What do the layer-wise rules tend to, how surely? | `rule_limit`, `rule_standard_error`, `rule_growth_exponent`; `lars_mean`, `percent_delta_mean`, `percent_delta_moments`, `percent_delta_centre` |
| On layers that are not Gaussian? | `rule_limit_of(rule, w, g)` for distributions |
| Which means of abs(w/g) are the rules? | `lars_ratio_mean`, `percent_delta_ratio_mean`, `ratio_quantile_bounds` |
| A rule's interval from data? | `rule_estimate(rule, w, g)` |
| LARS's rate against n? | `lars_rate` |
| Entries that differ in noise? | `layer_abs_gradient`, `spread_abs_gradient` |
| A step of all parameters, with the whole Hessian? | `matrix_loss_decrease`, `off_diagonal_noise` |
| Where does SGD settle, how long are its steps there? | `stationary_abs_distance`, `stationary_distance_deviation`; `stationary_squared_step`, `stationary_abs_step` |
| Where does CBLR converge, how fast? | `cblr_step`, `cblr_basin`, `cblr_convergence`, `cblr_largest_gamma` |
| How heavy is the radius's tail? | `radius_tail`, `radius_tail_constant` |
| The largest stable batch? | `lars_largest_batch`, `mclr_largest_batch` |
| When is diag H = diag GGN, what does a kink hide? | `gauss_newton_gap`, `kink_curvature` |
| Their derivations? | `DERIVATIONS[name]`; all on one page: `theory.gallery.write(path)` |
| The numbers, over arrays? | `numeric(expression, *symbols)` |
| In which symbols? | `symbols` |

>>> EQUATIONS["4"].verdict
<Verdict.WRONG_CONSTANT: 'wrong constant'>
>>> all(step.check() for step in EQUATIONS["4"].steps)
True
"""  # noqa: E501

from typing import TYPE_CHECKING

try:
    import mpmath as _mpmath  # noqa: F401
    import sympy as _sympy  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"theory needs {error.name}, which is not installed; pip install 'cblr[theory]'",
        name=error.name,
    ) from None

from theory import symbols
from theory._objects import Distributed, Gaussian, Tends
from theory.derivation import Derivation, Statement
from theory.derivations import DERIVATIONS
from theory.equation import Equation, Reading, Repair, Small, Step
from theory.equations import EQUATIONS
from theory.laws import (
    bend_batch_size,
    cblr_basin,
    cblr_convergence,
    cblr_largest_gamma,
    cblr_step,
    expected_abs_distance,
    expected_abs_gradient,
    expected_abs_step,
    expected_loss_decrease,
    finite_population_abs_mean,
    gauss_newton_gap,
    gradient_noise_scale,
    kink_curvature,
    lars_largest_batch,
    lars_rate,
    layer_abs_gradient,
    matrix_loss_decrease,
    mclr_largest_batch,
    numeric,
    off_diagonal_noise,
    radius_tail,
    radius_tail_constant,
    spread_abs_gradient,
    stationary_abs_distance,
    stationary_abs_step,
    stationary_distance_deviation,
    stationary_squared_step,
)
from theory.quadrature import Computed
from theory.ratio import (
    RULES,
    RuleEstimate,
    lars_mean,
    lars_ratio_mean,
    percent_delta_centre,
    percent_delta_mean,
    percent_delta_moments,
    percent_delta_ratio_mean,
    ratio_density,
    ratio_mean,
    ratio_probability,
    ratio_quantile,
    ratio_quantile_bounds,
    rule_estimate,
    rule_growth_exponent,
    rule_limit,
    rule_limit_of,
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
from theory.shortcut import (
    shortcut_entries_probability,
    shortcut_entries_quantile,
    shortcut_largest_share,
    shortcut_layer_median,
    shortcut_layer_quantile,
    shortcut_layer_share_within,
    shortcut_radius_correlation,
    shortcut_radius_slope,
    shortcut_ratio_probability,
    shortcut_ratio_quantile,
    shortcut_share_within,
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
    "cblr_basin",
    "cblr_convergence",
    "cblr_largest_gamma",
    "cblr_step",
    "characteristic_integral",
    "edgeworth_abs_gradient",
    "expected_abs_distance",
    "expected_abs_gradient",
    "expected_abs_mean",
    "expected_abs_step",
    "expected_loss_decrease",
    "exponential_abs_gradient",
    "finite_population_abs_mean",
    "gauss_newton_gap",
    "gradient_noise_scale",
    "judge",
    "kink_curvature",
    "laplace_abs_gradient",
    "lars_largest_batch",
    "lars_mean",
    "lars_rate",
    "lars_ratio_mean",
    "layer_abs_gradient",
    "matrix_loss_decrease",
    "mclr_largest_batch",
    "numeric",
    "off_diagonal_noise",
    "percent_delta_centre",
    "percent_delta_mean",
    "percent_delta_moments",
    "percent_delta_ratio_mean",
    "radius_tail",
    "radius_tail_constant",
    "ratio_density",
    "ratio_mean",
    "ratio_probability",
    "ratio_quantile",
    "ratio_quantile_bounds",
    "rule_estimate",
    "rule_growth_exponent",
    "rule_limit",
    "rule_limit_of",
    "rule_standard_error",
    "shortcut_entries_probability",
    "shortcut_entries_quantile",
    "shortcut_largest_share",
    "shortcut_layer_median",
    "shortcut_layer_quantile",
    "shortcut_layer_share_within",
    "shortcut_radius_correlation",
    "shortcut_radius_slope",
    "shortcut_ratio_probability",
    "shortcut_ratio_quantile",
    "shortcut_share_within",
    "spread_abs_gradient",
    "stable_abs_gradient",
    "stationary_abs_distance",
    "stationary_abs_step",
    "stationary_distance_deviation",
    "stationary_squared_step",
    "student_abs_gradient",
    "symbols",
]

if TYPE_CHECKING:
    __version__: str
else:  # not for type checkers, to which every name would then be one of this module's

    def __getattr__(name):
        """The version of what is installed, looked up when it is first asked for."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version

        try:
            return globals().setdefault(name, version("cblr"))
        except PackageNotFoundError:
            return "0+unknown"
