"""From a Hugging Face model and a DataLoader of dicts to a picture, in few lines."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("vit_picture.py")


@pytest.mark.timeout(280)
def test_thirty_lines_to_the_picture(tmp_path):
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 30
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("Diagonal(40 parameters, 5,")
    assert "classifier.weight" in done.stdout
    picture = (tmp_path / "curvature.svg").read_text(encoding="utf-8")
    assert picture.count('<g id="ytick_') == 40  # a line for every tensor
