"""A page as blocks, written once and rendered twice: Markdown for a repository, one self-contained HTML file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from itertools import groupby

from sidar.evaluate.charts import legend, stroke

#: Classes of the report's style sheet for words that stand alone in a table cell.
MARKS = {"holds": "holds", "yes": "holds", "does not hold": "fails", "no": "fails", "failed": "fails"}
ORIGIN = {"simulated": "SIMULATED", "real": "REAL judgments", "log": "LOGGED behaviour", "mixed": "as marked"}


@dataclass(frozen=True)
class Value:
    """A table cell: ``text``, with ``small`` below it in HTML and behind it in Markdown; ``best`` is set in bold."""

    text: str
    small: str = ""
    best: bool = False


Cell = str | Value


@dataclass(frozen=True)
class Text:
    """A paragraph; ``**bold**``, `` `code` `` and ``[text](link)`` are understood."""

    text: str


@dataclass(frozen=True)
class Heading:
    """A title inside a section."""

    text: str


@dataclass(frozen=True)
class Table:
    """The first column and the ``words`` columns hold text and stand left; ``note`` stands below."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: Sequence[int] = ()
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """An SVG of :mod:`sidar.evaluate.charts`; ``file`` is its name among the images of the Markdown."""

    svg: str
    caption: str
    file: str
    keys: Sequence[tuple[str, int]] = ()  # (name, colour) of the legend

    def standalone(self) -> str:
        """The SVG with its own colours and legend: an image file that follows light and dark."""
        ((width, height),) = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', self.svg)
        wide, high = float(width), float(height)
        x, y, keys = 12.0, high + 14, []
        for name, colour in self.keys:
            if x + 34 + 6.6 * len(name) > wide:
                x, y = 12.0, y + 18
            keys.append(
                f'<line x1="{x:.0f}" x2="{x + 22:.0f}" y1="{y - 4:.0f}" y2="{y - 4:.0f}" {stroke(colour)} '
                f'stroke-width="2.4"/><text x="{x + 28:.0f}" y="{y:.0f}" class="label">{escape(name)}</text>'
            )
            x += 44 + 6.6 * len(name)
        total = y + 10 if self.keys else high
        body = self.svg[self.svg.index(">") + 1 : self.svg.rindex("</svg>")]
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:g} {total:g}" width="{wide:g}" '
            f'height="{total:g}" role="img">'
        )
        title = f"<title>{escape(plain(self.caption))}</title>"
        return f"{head}<style>{_svg_style()}</style>{title}{body}{''.join(keys)}</svg>"


@dataclass(frozen=True)
class Fold:
    """Blocks behind a click."""

    summary: str
    blocks: Sequence[Block]


Block = Text | Heading | Table | Picture | Fold


@dataclass(frozen=True)
class Section:
    """A numbered part of the page; ``origin`` (see :data:`ORIGIN`) marks where its data come from."""

    at: str
    title: str
    blocks: Sequence[Block]
    origin: str = ""


@dataclass(frozen=True)
class Page:
    """``written_by`` is told to whoever thinks of editing the Markdown."""

    title: str
    lead: Sequence[Block]
    facts: dict[str, str]
    sections: Sequence[Section] = field(default_factory=list)
    written_by: str = "sidar"

    def pictures(self) -> Iterator[Picture]:
        """Every picture, folded ones included."""

        def inside(blocks: Sequence[Block]) -> Iterator[Picture]:
            for block in blocks:
                if isinstance(block, Picture):
                    yield block
                elif isinstance(block, Fold):
                    yield from inside(block.blocks)

        yield from inside(self.lead)
        for section in self.sections:
            yield from inside(section.blocks)


_OWN_CSS = "td.text{white-space:normal;max-width:52ch}.pictures figure{max-width:680px}"

#: ``*so*``, but neither the star of ``y_w*`` nor ``**bold**``.
_EMPHASIS = r"(?<![\w*])\*([^*\s][^*]*?)\*(?![\w*])"


def plain(text: str) -> str:
    """Text without its marks."""
    text = re.sub(_EMPHASIS, r"\1", text)
    return re.sub(r"\*\*|`", "", re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text))


# ---------------------------------------------------------------------- Markdown


def to_markdown(page: Page) -> str:
    """The page for a repository; pictures are links to ``images/<file>``."""
    out = [f"<!-- Written by {page.written_by}; do not edit. -->", f"# {page.title}", "", *_markdown(page.lead)]
    if page.facts:
        out += ["| " + " | ".join(page.facts) + " |", "|---" * len(page.facts) + "|"]
        out += ["| " + " | ".join(page.facts.values()) + " |", ""]
    for number, section in enumerate(page.sections, start=1):
        out += [f"## {number}. {section.title}", ""]
        out += [f"*{ORIGIN[section.origin]}*", ""] if section.origin else []
        out += _markdown(section.blocks)
    return "\n".join(out).rstrip() + "\n"


