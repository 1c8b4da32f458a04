"""A page as blocks, written once and rendered twice: Markdown for the repository, one HTML file for
reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from sidar.pages import render

MARKS = {
    "holds": "holds",
    "does not hold": "fails",
    "cannot tell here": "open",
    "nothing seen": "open",
    "not run": "none",
    "yes": "holds",
    "no": "fails",
    "open": "open",
    "not contradicted": "open",
    "identical": "open",
    "weight 0 chosen on dev": "open",
    "higher": "open",
    "lower": "open",
}


@dataclass(frozen=True)
class Value:
    """One entry of a table: ``text``, and ``small`` below it in HTML or ``short`` behind it in
    Markdown.
    """

    text: str
    small: str = ""
    short: str = ""
    mark: bool = False


Entry = str | Value


@dataclass(frozen=True)
class Text:
    """A paragraph; ``**bold**``, `` `code` `` and ``[text](link)`` are understood."""

    text: str


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Table:
    """``words`` columns hold text and stand left; the first column always does."""

    head: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    words: Sequence[int] = ()
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """An SVG.

    Without ``file`` it is in the HTML only; with it also ``images/<file>`` for the Markdown.
    """

    svg: str
    caption: str
    file: str = ""
    below: str = ""  # HTML: the legend
    keys: Sequence[tuple[str, int]] = ()  # the legend inside a standalone file

    def standalone(self) -> str:
        """The SVG with its own colours and legend, as an image file that follows light and dark."""
        ((width, height),) = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', self.svg)
        width, height = float(width), float(height)
        places, x, y = [], 12.0, height + 14
        for name, _ in self.keys:
            if x + 34 + 6.6 * len(name) > width:
                x, y = 12.0, y + 18
            places.append((x, y))
            x += 44 + 6.6 * len(name)
        total = y + 10 if self.keys else height
        legend = "".join(
            f'<line x1="{x:.0f}" x2="{x + 22:.0f}" y1="{y - 4:.0f}" y2="{y - 4:.0f}" '
            f'stroke="var(--c{colour})" stroke-width="2.4"/><text x="{x + 28:.0f}" y="{y:.0f}" '
            f'class="label">{escape(name)}</text>'
            for (name, colour), (x, y) in zip(self.keys, places, strict=True)
        )
        body = self.svg[self.svg.index(">") + 1 : self.svg.rindex("</svg>")]
        title = f"<title>{escape(plain(self.caption))}</title>"
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {total:g}" '
            f'width="{width:g}" height="{total:g}" role="img">'
        )
        return f"{head}<style>{_svg_style()}</style>{title}{body}{legend}</svg>"


@dataclass(frozen=True)
class Row:
    """Pictures side by side."""

    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Fold:
    """Blocks behind a click."""

    summary: str
    blocks: Sequence[Block]


Block = Text | Heading | Table | Picture | Row | Fold


@dataclass(frozen=True)
class Section:
    """A numbered part of the page. ``origin``: simulated, real or empty."""

    at: str
    title: str
    blocks: Sequence[Block]
    origin: str = ""


@dataclass(frozen=True)
class Page:
    title: str
    lead: Sequence[Block]
    facts: dict[str, str]
    sections: Sequence[Section] = field(default_factory=list)


def walk(page: Page) -> Iterator[Block]:
    """Every block, folded ones included."""

    def inside(blocks: Sequence[Block]) -> Iterator[Block]:
        for block in blocks:
            yield block
            if isinstance(block, Fold):
                yield from inside(block.blocks)
            elif isinstance(block, Row):
                yield from block.pictures

    yield from inside(page.lead)
    for section in page.sections:
        yield from inside(section.blocks)


#: ``*so*``, not the star of ``y_w*`` and not ``**bold**``.
EMPHASIS = r"(?<![\w*])\*([^*\s][^*]*?)\*(?![\w*])"


def plain(text: str) -> str:
    """Text without its marks."""
    text = re.sub(EMPHASIS, r"\1", text)
    return re.sub(r"\*\*|`", "", re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text))


# ---------------------------------------------------------------------- Markdown

ORIGIN = {
    "simulated": "SIMULATED",
    "real": "REAL judgments",
    "mixed": "SIMULATED and REAL, as marked",
}


def to_markdown(page: Page) -> str:
    """The page for GitHub."""
    out = [
        "<!-- Written by benchmarks/evidence/report; do not edit. -->",
        f"# {page.title}",
        "",
        *_markdown(page.lead),
        "| " + " | ".join(page.facts) + " |",
        "|---" * len(page.facts) + "|",
        "| " + " | ".join(page.facts.values()) + " |",
        "",
    ]
    for number, section in enumerate(page.sections):
        out += [f"## {number}. {section.title}", ""]
        if section.origin:
            out += [f"*{ORIGIN[section.origin]}*", ""]
        out += _markdown(section.blocks)
    return "\n".join(out).rstrip() + "\n"


def _markdown(blocks: Sequence[Block]) -> list[str]:
    out: list[str] = []
    for block in blocks:
        if isinstance(block, Text):
            out += [block.text, ""]
        elif isinstance(block, Heading):
            out += [f"### {block.text}", ""]
        elif isinstance(block, Table):
            right = [i for i in range(len(block.head)) if i and i not in block.words]
            out += ["| " + " | ".join(block.head) + " |"]
            out += [
                "|"
                + "|".join("---:" if i in right else "---" for i in range(len(block.head)))
                + "|"
            ]
            out += [
                "| " + " | ".join(_markdown_cell(entry) for entry in row) + " |"
                for row in block.rows
            ]
            out += ["", *([block.note, ""] if block.note else [])]
        elif isinstance(block, Picture):
            out += [f"![{plain(block.caption)}](images/{block.file})", ""] if block.file else []
        elif isinstance(block, Row):
            out += _markdown(block.pictures)
        else:
            inner = _markdown(block.blocks)
            out += [
                "<details>",
                f"<summary>{plain(block.summary)}</summary>",
                "",
                *inner,
                "</details>",
                "",
            ]
    return out


def _markdown_cell(entry: Entry) -> str:
    if isinstance(entry, str):
        return entry.replace("|", "\\|")
    if entry.mark:
        return (
            f"**{entry.text}**"
            if entry.text in ("holds", "does not hold", "higher", "lower")
            else entry.text
        )
    return f"{entry.text} {entry.short or entry.small}".strip().replace("|", "\\|")


# ---------------------------------------------------------------------- HTML


def inline(text: str) -> str:
    """The marks of :class:`Text` as HTML."""
    text = escape(text, quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
    text = re.sub(EMPHASIS, r"<i>\1</i>", text)  # but y_w* keeps its star
    return re.sub(r"\[([^]]+)\]\(([^)\s]+)\)", r'<a href="\2">\1</a>', text)


def _css() -> str:
    own = (Path(__file__).parent / "evidence.css").read_text(encoding="utf-8")
    return render("pages/palette.css") + render("pages/style.css") + own


def _svg_style() -> str:
    """The palette and the SVG rules of the page's style, for files that stand alone."""
    css = _css()
    palettes = re.findall(r":root \{[^}]*--bg[^}]*\}", css)
    rules = re.findall(r"^svg ([^{]*\{[^}]*\})", css, re.MULTILINE)
    return (
        f"{palettes[0]}@media(prefers-color-scheme:dark){{{palettes[1]}}}{''.join(rules)}".replace(
            "\n", ""
        )
    )


