"""Finished entries of a long computation in a file, so that another call goes on from there."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = "hessian checkpoint 1"
# Seconds between two writings: what a killed process loses at most.
EVERY = 30.0
REMEDY = "; give the same ones, or another file"


class FinishedEntries:
    """Which of the wanted entries of a batch, or of a part of it, are known, and their values.

    `index` holds the wanted flat entries of each parameter, ascending; `values` theirs, NaN where
    not finished (so what is not a number is computed once more). Without a checkpoint there are
    none, and nothing is ever finished.
    """

    def __init__(
        self, index: Mapping[str, Tensor], values: dict[str, Tensor], checkpoint: Checkpoint | None
    ) -> None:
        self.index = index
        self.values = values
        self.checkpoint = checkpoint

    def remaining(self, name: str, entries: Tensor | None = None) -> Tensor | None:
        """Those of some flat entries (all wanted ones by default) that are not finished."""
        if name not in self.values:
            return entries
        wanted = self.index[name] if entries is None else entries
        return wanted[self._values_at(name, wanted).isnan()]

    def pending(self, name: str, apart: Tensor | None = None) -> bool:
        """Whether an entry is not finished, those `apart` aside."""
        if name not in self.values:
            return True
        unfinished = self.remaining(name)
        if unfinished is None or apart is None:
            return unfinished is None or bool(len(unfinished))
        return not bool(torch.isin(unfinished, apart).all())

    def keep(self, name: str, entries: Tensor, values: Tensor) -> None:
        """Values of some flat entries that are finished now."""
        if name not in self.values or self.checkpoint is None:
            return
        self.values[name][self._places(name, entries)] = values.to(self.values[name])
        self.checkpoint.write(soon=False)

    def keep_all(self, name: str, diagonal: Tensor, apart: Tensor | None = None) -> None:
        """The wanted entries of a parameter out of its whole diagonal, those `apart` aside."""
        if name not in self.values:
            return
        wanted = self.index[name]
        if apart is not None:
            wanted = wanted[~torch.isin(wanted, apart)]
        self.keep(name, wanted, diagonal.view(-1)[wanted])

    def restore(self, into: Mapping[str, Tensor]) -> None:
        """Write the finished values to the diagonals."""
        for name, values in self.values.items():
            finished, index = ~values.isnan(), self.index[name]
            diagonal = into[name].view(-1)
            diagonal[index[finished.to(index.device)]] = values[finished].to(diagonal)

    def _places(self, name: str, entries: Tensor) -> Tensor:
        return torch.searchsorted(self.index[name], entries).cpu()

    def _values_at(self, name: str, entries: Tensor) -> Tensor:
        return self.values[name][self._places(name, entries)].to(entries.device)


class Checkpoint:
    """A file of finished entries, and the question that they answer.

    The question is told from others by digests of the model's state and of the data, by the value
    of every batch's loss, and by what is asked for.
    """

    def __init__(self, path: str | os.PathLike[str], question: Mapping[str, Any]) -> None:
        """Open a file, or begin one.

        Raises:
            ValueError: it is no checkpoint, or one of another question.
        """
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"checkpoint: there is no folder {str(self.path.parent)!r}")
        self.content: dict[str, Any] = {
            "format": FORMAT, "question": dict(question), "index": {}, "batches": {}, "values": {},
        }  # fmt: skip
        self.written = time.monotonic()
        if not self.path.exists():
            return
        try:
            content = torch.load(self.path, weights_only=True, map_location="cpu")
        except Exception as error:
            raise ValueError(f"checkpoint: {str(path)!r} cannot be read ({error})") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"checkpoint: {str(path)!r} is a file of something else")
        for what, value in question.items():
            before = content["question"].get(what)
            if before != value:
                shown = "" if what == "model" else f", {before!r} and not {value!r}"
                raise ValueError(
                    f"checkpoint: {str(path)!r} was begun with another {what}{shown}{REMEDY}"
                )
        self.content = content

    def drawn(self, index: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The entries that were drawn when the file was begun; these, where it begins now."""
        if not self.content["index"]:
            self.content["index"] = {name: entries.cpu() for name, entries in index.items()}
        return {
            name: self.content["index"][name].to(entries.device) for name, entries in index.items()
        }

    def recognise(self, batch: int, data: str, loss: float) -> None:
        """Compare a batch, by its digest, with that of the same number when the file was begun.

        Raises:
            ValueError: it is another one, or the loss has another value on it.
        """
        before = self.content["batches"].setdefault(batch, {"data": data, "loss": loss})
        if before["data"] != data:
            raise ValueError(
                f"checkpoint: {str(self.path)!r} was begun with other data in batch {batch}"
                f"{REMEDY} (a loader must not shuffle, or do so by a seeded generator)"
            )
        # Another machine rounds otherwise; a model in float32 holds 1e-7.
        if not math.isclose(before["loss"], loss, rel_tol=1e-4, abs_tol=1e-6):
            raise ValueError(
                f"checkpoint: {str(self.path)!r} was begun with a loss of {before['loss']:.6g} on "
                f"batch {batch}, which is {loss:.6g} now{REMEDY}"
            )

    def entries(self, key: str, index: Mapping[str, Tensor]) -> FinishedEntries:
        """The finished entries of a batch or a part of one, which `key` tells from others."""
        values = self.content["values"].setdefault(key, {})
        for name, entries in index.items():
            if name not in values:
                values[name] = torch.full(
                    (len(entries),), math.nan, dtype=torch.float64, device="cpu"
                )
        return FinishedEntries(index, values, self)

    def write(self, soon: bool = True) -> None:
        """Write the file at once, or where the last time is long ago."""
        if not soon and time.monotonic() - self.written < EVERY:
            return
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            torch.save(self.content, beside)
            os.replace(beside, self.path)
        finally:
            beside.unlink(missing_ok=True)
        self.written = time.monotonic()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write what is finished at the end of the block, also after an error or an interrupt."""
        try:
            yield
        finally:
            if self.content["batches"]:
                self.write()


def digest(values: Iterable[Tensor]) -> str:
    """A digest of the shapes, dtypes and contents of some tensors."""
    state = hashlib.sha256()
    for value in values:
        state.update(f"{tuple(value.shape)} {value.dtype}".encode())
        plain = value.detach().cpu().contiguous()
        state.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()
