"""What several figures need of every single parameter: reduced in one pass, kept by seed."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paper_checks.context import Context

# Whose source belongs to what is kept here.
READS = (
    "paper_checks.claims.same_failure_conditions",
    "paper_checks.claims._special_case",
    "paper_checks.figures.fig_b",
    "paper_checks.figures.fig_convergence",
    "paper_checks.figures.fig_radius",
)


def entries(context: "Context", seed: int) -> dict[str, Any]:
    """Ranks, places of b, failures and, for the first seed, density and convergence.

    All of it comes from one exact diagonal, which is too large to keep.
    """
    return context.shared(f"entries-{seed}", lambda context: _entries(context, seed))


def _entries(context: "Context", seed: int) -> dict[str, Any]:
    from paper_checks.claims.same_failure_conditions import failures
    from paper_checks.figures.fig_b import place
    from paper_checks.figures.fig_convergence import convergence
    from paper_checks.figures.fig_radius import density, ranks

    found = context.exact(seed)
    kept: dict[str, Any] = {
        "samples": len(found.pair[1]),
        "radius": [
            {"seed": seed, "parameter": name} | ranks(*parts, seed)
            for name, parts in found.entries.items()
            if name.endswith("weight")
        ],
        "b": [
            {"seed": seed, "parameter": name} | place(*parts)
            for name, parts in found.entries.items()
        ],
    }
    kept["failures"] = failures(found.entries)
    if seed == context.profile.seeds[0]:
        kept["density"] = density(list(found.entries.values()))
        kept["convergence"] = convergence(found.entries, seed)
    return kept
