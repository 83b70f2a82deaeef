"""LaTeX set offline: one outline a formula, drawn by matplotlib's own typesetter."""

import re
from functools import lru_cache
from html import escape

from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath

_EM = 100.0
_COMMAND = {Path.MOVETO: "m", Path.LINETO: "l", Path.CURVE3: "q", Path.CURVE4: "c"}
# What sympy writes and matplotlib's typesetter does not read, with an equal it does.
_REWRITES = (
    (r"\\limits(?![a-zA-Z])", ""),
    (r"\\substack\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}", r"\1"),
    (r"\\(?:d|t)frac\b", r"\\frac"),
    (r"\\left\\lvert|\\left\|", r"\\left|"),
    (r"\\lvert|\\rvert", "|"),
    (r"\\lVert|\\rVert", r"\\|"),
    (r"\\operatorname\*", r"\\operatorname"),
    (r"\\operatorname\{([^}]*)\}", r"\\mathrm{\1}"),
    (r"\\text\{([^}]*)\}", r"\\mathrm{\1}"),
    (r"\\(?:mathchoice)\b", ""),
    (r"\\infty", r"\\infty "),
    (r"\\,", r"\\, "),
    (r"\\mid\b", "|"),
    (r"~", r"\\ "),
    (r"\\\\", ",\\\\ "),
)


# Delimiters around something of one line's height; stretched ones would come out too small.
_FLAT = re.compile(r"\\left([(|])((?:(?!\\left|\\right|\\d?frac|\\sum|\\int).)*)\\right([)|])")


def readable(latex: str) -> str:
    """`latex` without dollar signs, rewritten into what the typesetter reads.

    >>> readable(r"E\\left(\\left|g\\right|\\right) = \\frac{1}{1 + \\frac{1}{2}}")
    'E(|g|) = \\\\dfrac{1}{1 + \\\\frac{1}{2}}'
    """
    text = latex.strip().strip("$").strip()
    for pattern, replacement in _REWRITES:
        text = re.sub(pattern, replacement, text)
    while (flat := _FLAT.sub(r"\1\2\3", text)) != text:
        text = flat
    return _display(text)


def _display(text: str) -> str:
    """Fractions that stand in no group at full size, as in a displayed formula."""
    parts, depth = [], 0
    for part in re.split(r"(\\frac|[{}])", text):
        depth += (part == "{") - (part == "}")
        parts.append(r"\dfrac" if part == r"\frac" and depth == 0 else part)
    return "".join(parts)


def _outline(latex: str) -> tuple[str, tuple[int, int, int, int]]:
    """SVG path data with y pointing down, and the box it fills: left, top, width, height.

    Relative whole numbers, in hundredths of a text size of one em: a report has some two hundred
    formulas, and this is half as long as decimals.
    """
    path = TextPath(
        (0, 0), f"${readable(latex)}$", size=_EM, prop=FontProperties(math_fontfamily="cm")
    )
    parts = []
    pen = start = (0, 0)
    for points, code in path.iter_segments(simplify=False, curves=True):
        if code == Path.CLOSEPOLY:
            parts.append("z")
            pen = start
            continue
        whole = [(round(x), -round(y)) for x, y in zip(points[::2], points[1::2], strict=True)]
        numbers = [str(value) for x, y in whole for value in (x - pen[0], y - pen[1])]
        # A minus sign separates as well as a space does.
        parts.append(_COMMAND[code] + " ".join(numbers).replace(" -", "-"))
        pen = whole[-1]
        if code == Path.MOVETO:
            start = pen
    box = path.get_extents()
    left, top = int(box.x0) - 8, -int(box.y1) - 8
    return "".join(parts), (left, top, int(box.width) + 16, int(box.height) + 16)


@lru_cache(maxsize=512)
def formula(latex: str) -> str:
    """`latex` as an inline SVG that takes the text's colour, its source as the text alternative.

    What the typesetter cannot read is shown as its source instead: readable, if plain.

    >>> formula(r"\\frac{a}{b}").startswith('<svg class="formula" role="img"')
    True
    >>> formula(r"\\begin{cases} 1 \\end{cases}")
    '<code class="formula">\\\\begin{cases} 1 \\\\end{cases}</code>'
    """
    try:
        data, (left, top, width, height) = _outline(latex)
    except ValueError:
        return f'<code class="formula">{escape(latex)}</code>'
    # em units let the formula grow with the page's text.
    return (
        f'<svg class="formula" role="img" aria-label="{escape(latex, quote=True)}" '
        f'viewBox="{left} {top} {width} {height}" style="width:{width / _EM * 1.1:.2f}em">'
        f'<path fill="currentColor" d="{data}"/></svg>'
    )
