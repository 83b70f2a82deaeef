"""The script and the command of docs/scale.md, as a user pastes them."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "scale.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)


def test_the_command_runs_the_script_on_two_processes(tmp_path):
    (script,), (command,) = blocks("python"), blocks("sh")
    (tmp_path / "curvature.py").write_text(script)
    words = shlex.split(command)
    assert words[0] == "torchrun"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words[1:]],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.search(r"(\d+) processes, (\d+) samples, difference (\S+)", done.stdout)
    assert found is not None, done.stdout
    assert found.group(1, 2) == ("2", "64")
    # Sums over two processes in another order.
    assert float(found.group(3)) < 1e-12
