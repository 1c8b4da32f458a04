"""Pages of reports: Jinja2 templates, one look, pictures drawn by matplotlib. A page loads nothing.

A part of Sidar keeps its templates in its own folder ``templates``; the base template, the macros
and the style sheet are here.
"""

from sidar.pages.environment import render
from sidar.pages.figures import Interval, Line, Picture, bars_around_zero, intervals, lines
from sidar.pages.markdown import html_page

__all__ = [
    "Interval",
    "Line",
    "Picture",
    "bars_around_zero",
    "html_page",
    "intervals",
    "lines",
    "render",
]
