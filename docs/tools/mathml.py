"""A hook of mkdocs: formulas in LaTeX become MathML while the site is built.

The browser needs no script and no font from elsewhere, and readers of a screen reader hear them.
"""

import html
import re
from functools import cache

from latex2mathml.converter import convert

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<open>[(\[])(?P<latex>.*?)\\[)\]]</(?P=tag)>',
    flags=re.S,
)


@cache
def mathml(latex: str, display: str) -> str:
    """One formula, with its LaTeX for who copies it or hears it.

    Raises:
        ValueError: what is no LaTeX, or a command that the converter does not know.
    """
    try:
        # The converter knows align, which is the same.
        formula = convert(latex.replace("{aligned}", "{align*}"), display=display)
    except Exception as error:
        raise ValueError(f"no formula: {latex!r} ({error!r})") from error
    # A command that is not known comes out as its own name.
    unknown = re.search(r"<m[io]>(\\[a-zA-Z]+|&)</m[io]>", formula)
    if unknown:
        raise ValueError(f"no formula: {latex!r} ({unknown[1]} is not known there)")
    return formula.replace("<math ", f'<math alttext="{html.escape(latex, quote=True)}" ', 1)


def _replaced(match: re.Match[str]) -> str:
    latex = html.unescape(match["latex"]).strip()
    if match["open"] == "(":
        return mathml(latex, "inline")
    return f'<div class="formula" tabindex="0">{mathml(latex, "block")}</div>'


def on_page_content(content: str, **_: object) -> str:
    """Called by mkdocs for every page, once its Markdown is HTML."""
    return FORMULA.sub(_replaced, content)
