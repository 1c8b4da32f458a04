"""Figures as SVG by matplotlib: the same bytes for the same values, colours from the style sheet.

Colours are drawn as they are in the light palette and then replaced by the palette's variables, so
that a figure inside a page follows the reader's light or dark setting.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

from sidar.pages.environment import read_template

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Width of a letter in inches, about.
LETTER = 0.08
#: Series colours ``--c0`` … of the palette; further series repeat them with another dash.
COLOURS = 10
DASHES = ("-", (0, (5, 3)), (0, (1.5, 2)))
PALETTE = "pages/palette.css"


@dataclass(frozen=True)
class Picture:
    """A figure: ``name`` of its file, ``alt`` text, and the SVG to place into a page."""

    name: str
    alt: str
    svg: str

    def standalone(self) -> str:
        """Return the SVG with its own palette, as the content of a file."""
        style = f"<style>{read_template(PALETTE)}</style>"
        svg = self.svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
        return svg.replace("</title>", f"</title>{style}", 1) + "\n"


@dataclass(frozen=True)
class Line:
    """One line of a chart; ``colour`` is the number of the series."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its interval; ``colour`` is the number of the series."""

    name: str
    mean: float
    low: float
    high: float
    colour: int = 0


def lines(
    name: str,
    alt: str,
    series: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[float] = (),
    log_x: bool = False,
    from_zero: bool = False,
    points: bool = False,
    size: tuple[float, float] = (5.6, 3.0),
) -> Picture:
    """Return a line chart with its legend."""
    longest = max((len(line.name) for line in series), default=0)
    columns = max(1, int(size[0] / (0.5 + LETTER * longest)))
    legend_rows = math.ceil(len(series) / columns)
    margins = Margins(left=0.75, bottom=0.5 + 0.2 * legend_rows)
    width, height = size
    with _figure((width, height + 0.2 * legend_rows), margins) as figure:
        axes = figure.subplots()
        for line in series:
            style = DASHES[line.colour // COLOURS % len(DASHES)]
            marker = "o" if points or len(line.x) == 1 else ""
            colour = _colour(line.colour)
            axes.plot(line.x, line.y, color=colour, linestyle=style, marker=marker, label=line.name)
        if log_x:
            axes.set_xscale("log")
        if x_ticks:
            axes.set_xticks(x_ticks, [f"{tick:g}" for tick in x_ticks])
            axes.minorticks_off()
        if from_zero:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(axis="y")
        figure.legend(loc="lower center", ncols=columns, frameon=False)
        return Picture(name, alt, _svg(figure, name, alt))


def intervals(name: str, alt: str, rows: Sequence[Interval], *, label: str) -> Picture:
    """Return means with their intervals, one row each, from the top."""
    longest = max((len(row.name) for row in rows), default=0)
    margins = Margins(left=0.2 + LETTER * longest, right=0.5, bottom=0.5)
    with _figure((5.6, 0.6 + 0.25 * len(rows)), margins) as figure:
        axes = figure.subplots()
        for at, row in enumerate(rows):
            colour = _colour(row.colour)
            axes.plot([row.low, row.high], [at, at], color=colour)
            axes.plot([row.mean], [at], color=colour, marker="o", markersize=5)
            _right_of(axes, at, f"{row.mean:.3f}")
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(left=min(0.0, *(row.low for row in rows)))
        axes.set_xlabel(label)
        axes.grid(axis="x")
        return Picture(name, alt, _svg(figure, name, alt))


def bars_around_zero(
    name: str, alt: str, up: Sequence[float], down: Sequence[float], *, labels: tuple[str, str]
) -> Picture:
    """Return bars of two shares over the same places: ``up`` above the axis, ``down`` below."""
    with _figure((11.2, 2.6), Margins(left=0.6, bottom=0.4)) as figure:
        axes = figure.subplots()
        places = range(len(up))
        axes.bar(places, up, color=_colour(0), label=labels[0])
        axes.bar(places, [-value for value in down], color=_colour(1), label=labels[1])
        axes.axhline(0, color=_palette()["soft"], linewidth=0.8)
        axes.set_xticks([])
        axes.margins(x=0.005)
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.1%}")
        axes.grid(axis="y")
        figure.legend(loc="lower center", ncols=2, frameon=False)
        return Picture(name, alt, _svg(figure, name, alt))


def _right_of(axes: Axes, at: float, text: str) -> None:
    axes.annotate(text, (1.01, at), xycoords=("axes fraction", "data"), va="center")


def _colour(number: int) -> str:
    return _palette()[f"c{number % COLOURS}"]


@cache
def _palette() -> dict[str, str]:
    """Return the colours of the light palette by the names of their variables."""
    light = (read_template(PALETTE) or "").split("@media")[0]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))


@dataclass(frozen=True)
class Margins:
    """Inches around the axes: fixed, as measuring the labels doubles the time of a figure."""

    left: float
    bottom: float
    right: float = 0.1
    top: float = 0.1


@contextmanager
def _figure(size: tuple[float, float], margins: Margins) -> Iterator[Figure]:
    """Yield an empty figure of ``size`` inches in the look of the pages."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    ink, soft, rule = (_palette()[name] for name in ("ink", "soft", "rule"))
    look: Any = {  # older stubs type the keys as str, newer ones as literals
        "axes.axisbelow": True,
        "axes.edgecolor": rule,
        "axes.facecolor": "none",
        "axes.formatter.useoffset": False,
        "axes.grid.axis": "y",
        "axes.labelcolor": ink,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.facecolor": "none",
        "font.size": 9,
        "grid.color": rule,
        "lines.markersize": 3,
        "svg.fonttype": "none",
        "text.color": ink,
        "text.parse_math": False,
        "xtick.color": rule,
        "xtick.labelcolor": soft,
        "ytick.color": rule,
        "ytick.labelcolor": soft,
    }
    with rc_context(look):
        figure = Figure(figsize=size)
        width, height = size
        figure.subplots_adjust(
            left=margins.left / width,
            right=1 - margins.right / width,
            bottom=margins.bottom / height,
            top=1 - margins.top / height,
        )
        yield figure


def _svg(figure: Figure, name: str, alt: str) -> str:
    """Return ``figure`` as an SVG element whose ids are its own on any page."""
    from matplotlib import rc_context

    buffer = StringIO()
    undated = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=undated)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<defs>\s*<style.*?</defs>\s*", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;\"]+; ", "", svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    prefix = re.sub(r"\W+", "-", name)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\1{prefix}-", svg)
    described = f'role="img" aria-label="{escape(alt)}" font-family="sans-serif"'
    svg = svg.replace("<svg ", f"<svg {described} ", 1)
    svg = svg.replace(">", f"><title>{escape(alt)}</title>", 1)
    for variable, colour in _palette().items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg
