"""A page's blocks of Python pasted one after another into one session, as a reader would.

`python paste.py README.md` fails where a block raises, or prints something else than the comments
beside its calls of `print` say. In a comment `...` stands for anything.
"""

import contextlib
import io
import re
import sys
from pathlib import Path


def blocks(page: str) -> list[str]:
    """The blocks of Python, in their order."""
    return re.findall(r"^```python\n(.*?)^```$", page, flags=re.S | re.M)


def promises(block: str) -> list[str]:
    """What the comments behind calls of `print` say, one a line of output.

    >>> promises("print(1)  # 1\\nx = 2  # two\\nprint(x)")
    ['1', '...']
    """
    lines = [line for line in block.splitlines() if line.startswith("print(")]
    return [line.partition("  # ")[2].strip() or "..." for line in lines]


def keeps(promise: str, printed: str) -> bool:
    """Whether what was printed is what the comment says.

    >>> keeps("tensor(2.0...)", "tensor(2.013)"), keeps("2", "3")
    (True, False)
    """
    pattern = ".*".join(re.escape(part) for part in promise.split("..."))
    return re.fullmatch(pattern, printed, flags=re.S) is not None


def paste(page: str) -> int:
    """Run the blocks, and the number of lines that were held to a comment.

    Raises:
        AssertionError: a block printed something else.
    """
    session: dict[str, object] = {"__name__": "__main__"}
    held = 0
    for block in blocks(page):
        promised = iter(promises(block))
        for statement in _statements(block):
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(statement, session)
            if statement.startswith("print("):
                promise = next(promised)
                printed = output.getvalue().rstrip("\n")
                assert keeps(promise, printed), f"said {promise!r}, printed {printed!r}"
                held += promise != "..."
    return held


def _statements(block: str) -> list[str]:
    """The statements on the first level, as text."""
    import ast

    lines = block.splitlines()
    return ["\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in ast.parse(block).body]


if __name__ == "__main__":
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    count = paste(text)
    print(f"{len(blocks(text))} blocks, {count} lines printed as they say")
