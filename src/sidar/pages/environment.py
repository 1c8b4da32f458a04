"""The Jinja2 environment of all pages."""

from __future__ import annotations

from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape


def read_template(name: str) -> str | None:
    """Return the source of ``<part>/<file>``, which lies in ``sidar/<part>/templates``."""
    part, _, file = name.partition("/")
    path = resources.files("sidar").joinpath(part, "templates", file)
    return path.read_text(encoding="utf-8") if path.is_file() else None


def cell(text: str) -> str:
    """Return ``text`` as it stands in a cell of a Markdown table."""
    return text.replace("|", "\\|")


@cache
def environment() -> Environment:
    """Return the environment: HTML is escaped, Markdown is not; an undefined name is an error."""
    environment = Environment(
        loader=FunctionLoader(read_template),
        autoescape=select_autoescape(["html"], default_for_string=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = cell
    return environment


def render(template: str, **values: object) -> str:
    """Render the template ``<part>/<file>`` with ``values``."""
    return environment().get_template(template).render(values)
