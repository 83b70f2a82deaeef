"""How long the shared measurements of this paper will take, said beforehand."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from paper_checks.measurements.durations import config_seconds, speed, step_seconds

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context
    from sim.training import TrainConfig

# Seconds of what does not depend on the profile's network, measured on two cores of 2.5 GHz.
_FIXED = {
    "fig-bend": 20.0,
    "fig-law": 20.0,
    "fig-gaussian": 4.0,
    "fig-minimum": 25.0,
    "fig-mclr-batch": 10.0,
    "claim-weight-decay": 1.0,
    "claim-sigma-and-curvature": 0.5,
    "fig-shortcut": 6.0,
    "shortcut-network": 18.0,
    "rate-terms": 5.0,
    "claim-eliminating-sharp-minima": 8.0,
    "claim-other-enlargers": 0.2,
}
# The exact diagonal with its statistics, in gradients of its sample.
_DIAGONAL = 40.0
# The same of an entry's exact value on ResNet-18.
_ENTRY = 6.0
_WEIGHT_TENSORS = 21


def key_seconds(key: str, context: "Context") -> float:
    """The seconds of a shared measurement that is not kept."""
    if key in _FIXED:
        return _FIXED[key]
    if key == "training-radii":
        return _radii_seconds(context)
    if key.startswith("training-"):
        return _training_seconds(key.removeprefix("training-"), context)
    width: dict[str, Any] = {"width": context.profile.width}
    per_sample = step_seconds(context, context.network, width, 64) / 64
    profile = context.profile
    sample = min(profile.sample, len(context.dataset))
    if key.startswith(("snapshot-", "entries-")):
        return _DIAGONAL * sample * per_sample
    # Figure 3: moments by passes, and every random batch up to all of the data, both ways.
    passes = 2 * profile.passes + 4 * profile.batches if key == "fig3" else profile.batches
    return passes * len(context.population) * per_sample


def _training_seconds(sweep: str, context: "Context") -> float:
    """Every step of the sweep, at what one step takes here: an overhead and a time per image."""
    return sum(
        config_seconds(context, config) / (8 if lanes else 1)
        for config, lanes in _configs(sweep, context)
    ) + (_sharpness_seconds(context) if sweep == "sharp" else 0.0)


def _configs(sweep: str, context: "Context") -> "Iterator[tuple[TrainConfig, bool]]":
    """Every run of a sweep, and whether it trains as one of several lanes."""
    from paper_checks.papers.gao2020.measurements import training
    from paper_checks.papers.gao2020.measurements.training import _compared, _rules, _sharp

    if sweep == "sharp":
        cells = list(_sharp.cells(context))
    elif sweep in ("rules", "compared"):
        network = context.profile.compares if sweep == "compared" else None
        setup = training.lab(context, network)
        which = _compared.FIRST_ORDER if sweep == "compared" else tuple(training.GAMMAS)
        cells = [
            cell
            for series in ("epochs", "steps")
            for paper in training.RULE_SIZES
            for cell in _rules.local_cells(setup, which, series, paper)
        ]
    else:
        cells = list(training.SWEEPS[sweep].cells(context))
    lanes = training.lab(context).vectorise
    for cell in cells:
        for run in (*cell.first(), *cell.second(0)):
            config = run.arm.config
            yield config, lanes and config.model == "mlp" and config.optimizer != "cblr"


def _sharpness_seconds(context: "Context") -> float:
    """The largest eigenvalues after the runs."""
    from paper_checks.papers.gao2020.measurements.training import _sharp

    runs = sum(cell.runs() for cell in _sharp.cells(context))
    return 60 * 1024 * _trained_seconds(context) * runs


def _radii_seconds(context: "Context") -> float:
    """The exact radii of some entries of each tensor, at both ends of a run."""
    from paper_checks.papers.gao2020.measurements.training import ENTRIES

    entries = 2 * ENTRIES * _WEIGHT_TENSORS
    return _ENTRY * 256 * entries * _trained_seconds(context, context.profile.compares)


def _trained_seconds(context: "Context", network: str | None = None) -> float:
    """Seconds for an image more, of the network that is trained."""
    from paper_checks.papers.gao2020.measurements.training import lab

    base = lab(context, network).base
    return speed(context, base.model, base.model_options, base.dtype)[0]
