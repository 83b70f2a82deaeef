"""Charts that come out the same each time: one style, one palette, SVG with a text of its own."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.figure import Figure
from matplotlib.text import Text

from paper_checks.check import Drawing, Measurements

# Okabe and Ito's palette: told apart by readers of every kind of colour vision.
BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#777777"

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "path",
    "font.size": 11,
    "axes.titlesize": 11.5,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
}


@contextmanager
def style(name: str) -> Iterator[None]:
    """The house style; `name` salts the ids inside the SVG, so that two charts share none.

    A reader's own matplotlibrc has no part in it: it may ask for LaTeX, or other fonts.
    """
    with rc_context():
        rcdefaults()
        rcParams.update({**_STYLE, "svg.hashsalt": name})
        yield


def figure(width: float = 8.0, height: float = 4.6) -> Figure:
    """An empty figure that no global state knows of, with its layout kept free of overlaps."""
    return Figure(figsize=(width, height), layout="constrained")


def to_svg(chart: Figure, name: str, title: str, alt: str) -> str:
    """The chart as one `<svg>` element with a text alternative and no date in it.

    The ids inside start with `name`, so that several charts can stand in one page.
    """
    buffer = io.StringIO()
    metadata = {"Date": None, "Creator": None}
    with style(name):
        try:
            chart.savefig(buffer, format="svg", metadata=metadata)
        except ValueError:
            # A reader's name that looks like a formula and is none: $\\frac{$.
            for part in chart.findobj(Text):
                part.set_parse_math(False)
            buffer = io.StringIO()
            chart.savefig(buffer, format="svg", metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # The metadata block names outside vocabularies; nothing reads it here.
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'\b((?:xlink:)?href)="#([^"]+)"', rf'\1="#{name}-\2"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    head = (
        f'role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(alt)}</desc>'
    )
    opening, rest = text.split(">", 1)
    return f"{opening} {head}{rest}"


def finished(chart: Figure, name: str, title: str, alt: str, caption: str) -> Drawing:
    """The chart as a `Drawing`: the SVG of `to_svg` with its text alternative and its caption."""
    return Drawing(to_svg(chart, name, title, alt), alt, caption)


Paint = Callable[[Any, Measurements], None]


def chart(
    name: str, paint: Paint, title: str, alt: str, caption: str, columns: int = 1, **axes: str
) -> Callable[[Measurements], Drawing]:
    """A picture of one pair of axes, on which `paint(axes, measurements)` draws.

    `axes` are those of `Axes.set`: labels and scales. The legend has so many `columns`.
    """

    def draw(measurements: Measurements) -> Drawing:
        with style(name):
            picture = figure()
            plot = picture.add_subplot()
            paint(plot, measurements)
            plot.set(**axes)
            plot.legend(ncols=columns)
            return finished(picture, name, title, alt, caption)

    return draw
