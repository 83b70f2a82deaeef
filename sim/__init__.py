"""Networks, data and measurements. May use `hessian`, never `theory`.

| question | call |
|---|---|
| the paper's rules in a training loop of one's own | `optimizers` |
| a network by its name; a data set by its name | `models.build`, `data.load` |
| a run, resumable; many of them | `train`, `sweep`; what they depend on: `TrainConfig` |
| every cheap substitute for the radius beside the exact one, layer by layer | `compare_radii` |
| every cheap estimate of curvature beside the exact one, tensor by tensor | `compare_estimates` |
| what lies between a rule's rate and the exact radius, factor by factor | `rate_terms` |
| the largest γ that CBLR bears | `stable_gamma` |
| traces, noise scale and λ_max beside a loop of one's own | `monitor` |
| curvature for CBLR, and beside training, in Lightning and Hugging Face's Trainer | `integrations` |
| moments of single gradients; the mean absolute gradient against n | `gradient_moments`, `mean_abs_gradient` |
| the loss's rise in a box around the weights | `sharpness` |

`optimizers` and `models` need nothing but torch; the rest is installed with `cblr[sim]`, and
imported when it is first asked for.
"""  # noqa: E501

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim import data as data
    from sim import integrations as integrations
    from sim import models as models
    from sim import optimizers as optimizers
    from sim import training as training
    from sim._measurements.compare_estimates import compare_estimates as compare_estimates
    from sim._measurements.compare_radii import compare_radii as compare_radii
    from sim._measurements.gradient_moments import GradientMoments as GradientMoments
    from sim._measurements.gradient_moments import gradient_moments as gradient_moments
    from sim._measurements.mean_abs_gradient import mean_abs_gradient as mean_abs_gradient
    from sim._measurements.monitor import Monitor as Monitor
    from sim._measurements.monitor import monitor as monitor
    from sim._measurements.rate_terms import rate_terms as rate_terms
    from sim._measurements.sharpness import sharpness as sharpness
    from sim._measurements.stable_gamma import Stability as Stability
    from sim._measurements.stable_gamma import Trial as Trial
    from sim._measurements.stable_gamma import stable_gamma as stable_gamma
    from sim.training import Run as Run
    from sim.training import TrainConfig as TrainConfig
    from sim.training import sweep as sweep
    from sim.training import train as train

    __version__: str

__all__ = [
    "GradientMoments",
    "Monitor",
    "Run",
    "Stability",
    "TrainConfig",
    "Trial",
    "compare_estimates",
    "compare_radii",
    "data",
    "gradient_moments",
    "integrations",
    "mean_abs_gradient",
    "models",
    "monitor",
    "optimizers",
    "rate_terms",
    "sharpness",
    "stable_gamma",
    "sweep",
    "train",
    "training",
]

# The module that has it; of a module, nothing.
_PLACES = {
    "GradientMoments": "_measurements.gradient_moments",
    "Monitor": "_measurements.monitor",
    "Run": "training",
    "Stability": "_measurements.stable_gamma",
    "TrainConfig": "training",
    "Trial": "_measurements.stable_gamma",
    "compare_estimates": "_measurements.compare_estimates",
    "compare_radii": "_measurements.compare_radii",
    "data": "",
    "gradient_moments": "_measurements.gradient_moments",
    "integrations": "",
    "mean_abs_gradient": "_measurements.mean_abs_gradient",
    "models": "",
    "monitor": "_measurements.monitor",
    "optimizers": "",
    "rate_terms": "_measurements.rate_terms",
    "sharpness": "_measurements.sharpness",
    "stable_gamma": "_measurements.stable_gamma",
    "sweep": "training",
    "train": "training",
    "training": "",
}

# Not for type checkers, to which every name would then be one of this module's.
if not TYPE_CHECKING:

    def __getattr__(name):
        """A public name, from the module that has it."""
        if name not in _PLACES and name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        from sim._extras import extra

        if name == "__version__":
            from hessian._runtime.release import release

            return globals().setdefault(name, release())
        with extra(f"{__name__}.{name}"):
            place = _PLACES[name]
            if not place:
                return import_module(f"{__name__}.{name}")
            value = getattr(import_module(f"{__name__}.{place}"), name)
        return globals().setdefault(name, value)

    def __dir__():
        """The public names, for completion."""
        return sorted({*globals(), *__all__})
