"""Executes the tutorials and writes them as pages, with what they print and draw.

python docs/tools/tutorials.py          # those that are older than their source or the packages
python docs/tools/tutorials.py spectrum # this one, whatever its age

A tutorial is a notebook in the percent format, which editors open as one. A cell that draws has
`alt="…"` behind its `# %%`, for readers who cannot see; `tags=["hidden"]` leaves a cell's code out.
"""

import re
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "tutorials"
ROOT = FOLDER.parents[1]
PACKAGES = ("theory", "hessian", "sim", "paper_checks")
# Two minutes on two cores; of the processor, as other work may run beside it.
MOST_SECONDS = 240.0
BEFORE = """
import time as _time

import torch as _torch
get_ipython().run_line_magic("matplotlib", "inline")
get_ipython().run_line_magic("config", "InlineBackend.figure_formats = ['svg']")
_torch.set_num_threads(min(2, _torch.get_num_threads()))
_torch.manual_seed(0)
"""
AFTER = "print(_time.process_time())"


def executed(source: Path) -> tuple[Any, float]:
    """The notebook with its outputs, and the seconds of the processor that it took.

    Raises:
        CellExecutionError: a cell raised.
    """
    notebook = jupytext.read(source)
    cells = notebook.cells
    notebook.cells = [nbformat.v4.new_code_cell(BEFORE), *cells, nbformat.v4.new_code_cell(AFTER)]
    client = NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()
    seconds = float(notebook.cells[-1].outputs[0]["text"])
    notebook.cells = cells
    return notebook, seconds


def page(notebook: Any, name: str) -> str:
    """The notebook as Markdown; its pictures are written beside it.

    Raises:
        ValueError: a picture without a text alternative.
    """
    parts = []
    pictures = FOLDER / name
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        if "hidden" not in cell.metadata.get("tags", ()):
            parts.append(f"```python\n{cell.source}\n```")
        for place, output in enumerate(cell.outputs):
            parts.append(_shown(output, cell, pictures / f"{number}-{place}.svg"))
    source = f"[The script of this page](../tutorials/{name}.py.txt) is a notebook, too."
    return "\n\n".join([*filter(None, parts), source]) + "\n"


def _shown(output: Any, cell: Any, picture: Path) -> str:
    if output.output_type == "stream":
        return _printed(output.text) if output.name == "stdout" else ""
    data = output.data
    if "image/svg+xml" in data:
        alternative = cell.metadata.get("alt")
        if not alternative:
            raise ValueError(f'a picture needs alt="…" behind the # %% of its cell:\n{cell.source}')
        picture.parent.mkdir(exist_ok=True)
        picture.write_text(data["image/svg+xml"], encoding="utf-8")
        return f"![{alternative}]({picture.parent.name}/{picture.name})"
    if "text/latex" in data:
        return f"$$\n{data['text/latex'].strip('$').removeprefix(chr(92) + 'displaystyle ')}\n$$"
    if "text/html" in data:
        # An empty line would end the block of HTML, and the page has a style of its own.
        whole = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.S)
        lines = [line.strip() for line in whole.splitlines() if line.strip()]
        return '<div class="output picture">\n' + "\n".join(lines) + "\n</div>"
    return _printed(data.get("text/plain", ""))


def _printed(text: str) -> str:
    if not text.strip():
        return ""
    return '<div class="output" markdown>\n\n```text\n' + text.rstrip("\n") + "\n```\n\n</div>"


def stale(source: Path) -> bool:
    """Whether a page is missing, or older than its source, this script or the packages."""
    target = source.with_suffix(".md")
    if not target.exists():
        return True
    used = [source, Path(__file__)]
    used += [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return target.stat().st_mtime < max(path.stat().st_mtime for path in used)


def main(names: list[str]) -> None:
    """Make the pages, and say how long each took."""
    sources = sorted(FOLDER.glob("*.py"))
    unknown = set(names) - {source.stem for source in sources}
    if unknown:
        sys.exit(f"no tutorial {', '.join(sorted(unknown))} in {FOLDER.name}")
    for source in sources:
        if source.stem not in names if names else not stale(source):
            continue
        notebook, seconds = executed(source)
        if seconds > MOST_SECONDS:
            sys.exit(
                f"{source.name} took {seconds:.0f} s of the processor, over {MOST_SECONDS:.0f}"
            )
        source.with_suffix(".py.txt").write_text(source.read_text(encoding="utf-8"), "utf-8")
        source.with_suffix(".md").write_text(page(notebook, source.stem), encoding="utf-8")
        print(f"{source.stem}: {seconds:.0f} s of the processor", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
