"""An outcome as one HTML page."""

from __future__ import annotations

import math

from sidar.ab.channels import KINDS
from sidar.ab.result import Outcome, Row, count, percent, quantity
from sidar.pages import Interval, Line, Picture, intervals, lines, render
from sidar.version import __version__


def html(outcome: Outcome, title: str) -> str:
    """Return the page of an outcome."""
    return render(
        "ab/ab.html",
        title=title,
        outcome=outcome,
        facts=_facts(outcome),
        lifts=[_lifts(outcome, name) for name in outcome.names[1:] if outcome.rows],
        curves={row.metric + row.treatment: _curve(row) for row in outcome.rows if _has_curve(row)},
        kinds=list(KINDS),
        percent=percent,
        count=count,
        quantity=quantity,
        share=_share,
        footer=f"Sidar {__version__}.",
    )


def _facts(outcome: Outcome) -> dict[str, str]:
    """Return what was compared, and on how much."""
    facts = {"events": f"{outcome.events['used']:,}"}
    if outcome.days:
        facts["days"] = str(outcome.days)
    if outcome.ratio is not None:
        facts |= {f"users in {name}": f"{n:,}" for name, n in outcome.ratio.users.items()}
    if outcome.rows:
        facts["control"] = outcome.names[0]
        facts["pre-period"] = "yes" if outcome.pre_period else "no"
    return facts


def _lifts(outcome: Outcome, treatment: str) -> Picture:
    """Return the relative lifts of one treatment with their intervals."""
    rows = [row for row in outcome.rows if row.treatment == treatment]
    means = [
        Interval(
            row.metric,
            100 * row.effect.relative,
            100 * row.effect.relative_low,
            100 * row.effect.relative_high,
        )
        for row in rows
        if math.isfinite(row.effect.relative_low)
    ]
    alt = f"Relative lift of {treatment} against {outcome.names[0]}"
    number = outcome.names.index(treatment)
    return intervals(f"lifts-{number}", alt, means, label="lift in %")


def _has_curve(row: Row) -> bool:
    return sum(value == value for value in row.looks["low"]) > 1


def _curve(row: Row) -> Picture:
    """Return the lift by day with its confidence sequence."""
    known = [day for day, value in enumerate(row.looks["low"]) if value == value]
    days = [day + 1 for day in known]
    named = (("lift", "relative", 0), ("lower end", "low", 1), ("upper end", "high", 1))
    series = [
        Line(name, days, [100 * row.looks[column][day] for day in known], colour)
        for name, column, colour in named
    ]
    alt = f"{row.metric} of {row.treatment} by day, with its confidence sequence"
    return lines(
        f"looks-{row.metric}-{row.treatment}",
        alt,
        series,
        x_label="day",
        y_label="lift in %",
        size=(4.0, 2.2),
    )


def _share(value: float) -> str:
    return f"{value:.2%}" if math.isfinite(value) else "–"
