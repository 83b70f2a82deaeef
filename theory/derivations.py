"""All derivations of the laws, by subject and by name, in the order a reader meets them."""

from collections.abc import Mapping
from types import MappingProxyType

from theory.derivation import Derivation
from theory.laws import (
    abs_distance,
    abs_gradient,
    abs_step,
    bend,
    cblr,
    finite_population,
    gauss_newton,
    largest_batch,
    lars,
    layer_gradient,
    loss_decrease,
    matrix_decrease,
    stationary_distance,
    stationary_step,
    tail,
)
from theory.ratio import (
    distribution,
    distributions,
    estimate,
    finite_layer,
    identities,
    rules,
)
from theory.samples import characteristic, edgeworth, exponential, laplace, stable, student
from theory.shortcut import entries, entry, layer

SUBJECTS: Mapping[str, tuple[Derivation, ...]] = MappingProxyType(
    {
        subject: tuple(module.DERIVATION for module in modules)
        for subject, modules in (
            (
                "The paper's own laws, extended",
                (abs_step, loss_decrease, matrix_decrease, abs_distance),
            ),
            ("Gradients whose mean is not zero", (abs_gradient, layer_gradient, bend)),
            ("Sampling without replacement, and dropout", (finite_population,)),
            (
                "Gradients that are not Gaussian",
                (characteristic, laplace, exponential, student, edgeworth, stable),
            ),
            ("How far |w/g| is from the radius", (entry, layer, entries)),
            (
                "|w/g| and the layer-wise rules",
                (distribution, identities, rules, distributions, finite_layer, estimate),
            ),
            ("LARS's rate and the batch size", (lars,)),
            ("Where SGD settles", (stationary_distance, stationary_step)),
            ("The curvature-based rule on a quadratic", (cblr, tail)),
            ("The largest stable batch", (largest_batch,)),
            ("Hessian, Gauss-Newton and kinks", (gauss_newton,)),
        )
    }
)

DERIVATIONS: Mapping[str, Derivation] = MappingProxyType(
    {derivation.name: derivation for group in SUBJECTS.values() for derivation in group}
)
