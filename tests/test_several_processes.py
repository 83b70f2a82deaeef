"""The scripts and the commands of docs/several-processes.md, as a user pastes them."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs" / "several-processes.md"
MODULES = {"torchrun": ("-m", "torch.distributed.run"), "python": ()}
# What each prints, and how far the result may lie from that of one process: sums over two go in
# another order, which is a few units in the last place, of entries of size one, and CBLR's radius
# magnifies them by up to some thousand.
SCRIPTS: dict[str, tuple[str, float] | str] = {
    "curvature.py": (r"2 processes, 64 samples, difference (\S+)", 1e-12),
    "ddp.py": (r"2 processes, difference (\S+)", 1e-12),
    "fsdp.py": (r"2 processes, difference (\S+)", 1e-4),
    "train.py": r"finished 2",
    "sweep.py": r"(?s)test_accuracy(.*finished){4}",
}


def scripts():
    """Every script with the command that follows it, by the name in the command."""
    text = DOCS.read_text(encoding="utf-8")
    pairs = re.findall(r"```python\n(.*?)```.*?```sh\n(.*?)```", text, re.S)
    assert len(pairs) == text.count("```python") == text.count("```sh")
    return {command.split()[-1]: (script, command) for script, command in pairs}


def test_every_script_is_tried():
    assert set(scripts()) == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_command_runs_the_script(name, tmp_path):
    script, command = scripts()[name]
    (tmp_path / name).write_text(script)
    program, *words = shlex.split(command)
    done = subprocess.run(
        [sys.executable, *MODULES[program], *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    words, bound = SCRIPTS[name] if isinstance(SCRIPTS[name], tuple) else (SCRIPTS[name], None)
    found = re.search(words, done.stdout)
    assert found is not None, done.stdout
    if bound is not None:
        assert float(found.group(1)) < bound
