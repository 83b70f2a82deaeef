"""A network's exact curvature on the command line: the plan, the table, files of both."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_checks.errors import InputError
from paper_checks.measurements.profile import DATASETS
from paper_checks.numbers import short
from paper_checks.own_network.data import OwnData, own_data
from sim._own import is_own, named, told

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table
    from torch import nn

    from sim.data import Dataset

_UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_UNITS |= {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_UNITS |= {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class CurvatureRequest:
    """What the reader asked for, as typed."""

    model: str = "alexnet"
    dataset: str = "digits"
    data: Path | None = None
    samples: int = 512
    width: float = 0.25
    seed: int = 0
    loss: str = "cross_entropy"
    memory: str | None = None
    verify: int = 0
    device: str | None = None


def parse_memory(text: str) -> int:
    """Bytes from a number with a unit: KiB, MiB, GiB (powers of 1024), KB, MB, GB, or none.

    >>> parse_memory("1.5GiB"), parse_memory("200 MB")
    (1610612736, 200000000)

    Raises `InputError` for anything else.
    """
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    known = parts is not None and parts[2].upper() in _UNITS
    size = int(float(parts[1]) * _UNITS[parts[2].upper()]) if known and parts else 0
    if not size:
        raise InputError("--memory", repr(text), "give a positive size such as 512MiB or 2GiB")
    return size


def load_object(argument: str, path: str) -> Any:
    """What `package.module:name` names; the current folder is importable.

    Raises `InputError` for a path without a colon, a module that cannot be imported, a name it
    does not have.
    """
    try:
        return named(path)
    except ValueError as error:
        remedy = str(error).removeprefix(f"got {path!r}; ")
        raise InputError(argument, repr(path), remedy) from None


def make_model(request: CurvatureRequest, data: "Dataset | OwnData") -> "nn.Module":
    """The built-in network of this name, or what the reader's factory returns.

    Raises `InputError` for an unknown name or a factory that returns no module.
    """
    from torch import nn

    from sim.models import MODELS, build

    if ":" not in request.model:
        if request.model not in MODELS:
            remedy = f"choose one of {', '.join(MODELS)}, or name a factory as package.module:name"
            raise InputError("MODEL", repr(request.model), remedy)
        if isinstance(data, OwnData):
            shape, classes = data.shape_and_classes()
        else:
            shape, classes = data.shape, data.classes
        return build(
            request.model,
            in_shape=shape,
            classes=classes,
            width=request.width,
            seed=request.seed,
        )
    if request.width != CurvatureRequest.width:
        remedy = f"it is for built-in networks, and {request.model} is made without; leave it out"
        raise InputError("--width", request.width, remedy)
    factory = load_object("MODEL", request.model)
    if isinstance(factory, nn.Module) or not callable(factory):
        kind = "a module" if isinstance(factory, nn.Module) else type(factory).__name__
        remedy = f"it is {kind}; name a function without arguments that returns a module"
        raise InputError("MODEL", repr(request.model), remedy)
    import torch

    torch.manual_seed(request.seed)
    try:
        model = factory()
    except (Exception, SystemExit) as error:
        remedy = "name a function that returns a module when called without arguments; this one "
        raise InputError("MODEL", repr(request.model), f"{remedy}ended in {told(error)}") from None
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise InputError("MODEL", repr(request.model), f"it returned {kind}, not a torch.nn.Module")
    return model


def make_loss(name: str) -> Callable[..., Any]:
    """A loss of `torch.nn.functional` by its name, or a reader's as `module:function`.

    Raises `InputError` for a name that is neither.
    """
    from torch.nn import functional

    loss = load_object("--loss", name) if ":" in name else getattr(functional, name, None)
    if not callable(loss):
        remedy = "name a loss of torch.nn.functional, or write package.module:function"
        raise InputError("--loss", repr(name), remedy)
    chosen: Callable[..., Any] = loss
    return chosen if ":" in name else _of_logits(chosen)


def _of_logits(loss: Callable[..., Any]) -> Callable[..., Any]:
    """A loss of tensors, of the logits where the model returns an object that holds them."""
    import torch

    import hessian

    on_logits = hessian.on_logits(loss)

    def of_output(output: Any, target: Any) -> Any:
        is_tensor = isinstance(output, torch.Tensor)
        return loss(output, target) if is_tensor else on_logits(output, target)

    return of_output


@dataclass(frozen=True)
class Subject:
    """A network, its loss, and the batch on which its curvature is taken."""

    model: "nn.Module"
    loss: Callable[..., Any]
    pair: Any
    samples: int


def measure_curvature(
    request: CurvatureRequest,
    *,
    plan_only: bool = False,
    csv: Path | None = None,
    parquet: Path | None = None,
    out: Path | None = None,
) -> "pd.DataFrame | None":
    """Print the plan and the table of radii; return the table, or `None` for the plan alone.

    With `out`, the page that says which approximations may be trusted is written there.

    Raises `ValueError` and `OSError` for anything the reader can put right.
    """
    from rich.console import Console

    import hessian
    from paper_checks.files import save
    from sim import compare_radii

    _check(request, csv, parquet, out)
    memory = None if request.memory is None else parse_memory(request.memory)
    subject = subject_of(request)
    model, loss, pair = subject.model, subject.loss, subject.pair
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a log has no edge to wrap at
    with _in_the_readers_words(request):
        console.print(str(hessian.plan(model, loss, pair)), markup=False, highlight=False)
        if plan_only:
            return None
        exact = hessian.diagonal(model, loss, pair, verify=request.verify, memory=memory)
        frame = compare_radii(model, loss, pair, curvature=exact, memory=memory)
    if exact.deviation:
        frame["deviation"] = [exact.deviation[name] for name in frame["parameter"]]
    console.print(table(frame))
    console.print(
        f"{short(int(frame['size'].sum()))} exact second derivatives on {subject.samples} samples "
        f"of {request.dataset}; loss {short(float(exact.loss), 5)}",
        highlight=False,
    )
    if out is not None:
        _page(request, subject, exact, frame, out)
        console.print(f"Report: {out / 'index.html'}", highlight=False, soft_wrap=True)
    for target, write in ((csv, frame.to_csv), (parquet, frame.to_parquet)):
        if target is not None:
            save(target, write)
            console.print(f"Wrote {target}", highlight=False)
    return frame


def _check(
    request: CurvatureRequest, csv: Path | None, parquet: Path | None, out: Path | None
) -> None:
    """Refuse what can be refused before anything is loaded."""
    from paper_checks.files import apart, writable
    from paper_checks.measurements.context import check_device

    if not is_own(request.dataset) and request.dataset not in DATASETS:
        remedy = f"choose one of {', '.join(DATASETS)}, or name yours as package.module:name"
        raise InputError("--dataset", repr(request.dataset), remedy)
    if request.verify < 0:
        raise InputError("--verify", request.verify, "give 0 or more")
    if request.device not in (None, "cpu"):
        check_device(request.device)
    for option, target in (("--csv", csv), ("--parquet", parquet)):
        _check_target(option, target)
    apart(csv, parquet)
    if out is not None:
        writable(out)


def subject_of(request: CurvatureRequest) -> Subject:
    """The network on its device and in evaluation mode, with its loss and batch.

    Raises `InputError` for what does not fit.
    """
    from sim.data import Dataset, load

    device = request.device or "cpu"
    loss = make_loss(request.loss)
    whole: Dataset | OwnData
    if is_own(request.dataset):
        if request.samples < 1:
            raise InputError("--samples", request.samples, "give 1 or more")
        value = load_object("--data", request.dataset)
        whole = own_data(request.dataset, value, request.samples)
    else:
        whole = load(request.dataset, root=request.data)
        if not 1 <= request.samples <= len(whole):
            raise InputError("--samples", request.samples, f"give 1 to {len(whole)}")
    model = make_model(request, whole)
    try:
        model = model.to(device).eval()
    except (NotImplementedError, RuntimeError, TypeError) as error:
        remedy = f"it cannot be put on {device} ({told(error)})"
        raise InputError("MODEL", repr(request.model), remedy) from None
    for name, _ in model.named_parameters():
        if not name.isprintable():
            raise InputError(
                "MODEL",
                repr(request.model),
                f"a parameter is called {name!r}; use signs that can be printed",
            )
    if isinstance(whole, OwnData):
        pair, count = whole.pair(model, request.samples, device)
        return Subject(model, loss, pair, count)
    pair = whole.subset(request.samples, seed=request.seed).to(device).pair
    return Subject(model, loss, pair, request.samples)


@contextmanager
def _in_the_readers_words(request: CurvatureRequest) -> Iterator[None]:
    """A reader's model or loss that does not fit the data fails with what was asked for."""
    try:
        yield
    except (Exception, SystemExit) as error:
        known = isinstance(error, TypeError | NotImplementedError | RuntimeError)
        if isinstance(error, ValueError) or not (
            known or ":" in f"{request.model}{request.loss}{request.dataset}"
        ):
            raise
        said = " ".join(str(error).split()) if known else told(error)
        message = f"{request.model} with {request.loss} on {request.dataset}: {said[:600]}"
        raise ValueError(message) from error