def to_html(page: Page) -> str:
    """One self-contained file."""
    links = "".join(
        f'<a href="#{s.at}">{i}. {escape(s.title)}</a>' for i, s in enumerate(page.sections)
    )
    tiles = "".join(
        f"<div><span>{escape(k)}</span><b>{inline(v)}</b></div>" for k, v in page.facts.items()
    )
    out = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(page.title)} · Sidar</title><style>{_css()}</style></head><body>",
        (
            f'<header class="top"><h1>{escape(page.title)}</h1>{_html(page.lead)}<div '
            f'class="facts">{tiles}</div>'
        ),
        f"<nav>{links}</nav></header><main>",
    ]
    for number, section in enumerate(page.sections):
        mark = ""
        if section.origin:
            mark = f'<span class="mark {section.origin}">{escape(ORIGIN[section.origin])}</span>'
        out.append(
            f'<section id="{section.at}"><div class="title"><h2>{number}. '
            f"{escape(section.title)}</h2>{mark}</div>"
            f"{_html(section.blocks)}</section>"
        )
    out.append(
        "</main><footer>Written by benchmarks/evidence/report. One file; it loads "
        "nothing.</footer></body></html>"
    )
    return "\n".join(out) + "\n"


def _html(blocks: Sequence[Block]) -> str:
    return "\n".join(_html_block(block) for block in blocks)


def _html_block(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{inline(block.text)}</p>"
    if isinstance(block, Heading):
        return f"<h3>{inline(block.text)}</h3>"
    if isinstance(block, Picture):
        caption = f"<figcaption>{inline(block.caption)}</figcaption>"
        return f"<figure>{caption}{block.svg}{block.below}</figure>"
    if isinstance(block, Row):
        return f'<div class="pictures">{_html(block.pictures)}</div>'
    if isinstance(block, Fold):
        return f"<details><summary>{inline(block.summary)}</summary>{_html(block.blocks)}</details>"
    left = {0, *block.words}
    head = "".join(
        f"<th{_left(i in left)}>{inline(text)}</th>" for i, text in enumerate(block.head)
    )
    rows = "".join(
        "<tr>" + "".join(_html_cell(entry, i, i in left) for i, entry in enumerate(row)) + "</tr>"
        for row in block.rows
    )
    note = f'<p class="soft">{inline(block.note)}</p>' if block.note else ""
    return (
        "<div "
        f'class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}'
    )


def _left(yes: bool) -> str:
    return ' class="text"' if yes else ""


def _html_cell(entry: Entry, column: int, left: bool) -> str:
    tag = "th" if column == 0 else "td"
    if isinstance(entry, str):
        return f"<{tag}{_left(left)}>{inline(entry)}</{tag}>"
    if entry.mark:
        inner = f'<span class="mark {MARKS.get(entry.text, "none")}">{escape(entry.text)}</span>'
        return f"<{tag}{_left(left)}>{inner}</{tag}>"
    small = f"<small>{inline(entry.small)}</small>" if entry.small else ""
    return f"<{tag}{_left(left)}>{inline(entry.text)}{small}</{tag}>"
