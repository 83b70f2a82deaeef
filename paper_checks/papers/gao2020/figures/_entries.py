"""What several figures need of every single parameter: reduced in one pass, kept by seed."""

from typing import TYPE_CHECKING, Any

from paper_checks.papers.gao2020.figures._reducers import (
    convergence,
    density,
    failures,
    place,
    ranks,
)
from paper_checks.papers.gao2020.measurements.profile import RECORDED_SEEDS
from paper_checks.shared import Shared

if TYPE_CHECKING:
    from paper_checks.papers.gao2020.measurements.context import Context


ENTRIES = Shared(
    lambda context: tuple(f"entries-{seed}" for seed in context.profile.seeds),
    tuple(f"entries-{seed}" for seed in RECORDED_SEEDS),
)
FIRST_ENTRIES = Shared(lambda context: ENTRIES.keys(context)[:1], ENTRIES.rows[:1])


def entries(context: "Context", seed: int) -> dict[str, Any]:
    """Ranks, places of b, failures and, for the first seed, density and convergence.

    All of it comes from one exact diagonal, which is too large to keep.
    """
    return context.shared(f"entries-{seed}", lambda context: _entries(context, seed))


def _entries(context: "Context", seed: int) -> dict[str, Any]:
    exact = context.exact(seed)
    reduced: dict[str, Any] = {
        "samples": len(exact.pair[1]),
        "radius": [
            {"seed": seed, "parameter": name} | ranks(*parts, seed)
            for name, parts in exact.entries.items()
            if name.endswith("weight")
        ],
        "b": [
            {"seed": seed, "parameter": name} | place(*parts)
            for name, parts in exact.entries.items()
        ],
    }
    reduced["failures"] = failures(exact.entries)
    if seed == context.profile.seeds[0]:
        reduced["density"] = density(list(exact.entries.values()))
        reduced["convergence"] = convergence(exact.entries, seed)
    return reduced
