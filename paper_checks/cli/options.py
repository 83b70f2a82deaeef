"""Options that several commands have."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def path(option: str) -> Callable[[str], Path]:
    """How an option's text becomes a path; an empty one would be the folder one is in.

    >>> path("--out")("~/runs") == Path.home() / "runs"  # no shell has seen to it in --out=~/runs
    True
    """

    def path(text: str | Path) -> Path:  # its name stands in the help
        if isinstance(text, Path):
            return text
        if not text.strip() or "\0" in text:
            remedy = "give a path, '.' for the folder that you are in"
            typer.echo(f"cblr: {option}: {text!r}: {remedy}", err=True)
            raise typer.Exit(2)
        try:
            return Path(text).expanduser()
        except RuntimeError as error:
            typer.echo(f"cblr: {option}: {text!r}: {error}; give a path without a tilde", err=True)
            raise typer.Exit(2) from None

    return path


Root = Annotated[
    Path | None,
    typer.Option(
        "--data",
        parser=path("--data"),
        help="Folder of the data set's files (not needed for digits).",
    ),
]
Device = Annotated[str | None, typer.Option("--device", help="A torch device: cpu, cuda, …")]
Csv = Annotated[
    Path | None, typer.Option("--csv", parser=path("--csv"), help="Write the whole table here.")
]
Parquet = Annotated[
    Path | None,
    typer.Option("--parquet", parser=path("--parquet"), help="Write the whole table here."),
]
