"""What docs/training.md says is run, and its tables name what there is."""

import dataclasses
import re
from pathlib import Path

import pytest

from sim.training import TrainConfig
from sim.training.record import columns as _columns

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_examples_run_as_one_session(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
    assert len(blocks) == 3
    for block in blocks:
        exec(block, namespace)
    assert capsys.readouterr().out.startswith("finished 0.")
    assert sorted(namespace["table"].step.unique()) == [50, 100]
    assert namespace["frame"].status.tolist() == ["finished"] * 6
    assert len(namespace["steps"]) == namespace["frame"].steps_taken.sum()


@pytest.mark.parametrize(
    "columns",
    [
        _columns.STEP_COLUMNS,
        _columns.LAYER_COLUMNS,
        _columns.EPOCH_LAYER_COLUMNS,
        [name for name in _columns.EPOCH_COLUMNS if name not in ("epoch", "last_step")],
        [name for name in _columns.CURVATURE_COLUMNS if name not in ("step", "size")],
        [field.name for field in dataclasses.fields(TrainConfig)],
    ],
)
def test_everything_has_its_definition(columns):
    for name in columns:
        assert f"`{name}`" in TEXT or f"`{name}=" in TEXT, name
