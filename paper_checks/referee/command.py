"""What `cblr referee` does: the cells that are missing, then the page."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_checks.errors import InputError
from paper_checks.files import writable
from paper_checks.own_network.curvature import CurvatureRequest, load_object, subject_of
from paper_checks.referee.cells import Cell, Sizes, run
from paper_checks.referee.networks import NETWORKS, STATES, Task, task
from sim._own import is_own, sources

if TYPE_CHECKING:
    from paper_checks.result import Result

# The seeds of a full run and of a quick one.
SEEDS, QUICK = 5, 1


@dataclass(frozen=True)
class Request:
    """What was asked for: a network of one's own, or all, or some of the referee's."""

    network: CurvatureRequest | None = None
    only: tuple[str, ...] = ()
    seeds: int = SEEDS
    sizes: Sizes = field(default_factory=Sizes)


def planned(request: Request) -> tuple[list[Cell], list[str]]:
    """The cells, seed by seed, and a sentence for each network that is left out.

    Raises `InputError` for a network that there is not, or fewer seeds than one.
    """
    if request.seeds < 1:
        raise InputError("--seeds", request.seeds, "give 1 or more")
    if request.network is not None:
        if request.only:
            raise InputError("--only", ", ".join(request.only), "leave it out with a network")
        return [Cell("own", "given", seed) for seed in range(request.seeds)], []
    for name in request.only:
        if name not in NETWORKS:
            raise InputError("--only", repr(name), f"choose among {', '.join(NETWORKS)}")
    names, absent = [], []
    for name in request.only or NETWORKS:
        needed = NETWORKS[name].needs
        if needed and find_spec(needed) is None:
            absent.append(f"{name} is left out: pip install {needed}")
        else:
            names.append(name)
    cells = [
        Cell(name, state, seed)
        for seed in range(request.seeds)
        for state in STATES
        for name in names
    ]
    return cells, absent


def referee(request: Request, out: Path, tell: Callable[[str], None]) -> "list[Result]":
    """Measure what is missing, judge, and write the page into `out`; cells are kept there.

    Raises `InputError` and `ValueError` for what the reader can put right.
    """
    from paper_checks.environment import hardware, versions
    from paper_checks.referee.page import write

    cells, absent = planned(request)
    for sentence in absent:
        tell(sentence)
    if not cells:
        raise InputError("--only", ", ".join(request.only), "none of these networks can be made")
    writable(out)
    network = request.network
    folder = out / "cells" if network is None else out / "cells" / _word(network)

    def make(cell: Cell) -> Task:
        if network is None:
            return task(cell.network, cell.state, cell.seed)
        subject = subject_of(replace(network, seed=network.seed + cell.seed))
        return Task(subject.model, subject.loss, subject.pair)

    number = 0

    def report(cell: Cell, measured: bool) -> None:
        nonlocal number
        number += 1
        if measured:
            tell(f"{number} of {len(cells)}: {cell.network}, {cell.state}, seed {cell.seed}")

    done = list(run(cells, make, folder, request.sizes, report))
    facts: dict[str, Any] = {
        "versions": versions(),
        "hardware": hardware(),
        "profile": "referee",
        "command": again(request, out),
    }
    return write(out, done, request.sizes, facts)


def _word(network: CurvatureRequest) -> str:
    """A folder for each network of one's own, so that cells of another are not taken for it.

    An edited module makes another network: the files behind the names count, too.

    Raises `InputError` for a name that cannot be imported.
    """
    import hashlib

    names = {"MODEL": network.model, "--dataset": network.dataset, "--loss": network.loss}
    for argument, name in names.items():
        if is_own(name):
            load_object(argument, name)
    content = repr(network) + json.dumps(sources(names.values()), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def again(request: Request, out: Path) -> str:
    """The command that goes on with it.

    >>> again(Request(seeds=2, only=("gpt2",)), Path("referee"))
    'cblr referee --only gpt2 --seeds 2'
    """
    words = ["cblr", "referee"]
    if request.network is not None:
        network, usual = request.network, CurvatureRequest()
        words.append(network.model)
        for option in ("dataset", "data", "samples", "width", "loss"):
            if getattr(network, option) != getattr(usual, option):
                words += [f"--{option}", str(getattr(network, option))]
    for name in request.only:
        words += ["--only", name]
    if request.seeds != SEEDS:
        words += ["--seeds", str(request.seeds)]
    if request.sizes.probes != Sizes().probes:
        words += ["--probes", str(request.sizes.probes)]
    if str(out) != "referee":
        words += ["--out", str(out)]
    return shlex.join(words)
