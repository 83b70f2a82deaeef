"""The commands `cblr train`, `cblr sweep` and `cblr data`."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paper_checks.cli.configurations import configuration, grid_of, merged, read
from paper_checks.cli.ending import complete, interruptible, refusing
from paper_checks.cli.options import Csv, Device, Parquet, Root, path
from paper_checks.errors import InputError
from paper_checks.files import apart, save

if TYPE_CHECKING:
    import pandas as pd

    from sim import Run


RUNS = Path("runs")
# How `train` and `sweep` say which fields of a configuration a line sets.
SET = (
    "Set a field, as in batch_size=512 or optimizer_options.momentum=0.9; may be given several "
    "times, and goes before the file."
)

Checkpoint = Annotated[float, typer.Option("--checkpoint", help="Seconds between checkpoints.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Sets = Annotated[list[str] | None, typer.Option("--set", "-s", metavar="FIELD=VALUE", help=SET)]


def train(
    file: Annotated[
        Path | None,
        typer.Argument(
            parser=path("file"), help="A configuration in TOML or JSON (see docs/training.md)."
        ),
    ] = None,
    sets: Sets = None,
    dataset: Annotated[
        str | None, typer.Option(help="digits, cifar10, gaussian or package.module:name.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="alexnet, lenet, mlp, resnet18, transformer or package.module:name."),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(help="sgd, cblr, lars, mclr, percent-delta, lamb, adam, adamw or yours."),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="The learning rate, the paper's γ.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples in a batch.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps, instead of epochs.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the weights and the order.")] = None,
    device: Device = None,
    data: Root = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", parser=path("--out"), help="The run's folder (runs/<hash>)."),
    ] = None,
    checkpoint: Checkpoint = 60.0,
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            "--tensorboard",
            parser=path("--tensorboard"),
            help="Also write events for TensorBoard here.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a network, measured on the way; start it again to go on where it stood."""
    short = {
        "dataset": dataset,
        "model": model,
        "optimizer": optimizer,
        "lr": lr,
        "batch_size": batch_size,
        "epochs": epochs,
        "steps": steps,
        "seed": seed,
        "device": device,
    }
    with interruptible("start it again with the same folder to go on"), complete(), refusing():
        from sim.training import Interrupted
        from sim.training import train as run_training

        fields = {} if file is None else read(file)
        if "grid" in fields:
            raise InputError("file", str(file), "it holds a grid of runs; cblr sweep trains one")
        fields = merged(fields, sets or [], {k: v for k, v in short.items() if v is not None})
        if not {"epochs", "steps"} & set(fields):
            raise InputError("--epochs", "not given", "say how long to train: --epochs or --steps")
        config = configuration(fields)
        folder = out or RUNS / config.hash
        try:
            run = run_training(
                config,
                out=folder,
                root=data,
                checkpoint_seconds=checkpoint,
                tensorboard=tensorboard,
                progress=not quiet,
            )
        except Interrupted as stop:
            raise KeyboardInterrupt(str(stop)) from None
        from sim.training.engine.world import World

        if not World.current().first:  # torchrun's other processes have nothing to say
            raise typer.Exit(0 if run.status == "finished" else 1)
    report(run)
    typer.echo(f"Run: {folder}")
    if run.status != "finished":
        typer.echo(f"cblr: {run.status}: {run.reason}; what was measured is kept", err=True)
        raise typer.Exit(1)


def sweep(
    file: Annotated[
        Path,
        typer.Argument(parser=path("file"), help="A grid in TOML or JSON: tables base and grid."),
    ],
    sets: Sets = None,
    data: Root = None,
    out: Annotated[
        Path, typer.Option("--out", parser=path("--out"), help="Folder of the runs.")
    ] = RUNS,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", help="Local processes (one per core).")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", help="Address of a Dask scheduler, tcp://host:8786."),
    ] = None,
    vectorise: Annotated[
        bool, typer.Option("--vectorise", help="Train many seeds of a small network as one.")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            help="Torch threads of each run; by default one, or all for seeds trained as one here.",
        ),
    ] = None,
    checkpoint: Checkpoint = 60.0,
    table: Annotated[
        str, typer.Option("--table", help="runs, or steps, epochs, layer_steps, layer_epochs, …")
    ] = "runs",
    csv: Csv = None,
    parquet: Parquet = None,
    quiet: Quiet = False,
) -> None:
    """Train a grid of networks; start it again to go on where it stood."""
    again = f"what is done is kept in {out}; start the same sweep again to go on"
    with interruptible(again), complete(), refusing():
        from sim.training import Interrupted, Unfinished
        from sim.training import sweep as run_sweep

        configs = grid_of(read(file), sets or [])
        for option, path in (("--csv", csv), ("--parquet", parquet)):
            if path is not None and (path.is_dir() or not path.parent.is_dir()):
                raise InputError(option, str(path), "give a file in a folder that is there")
        apart(csv, parquet)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Unfinished)  # told below, a line for each
                frame = run_sweep(
                    configs,
                    out=out,
                    root=data,
                    table=table,
                    jobs=jobs,
                    scheduler=scheduler,
                    vectorise=vectorise,
                    threads=threads,
                    checkpoint_seconds=checkpoint,
                    progress=not quiet,
                )
        except Interrupted:
            raise KeyboardInterrupt from None
        for target, write in ((csv, frame.to_csv), (parquet, frame.to_parquet)):
            if target is not None:
                save(target, write)
    show(frame)
    typer.echo(f"Runs: {out}")
    broken = frame.attrs["unfinished"]
    for row in broken:
        typer.echo(f"cblr: {row['hash']} {row['status']}: {row['reason']}", err=True)
    if broken:
        raise typer.Exit(1)


def data(
    name: Annotated[str, typer.Argument(help="digits, cifar10 or gaussian.")] = "digits",
    folder: Root = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch cifar10 into --data first (162 MiB).")
    ] = False,
) -> None:
    """Check a data set's files and say where the data come from."""
    with interruptible("start it again"), complete(), refusing():
        from paper_checks.cli.data import describe

        if download:
            if name != "cifar10" or folder is None:
                raise InputError("--download", name, "it is for cifar10, and needs --data DIR")
            from sim.data import download_cifar10

            typer.echo(f"cblr: {download_cifar10(folder)} is complete", err=True)
        for line in describe(name, folder):
            typer.echo(line)


def report(run: "Run") -> None:
    """The last epochs of a run, as a table."""
    columns = ["epoch", "batch_size", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]
    show(run.epochs[columns].tail(5))


def show(frame: "pd.DataFrame", most: int = 60) -> None:
    """A frame as plain text, which a pipe can read too."""
    if len(frame):
        typer.echo(frame.head(most).to_string(index=False, float_format="{:.4g}".format))
    if len(frame) > most:
        typer.echo(f"… {len(frame) - most} further rows; see --csv and --parquet")


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    for command in (train, sweep, data):
        app.command()(command)
