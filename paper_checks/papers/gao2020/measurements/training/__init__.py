"""The training runs that the figures share: each sweep is run once and reduced to what they read.

Batch sizes are the paper's as shares of its 50000 images. In the quick profile a small MLP on
scikit-learn's digits stands for AlexNet and for ResNet-18 on CIFAR-10, many seeds in one process;
in the full profile they are the paper's own networks, and in the profile `cifar` these at an eighth
of their width, every run a row of the ledger (`SWEEPS`).

| sweep | figures |
|---|---|
| `first_epoch` | 4, 7 |
| `whole` | 5, 8 |
| `tuned`, `long` | 1 |
| `discarding` | 10 |
| `schedules` | 11 to 14 |
| `rules`, `below`, `compared` | `fig-cblr`, 16 |
| `warmup` | `fig-spread` |
| `sharp` | a claim of section 5.2 |
"""

from collections.abc import Mapping

from paper_checks.measurements.cells import Arm as Arm
from paper_checks.measurements.cells import Cell as Cell
from paper_checks.measurements.cells import Planned as Planned
from paper_checks.measurements.cells import Sweep as Sweep
from paper_checks.measurements.cells import rows as rows
from paper_checks.measurements.lab import trained as trained
from paper_checks.papers.gao2020.measurements.training import (
    _compared,
    _discarding,
    _first_epoch,
    _rules,
    _schedules,
    _tuned,
    _warmup,
    _whole,
)
from paper_checks.papers.gao2020.measurements.training._compared import (
    COMPARED_RUNS as COMPARED_RUNS,
)
from paper_checks.papers.gao2020.measurements.training._compared import ENTRIES as ENTRIES
from paper_checks.papers.gao2020.measurements.training._compared import compared as compared
from paper_checks.papers.gao2020.measurements.training._discarding import DISCARDED as DISCARDED
from paper_checks.papers.gao2020.measurements.training._discarding import (
    DISCARDING_RUNS as DISCARDING_RUNS,
)
from paper_checks.papers.gao2020.measurements.training._discarding import discarding as discarding
from paper_checks.papers.gao2020.measurements.training._first_epoch import (
    FIRST_EPOCH as FIRST_EPOCH,
)
from paper_checks.papers.gao2020.measurements.training._first_epoch import (
    FIRST_EPOCH_RUNS as FIRST_EPOCH_RUNS,
)
from paper_checks.papers.gao2020.measurements.training._first_epoch import (
    first_epoch as first_epoch,
)
from paper_checks.papers.gao2020.measurements.training._lab import SIZES as SIZES
from paper_checks.papers.gao2020.measurements.training._lab import (
    STRIDE_PARAMETER as STRIDE_PARAMETER,
)
from paper_checks.papers.gao2020.measurements.training._lab import Lab as Lab
from paper_checks.papers.gao2020.measurements.training._lab import equal_steps as equal_steps
from paper_checks.papers.gao2020.measurements.training._lab import lab as lab
from paper_checks.papers.gao2020.measurements.training._lab import (
    trained_network as trained_network,
)
from paper_checks.papers.gao2020.measurements.training._rules import BELOW_RUNS as BELOW_RUNS
from paper_checks.papers.gao2020.measurements.training._rules import CAPS as CAPS
from paper_checks.papers.gao2020.measurements.training._rules import EXACT_SEEDS as EXACT_SEEDS
from paper_checks.papers.gao2020.measurements.training._rules import GAMMAS as GAMMAS
from paper_checks.papers.gao2020.measurements.training._rules import RULE_RUNS as RULE_RUNS
from paper_checks.papers.gao2020.measurements.training._rules import RULE_SIZES as RULE_SIZES
from paper_checks.papers.gao2020.measurements.training._rules import below as below
from paper_checks.papers.gao2020.measurements.training._rules import rules as rules
from paper_checks.papers.gao2020.measurements.training._schedules import (
    SCHEDULE_RUNS as SCHEDULE_RUNS,
)
from paper_checks.papers.gao2020.measurements.training._schedules import schedules as schedules
from paper_checks.papers.gao2020.measurements.training._sharp import SHARP_RUNS as SHARP_RUNS
from paper_checks.papers.gao2020.measurements.training._sharp import sharp as sharp
from paper_checks.papers.gao2020.measurements.training._tuned import FACTORS as FACTORS
from paper_checks.papers.gao2020.measurements.training._tuned import LONG_RUNS as LONG_RUNS
from paper_checks.papers.gao2020.measurements.training._tuned import TUNED_RUNS as TUNED_RUNS
from paper_checks.papers.gao2020.measurements.training._tuned import best as best
from paper_checks.papers.gao2020.measurements.training._tuned import long as long
from paper_checks.papers.gao2020.measurements.training._tuned import tuned as tuned
from paper_checks.papers.gao2020.measurements.training._warmup import WARMUP_RUNS as WARMUP_RUNS
from paper_checks.papers.gao2020.measurements.training._warmup import warmup as warmup
from paper_checks.papers.gao2020.measurements.training._whole import WHOLE_RUNS as WHOLE_RUNS
from paper_checks.papers.gao2020.measurements.training._whole import fluctuation as fluctuation
from paper_checks.papers.gao2020.measurements.training._whole import whole as whole

# By the name of their rows: what is run for each group, and what is read off a run.
SWEEPS: Mapping[str, Sweep] = {
    sweep.name: sweep
    for sweep in (
        _first_epoch.SWEEP,
        _tuned.TUNED,
        _tuned.LONG,
        _whole.SWEEP,
        _discarding.SWEEP,
        _schedules.SWEEP,
        _rules.SWEEP,
        _rules.BELOW_SWEEP,
        _compared.SWEEP,
        _warmup.SWEEP,
    )
}

__all__ = [
    "BELOW_RUNS",
    "CAPS",
    "COMPARED_RUNS",
    "DISCARDED",
    "DISCARDING_RUNS",
    "ENTRIES",
    "EXACT_SEEDS",
    "FACTORS",
    "FIRST_EPOCH",
    "FIRST_EPOCH_RUNS",
    "GAMMAS",
    "LONG_RUNS",
    "RULE_RUNS",
    "RULE_SIZES",
    "SCHEDULE_RUNS",
    "SHARP_RUNS",
    "SIZES",
    "STRIDE_PARAMETER",
    "SWEEPS",
    "TUNED_RUNS",
    "WARMUP_RUNS",
    "WHOLE_RUNS",
    "Arm",
    "Cell",
    "Lab",
    "Planned",
    "Sweep",
    "below",
    "best",
    "compared",
    "discarding",
    "equal_steps",
    "first_epoch",
    "fluctuation",
    "lab",
    "long",
    "rows",
    "rules",
    "schedules",
    "sharp",
    "trained",
    "trained_network",
    "tuned",
    "warmup",
    "whole",
]
