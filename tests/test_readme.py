"""The README and the first pages: their examples, commands, links and numbers."""

import importlib.util
import re
import tomllib
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
START = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
VERDICTS = (ROOT / "docs" / "verdicts.md").read_text(encoding="utf-8")
SPEC = importlib.util.spec_from_file_location("paste", ROOT / ".ci" / "paste.py")
PASTE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(PASTE)


def blocks(language, page=README):
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.S)


@pytest.mark.parametrize(("page", "held"), [(README, 3), (START, 3)], ids=["README", "start"])
def test_the_examples_pasted_one_after_another_print_what_they_say(page, held):
    matplotlib.use("Agg")
    assert PASTE.paste(page) == held


def test_a_page_that_says_something_else_is_seen():
    page = "```python\nx = 1\nprint(x)  # {}\nprint(x)\n```\n"
    assert PASTE.paste(page.format("1")) == 1
    with pytest.raises(AssertionError, match="said '2', printed '1'"):
        PASTE.paste(page.format("2"))
    assert PASTE.keeps("tensor(2.0...)", "tensor(2.013)")
    assert not PASTE.keeps("2", "3")
    with pytest.raises(NameError):
        PASTE.paste("```python\nunknown\n```\n")


def test_it_is_short():
    assert len(README.split()) <= 600
    assert all(len(block.splitlines()) <= 13 for block in blocks("python"))


def test_pictures_and_links_are_there():
    targets = re.findall(r"\]\(([^)#]+)", README)
    files = [target for target in targets if not target.startswith("https://")]
    assert {"docs/pictures/curvature.svg", "docs/verdicts.md", "CITATION.cff"} <= set(files)
    assert [name for name in files if not (ROOT / name).is_file()] == []
    # A picture has its script beside it, and says what is to be seen for who cannot see it.
    for alternative, picture in re.findall(r"!\[(.*)\]\((.*)\)", README):
        assert alternative
        assert (ROOT / picture).with_suffix(".py").is_file()


def test_what_it_installs_is_an_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"^pip install '\.\[(\w+)\]'", "\n".join(blocks("sh")), flags=re.M)
    assert named
    assert set(named) <= set(project["optional-dependencies"])


def test_the_first_page_lists_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    table = START.split("| extra | is for |")[1].split("\n\n")[0]
    listed = [name for row in re.findall(r"^\| (`[^|]*) \|", table, flags=re.M)
              for name in re.findall(r"`(\w+)`", row)]  # fmt: skip
    assert sorted(listed) == sorted(project["optional-dependencies"])


def test_the_make_targets_and_commands_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), flags=re.M):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target
    from typer.testing import CliRunner

    from paper_checks.cli import commands as cli

    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^cblr (\w+)", "\n".join(blocks("sh", page)), flags=re.M))
    assert named == {info.name or info.callback.__name__ for info in cli.app.registered_commands}
    for command in named:
        result = CliRunner().invoke(cli.app, [command, "--help"])
        assert result.exit_code == 0, command


def test_the_gate_runs_the_readme_command_and_installs_what_is_released():
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make test" in gate
    assert ".ci/installed" in gate


def test_the_page_of_verdicts_has_every_check_and_counts_them():
    from paper_checks.registry import IDS
    from paper_checks.summary import BEGIN, END

    table = VERDICTS.split(BEGIN)[1].split(END)[0].strip()
    counts, head, _, *rows = table.replace("\n\n", "\n").splitlines()
    cells = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows if row.startswith("|")]
    assert [row[0].split(":")[0].strip() for row in cells] == [
        name for name in IDS if not name.startswith("eq")
    ]
    places = re.split(r"(?<!\\)\|", head)[2:4]
    for sentence, place, column in zip(counts.split(". "), places, (1, 2), strict=True):
        assert f"on {place.strip()}" in sentence
        said = {word: int(n) for n, word in re.findall(r"(\d+) ([a-z ]+?)(?:,| on)", sentence)}
        listed = [re.split(r"[:(,†]", row[column])[0].strip() for row in cells]
        assert said == {word: listed.count(word) for word in {*listed} - {""}}


def test_the_numbers_of_verdicts_are_those_of_the_page():
    from paper_checks.summary import BEGIN, COUNTS_BEGIN, COUNTS_END

    table = README.split(COUNTS_BEGIN)[1].split(COUNTS_END)[0].strip()
    head, _, *rows = (line.split("|")[1:-1] for line in table.splitlines())
    sentences = VERDICTS.split(BEGIN)[1].strip().splitlines()[0].split(". ")
    for row, sentence in zip(rows, sentences, strict=True):
        assert f"on {row[0]}" in sentence
        said = {word: n for n, word in re.findall(r"(\d+) ([a-z ]+?)(?:,| on)", sentence)}
        assert said == {word: n for word, n in zip(head[1:], row[1:], strict=True) if n != "0"}


def test_the_page_of_verdicts_has_the_equations_as_theory_judges_them():
    from theory import EQUATIONS

    rows = re.findall(r"^\| equations ([^|]*?)(?::[^|]*)? \| ([^|]*) \|", VERDICTS, flags=re.M)
    assert len(rows) == 6
    words = {"wrong": "wrong constant", "hold": "holds"}
    for labels, verdict in rows:
        first = re.match(r"\w+", verdict)[0]
        for part in labels.split(","):
            low, _, high = part.strip().partition(" to ")
            for label in range(int(low), int(high or low) + 1):
                value = EQUATIONS[str(label)].verdict.value
                assert value == words.get(first, first), label
