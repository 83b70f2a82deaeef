"""LaTeX set offline: one outline a formula, drawn by matplotlib's own typesetter."""

import re
from functools import lru_cache
from html import escape

from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath

_SIZE = 15.0
_COMMAND = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
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


def readable(latex: str) -> str:
    """`latex` without dollar signs, rewritten into what the typesetter reads."""
    text = latex.strip().strip("$").strip()
    for pattern, replacement in _REWRITES:
        text = re.sub(pattern, replacement, text)
    return text


def _outline(latex: str) -> tuple[str, float, float, float, float]:
    """SVG path data with y pointing down, and the box it fills: left, top, width, height."""
    path = TextPath(
        (0, 0), f"${readable(latex)}$", size=_SIZE, prop=FontProperties(math_fontfamily="cm")
    )
    parts = []
    for points, code in path.iter_segments(simplify=False, curves=True):
        if code == Path.CLOSEPOLY:
            parts.append("Z")
            continue
        pairs = zip(points[::2], points[1::2], strict=True)
        parts.append(_COMMAND[code] + " ".join(f"{x:.1f} {-y:.1f}" for x, y in pairs))
    box = path.get_extents()
    return "".join(parts), box.x0 - 1, -box.y1 - 1, box.width + 2, box.height + 2


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
        data, left, top, width, height = _outline(latex)
    except ValueError:
        return f'<code class="formula">{escape(latex)}</code>'
    # em units let the formula grow with the page's text; 15 units are one em and a bit.
    return (
        f'<svg class="formula" role="img" aria-label="{escape(latex, quote=True)}" '
        f'viewBox="{left:.1f} {top:.1f} {width:.1f} {height:.1f}" '
        f'style="width:{width / _SIZE * 1.1:.2f}em">'
        f'<path fill="currentColor" d="{data}"/></svg>'
    )
