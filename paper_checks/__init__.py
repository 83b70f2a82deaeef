"""Confronts theory with simulation: verdicts, figures, the report.

| question | call |
|---|---|
| Does the paper hold? | `run()`, or `cblr audit` in a shell |
| Do stored measurements still give their verdicts? | `rejudge("report/results.json")` |
| Which checks are there? | `IDS` |
"""

from paper_checks.errors import InputError as InputError
from paper_checks.registry import IDS as IDS
from paper_checks.result import Result as Result
from paper_checks.runner import Interrupted as Interrupted
from paper_checks.runner import rejudge as rejudge
from paper_checks.runner import run as run

__all__ = ["IDS", "InputError", "Interrupted", "Result", "rejudge", "run"]
