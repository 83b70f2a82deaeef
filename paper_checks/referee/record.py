"""The referee's record: a run's table made small, and the page's table made of it.

`python -m paper_checks.referee.record referee benchmarks/results docs/referee.md` writes
`referee.parquet` and `referee.json` into the second folder from the cells of the first, and puts
the tables between the marks of the page.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_checks.files import write_atomically
from paper_checks.numbers import short
from paper_checks.referee import trust
from paper_checks.referee.cells import Cell, Sizes, read, table
from paper_checks.referee.networks import NETWORKS, STATES
from paper_checks.referee.page import TITLES
from paper_checks.referee.trust import PURPOSES
from paper_checks.result import plain
from paper_checks.verdicts import mark

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("network", "state", "seed", "parameter", "estimate")
NUMBERS = (
    "relative_error", "scaled_error", "bias", "trace_error", "rank_correlation",
    "within_factor_2", "pruning_overlap", "largest_ratio", "gradients", "error_per_gradient",
)  # fmt: skip
# The estimates whose errors are shown network by network.
BY_NETWORK = (
    "preactivation", "gauss-newton", "empirical-fisher", "becker-lecun", "k-fac", "ek-fac",
)  # fmt: skip
BITS = 14
BEGIN, END = "<!-- referee: generated from the record -->", "<!-- end -->"


def cells_of(folder: Path, sizes: Sizes) -> list[tuple[Cell, dict[str, Any]]]:
    """Every cell of the referee's networks that a run has left there, of whole seeds alone."""
    seeds: list[list[tuple[Cell, dict[str, Any]]]] = []
    while True:
        cells = [Cell(name, state, len(seeds)) for state in STATES for name in NETWORKS]
        parts = [(cell, read(cell.path(folder, sizes))) for cell in cells]
        if not all(measured for _, measured in parts):
            return [pair for part in seeds for pair in part]
        seeds.append([(cell, measured or {}) for cell, measured in parts])


def compact(cells: Sequence[tuple[Cell, dict[str, Any]]]) -> "pd.DataFrame":
    """The table with the numbers that are judged and shown, to four digits."""
    frame = table(cells)[[*KEYS, *NUMBERS]]
    frame = frame.astype(
        {name: "category" for name in KEYS if name != "seed"} | dict.fromkeys(NUMBERS, "float32")
    )
    for name in NUMBERS:
        frame[name] = rounded(frame[name].to_numpy())
    return frame


def rounded(values: Any) -> Any:
    """Single precision to 13 of its 23 bits, four digits, so that a file has less to keep.

    >>> import numpy as np
    >>> f"{rounded(np.array([1.234567], dtype=np.float32))[0]:.6f}"
    '1.234619'
    """
    import numpy as np

    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(mantissa * 2**BITS) / 2**BITS, exponent).astype(np.float32)


def write(frame: "pd.DataFrame", path: Path) -> None:
    """As Parquet, byte by byte of the numbers: those that are rounded off then take no room."""
    frame.to_parquet(
        path, index=False, compression="zstd", compression_level=19,
        use_dictionary=[name for name in KEYS if name != "seed"],
        use_byte_stream_split=list(NUMBERS),
    )  # fmt: skip


def facts(cells: Sequence[tuple[Cell, dict[str, Any]]]) -> dict[str, Any]:
    """Traces and blocks by cell, and what each network's estimates were refused for."""
    from paper_checks.environment import hardware, versions

    return {
        "versions": versions(),
        "hardware": hardware(),
        "seconds": [
            {"network": c.network, "state": c.state, "seed": c.seed,
             "seconds": round(m["seconds"], 2)}
            for c, m in cells
        ],
        "traces": [
            {"network": c.network, "state": c.state, "seed": c.seed, "probes": r["probes"],
             "way": r["way"],
             "error": float(f"{r['error']:.4g}")}
            for c, m in cells for r in m["traces"]
        ],
        "blocks": [
            {"network": c.network, "state": c.state, "seed": c.seed, **m["blocks"]}
            for c, m in cells
        ],
        "refused": {c.network: sorted(m["refused"]) for c, m in cells if m["refused"]},
    }  # fmt: skip


