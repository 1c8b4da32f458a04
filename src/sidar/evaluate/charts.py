"""Small SVG pictures for the report: lines, intervals, bars. Colours are CSS variables: they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

#: CSS variables --c0 … of the report's palette; further series repeat them dashed.
COLOURS = 10


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0


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


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "tick") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def lines(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    y_from_zero: bool = False,
    x_ticks: Sequence[float] | None = None,
    size: tuple[int, int] = (560, 300),
    points: bool = False,
) -> str:
    """A line chart as one ``<svg>``; empty where there is nothing to draw. Points that are not finite are left out."""
    kept = []
    for each in series:
        good = [(x, y) for x, y in zip(each.x, each.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
        if good:
            kept.append((each, good))
    if not kept:
        return ""
    width, height = size
    left, right, top, bottom = 52, 12, 12, 40
    xs = [x for _, good in kept for x, _ in good]
    ys = [y for _, good in kept for _, y in good]
    y_ticks = nice_ticks(0.0 if y_from_zero else min(ys), max(ys))
    y0, y1 = y_ticks[0], y_ticks[-1]
    ticks = list(x_ticks) if x_ticks else nice_ticks(min(xs), max(xs))
    x0, x1 = min(min(xs), *ticks), max(max(xs), *ticks)
    scale = math.log if log_x else float

    def px(x: float) -> float:
        span = scale(x1) - scale(x0)
        return left + (width - left - right) * ((scale(x) - scale(x0)) / span if span else 0.5)

    def py(y: float) -> float:
        return height - bottom - (height - top - bottom) * (y - y0) / (y1 - y0)

    out = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(y_label)} over {escape(x_label)}">']
    for tick in y_ticks:
        out.append(f'<line x1="{left}" x2="{width - right}" y1="{py(tick):.1f}" y2="{py(tick):.1f}" class="grid"/>')
        out.append(_text(left - 6, py(tick) + 4, _short(tick), "end"))
    out += [_text(px(tick), height - bottom + 16, _short(tick)) for tick in ticks]
    out.append(_text((left + width - right) / 2, height - 6, x_label, kind="label"))
    middle = (top + height - bottom) / 2
    out.append(f'<g transform="rotate(-90 13 {middle:.1f})">{_text(13, middle, y_label, kind="label")}</g>')
    for each, good in kept:
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in good)
        out.append(f'<g fill="none" stroke-width="1.8" {stroke(each.colour)}><title>{escape(each.name)}</title>')
        out.append(f'<polyline points="{path}" stroke-linejoin="round"/>')
        if points or len(good) == 1:
            out += [f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="2.6" class="dot"/>' for x, y in good]
        out.append("</g>")
    return "".join(out) + "</svg>"


def legend(series: Sequence[tuple[str, int]]) -> str:
    """Swatches and names of (name, colour)."""
    items = "".join(
        f'<li><svg viewBox="0 0 26 8" class="swatch"><line x1="1" x2="25" y1="4" y2="4" stroke-width="2.4" '
        f"{stroke(colour)}/></svg>{escape(name)}</li>"
        for name, colour in series
    )
    return f'<ul class="legend">{items}</ul>'


def intervals(rows: Sequence[tuple[str, float, float, float, int]], *, label: str, width: int = 560) -> str:
    """Means with their intervals, one row per (name, mean, low, high, colour)."""
    if not rows:
        return ""
    left, right, step, top = 190, 56, 24, 8
    height = top + step * len(rows) + 40
    ticks = nice_ticks(min(0.0, *(low for _, _, low, _, _ in rows)), max(high for _, _, _, high, _ in rows))
    x0, x1 = ticks[0], ticks[-1]

    def px(x: float) -> float:
        return left + (width - left - right) * (x - x0) / (x1 - x0)

    out = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)} with intervals">']
    for tick in ticks:
        out.append(f'<line x1="{px(tick):.1f}" x2="{px(tick):.1f}" y1="{top}" y2="{height - 36}" class="grid"/>')
        out.append(_text(px(tick), height - 22, _short(tick)))
    out.append(_text((left + width - right) / 2, height - 5, label, kind="label"))
    for i, (name, mean, low, high, colour) in enumerate(rows):
        y = top + step * i + step / 2
        short = name if len(name) <= 26 else name[:25] + "…"
        out.append(_text(left - 10, y + 4, short, "end", "name"))
        out.append(f'<g {stroke(colour % COLOURS)} stroke-width="2"><title>{escape(name)}: {mean:.4f}</title>')
        out.append(f'<line x1="{px(low):.1f}" x2="{px(high):.1f}" y1="{y}" y2="{y}"/>')
        out.append(f'<circle cx="{px(mean):.1f}" cy="{y}" r="4" fill="var(--c{colour % COLOURS})"/></g>')
        out.append(_text(width - right + 8, y + 4, f"{mean:.3f}", "start", "name"))
    return "".join(out) + "</svg>"


def mirrored_bars(up: Sequence[float], down: Sequence[float], *, up_label: str, down_label: str) -> str:
    """Shares of two quantities over the same ordered codes: one above the axis, one below."""
    width, height, left, right = 1120, 260, 62, 8
    total_up, total_down = sum(up) or 1.0, sum(down) or 1.0
    a, b = [v / total_up for v in up], [v / total_down for v in down]
    top = max([*a, *b, 1e-9])
    middle, half = height / 2, height / 2 - 24
    slot = (width - left - right) / max(len(a), 1)
    bar = max(slot - min(1.5, slot * 0.3), 0.5)
    out = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(up_label)} and {escape(down_label)}">']
    for share in nice_ticks(0, top, 3)[1:]:
        if share > top * 1.02:
            continue
        for sign in (-1, 1):
            y = middle + sign * half * share / top
            out.append(f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
            out.append(_text(left - 6, y + 4, f"{share:.3g}" if share < 0.01 else f"{share:.1%}", "end"))
    for i, (first, second) in enumerate(zip(a, b, strict=True)):
        x = left + slot * i
        over, under = half * first / top, half * second / top
        box = f'<rect x="{x:.2f}" width="{bar:.2f}"'
        out.append(f'{box} y="{middle - over:.2f}" height="{over:.2f}" fill="var(--c0)"/>')
        out.append(f'{box} y="{middle:.2f}" height="{under:.2f}" fill="var(--c1)"/>')
    out.append(f'<line x1="{left}" x2="{width - right}" y1="{middle}" y2="{middle}" class="axis"/>')
    out.append(_text(left + 6, 14, up_label, "start", "label"))
    out.append(_text(left + 6, height - 6, down_label, "start", "label"))
    return "".join(out) + "</svg>"
