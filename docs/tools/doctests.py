"""An extension of griffe: examples in docstrings are shown as code.

A block that begins with `>>>` would be read as a quotation, and lists in what it prints as links.
"""

import re
from typing import Any

from griffe import Extension, Object

FIRST = re.compile(r"^(?P<indent> *)>>> ")
# What lies below this title, in the plural, griffe shows as code by itself.
SECTION = re.compile(r"^(?P<indent> *)Examples?:\s*$")


def fenced(text: str) -> str:
    r"""The text with a fence around each block of examples, which an empty line ends.

    >>> print(fenced("Say:\n\n>>> 1 + 1\n2\n\nSo.").replace("`", "'"))
    Say:
    <BLANKLINE>
    '''pycon
    >>> 1 + 1
    2
    '''
    <BLANKLINE>
    So.
    """
    lines: list[str] = []
    fence = None
    inside = False  # a fence of the docstring's own
    section = None
    for line in [*text.splitlines(), ""]:
        if line.strip().startswith("```"):
            inside = not inside
        if title := SECTION.match(line):
            section, line = len(title["indent"]), f"{title['indent']}Examples:"
        elif section is not None and line.strip() and len(line) - len(line.lstrip()) <= section:
            section = None
        start = None if inside or section is not None else FIRST.match(line)
        if fence is None and start:
            fence = start["indent"]
            if lines and lines[-1].strip():
                lines.append("")
            lines.append(f"{fence}```pycon")
        elif fence is not None and not line.strip():
            lines.append(f"{fence}```")
            fence = None
        lines.append(line)
    return "\n".join(lines[:-1] if not lines[-1] else lines)


class Doctests(Extension):
    """Rewrites the docstring of every object before it is parsed."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called by griffe for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
