"""One line that proves `hessian.diagonal` on a network: its entries against the loss's values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hessian._call import data as _data
from hessian._call.lending import selected
from hessian._call.objective import METHOD_CHOICES
from hessian._diagonal import Diagonal, diagonal, plan
from hessian.testing._oracle import Differences, Entries, Record, differences, is_clear

# Networks of up to so many entries are compared at all of them, and by every method.
SMALL = 512
# Random entries of larger ones.
BUDGET = 64
# Offending entries that a message lists.
LISTED = 20
# In machine precisions of the largest second derivative: what terms that cancel leave behind.
CANCELLED = 64


@dataclass(frozen=True)
class Exactness:
    """What was compared, and how closely it agreed.

    Attributes:
        gap: the largest |Δ| / max|h| over entries and runs, max|h| of the entry's tensor (at
            least what rounding leaves of terms that cancel).
        error: the largest error of a second difference, in the same unit: agreement is seen down
            to there.
        entries: number of entries that were compared.
        kinks: entries at a kink, where there is no second derivative to compare with.
        unclear: entries whose second differences say less than a tenth of max|h|.
        runs: how the diagonal was computed: method, and ``"in parts"``.
    """

    gap: float
    error: float
    entries: int
    kinks: int
    unclear: int
    runs: tuple[str, ...]


@dataclass(frozen=True)
class _Offence:
    run: str
    record: Record
    value: float


def assert_exact(
    model: nn.Module,
    loss: _data.Loss,
    data: Any,
    *,
    entries: Entries | None = None,
    tolerance: float | None = None,
    methods: Sequence[str] | None = None,
    memory: int | None = None,
    forward: _data.Forward | None = None,
    names: Iterable[str] | None = None,
    dtype: torch.dtype | None = None,
    weight: _data.Weight = None,
    seed: int = 0,
) -> Exactness:
    """Hold `hessian.diagonal` to second differences of the loss's value, which know no autograd.

    The diagonal is computed by the automatic plan; by every method that is proved for some of the
    parameters, these alone; and by the automatic plan with so small a memory that the batch is
    taken in parts of single samples wherever samples are proved to stay apart. All of them must
    agree with `differences` at the entries that are looked at, and L with the plain loss.

    An entry agrees within tolerance·max|h| of its tensor, 64 machine precisions of the largest
    max|h| of all tensors (what terms that cancel leave behind: the bias of an attention's key),
    and the error that the difference reports of itself. The tolerance is the square root of the
    machine precision of the result's dtype, half of its digits: a wrong factor or a lost term
    is orders of magnitude larger, and a second derivative sums terms that cancel.

    Args:
        model, loss, data, forward, names, dtype, weight: as for `hessian.diagonal`.
        entries: how many random entries in all, spread over the tensors in turn; ``"all"``; or a
            mapping from parameter name to flat entries. By default all of a network of up to 512,
            and 64 of a larger one.
        tolerance: relative to max|h| of the tensor, in place of the above.
        methods: in place of all: some of ``"auto"``, ``"affine"``, ``"chain"``,
            ``"preactivation"`` and ``"parameter"``. By default all of them for networks of up to
            512 entries, ``"auto"`` for larger ones.
        memory: bytes of the run in parts; 1 by default.
        seed: of the draw of entries.

    Returns:
        An `Exactness`: the largest gap, how many entries were compared, the kinks among them.

    Raises:
        AssertionError: the text is a table of the entries that disagree, or says that no entry
            could be compared.
        TypeError, ValueError: as `hessian.diagonal`.

    Where an entry disagrees, numbers that are detached are held (`differences`), since they are
    constants for autograd by the user's own definition: ``detach``, a straight-through estimator
    written with it, the row of an embedding's ``padding_idx``. For a custom function with a
    surrogate gradient values of the loss are no witness, and the entries below it fail: leave
    their parameters out with ``names=``.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        >>> data = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
        >>> report = assert_exact(model.double(), nn.functional.cross_entropy,
        ...                       (data[0].double(), data[1]))
        >>> report.entries, report.gap < 1e-8, report.kinks
        (26, True, 0)
        >>> report.runs
        ('auto', 'affine', 'chain', 'preactivation', 'parameter', 'auto in parts')
    """
    parameters = selected(model, names)
    small = sum(p.numel() for p in parameters.values()) <= SMALL
    if not _data.is_batch(data):
        data = list(_data.batches(data))  # every run walks through the same batches
    arguments: dict[str, Any] = {"forward": forward, "dtype": dtype, "weight": weight}
    wanted = tuple(methods) if methods else METHOD_CHOICES if small else ("auto",)
    runs = dict(_runs(model, loss, data, list(parameters), wanted, memory or 1, arguments))
    scales = _scales(runs)
    if tolerance is None:
        tolerance = max(torch.finfo(h.dtype).eps for r in runs.values() for h in r.values()) ** 0.5
    allowed = {name: tolerance * scale for name, scale in scales.items()}
    asked: dict[str, Any] = {
        "enough": {name: 0.1 * a for name, a in allowed.items()}, "forward": forward,
        "names": list(parameters), "weight": weight,
    }  # fmt: skip
    budget = entries if entries is not None else "all" if small else BUDGET
    witness = differences(model, loss, data, entries=budget, seed=seed, **asked)
    # What is detached follows the entry in a value, and is a constant for autograd.
    doubted: dict[str, list[int]] = {}
    for offence in _offences(runs, witness, allowed):
        doubted.setdefault(offence.record.name, []).append(offence.record.index)
    if doubted:
        held = differences(model, loss, data, entries=doubted, detached="held", **asked)
        better = {(r.name, r.index): r for r in held}
        witness[:] = [better.get((r.name, r.index), r) for r in witness]
    return _compared(runs, witness, scales, allowed, tolerance)


def _runs(
    model: nn.Module,
    loss: _data.Loss,
    data: Any,
    names: list[str],
    methods: Sequence[str],
    memory: int,
    arguments: dict[str, Any],
) -> Iterator[tuple[str, Diagonal]]:
    """The diagonal by every method, of the parameters that it is proved for, and in parts."""
    for method in methods:
        served = names if method == "auto" else _proved(model, loss, data, names, method, arguments)
        if served:
            yield method, diagonal(model, loss, data, method=method, names=served, **arguments)
    yield "auto in parts", diagonal(model, loss, data, names=names, memory=memory, **arguments)


def _proved(
    model: nn.Module,
    loss: _data.Loss,
    data: Any,
    names: list[str],
    method: str,
    arguments: dict[str, Any],
) -> list[str]:
    """The parameters that a method is not refused for, on any batch."""
    batches = [data] if _data.is_batch(data) else [[pair] for pair in data]

    def serves(some: list[str]) -> bool:
        try:
            for analysis in batches:
                plan(model, loss, analysis, method=method, names=some, **arguments)
        except ValueError:
            return False
        return True

    return names if serves(names) else [name for name in names if serves([name])]


def _scales(runs: dict[str, Diagonal]) -> dict[str, float]:
    """max|h| of every tensor in the first run, at least what cancelled terms leave behind."""
    first = next(iter(runs.values()))
    sizes: dict[str, float] = {}
    for result in (first, *runs.values()):
        for name, h in result.items():
            if name not in sizes:
                sizes[name] = _largest(h)
    top = max(sizes.values(), default=0.0)
    # So that tolerance·scale covers CANCELLED·eps·top.
    rest = {name: torch.finfo(h.dtype).eps ** 0.5 * CANCELLED * top
            for result in runs.values() for name, h in result.items()}  # fmt: skip
    return {name: max(size, rest[name]) or 1.0 for name, size in sizes.items()}


def _largest(h: Tensor) -> float:
    return float(h.detach().abs().max()) if h.numel() else 0.0


def _offences(
    runs: dict[str, Diagonal], witness: Differences, allowed: dict[str, float]
) -> list[_Offence]:
    """Where a run disagrees with the differences."""
    return [
        _Offence(run, r, value)
        for run, result in runs.items()
        for r in witness
        if is_clear(r) and r.name in result
        for value in [float(result[r.name].detach().reshape(-1)[r.index])]
        if not abs(value - r.value) <= allowed[r.name] + r.error
    ]


def _compared(
    runs: dict[str, Diagonal],
    witness: Differences,
    scales: dict[str, float],
    allowed: dict[str, float],
    tolerance: float,
) -> Exactness:
    gap = error = 0.0
    clear = [r for r in witness if is_clear(r)]
    unclear = [r for r in clear if r.error > 0.1 * scales[r.name]]
    if witness and len(unclear) == len(clear):
        raise AssertionError(
            f"no entry could be compared: of {len(witness)}, {len(witness) - len(clear)} lie at a "
            f"kink and for {len(unclear)} the loss is too rough or too noisy along it; use other "
            "parameters, smooth activations or a loss of fewer samples"
        )
    for run, result in runs.items():
        off = abs(result.loss - witness.loss)
        if not off <= tolerance * max(abs(witness.loss), 1e-30):
            raise AssertionError(
                f"{run}: L is {result.loss!r}, the plain loss in float64 is {witness.loss!r}"
            )
        for r in clear:
            if r.name not in result:
                continue
            value = float(result[r.name].detach().reshape(-1)[r.index])
            gap = max(gap, abs(value - r.value) / scales[r.name])
    if offences := _offences(runs, witness, allowed):
        raise AssertionError(_table(offences, len(clear), tolerance))
    error = max((r.error / scales[r.name] for r in clear), default=0.0)
    kinks = sum(r.word == "kink" for r in witness)
    return Exactness(gap, error, len(clear), kinks, len(unclear), tuple(runs))


def _table(offences: list[_Offence], entries: int, tolerance: float) -> str:
    """The entries that disagree, one a line, the largest first."""
    offences = sorted(offences, key=lambda o: -abs(o.value - o.record.value))
    rows = [("run", "parameter", "entry", "diagonal", "differences", "± error", "word")]
    rows += [
        (o.run, o.record.name, str(o.record.index), f"{o.value:.9g}", f"{o.record.value:.9g}",
         f"{o.record.error:.1e}", o.record.word)
        for o in offences[:LISTED]
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if len(offences) > LISTED:
        lines.append(f"… and {len(offences) - LISTED} more")
    return (
        f"the diagonal differs from second differences of the loss's value at {len(offences)} "
        f"places ({entries} entries, tolerance {tolerance:.1e} of the largest of a tensor)\n"
        + "\n".join(lines)
    )
