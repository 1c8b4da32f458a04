"""An outcome in the terminal: tables that fit 80 columns and cut no name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sidar.ab.channels import KINDS, ChannelReport
from sidar.ab.result import Outcome, Row, count, percent, quantity

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def show(outcome: Outcome, console: Console) -> None:
    """Print an outcome."""
    for line in _head(outcome):
        _say(console, line)
    for treatment in outcome.names[1:]:
        rows = [row for row in outcome.rows if row.treatment == treatment]
        _say(console, f"\n{treatment} against {outcome.names[0]} (control)")
        console.print(_effects(rows, outcome))
        console.print()
        console.print(_evidence(rows, outcome))
    if outcome.needs:
        console.print(_needs(outcome))
    if outcome.channels:
        _say(console, "\nchannels: share of items delivered, and delivered by no other channel")
        console.print(_channels(outcome.channels[0]))
    for preference in outcome.preferences:
        _say(console, f"\ninterleaving {preference.line()}")
    if outcome.rows:
        _say(console, "")
    for line in outcome.sentences():
        _say(console, line)
    for note in outcome.notes:
        _say(console, f"note: {note}")
    for warning in outcome.warnings:
        _say(console, f"WARNING: {warning}")


def _head(outcome: Outcome) -> list[str]:
    """Return what stands above the tables."""
    lines = []
    if outcome.days:
        period = "with CUPED by the pre-period" if outcome.pre_period else "without a pre-period"
        lines.append(f"{outcome.days} day(s), {outcome.events['used']:,} events, {period}")
    if outcome.ratio is not None:
        lines.append(outcome.ratio.line())
    if outcome.agreement is not None:
        lines += outcome.agreement.lines()
    return lines


def _effects(rows: Sequence[Row], outcome: Outcome) -> Table:
    interval = f"{1 - outcome.alpha:.0%} interval"
    table = _table("metric", "control", "treatment", "change", "estimate", interval, "p (Holm)")
    for row in rows:
        effect = row.effect
        ends = f"{100 * effect.relative_low:+.2f} to {100 * effect.relative_high:+.2f} %"
        values = quantity(effect.control), quantity(effect.treatment)
        p = f"{row.p_holm:.4f}"
        _add(table, row.metric, *values, "relative", percent(effect.relative), ends, p)
        absolute = (_signed(v) for v in (effect.absolute_low, effect.absolute_high))
        _add(table, "", "", "", "absolute", _signed(effect.absolute), " to ".join(absolute), "")
    return table


def _evidence(rows: Sequence[Row], outcome: Outcome) -> Table:
    seen = f"seen at {outcome.power:.0%}"
    needed = f"users for {percent(outcome.lift)}"
    table = _table("metric", "p", "p at any time", "CUPED saves", seen, needed)
    for row in rows:
        saved = f"{row.effect.variance_saved:.0%} variance" if outcome.pre_period else "–"
        _add(
            table,
            row.metric,
            f"{row.effect.p:.4f}",
            f"{row.p_any_time:.4f}",
            saved,
            percent(row.detectable),
            count(row.needed),
        )
    return table


def _needs(outcome: Outcome) -> Table:
    needed = f"users for {percent(outcome.lift)}"
    table = _table("metric", "value", "sd of a user", f"seen at {outcome.power:.0%}", needed)
    for need in outcome.needs:
        cells = quantity(need.value), quantity(need.sd), percent(need.detectable)
        _add(table, need.metric, *cells, count(need.users))
    return table


def _channels(report: ChannelReport) -> Table:
    table = _table("channel", *(head for kind in KINDS for head in (kind, "alone")))
    for shares in report.channels:
        cells = []
        for kind in KINDS:
            for value in (shares.share[kind], shares.exclusive[kind]):
                cells.append(f"{value:.2%}" if report.known[kind] else "–")
        _add(table, shares.channel, *cells)
    return table


def _table(first: str, *others: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")  # a long name is broken, never cut
    for head in others:
        table.add_column(head, justify="right", overflow="fold")
    return table


def _add(table: Table, *cells: str) -> None:
    from rich.text import Text

    table.add_row(*(Text(cell) for cell in cells))  # names may hold what looks like markup


def _signed(value: float) -> str:
    text = quantity(value)
    return text if value < 0 or text == "–" else f"+{text}"


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False)
