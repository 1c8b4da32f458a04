"""The page's SVG: forest plots, lines with intervals, two histograms in one.

Colours are the report's CSS variables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.evidence.report.compare import Result

#: CSS variables --c0 … of the page's palette; further series repeat them dashed.
COLOURS = 10


def stroke(colour: int) -> str:
    """SVG stroke of a series number: colour first, then dash."""
    dash = ("", ' stroke-dasharray="6 4"', ' stroke-dasharray="2 3"')[colour // COLOURS % 3]
    return f'stroke="var(--c{colour % COLOURS})"{dash}'


def nice_ticks(low: float, high: float, n: int = 5) -> list[float]:
    """About ``n`` round values that cover low..high."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / n
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def legend(series: Sequence[tuple[str, int]]) -> str:
    """Swatches and names of (name, colour)."""
    items = "".join(
        '<li><svg viewBox="0 0 26 8" class="swatch"><line x1="1" x2="25" y1="4" y2="4" '
        'stroke-width="2.4" '
        f"{stroke(colour)}/></svg>{escape(name)}</li>"
        for name, colour in series
    )
    return f'<ul class="legend">{items}</ul>'


def text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "tick") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
        f'class="{kind}">{escape(words)}</text>'
    )


def short(value: float) -> str:
    return f"{value:.4g}"


def forest(rows: Sequence[tuple[str, Result, str]], *, label: str, width: int = 620) -> str:
    """Effects with intervals: (name, result, registered sign in words or ""). Empty where nothing
    was tested.

    Grey box: effects that the test would miss more often than once in five. Small rings: seeds.
    Green and red only after Holm, and where every seed has the sign.
    """
    rows = [row for row in rows if row[1].test is not None]
    if not rows:
        return ""
    left, right, step, top = min(286, 26 + 7 * max(len(name) for name, _, _ in rows)), 112, 26, 22
    right = right if any(sign for _, _, sign in rows) else 24
    height = top + step * len(rows) + 40
    ends = [0.0]
    for _, result, _ in rows:
        assert result.test is not None
        ends += [result.test.low, result.test.high, *result.seeds.values()]
    ticks = nice_ticks(min(ends), max(ends), 6)
    x0, x1 = ticks[0], ticks[-1]

    def px(x: float) -> float:
        return left + (width - left - right) * (min(max(x, x0), x1) - x0) / (x1 - x0)

    bottom = height - 36
    out = [
        (
            f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}, effects '
            'with intervals">'
        )
    ]
    for i, (_, result, _) in enumerate(rows):
        assert result.test is not None
        blind = result.detectable if not result.same else 0.0
        box = f'<rect x="{px(-blind):.1f}" width="{px(blind) - px(-blind):.1f}" height="{step - 6}"'
        out.append(f'{box} y="{top + step * i + 3}" class="blind"/>')
    for tick in ticks:
        out.append(
            f'<line x1="{px(tick):.1f}" x2="{px(tick):.1f}" y1="{top}" y2="{bottom}" class="grid"/>'
        )
        out.append(text(px(tick), bottom + 15, short(tick)))
    out.append(f'<line x1="{px(0):.1f}" x2="{px(0):.1f}" y1="{top}" y2="{bottom}" class="zero"/>')
    out.append(text((left + width - right) / 2, height - 5, label, kind="label"))
    if any(sign for _, _, sign in rows):
        out.append(text(width - right + 10, 13, "registered", "start"))
    for i, (name, result, sign) in enumerate(rows):
        assert result.test is not None
        t, y = result.test, top + step * i + step / 2
        kind = (
            ("good" if t.effect > 0 else "bad")
            if result.significant and result.unanimous
            else "unsure"
        )
        out.append(
            text(left - 10, y + 4, name if len(name) < 39 else name[:37] + "…", "end", "name")
        )
        out += [
            f'<circle cx="{px(e):.1f}" cy="{y:.1f}" r="3" class="seed"/>'
            for e in result.seeds.values()
        ]
        out.append(
            f'<g class="{kind}" stroke-width="2"><title>{escape(name)}: {t.effect:+.4f}</title>'
        )
        out.append(f'<line x1="{px(t.low):.1f}" x2="{px(t.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<circle cx="{px(t.effect):.1f}" cy="{y:.1f}" r="4.2"/></g>')
        out.append(text(width - right + 10, y + 4, sign, "start"))
    return "".join(out) + "</svg>"


@dataclass(frozen=True)
class Band:
    """A line with intervals: (x, mean, low, high) per point."""

    name: str
    points: list[tuple[float, float, float, float]]
    colour: int = 0


