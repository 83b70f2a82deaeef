"""The command `cblr referee`."""

from pathlib import Path
from typing import Annotated

import typer

from paper_checks.cli.ending import complete, expected, interruptible, wrong_paths
from paper_checks.cli.options import Root, path


def referee(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A network of your own, built in or package.module:factory; default: the "
            "referee's twelve, at initialisation and trained."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed, without intervals: some three minutes.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="This network of the referee's alone; several times."),
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="How many seeds (5).")] = None,
    probes: Annotated[int, typer.Option("--probes", help="Of each estimate that probes.")] = 8,
    dataset: Annotated[str, typer.Option("--dataset", help="Of your own network.")] = "digits",
    data: Root = None,
    samples: Annotated[int, typer.Option("--samples", help="Of your own network.")] = 64,
    width: Annotated[float, typer.Option("--width", help="Of a built-in network.")] = 0.25,
    loss: Annotated[
        str, typer.Option("--loss", help="A function of torch.nn.functional or module:function.")
    ] = "cross_entropy",
    out: Annotated[
        Path, typer.Option("--out", parser=path("--out"), help="Folder that gets page and table.")
    ] = Path("referee"),
) -> None:
    """Every cheap estimate of curvature beside the exact one, and what it may be trusted for."""
    from paper_checks.errors import InputError
    from paper_checks.own_network.curvature import CurvatureRequest
    from paper_checks.referee import command
    from paper_checks.referee.cells import Sizes

    network, usual = None, CurvatureRequest(samples=64)
    with expected(ValueError):
        for option, value in {
            "dataset": dataset, "data": data, "samples": samples, "width": width, "loss": loss
        }.items():  # fmt: skip
            if model is None and value != getattr(usual, option):
                remedy = "it is for a network of your own; name that as MODEL, or leave it out"
                raise InputError(f"--{option}", value, remedy)
    if model is not None:
        network = CurvatureRequest(
            model=model, dataset=dataset, data=data, samples=samples, width=width, loss=loss
        )
    count = seeds if seeds is not None else command.QUICK if quick else command.SEEDS
    request = command.Request(network, tuple(only or ()), count, Sizes(probes=probes))
    again = f"what was measured is kept; resume with: {command.again(request, out)}"
    with interruptible(again), complete(), wrong_paths(), expected(ValueError):
        if probes < 1:
            raise InputError("--probes", probes, "give 1 or more")
        results = command.referee(request, out, lambda text: typer.echo(text, err=True))
    for result in results:
        typer.echo(f"{result.verdict:14} {result.title}: {result.reason}")
    typer.echo(f"Report: {out / 'index.html'}; table: {out / 'table.parquet'}")
