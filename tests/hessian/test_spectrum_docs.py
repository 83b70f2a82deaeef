"""The examples of docs/spectrum.md, as one session."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "spectrum.md"


def test_the_examples_run_and_their_comments_hold(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S):
        exec(block, namespace)
    printed = capsys.readouterr().out
    assert "torch.Size([50, 20])" in printed
    assert "(exact)" in printed
    assert "hutch++, 60 products" in printed
    assert (tmp_path / "density.svg").stat().st_size > 1000
    h = namespace["h"]
    assert float(h.bottom().values[0]) < 0
    exact, estimate = float(h.trace()), h.trace(method="hutch++", products=60)
    assert abs(float(estimate) - exact) < 4 * estimate.standard_error
