"""The commands `cblr train`, `cblr sweep` and `cblr data`."""

import ast
import codecs
import errno
import json
import tomllib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paper_checks.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from sim import Run, TrainConfig


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


RUNS = Path("runs")
# Errors of the system that a wrong path has; with all others a run could not be completed.
BAD_PATH = {
    *(errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT),
    *(errno.ENOTDIR, errno.EPERM, errno.EROFS, None),
}
# How `train` and `sweep` say which fields of a configuration a line sets.
SET = (
    "Set a field, as in batch_size=512 or optimizer_options.momentum=0.9; may be given several "
    "times, and goes before the file."
)

Root = Annotated[
    Path | None,
    typer.Option(
        "--data",
        parser=path("--data"),
        help="Folder of the data set's files (not needed for digits).",
    ),
]
Device = Annotated[str | None, typer.Option("--device", help="A torch device: cpu, cuda, …")]
Checkpoint = Annotated[float, typer.Option("--checkpoint", help="Seconds between checkpoints.")]
Csv = Annotated[
    Path | None, typer.Option("--csv", parser=path("--csv"), help="Write the whole table here.")
]
Parquet = Annotated[
    Path | None,
    typer.Option("--parquet", parser=path("--parquet"), help="Write the whole table here."),
]
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
    dataset: Annotated[str | None, typer.Option(help="digits, cifar10 or gaussian.")] = None,
    model: Annotated[
        str | None, typer.Option(help="alexnet, lenet, mlp, resnet18 or transformer.")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="sgd, cblr, lars, mclr, percent-delta, lamb, adam, adamw.")
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
        from paper_checks.data import describe

        if download:
            if name != "cifar10" or folder is None:
                raise InputError("--download", name, "it is for cifar10, and needs --data DIR")
            from sim.data import download_cifar10

            typer.echo(f"cblr: {download_cifar10(folder)} is complete", err=True)
        for line in describe(name, folder):
            typer.echo(line)


@contextmanager
def interruptible(again: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM as one line and status 130, from the first import on."""
    from paper_checks.cli import INTERRUPTED, terminable

    try:
        with terminable():
            yield
    except KeyboardInterrupt as stop:
        typer.echo(f"cblr: {str(stop) or f'interrupted; {again}'}", err=True)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def complete() -> Iterator[None]:
    """A full disk or memory is no bad input: the run could not be completed, which is status 1."""
    try:
        yield
    except (OSError, MemoryError) as error:
        from paper_checks.cli import one_line

        typer.echo(f"cblr: {one_line(error)}", err=True)
        raise typer.Exit(1) from None


@contextmanager
def refusing() -> Iterator[None]:
    """Bad input, a wrong path among it, as one line and status 2."""
    from paper_checks.cli import expected

    with wrong_paths(), expected(ValueError, TypeError):
        try:
            yield
        except RecursionError:
            raise InputError("file", "its fields", "are nested too deeply") from None


@contextmanager
def wrong_paths() -> Iterator[None]:
    """An error of the system that a wrong path has is bad input; all others pass."""
    from paper_checks.cli import expected

    try:
        yield
    except OSError as error:
        if error.errno not in BAD_PATH:
            raise
        with expected(OSError):
            raise


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no name comes twice, as TOML has it."""
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"{name!r} comes {count} times")
    return dict(pairs)


ONCE: dict[str, Any] = {"object_pairs_hook": _once}


def read(file: Path) -> dict[str, Any]:
    """The content of a TOML or JSON file."""
    if file.suffix not in (".toml", ".json"):
        raise InputError("file", str(file), "give a .toml or a .json file")
    try:
        text = decoded(file.read_bytes())
        found = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text, **ONCE)
    except UnicodeDecodeError:
        raise InputError("file", str(file), "cannot be read: save it as UTF-8") from None
    except ValueError as error:
        raise InputError("file", str(file), f"cannot be read: {error}") from None
    except RecursionError:
        raise InputError("file", str(file), "cannot be read: it is nested too deeply") from None
    if not isinstance(found, dict):
        raise InputError("file", str(file), "give a table of fields")
    return found


def decoded(content: bytes) -> str:
    """A file's text in UTF-8, or as its byte order mark says, which some editors put first.

    >>> decoded("γ = 1\\r\\n".encode("utf-16")), decoded(b"lr = 1")
    ('γ = 1\\n', 'lr = 1')
    """
    wide = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    text = content.decode("utf-16" if wide else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def merged(fields: Mapping[str, Any], sets: list[str], short: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a file, then those of --set, then those with options of their own.

    >>> merged({"lr": 1, "measure": {"held_out": 3}}, ["measure.test_every=2"], {"lr": 2})
    {'lr': 2, 'measure': {'held_out': 3, 'test_every': 2}}
    """
    from sim.training.config.options import put

    found: dict[str, Any] = json.loads(json.dumps(fields, default=str))
    given: dict[str, Any] = {}
    for each in sets:
        name, equals, text = each.partition("=")
        if not equals or not all(name.strip().split(".")):
            raise InputError("--set", each, "give FIELD=VALUE, as in batch_size=512")
        try:
            put(given, name.strip(), value(text))
            put(found, name.strip(), value(text))
        except ValueError as error:
            raise InputError("--set", each, str(error)) from None
    for later in (given, short):
        # The length that is said last goes before one of the other kind.
        for name, other in (("epochs", "steps"), ("steps", "epochs")):
            if later.get(name) is not None and other not in later:
                found.pop(other, None)
    return {**found, **short}


def value(text: str) -> Any:
    """A number, a truth value, a list, nothing, or else the text itself.

    >>> [value(text) for text in ("0.5", "true", "[8, 8]", "none", "lars")]
    [0.5, True, [8, 8], None, 'lars']
    """
    plain = text.strip()
    known = {"true": True, "false": False, "none": None, "null": None}
    if plain.lower() in known:
        return known[plain.lower()]
    try:
        return ast.literal_eval(plain)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return plain  # what it stands for is refused by the field's name


def configuration(fields: Mapping[str, Any]) -> "TrainConfig":
    """The configuration; options keep their names on the command line."""
    from sim.training import TrainConfig

    return TrainConfig.read(fields)


def grid_of(content: Mapping[str, Any], sets: list[str]) -> "list[TrainConfig]":
    """The configurations of a grid file."""
    from sim.training import grid

    for name in content:
        if name not in ("base", "grid"):
            raise InputError("file", name, "a grid file has the tables [base] and [grid] only")
        if not isinstance(content[name], Mapping):
            raise InputError("file", f"[{name}]", f"got {content[name]!r}; give a table of fields")
    lists = flat(content.get("grid", {}))
    if not lists:
        raise InputError("file", "[grid]", "give lists of values, as in lr = [0.1, 0.2]")
    for each in sets:
        name = each.partition("=")[0].strip()
        if any(f"{name}.".startswith(f"{varied}.") for varied in lists):
            raise InputError("--set", each, f"the grid varies {name}; change it in [grid]")
    return grid(merged(content.get("base", {}), sets, {}), **lists)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables with dotted names.

    >>> flat({"lr": [1], "discard": {"share": [0.1, 0.2]}})
    {'lr': [1], 'discard.share': [0.1, 0.2]}
    """
    found: dict[str, Any] = {}
    for key, each in values.items():
        if isinstance(each, Mapping):
            found |= flat(each, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = each
    return found


def save(target: Path, write: Callable[..., Any]) -> None:
    """Write a table to a file; an error says to which."""
    from paper_checks.result import named

    try:
        write(target, index=False)
    except OSError as error:
        raise named(error, target) from None


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