def _page(
    request: CurvatureRequest, subject: Subject, exact: Any, frame: "pd.DataFrame", out: Path
) -> None:
    """Try every estimator beside the exact values and write the page."""
    import shlex

    import torch

    import hessian
    from paper_checks.environment import hardware, versions
    from paper_checks.own_network.page import PROBES, estimate_rows, write_page

    def flat(tensor: "torch.Tensor") -> Any:
        return tensor.detach().double().cpu().numpy().ravel()

    model, loss, pair = subject.model, subject.loss, subject.pair
    parts = dict(model.named_parameters())
    entries = {
        name: (flat(parts[name]), flat(exact.gradient[name]), flat(exact[name])) for name in exact
    }
    estimates = estimate_rows(
        exact, lambda kind: hessian.estimate(model, loss, pair, kind, probes=PROBES)
    )
    option = "--data" if is_own(request.dataset) else "--dataset"
    words = ["cblr", "curvature", request.model, option, request.dataset]
    words += ["--samples", str(request.samples), "--seed", str(request.seed)]
    words += ["--loss", request.loss]
    facts = {
        "versions": versions(),
        "hardware": hardware(),
        "profile": "own network",
        "dataset": request.dataset,
        "device": request.device or "cpu",
        "network": request.model,
        "samples": subject.samples,
        "loss": request.loss,
        "command": shlex.join(words),
    }
    write_page(out, frame, entries, estimates, facts)


