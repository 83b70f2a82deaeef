"""What the engine must know of a paper; all that knows one lies in its folder of `papers`."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from paper_checks.check import Check
from paper_checks.statements import Claim, Words, parse_words

# A context, the sizes of a profile and a sweep are `Any` here, or each would have to know the rest.


@dataclass(frozen=True)
class Overview:
    """The half page on top of a report: whose sentences it has, and what follows for a reader.

    `statements` are the checks whose sentences say what stands and what does not. Each of `advice`
    has the `check` it rests on and a sentence for each way in which that can end (`holds`, `part`,
    `contradicted`, `open`), under the heading `meaning`.
    """

    statements: Sequence[str] = ()
    advice: Sequence[Mapping[str, str]] = ()
    meaning: str = "What it means"


@dataclass(frozen=True)
class Campaign:
    """Runs that are rows of a ledger and go on from day to day.

    `profiles` are those whose runs are rows, `place` the data set that they are on, as a reader
    says it; `sweeps()` is what is run, by name, and `record(context, name)` makes the missing runs
    of one. `sizes` are what a measurement without training depends on, each with
    its field of the profile; `readings` are the versions of what such measurements read, where
    they are not 1.
    """

    profiles: tuple[str, ...] = ()
    place: str = ""
    sweeps: Callable[[], Mapping[str, Any]] = dict
    record: Callable[[Any, str], None] = lambda context, name: None
    sizes: Mapping[str, str] = field(default_factory=dict)
    readings: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Paper:
    """One paper under audit.

    `ids` are its checks in the paper's order, and `build(id)` makes one. `claims` are its
    statements by id, `words` what each check says in plain words, by id. `context` makes what the
    checks of a run share, of the sizes `profile(name, dataset)`; `usual_dataset(name)` is the data
    set of a profile where none is named, and `seconds(key, context)` estimates a shared
    measurement. `evidence` is the folder of the locked criteria, the ledger and kept results.
    """

    name: str
    title: str
    lead: str
    ids: tuple[str, ...]
    build: Callable[[str], Check]
    claims: Mapping[str, Claim]
    words: Mapping[str, Words]
    overview: Overview
    evidence: Path
    context: Callable[..., Any]
    profile: Callable[[str, str], Any]
    usual_dataset: Callable[[str], str]
    seconds: Callable[[str, Any], float]
    campaign: Campaign = Campaign()

    @property
    def range_of_ids(self) -> str:
        """What ids there are, for who asked for another.

        >>> from paper_checks.papers import paper
        >>> paper().range_of_ids
        'eq1 to eq28, fig1 to fig16, fig-… and claim-…'
        """
        groups = []
        for kind in ("eq", "fig"):
            numbered = [name for name in self.ids if name.removeprefix(kind).isdigit()]
            if numbered:
                groups.append(f"{numbered[0]} to {numbered[-1]}")
        for kind in ("fig-", "claim-"):
            if any(name.startswith(kind) for name in self.ids):
                groups.append(f"{kind}…")
        return " and ".join(filter(None, (", ".join(groups[:-1]), groups[-1])))


def texts(package: str) -> dict[str, Any]:
    """Title, lead, words and overview of a `Paper`, from the TOML files of its folder.

    >>> from paper_checks.papers import USUAL
    >>> sorted(texts(f"paper_checks.papers.{USUAL}"))
    ['lead', 'overview', 'title', 'words']
    """
    page, words = (
        files(package).joinpath(name).read_text(encoding="utf-8")
        for name in ("overview.toml", "words.toml")
    )
    parts = tomllib.loads(page)
    overview = Overview(tuple(parts["statements"]), tuple(parts["advice"]), parts["meaning"])
    return {
        "title": parts["title"],
        "lead": parts["lead"],
        "words": MappingProxyType(parse_words(words)),
        "overview": overview,
    }
