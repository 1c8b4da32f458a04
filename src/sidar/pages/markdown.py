"""A Markdown page as one HTML file: the same text in the look of all pages, pictures inline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup

from sidar.pages.environment import render
from sidar.pages.figures import Picture

#: Classes of the style sheet for verdicts that are set in bold.
MARKS = {"holds": "mark holds", "does not hold": "mark fails", "failed": "mark fails"}


@dataclass(frozen=True)
class Section:
    """A second-level heading of the page and what stands below it."""

    anchor: str
    title: str
    body: Markup


def html_page(markdown: str, pictures: Sequence[Picture], *, footer: str) -> str:
    """Return ``markdown`` as a self-contained HTML page; raw HTML in it is escaped.

    The page begins with a first-level heading, and each second-level heading begins a section.
    Links to ``images/<name>.svg`` become the picture of that name.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("image", _figure)
    parser.add_render_rule("table_open", _table_open)
    parser.add_render_rule("table_close", _table_close)
    text = re.sub(r"\A<!--.*?-->\n", "", markdown)  # "do not edit" is for readers of the Markdown
    tokens = _styled(parser.parse(text))
    known = {f"images/{picture.name}.svg": picture for picture in pictures}

    def html(part: Sequence[Token]) -> Markup:
        return Markup(parser.renderer.render(part, parser.options, {"pictures": known}))

    starts = [at for at, token in enumerate(tokens) if _opens(token, "h2")]
    sections = []
    for start, end in pairwise([*starts, len(tokens)]):
        title = tokens[start + 1].content
        sections.append(Section(_anchor(title), title, html(tokens[start + 3 : end])))
    lead = tokens[3 : starts[0]] if starts else tokens[3:]
    return render(
        "pages/document.html",
        title=tokens[1].content,
        lead=html(lead),
        sections=sections,
        footer=footer,
    )


def _opens(token: Token, tag: str) -> bool:
    return token.type == "heading_open" and token.tag == tag


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _styled(tokens: list[Token]) -> list[Token]:
    """Give verdicts their class, and let a picture stand outside of a paragraph."""
    for at, token in enumerate(tokens):
        children = token.children or []
        if [child.type for child in children] == ["image"]:
            tokens[at - 1].hidden = tokens[at + 1].hidden = True
        for opening, content in pairwise(children):
            if opening.type == "strong_open" and content.content in MARKS:
                opening.attrSet("class", MARKS[content.content])
    return tokens


def _figure(
    self: RendererHTML, tokens: Sequence[Token], at: int, options: OptionsDict, env: EnvType
) -> str:
    """Render an image as the picture of that name."""
    pictures: Mapping[str, Picture] = env["pictures"]
    return render("pages/figure.html", picture=pictures[str(tokens[at].attrs["src"])])


def _table_open(self: RendererHTML, *rest: object) -> str:
    return '<div class="scroll"><table>\n'


def _table_close(self: RendererHTML, *rest: object) -> str:
    return "</table></div>\n"
