"""LaTeX as MathML: browsers set it by themselves, readers search, copy and hear it."""

import re
from functools import cache
from html import escape

from latex2mathml.converter import convert


@cache
def mathml(latex: str, display: str = "block") -> str:
    """One formula, with its LaTeX for who copies it or hears it.

    Raises:
        ValueError: what is no LaTeX, or a command that the converter does not know.

    >>> mathml("x^2", "inline")[:47]
    '<math alttext="x^2" xmlns="http://www.w3.org/19'
    """
    try:
        # The converter knows align, which is the same.
        formula: str = convert(latex.replace("{aligned}", "{align*}"), display=display)
    except Exception as error:
        raise ValueError(f"no formula: {latex!r} ({error!r})") from error
    # A command that is not known comes out as its own name.
    unknown = re.search(r"<m[io]>(\\[a-zA-Z]+|&)</m[io]>", formula)
    if unknown:
        raise ValueError(f"no formula: {latex!r} ({unknown[1]} is not known there)")
    return formula.replace("<math ", f'<math alttext="{escape(latex, quote=True)}" ', 1)


def formula(latex: str) -> str:
    """A displayed formula as MathML; what the converter cannot read as its source, if plain.

    >>> formula(r"$\\frac{a}{b}$").startswith('<math alttext="\\\\frac{a}{b}" ')
    True
    >>> formula(r"\\nosuchcommand{x}")
    '<code class="formula">\\\\nosuchcommand{x}</code>'
    """
    try:
        return mathml(latex.strip().strip("$").strip())
    except ValueError:
        return f'<code class="formula">{escape(latex)}</code>'
