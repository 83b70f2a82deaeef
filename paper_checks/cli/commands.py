"""The commands `cblr audit` and `cblr curvature`, and the application that holds all."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paper_checks.cli import training
from paper_checks.cli.ending import INTERRUPTED, complete, expected, terminable, wrong_paths
from paper_checks.cli.options import Csv, Device, Parquet, Root, path
from paper_checks.cli.referee import referee
from paper_checks.papers import USUAL

if TYPE_CHECKING:
    from rich.console import Console

    from paper_checks.result import Result
    from paper_checks.running.monitor import Monitor
    from paper_checks.running.runner import Interrupted

# Heavy packages are imported inside the commands, so that `cblr --help` answers at once.
app = typer.Typer(
    name="cblr",
    help="Exact second derivatives of real networks, and an audit of Gao & Zhong (2020).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"cblr {version('cblr')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


Name = Annotated[str, typer.Option("--dataset", help="digits, cifar10 or gaussian.")]


@app.command()
def audit(
    profile: Annotated[
        str,
        typer.Option(
            "--profile",
            help="quick (minutes on 2 cores), cifar (hours, goes on from day to day) or full.",
        ),
    ] = "quick",
    paper: Annotated[
        str, typer.Option("--paper", help="Which paper: the name of its folder of statements.")
    ] = USUAL,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Run this check alone; may be given several times."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", parser=path("--out"), help="Folder that gets the report.")
    ] = Path("report"),
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="digits, cifar10 or gaussian; default: the profile's."),
    ] = None,
    data: Root = None,
    device: Device = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare",
            parser=path("--compare"),
            help="An older results.json: show what changed since.",
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure anew what an earlier run left in --out.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what would run and for about how long.")
    ] = False,
    lock: Annotated[
        bool,
        typer.Option("--lock", help="Only write down the criteria and the commit, before a run."),
    ] = False,
    evidence: Annotated[
        Path | None,
        typer.Option(
            "--evidence",
            parser=path("--evidence"),
            help="Folder of the ledger and the locked criteria; default: the package's own.",
        ),
    ] = None,
) -> None:
    """Check the paper's equations, figures and claims, and write the report."""
    if lock:
        _lock(only, evidence, paper)
        return
    from rich.console import Console

    from paper_checks.report.compare import compare as compared
    from paper_checks.report.compare import lines, read_old
    from paper_checks.running.runner import Interrupted, planned, run
    from paper_checks.running.terminal import table

    console = Console()
    if not console.is_terminal:
        # A log has no edge to wrap at.
        console = Console(width=120)
    try:
        with terminable(), complete(), wrong_paths(), expected(ValueError):
            old = None if compare is None else read_old(compare)
            # What takes hours says so before it begins.
            if plan or profile != "quick":
                told = planned(
                    *(profile, only or None, out, dataset, data, device),
                    fresh=fresh,
                    evidence=evidence,
                    paper=paper,
                )
                for line in told if plan else told[-1:]:
                    typer.echo(line)
            if plan:
                return
            results = run(
                profile,
                only or None,
                out,
                dataset,
                data,
                device,
                fresh=fresh,
                monitor=_monitor(console),
                evidence=evidence,
                paper=paper,
            )
    except Interrupted as stop:
        again = resuming(profile, only or [], out, dataset, data, device, evidence, paper)
        typer.echo(f"cblr: {stop}; {_kept(stop, out)}; resume with: {again}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except KeyboardInterrupt:
        typer.echo("cblr: interrupted before the first check; nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    console.print(table(results, console.width))
    broken = [result.id for result in results if not result.completed]
    if broken:
        typer.echo(f"cblr: could not be completed: {', '.join(broken)}", err=True)
    if old is not None:
        names = {result.id for result in results}
        before = [result for result in old if only is None or result.id in names]
        for line in lines(compared(before, results), len(results)):
            typer.echo(line)
    for line in _beside(results):
        typer.echo(line)
    typer.echo(f"Report: {out / 'index.html'}")
    raise typer.Exit(1 if broken else 0)


def resuming(
    profile: str,
    only: list[str],
    out: Path,
    dataset: str | None,
    data: Path | None,
    device: str | None,
    evidence: Path | None = None,
    paper: str = USUAL,
) -> str:
    """The command that goes on with an audit; without --fresh, which would begin it again.

    >>> resuming("full", ["fig1"], Path("my report"), "cifar10", Path("data"), None)
    "cblr audit --profile full --only fig1 --out 'my report' --dataset cifar10 --data data"
    >>> resuming("quick", [], Path("report"), None, None, None)
    'cblr audit'
    """
    words = ["cblr", "audit"]
    for option, value, default in (
        ("--paper", paper, USUAL),
        ("--profile", profile, "quick"),
        *(("--only", name, None) for name in only),
        ("--out", str(out), "report"),
        ("--dataset", dataset, None),
        ("--data", data and str(data), None),
        ("--device", device, None),
        ("--evidence", evidence and str(evidence), None),
    ):
        if value != default:
            words += [option, str(value)]
    return shlex.join(words)


def _kept(stop: "Interrupted", out: Path) -> str:
    """What an audit that was stopped has left."""
    if not stop.results:
        return "what was measured is kept"
    return f"the finished ones are in {out / 'index.html'} and what was measured is kept"


def _beside(results: "Sequence[Result]") -> list[str]:
    """What the ledger says on the same checks, in short, and where it differs."""
    from paper_checks.papers import paper
    from paper_checks.report.beside import beside

    of = results[0].paper if results else USUAL
    profiles = paper(of).campaign.profiles
    if any(result.environment.get("profile") in profiles for result in results):
        return []
    ledger = beside([result.id for result in results], of=of)
    words = [(result.id, ledger.word(result)) for result in results]
    return [*ledger.lines(), *(f"{name} {word}" for name, word in words if "differs" in word)]


def _lock(only: list[str] | None, evidence: Path | None, of: str) -> None:
    """Write down the criteria of some checks, or of all."""
    from paper_checks.files import no_file
    from paper_checks.ledger.lock import lock
    from paper_checks.papers import paper
    from paper_checks.registry import build, known, resolve

    with complete(), wrong_paths(), expected(ValueError):
        folder = no_file("--evidence", evidence or paper(known(of)).evidence)
        for line in lock([build(name, of) for name in resolve(only or None, of)], folder):
            typer.echo(line)


def _monitor(console: "Console") -> "Monitor":
    if console.is_interactive:  # not where TERM is dumb
        from paper_checks.running.terminal import Terminal

        return Terminal(console)
    from paper_checks.running.monitor import Lines

    return Lines()


@app.command()
def curvature(
    model: Annotated[
        str, typer.Argument(help="A built-in network (alexnet, mlp, …) or package.module:factory.")
    ] = "alexnet",
    dataset: Annotated[
        str, typer.Option("--dataset", help="digits, cifar10, gaussian, or package.module:name.")
    ] = "digits",
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="Your data as package.module:name, or the folder of a data set's files."
        ),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", help="How many samples to use.")] = 512,
    width: Annotated[
        float, typer.Option("--width", help="Factor on a built-in network's layer sizes.")
    ] = 0.25,
    seed: Annotated[int, typer.Option("--seed", help="Of the initialisation and the sample.")] = 0,
    loss: Annotated[
        str, typer.Option("--loss", help="A function of torch.nn.functional or module:function.")
    ] = "cross_entropy",
    memory: Annotated[
        str | None, typer.Option("--memory", help="Working set, as in 512MiB or 2GiB.")
    ] = None,
    verify: Annotated[
        int, typer.Option("--verify", help="Cross-check so many entries of all in float64.")
    ] = 0,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say how each parameter would be differentiated.")
    ] = False,
    csv: Csv = None,
    parquet: Parquet = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", parser=path("--out"), help="Folder that gets the page of what may be trusted."
        ),
    ] = Path("curvature"),
    device: Device = None,
) -> None:
    """Exact second derivatives of a network, and how far each cheap radius is from them."""
    from paper_checks.errors import InputError
    from paper_checks.own_network.curvature import CurvatureRequest, measure_curvature

    is_object = _names_an_object(data)
    with expected(ValueError):
        if is_object and dataset != CurvatureRequest.dataset:
            raise InputError("--dataset", repr(dataset), f"--data {data} names the data; give one")
    request = CurvatureRequest(
        model=model,
        dataset=data if is_object and data else dataset,
        data=None if is_object or data is None else path("--data")(data),
        samples=samples,
        width=width,
        seed=seed,
        loss=loss,
        memory=memory,
        verify=verify,
        device=device,
    )
    try:
        with terminable(), complete(), wrong_paths(), expected(ValueError):
            measure_curvature(request, plan_only=plan, csv=csv, parquet=parquet, out=out)
    except KeyboardInterrupt:
        typer.echo("cblr: interrupted; nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _names_an_object(data: str | None) -> bool:
    """Whether --data is package.module:name, and no folder (of a drive, say).

    >>> _names_an_object("mine:rows"), _names_an_object("C:/data"), _names_an_object("data")
    (True, False, False)
    """
    return data is not None and bool(re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", data))


training.register(app)
app.command(name="referee")(referee)