def judged(frame: "pd.DataFrame", told: Mapping[str, Any]) -> dict[str, Any]:
    """Shares and judgements, from a record."""
    names = [name for name in TITLES if name in set(frame["estimate"])]
    seeds = len(set(frame["seed"]))
    shares = {name: trust.shares(frame, name) for name in names}
    return {
        "shares": shares,
        "estimates": {name: trust.judge_estimate(shares[name], seeds) for name in names},
        "traces": trust.judge_traces(told["traces"]),
        "blocks": trust.judge_blocks(told["blocks"]),
    }


def page(frame: "pd.DataFrame", told: Mapping[str, Any]) -> str:
    """The tables of docs/referee.md."""
    outcome = judged(frame, told)
    whole = frame[frame["parameter"] == "*"]
    lines = [
        "| estimate | verdict | " + " | ".join(PURPOSES) + " |",
        "|---|---|" + "---|" * len(PURPOSES),
    ]
    for name, judgement in outcome["estimates"].items():
        shares = [
            f"{100 * each.value:.0f} % {trust.percent(each)}"
            for each in outcome["shares"][name].values()
        ]
        verdict = f"{mark(judgement.verdict)} {judgement.verdict}"
        lines.append(f"| `{name}` | {verdict} | " + " | ".join(shares) + " |")
    lines += [
        "",
        "| estimate | error, initial | error, trained | up to a factor | rank | gradients "
        "| error × √gradients | networks |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in outcome["estimates"]:
        part = whole[whole["estimate"] == name]
        by_state = [part[part["state"] == state]["relative_error"].median() for state in STATES]
        middle = part[list(NUMBERS)].median()
        cells = [
            *(short(float(v), 2) for v in by_state),
            *(
                short(float(middle[c]), 2)
                for c in ("scaled_error", "rank_correlation", "gradients")
            ),
            short(float(middle["error_per_gradient"]), 2),
            str(part["network"].nunique()),
        ]
        lines.append(f"| `{name}` | " + " | ".join("–" if c == "nan" else c for c in cells) + " |")
    shown = [name for name in outcome["estimates"] if name in BY_NETWORK]
    lines += ["", *_by_network(whole, shown), "", *(
        f"- {title}: *{outcome[key].verdict}*. {outcome[key].reason}"
        for key, title in (
            ("traces", "\"5 to 10 Hutchinson probes suffice for a layer's trace\" (2605.25674)"),
            ("blocks", "\"Block-diagonal approximations have errors of order one\" (2602.00816)"),
        )
    ), _cost(told["seconds"])]  # fmt: skip
    return "\n".join(lines)


def _cost(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the record took, from nothing."""
    total, seeds = sum(row["seconds"] for row in rows), len({row["seed"] for row in rows})
    by_network: dict[str, float] = {}
    for row in rows:
        by_network[row["network"]] = by_network.get(row["network"], 0.0) + row["seconds"]
    longest = max(by_network, key=lambda name: by_network[name])
    return (
        f"- Processor time from nothing: {total / 60:.1f} minutes for {seeds} seeds, "
        f"{total / seeds:.0f} seconds each; {100 * by_network[longest] / total:.0f} % of it for "
        f"{NETWORKS[longest].title}."
    )


def _by_network(whole: "pd.DataFrame", names: Sequence[str]) -> list[str]:
    """The relative error of some estimates on every network, at initialisation and trained."""
    middle = whole.groupby(["network", "state", "estimate"], observed=True)["relative_error"]
    values = middle.median()
    lines = [
        "| network | " + " | ".join(f"`{name}`" for name in names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for network, described in NETWORKS.items():
        cells = []
        for name in names:
            pair = [values.get((network, state, name)) for state in STATES]
            cells.append(", ".join("–" if v is None else _small(float(v)) for v in pair))
        if any(cell != "–, –" for cell in cells):
            lines.append(f"| {described.title} | " + " | ".join(cells) + " |")
    return lines


def _small(error: float) -> str:
    """An error to two digits; what single precision leaves is 0."""
    return "0" if error < 1e-4 else short(error, 2)


def main(run: str, out: str, document: str) -> None:
    """Write the record and the tables."""
    cells = cells_of(Path(run) / "cells", Sizes())
    frame, told = compact(cells), plain(facts(cells))
    write(frame, Path(out) / "referee.parquet")
    write_atomically(Path(out) / "referee.json", json.dumps(told, indent=None) + "\n")
    text = Path(document).read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    write_atomically(Path(document), f"{before}{BEGIN}\n{page(frame, told)}\n{END}{after}")


if __name__ == "__main__":
    main(*sys.argv[1:4])
