"""The README's own examples and commands."""

import re
from pathlib import Path

import matplotlib

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_python_examples_run_as_one_session(capsys):
    matplotlib.use("Agg")
    assert len(blocks("python")) == 5
    namespace = {}
    for block in blocks("python"):
        exec(block, namespace)
    printed = capsys.readouterr().out
    assert "torch.Size([50, 20])" in printed
    assert "Tanh" in printed
    # The comments beside the last block say what it prints.
    assert "Verdict.WRONG_CONSTANT sqrt(2)/2" in printed
    assert "sqrt(2)*sigma/(sqrt(pi)*sqrt(n))" in printed
    assert max(namespace["h"].deviation.values()) < 1e-4


def test_the_make_targets_and_commands_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), flags=re.M):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target
    from typer.testing import CliRunner

    from paper_checks.cli import commands as cli

    for command in set(re.findall(r"^cblr (\w+)", "\n".join(blocks("sh")), flags=re.M)):
        result = CliRunner().invoke(cli.app, [command, "--help"])
        assert result.exit_code == 0, command


def test_the_gate_runs_the_readme_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
