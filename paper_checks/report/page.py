"""The report as one page that opens offline: a view of the results, nothing measured here."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from paper_checks.check import Drawing
from paper_checks.numbers import short
from paper_checks.papers import USUAL, paper
from paper_checks.report.beside import Beside, beside
from paper_checks.report.formula import formula
from paper_checks.report.multiplicity import multiplicity
from paper_checks.report.overview import overview
from paper_checks.report.words import bounds, checks_of, quantity, words
from paper_checks.result import Result, read_results
from paper_checks.verdicts import MEANINGS, mark, rank, tone, worded

MOST_ROWS = 60


def order(name: str, of: str = USUAL) -> int:
    """The paper's own order of the checks, for sorting.

    >>> order("eq4") < order("eq10") < order("fig2")
    True
    """
    ids = paper(of).ids
    return ids.index(name) if name in ids else len(ids)


def command(result: Result) -> str:
    """The shell command that runs this check alone, on the same data."""
    ran = result.environment
    if "command" in ran:
        return str(ran["command"])
    words = ["cblr", "audit", "--only", result.id]
    if result.paper != USUAL:
        words += ["--paper", result.paper]
    if ran.get("profile", "quick") != "quick":
        words += ["--profile", ran["profile"]]
    if ran.get("data") and ran.get("dataset", "digits") != "digits":
        words += ["--dataset", ran["dataset"]]
        if ran["dataset"] != "gaussian":
            return shlex.join(words) + " --data DIR"
    return shlex.join(words)


def _key(value: Any) -> str:
    return "" if value is None else str(value)


def _facts(facts: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {str(value)[:16] + '…' if name in ('hash', 'sha256') else short_or_text(value)}"
        for name, value in facts.items()
        if not isinstance(value, Mapping | list | tuple)
    )


def short_or_text(value: Any) -> str:
    """Numbers short, everything else as its text.

    >>> short_or_text(1797), short_or_text(True)
    ('1,797', 'True')
    """
    return (
        short(value)
        if isinstance(value, int | float) and not isinstance(value, bool)
        else str(value)
    )


def grid(measurements: Mapping[str, Any]) -> dict[str, Any] | None:
    """The rows of a measurement as a table: its own, its first network's, or its lists by n.

    >>> grid({"rows": [{"a": 1, "b": 2.5}]})
    {'seed': None, 'columns': ['a', 'b'], 'rows': [[1, 2.5]], 'total': 1}
    """
    seed, rows = None, measurements.get("rows")
    networks = measurements.get("networks")
    if networks and isinstance(networks, list):
        seed, rows = networks[0].get("seed"), networks[0]["rows"]
    curves = measurements.get("curves")
    if isinstance(curves, list):
        rows = [
            {
                "n": n,
                "dropout": curve["dropout"],
                "replacement": "with" if curve["replacement"] else "without",
                "measured": curve["mean"][place],
                "standard error": curve["standard_error"][place],
            }
            | {
                line: values[place]
                for line, values in measurements["lines"][curve["dropout"]].items()
            }
            for curve in curves
            for place, n in enumerate(measurements["n"])
        ]
    if not rows:
        return None
    # Nested columns, such as a value for each layer, are for results.json.
    columns = [name for name, value in rows[0].items() if not isinstance(value, Mapping)]
    return {
        "seed": seed,
        "columns": [name.replace("_", " ") for name in columns],
        "rows": [[row.get(name) for name in columns] for row in rows[:MOST_ROWS]],
        "total": len(rows),
    }


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        # Quartiles are shown; of many seeds' values, how far they reach.
        numbers = [item for item in value if isinstance(item, int | float)]
        shown = value if len(value) <= 5 or not numbers else (min(numbers), max(numbers))
        return " … ".join(short_or_text_or_dash(item) for item in shown)
    return short_or_text_or_dash(value)


def _page_facts(results: Sequence[Result]) -> dict[str, Any]:
    environment: list[tuple[str, str]] = []
    data = ""
    if results:
        facts = results[0].environment
        environment += [(name, str(value)) for name, value in facts.get("versions", {}).items()]
        environment += [(name, str(value)) for name, value in facts.get("hardware", {}).items()]
        environment += [
            (name, str(facts[name])) for name in ("profile", "device", "network") if name in facts
        ]
    for result in results:
        if provenance := result.environment.get("data"):
            data = _facts(provenance)
            environment.append(("data", data))
            break
    name = next(
        (r.environment["data"].get("name", "") for r in results if "data" in r.environment), ""
    )
    seconds = f"{sum(result.seconds for result in results):.0f}"
    return {"environment": environment, "data": name, "seconds": seconds}


# Where the first paper's results of other runs lie.
EVIDENCE = paper().evidence


def evidence(folder: Path = EVIDENCE) -> dict[str, list[Result]]:
    """The results of other runs that are kept in `folder`, by the check's id: larger profiles.

    Each `*.json` there is a results.json as an audit wrote it.

    >>> evidence(Path("no such folder"))
    {}
    """
    by_check: dict[str, list[Result]] = {}
    for path in sorted(folder.glob("*.json")):
        for result in read_results(path):
            by_check.setdefault(result.id, []).append(result)
    return by_check


def _elsewhere(result: Result, others: Mapping[str, list[Result]]) -> list[dict[str, Any]]:
    """What other configurations found for this check, with the environment that they ran in."""
    own = result.environment
    return [
        {
            "verdict": other.verdict,
            "measured": other.measured,
            "interval": other.interval,
            "where": ", ".join(
                str(other.environment.get(key, "?")) for key in ("profile", "dataset", "device")
            ),
            "same_criterion": other.criterion_hash == result.criterion_hash,
        }
        for other in others.get(result.id, [])
        if any(
            other.environment.get(key) != own.get(key) for key in ("profile", "dataset", "device")
        )
    ]


def seen_in(results: Sequence[Result]) -> dict[str, str]:
    """For each result without a picture, the figure that shows its measurements, if any does."""
    figures = [result for result in results if result.figure and result.kind == "figure"]
    names = {result.id for result in figures}
    figure_of = {}
    for result in results:
        if result.figure or not result.measurements:
            continue
        same = (other.id for other in figures if other.measurements == result.measurements)
        claim = paper(result.paper).claims.get(result.id)
        name = next(same, claim.shown if claim else "")
        if name in names:
            figure_of[result.id] = name
    return figure_of


def render(
    results: Sequence[Result],
    drawings: Mapping[str, Drawing],
    *,
    title: str | None = None,
    lead: str | None = None,
    others: Mapping[str, list[Result]] | None = None,
    ledger: Beside | None = None,
) -> str:
    """The whole page: contradictions first, then as the paper has them.

    `title` and `lead` are the paper's, if not given; all results are of one paper.

    `others` are the results of other configurations to stand beside, `evidence()` by default;
    `ledger` is what the ledger says on the same checks, by default the one of this package, where
    the results are not its own.
    """
    of = results[0].paper if results else USUAL
    audited = paper(of)
    elsewhere = evidence(audited.evidence) if others is None else others
    if ledger is None:
        profiles = audited.campaign.profiles
        own = any(result.environment.get("profile") in profiles for result in results)
        ledger = Beside() if own else beside([result.id for result in results], of=of)
    environment = Environment(
        loader=PackageLoader("paper_checks.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "tone": tone,
        "worded": worded,
        "mark": mark,
        "rank": rank,
        "order": partial(order, of=of),
        "short": _cell,
        "grid": grid,
        "bounds": partial(bounds, of=of),
        "quantity": partial(quantity, of=of),
        "words": partial(words, of=of),
        "key": _key,
        "command": command,
        "facts": _facts,
        "formula": lambda latex: Markup(formula(latex)),
    }
    ordered = sorted(results, key=lambda result: (rank(result.verdict), order(result.id, of)))
    counts = Counter(result.verdict for result in results)
    return environment.get_template("page.html.j2").render(
        title=title or audited.title,
        lead=lead or audited.lead,
        overview=overview(results, ledger),
        meanings=_meanings(results, ledger),
        testing={result.id: _known(checks_of(result.id, of), results) for result in results},
        absent={result.id: _absent(checks_of(result.id, of), results) for result in results},
        tested={result.id: _known(words(result.id, of).equations, results) for result in results},
        seen_in=seen_in(results),
        elsewhere={result.id: _elsewhere(result, elsewhere) for result in ordered},
        results=ordered,
        ledger=ledger,
        drawings=drawings,
        tally=sorted(counts.items(), key=lambda pair: rank(pair[0])),
        kinds=[
            kind
            for kind in ("equation", "figure", "claim")
            if any(result.kind == kind for result in results)
        ],
        facts=_page_facts(results),
        multiplicity=multiplicity(results),
        recorded=multiplicity(list(ledger.entries.values())),
    )


def _known(names: Sequence[str], results: Sequence[Result]) -> list[Result]:
    """Those of the named checks that are among the results, in the order of the names."""
    by_id = {result.id: result for result in results}
    return [by_id[name] for name in names if name in by_id]


def _absent(names: Sequence[str], results: Sequence[Result]) -> list[str]:
    """Those of the named checks that are not among the results."""
    known = {result.id for result in results}
    return [name for name in names if name not in known]


def _meanings(results: Sequence[Result], ledger: Beside) -> list[tuple[str, str]]:
    """The verdicts that the page has, the gravest first, and what each means."""
    verdicts = {result.verdict for result in results}
    verdicts |= {entry.verdict for entry in ledger.entries.values()}
    return [(word, MEANINGS[word]) for word in sorted(verdicts & set(MEANINGS), key=rank)]


def short_or_text_or_dash(value: Any) -> str:
    """As `short_or_text`, with a dash for nothing.

    >>> short_or_text_or_dash(None)
    '–'
    """
    return "–" if value is None else short_or_text(value)