def _markdown(blocks: Sequence[Block]) -> list[str]:
    out: list[str] = []
    for block in blocks:
        if isinstance(block, Text):
            out += [block.text, ""]
        elif isinstance(block, Heading):
            out += [f"### {block.text}", ""]
        elif isinstance(block, Picture):
            out += [f"![{plain(block.caption)}](images/{block.file})", ""]
        elif isinstance(block, Fold):
            inner = _markdown(block.blocks)
            out += ["<details>", f"<summary>{plain(block.summary)}</summary>", "", *inner, "</details>", ""]
        else:
            left = {0, *block.words}
            out.append("| " + " | ".join(_escaped(text) for text in block.head) + " |")
            out.append("|" + "|".join("---" if i in left else "---:" for i in range(len(block.head))) + "|")
            out += ["| " + " | ".join(_markdown_cell(cell) for cell in row) + " |" for row in block.rows]
            out += ["", *([block.note, ""] if block.note else [])]
    return out


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"**{cell}**" if cell in MARKS else _escaped(cell)
    text = f"**{cell.text}**" if cell.best else cell.text
    return _escaped(f"{text} {cell.small}".strip())


# ---------------------------------------------------------------------- HTML


def inline(text: str) -> str:
    """The marks of :class:`Text` as HTML."""
    text = escape(text, quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
    text = re.sub(_EMPHASIS, r"<i>\1</i>", text)
    return re.sub(r"\[([^]]+)\]\(([^)\s]+)\)", r'<a href="\2">\1</a>', text)


def _css() -> str:
    return resources.files("sidar.evaluate").joinpath("report.css").read_text(encoding="utf-8")


def _svg_style() -> str:
    """The palettes and the SVG rules of the page's style, for files that stand alone."""
    css = _css()
    palettes = re.findall(r":root \{[^}]*--bg[^}]*\}", css)
    rules = re.findall(r"^svg ([^{]*\{[^}]*\})", css, re.MULTILINE)
    return f"{palettes[0]}@media(prefers-color-scheme:dark){{{palettes[1]}}}{''.join(rules)}".replace("\n", "")


def to_html(page: Page) -> str:
    """One file that loads nothing."""
    links = "".join(f'<a href="#{s.at}">{i}. {escape(s.title)}</a>' for i, s in enumerate(page.sections, start=1))
    tiles = "".join(f"<div><span>{escape(k)}</span><b>{inline(v)}</b></div>" for k, v in page.facts.items())
    out = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(page.title)} · Sidar</title>",
        f"<style>{_css()}{_OWN_CSS}</style>",
        f'</head><body><header class="top"><h1>{escape(page.title)}</h1>{_html(page.lead)}',
        f'<div class="facts">{tiles}</div><nav>{links}</nav></header><main>',
    ]
    for number, section in enumerate(page.sections, start=1):
        mark = f'<span class="mark {section.origin}">{ORIGIN[section.origin]}</span>' if section.origin else ""
        title = f'<div class="title"><h2>{number}. {escape(section.title)}</h2>{mark}</div>'
        out.append(f'<section id="{section.at}">{title}{_html(section.blocks)}</section>')
    out.append(f"</main><footer>Written by {escape(page.written_by)}. One file; it loads nothing.</footer>")
    return "\n".join([*out, "</body></html>"]) + "\n"


def _html(blocks: Sequence[Block]) -> str:
    """Blocks one after the other; pictures that follow each other stand side by side where there is room."""
    out = []
    for picture, some in groupby(blocks, key=lambda block: isinstance(block, Picture)):
        text = "\n".join(_html_block(block) for block in some)
        out.append(f'<div class="pictures">{text}</div>' if picture else text)
    return "\n".join(out)


def _html_block(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{inline(block.text)}</p>"
    if isinstance(block, Heading):
        return f"<h3>{inline(block.text)}</h3>"
    if isinstance(block, Picture):
        keys = legend(list(block.keys)) if block.keys else ""
        return f"<figure><figcaption>{inline(block.caption)}</figcaption>{block.svg}{keys}</figure>"
    if isinstance(block, Fold):
        return f"<details><summary>{inline(block.summary)}</summary>{_html(block.blocks)}</details>"
    left = {0, *block.words}
    head = "".join(f"<th{_left(i in left)}>{inline(text)}</th>" for i, text in enumerate(block.head))
    rows = "".join(f"<tr>{''.join(_html_cell(c, i, i in left) for i, c in enumerate(row))}</tr>" for row in block.rows)
    note = f'<p class="soft">{inline(block.note)}</p>' if block.note else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}'


def _left(yes: bool) -> str:
    return ' class="text"' if yes else ""


def _html_cell(cell: Cell, column: int, left: bool) -> str:
    tag = "th" if column == 0 else "td"
    if isinstance(cell, str):
        inner = f'<span class="mark {MARKS[cell]}">{escape(cell)}</span>' if cell in MARKS else inline(cell)
        return f"<{tag}{_left(left)}>{inner}</{tag}>"
    small = f"<small>{inline(cell.small)}</small>" if cell.small else ""
    text = f"<b>{inline(cell.text)}</b>" if cell.best else inline(cell.text)
    return f"<{tag}{_left(left)}>{text}{small}</{tag}>"
