"""One network of one seed, in one state: every estimate, traces by few probes, and the blocks."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_checks.files import write_atomically
from paper_checks.result import plain

if TYPE_CHECKING:
    import pandas as pd

    from paper_checks.referee.networks import Task

# Goes up with what a cell holds, so that older ones are measured anew.
VERSION = 3
# The traces of the published sentence, and how often each is drawn.
FEW_PROBES, TRACE_DRAWS = (5, 10), 4
LAYER_DRAWS = 2
NORM_PROBES = 24


@dataclass(frozen=True)
class Sizes:
    """How much every cell spends: probes of each estimate, and draws of each random one."""

    probes: int = 8
    draws: int = 3


@dataclass(frozen=True)
class Cell:
    """A network by name, its state and its seed."""

    network: str
    state: str
    seed: int

    def path(self, folder: Path, sizes: Sizes) -> Path:
        """Where it is kept; other sizes have another name."""
        text = json.dumps([asdict(sizes), VERSION], sort_keys=True)
        word = hashlib.sha256(text.encode()).hexdigest()[:8]
        return folder / f"{self.network}-{self.state}-{self.seed}-{word}.json"


def measure(subject: "Task", seed: int, sizes: Sizes) -> dict[str, Any]:
    """The rows of `sim.compare_estimates`, trace errors by few probes, and the blocks' share."""
    import hessian
    import sim

    model, loss, pair = subject.model, subject.loss, subject.pair
    exact = hessian.diagonal(model, loss, pair)
    frame = sim.compare_estimates(
        model, loss, pair, probes=sizes.probes, draws=sizes.draws, curvature=exact, whole=True,
        seed=seed,
    )  # fmt: skip
    return {
        "loss": frame.attrs["loss"],
        "gradient_seconds": frame.attrs["gradient_seconds"],
        "refused": frame.attrs["refused"],
        "rows": frame.to_dict("records"),
        "traces": [*_traces(subject, exact, seed), *layer_traces(subject, exact, seed)],
        "blocks": _blocks(subject, seed),
    }


def _traces(subject: "Task", exact: Any, seed: int) -> list[dict[str, Any]]:
    """The relative error of each weight's trace by probes of the whole network, draw by draw.

    What other layers add to z_l (Hz)_l has mean zero, and all its variance.
    """
    import torch

    import hessian

    rows = []
    sums = {name: float(h.double().sum()) for name, h in exact.items() if h.dim() > 1}
    for probes in FEW_PROBES:
        for draw in range(TRACE_DRAWS):
            generator = torch.Generator().manual_seed(1000 * seed + draw)
            guess = hessian.estimate(
                subject.model, subject.loss, subject.pair, "hutchinson", probes, generator
            )
            for name, trace in sums.items():
                if trace:
                    error = abs(float(guess[name].double().sum()) - trace) / abs(trace)
                    rows.append(
                        {"way": "network", "probes": probes, "parameter": name, "error": error}
                    )
    return rows


def layer_traces(subject: "Task", exact: Any, seed: int) -> list[dict[str, Any]]:
    """The same by probes of each weight alone: z' H_l z."""
    import numpy as np

    import hessian

    rng = np.random.default_rng(seed)
    rows = []
    for name, h in exact.items():
        trace = float(h.double().sum())
        if h.dim() < 2 or not trace:
            continue
        operator = hessian.operator(subject.model, subject.loss, subject.pair, names=[name])
        count = LAYER_DRAWS * max(FEW_PROBES)
        signs = np.where(rng.integers(0, 2, (h.numel(), count)), 1.0, -1.0)
        with operator.kept():
            forms = (signs * np.asarray(operator @ signs)).sum(0).reshape(LAYER_DRAWS, -1)
        for probes in FEW_PROBES:
            for values in forms:
                error = abs(float(values[:probes].mean()) - trace) / abs(trace)
                rows.append({"way": "layer", "probes": probes, "parameter": name, "error": error})
    return rows


def _blocks(subject: "Task", seed: int) -> dict[str, float]:
    """‖H‖ and the part of it that the layers' diagonal blocks hold, from products with signs.

    E ‖Hz‖² is ‖H‖² for signs z; for those of one layer it is that of its block, whose products
    need no backward pass below the layer.
    """
    import numpy as np

    import hessian

    of = (subject.model, subject.loss, subject.pair)
    operator = hessian.operator(*of)
    rng = np.random.default_rng(seed)
    signs = np.where(rng.integers(0, 2, (operator.shape[0], NORM_PROBES)), 1.0, -1.0)
    layers: dict[str, dict[str, Any]] = {}
    start = 0
    for name, shape in zip(operator.names, operator.shapes, strict=True):
        end = start + int(np.prod(shape))
        layers.setdefault(name.rpartition(".")[0], {})[name] = signs[start:end]
        start = end

    def square(block: Any, probes: Any) -> float:
        with block.kept():
            return float((np.asarray(block @ probes) ** 2).sum() / NORM_PROBES)

    within = 0.0
    for parts in layers.values():
        block = hessian.operator(*of, names=list(parts))
        within += square(block, np.concatenate([parts[name] for name in block.names]))
    return {"whole": square(operator, signs), "within": within, "layers": len(layers)}


def read(path: Path) -> dict[str, Any] | None:
    """A cell that is kept; `None` where there is none, or one that was cut short."""
    try:
        cell: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return cell if isinstance(cell, dict) and "rows" in cell else None


def run(
    cells: Sequence[Cell],
    make: Callable[[Cell], "Task"],
    folder: Path,
    sizes: Sizes,
    told: Callable[[Cell, bool], None],
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Every cell with what was measured; those that are kept are read, and each new one is kept.

    `seconds` are the processor's, with the network's training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        path = cell.path(folder, sizes)
        kept_cell = read(path)
        if kept_cell is None:
            start = time.process_time()
            measured = plain(measure(make(cell), cell.seed, sizes))
            measured["seconds"] = time.process_time() - start
            write_atomically(path, json.dumps(measured))
            kept_cell = read(path)
            told(cell, True)
        else:
            told(cell, False)
        yield cell, kept_cell or {}


def table(cells: Sequence[tuple[Cell, dict[str, Any]]]) -> "pd.DataFrame":
    """One row per network, state, seed, tensor and estimate."""
    import pandas as pd

    return pd.DataFrame(
        [
            {"network": cell.network, "state": cell.state, "seed": cell.seed, **row}
            for cell, measured in cells
            for row in measured["rows"]
        ]
    )
