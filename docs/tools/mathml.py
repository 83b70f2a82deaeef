"""A hook of mkdocs: formulas in LaTeX become MathML while the site is built.

The browser needs no script and no font from elsewhere, and readers of a screen reader hear them.
"""

import html
import re

from paper_checks.report.formula import mathml

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<open>[(\[])(?P<latex>.*?)\\[)\]]</(?P=tag)>',
    flags=re.S,
)


def _replaced(match: re.Match[str]) -> str:
    latex = html.unescape(match["latex"]).strip()
    if match["open"] == "(":
        return mathml(latex, "inline")
    return f'<div class="formula" tabindex="0">{mathml(latex, "block")}</div>'


def on_page_content(content: str, **_: object) -> str:
    """Called by mkdocs for every page, once its Markdown is HTML."""
    return FORMULA.sub(_replaced, content)