_COLUMNS = (
    ("parameter", "tensor"),
    ("size", "entries"),
    ("radius_finite_q50", "exact R"),
    ("eq20_ratio", "median |w/g|"),
    ("eq23", "LARS"),
    ("eq24_nonzero", "PercentDelta"),
    ("within_factor_2", "within ×2"),
    ("rank_correlation", "rank"),
    ("share_zero_curvature", "h = 0"),
    ("deviation", "off by"),
)


def table(frame: "pd.DataFrame") -> "Table":
    """The most telling columns of `sim.compare_radii` as a terminal table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = [(column, title) for column, title in _COLUMNS if column in frame]
    # No inner padding and no box, so that every number fits into 80 columns uncut.
    grid = Table(
        title="Exact curvature radius (median) and its substitutes",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column, title in shown:
        first = column == "parameter"
        grid.add_column(title, justify="left" if first else "right", no_wrap=first, overflow="fold")
    for row in frame.to_dict("records"):
        grid.add_row(*(_cell(row[column]) for column, _ in shown))
    return grid


def _cell(value: Any) -> str:
    if isinstance(value, float) and value != value:
        return "–"
    if value in (float("inf"), float("-inf")):
        return "∞"
    return short(value)


def _check_target(option: str, target: Path | None) -> None:
    if target is None:
        return
    folder = target.parent
    if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(option, target, "name a file in a folder that exists and may be written")
