"""What `gpu_record.py` has recorded, as a page: a row for every task, and what is left."""

import json
from pathlib import Path
from typing import Any

MOST = 160  # characters of a cell


def short(value: Any) -> str:
    """A result in few words: numbers with three digits, what is nested by its size or its range."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        if value and all(isinstance(v, str) for v in value.values()):
            return ", ".join(sorted(set(value.values())))  # methods by tensor
        return ", ".join(f"{key} {short(v)}" for key, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(short, value))
    return str(value)


def cell(text: str) -> str:
    text = " ".join(text.split()).replace("|", "/")
    return text if len(text) <= MOST else text[: MOST - 1] + "…"


def section(name: str, record: dict[str, Any]) -> list[str]:
    """The table of a stage."""
    facts = record["environment"]
    made_by = ", ".join(
        f"{key} {facts[key]}"
        for key in ("gpu", "torch", "triton", "cuda", "python")
        if facts.get(key)
    )
    lines = [
        f"## {name}",
        "",
        f"{made_by}.",
        "",
        "| task | result | seconds |",
        "| --- | --- | --- |",
    ]
    for task, entry in record["tasks"].items():
        if "result" in entry:
            lines.append(f"| {task} | {cell(short(entry['result']))} | {entry['seconds']:.1f} |")
        else:
            lines.append(f"| {task} | **not done**: {cell(entry['error'])} | |")
    return [*lines, ""]


def write(folder: Path, stages: list[str]) -> None:
    """The page of all records in a folder, as `README.md` beside them."""
    lines = ["# Recorded on a GPU", ""]
    for name in stages:
        path = folder / f"{name}.json"
        if path.is_file():
            lines += section(name, json.loads(path.read_text(encoding="utf-8")))
        else:
            lines += [f"## {name}", "", "Nothing yet.", ""]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