def bands(
    series: Sequence[Band],
    *,
    x_label: str,
    y_label: str,
    ticks: Sequence[tuple[float, str]],
    width: int = 560,
) -> str:
    """Lines with shaded intervals over the given x positions and their labels.

    Empty without a point.
    """
    series = [each for each in series if each.points]
    if not series:
        return ""
    height, left, right, top, bottom = 320, 58, 16, 12, 42
    values = [v for each in series for _, mean, low, high in each.points for v in (mean, low, high)]
    y_ticks = nice_ticks(min(values), max(values))
    y0, y1 = y_ticks[0], y_ticks[-1]
    xs = [x for x, _ in ticks]
    x0, x1 = min(xs), max(xs)
    pad = 0.04 * (x1 - x0) or 1.0
    x0, x1 = x0 - pad, x1 + pad

    def px(x: float) -> float:
        return left + (width - left - right) * (x - x0) / (x1 - x0)

    def py(y: float) -> float:
        return height - bottom - (height - top - bottom) * (y - y0) / (y1 - y0)

    out = [
        (
            f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(y_label)} over '
            f'{escape(x_label)}">'
        )
    ]
    for tick in y_ticks:
        out.append(
            f'<line x1="{left}" x2="{width - right}" y1="{py(tick):.1f}" y2="{py(tick):.1f}" '
            'class="grid"/>'
        )
        out.append(text(left - 7, py(tick) + 4, short(tick), "end"))
    out += [text(px(x), height - bottom + 17, words) for x, words in ticks]
    out.append(text((left + width - right) / 2, height - 6, x_label, kind="label"))
    middle = (top + height - bottom) / 2
    out.append(
        f'<g transform="rotate(-90 13 {middle:.1f})">{text(13, middle, y_label, kind="label")}</g>'
    )
    for each in series:
        there = [(px(x), py(high)) for x, _, _, high in each.points]
        back = [(px(x), py(low)) for x, _, low, _ in reversed(each.points)]
        area = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*there, *back])
        out.append(
            f'<polygon points="{area}" fill="var(--c{each.colour % COLOURS})" class="band"/>'
        )
    for each in series:
        line = " ".join(f"{px(x):.1f},{py(mean):.1f}" for x, mean, _, _ in each.points)
        out.append(
            '<g fill="none" stroke-width="2" '
            f"{stroke(each.colour)}><title>{escape(each.name)}</title>"
        )
        out.append(f'<polyline points="{line}" stroke-linejoin="round"/>')
        for x, mean, low, high in each.points:
            out.append(
                f'<line x1="{px(x):.1f}" x2="{px(x):.1f}" y1="{py(low):.1f}" y2="{py(high):.1f}" '
                'stroke-width="1"/>'
            )
            out.append(f'<circle cx="{px(x):.1f}" cy="{py(mean):.1f}" r="3" class="dot"/>')
        out.append("</g>")
    return "".join(out) + "</svg>"


def keys(series: Sequence[Band]) -> tuple[list[tuple[str, int]], str]:
    """Names and colours of a chart's lines, and their HTML legend."""
    named = [(each.name, each.colour) for each in series if each.points]
    return named, legend(named)


def two_histograms(
    edges: Sequence[float],
    kinds: Sequence[tuple[str, Sequence[float], int]],
    *,
    label: str,
    marks: Sequence[tuple[float, str]] = (),
    width: int = 560,
) -> str:
    """Shares of pairs per bin, each kind to 1; ``marks`` are labelled vertical lines
    (quartiles).
    """
    if len(edges) < 2 or not any(sum(counts) for _, counts, _ in kinds):
        return ""
    height, left, right, top, bottom = 260, 46, 12, 24, 42
    shares = [[c / (sum(counts) or 1.0) for c in counts] for _, counts, _ in kinds]
    y_ticks = nice_ticks(0.0, max(max(s) for s in shares), 4)
    x0, x1 = edges[0], edges[-1] if edges[-1] > edges[0] else edges[0] + 1

    def px(x: float) -> float:
        return left + (width - left - right) * (x - x0) / (x1 - x0)

    def py(y: float) -> float:
        return height - bottom - (height - top - bottom) * y / y_ticks[-1]

    out = [
        (
            f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}, two '
            'histograms">'
        )
    ]
    for tick in y_ticks:
        out.append(
            f'<line x1="{left}" x2="{width - right}" y1="{py(tick):.1f}" y2="{py(tick):.1f}" '
            'class="grid"/>'
        )
        out.append(text(left - 6, py(tick) + 4, f"{tick:.0%}", "end"))
    out += [
        text(px(x), height - bottom + 16, short(x))
        for x in nice_ticks(x0, x1, 6)
        if x0 - 1e-9 <= x <= x1 + 1e-9
    ]
    out.append(text((left + width - right) / 2, height - 6, label, kind="label"))
    for share, (name, _, colour) in zip(shares, kinds, strict=True):
        steps = [(px(edges[0]), py(0))]
        for low, high, value in zip(edges[:-1], edges[1:], share, strict=True):
            steps += [(px(low), py(value)), (px(high), py(value))]
        steps.append((px(edges[-1]), py(0)))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in steps)
        out.append(
            f'<g {stroke(colour)} stroke-width="1.6"><title>{escape(name)}</title>'
            f'<polygon points="{path}" fill="var(--c{colour})" fill-opacity=".16"/></g>'
        )
    for x, words in marks:
        if x0 <= x <= x1:
            out.append(
                f'<line x1="{px(x):.1f}" x2="{px(x):.1f}" y1="{top - 4}" y2="{height - bottom}" '
                'class="axis"/>'
            )
            out.append(text(px(x), top - 10, words))
    return "".join(out) + "</svg>"
