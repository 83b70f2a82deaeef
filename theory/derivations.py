"""All derivations of the laws, by name, in the order in which a reader meets them."""

from collections.abc import Mapping
from types import MappingProxyType

from theory.derivation import Derivation
from theory.laws import (
    bend,
    cblr,
    finite_population,
    gauss_newton,
    largest_batch,
    lars,
    stationary_distance,
    tail,
)
from theory.ratio import distribution, finite_layer, rules
from theory.samples import characteristic, edgeworth, exponential, laplace, stable, student

DERIVATIONS: Mapping[str, Derivation] = MappingProxyType(
    {
        module.DERIVATION.name: module.DERIVATION
        for module in (
            bend,
            finite_population,
            distribution,
            rules,
            finite_layer,
            characteristic,
            laplace,
            exponential,
            student,
            edgeworth,
            stable,
            lars,
            stationary_distance,
            cblr,
            tail,
            largest_batch,
            gauss_newton,
        )
    }
)
