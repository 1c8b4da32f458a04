"""How results are printed in a Markdown table: ``*italics*`` become small print in the HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from experiments.raddpo.report.cells import Cell, Evidence
from experiments.raddpo.report.compare import CONTROL, Level, all_of, levels, shared_seeds
from experiments.raddpo.report.contrast import Result
from experiments.raddpo.report.names import PRIMARY, SIGNS, TARGETS, measure, row

DASH = "–"
HEAD = ("effect (95 %)", "p (Holm)", "could have seen", "seeds: min … max", "agree", "sd")
#: A contrast whose gradient is this share of SFT's, or less, is inactive (docs/evaluation.md).
INACTIVE = 0.01
INVALID = ("invalid.mass", "invalid.free@10", "invalid.free@128", "invalid.not_code@10")
CLICK_AND_UTILITY = (*PRIMARY["click"], *PRIMARY["utility"])


@dataclass(frozen=True)
class Table:
    """A table of strings; the first column names the rows."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    note: str = ""


def plain_number(value: float, digits: int = 3) -> str:
    """Return ``.412``; a dash where there is none."""
    if not math.isfinite(value):
        return DASH
    shown = f"{value:.{digits}f}"
    shown = shown.replace("0.", ".", 1) if shown.startswith(("0.", "-0.")) else shown
    return shown.replace("-", "−")


def signed(value: float, digits: int = 4) -> str:
    """Return ``+.0123``."""
    if not math.isfinite(value):
        return DASH
    shown = f"{value:+.{digits}f}"
    shown = shown[0] + shown[2:] if shown[1:3] == "0." else shown
    return shown.replace("-", "−")


def level(value: Level | None) -> str:
    """Return a mean with its interval."""
    if value is None:
        return DASH
    return f"{plain_number(value.mean)} *{plain_number(value.low)}–{plain_number(value.high)}*"


def verdict(word: str) -> str:
    """Return a verdict, in bold where there is one."""
    return f"**{word}**" if word in ("holds", "does not hold", "higher", "lower") else word


def direction(result: Result) -> str:
    """Return *higher* or *lower* where the verdict knows: for measures nobody claims to raise."""
    return {"holds": "higher", "does not hold": "lower"}.get(result.word, result.word)


def effect(result: Result) -> str:
    """Return the effect with its interval."""
    if result.test is None:
        return DASH
    if result.same:
        return "0"
    test = result.test
    return f"{signed(test.effect)} *{signed(test.low)} … {signed(test.high)}*"


def entries(result: Result) -> list[str]:
    """Return the entries under :data:`HEAD`."""
    if result.test is None or result.same:
        return [effect(result), *[DASH] * (len(HEAD) - 1)]
    seeds = [value for seed, value in result.seeds.items() if seed is not None]
    p = plain_number(result.p) if result.p >= 0.001 else "< .001"
    return [
        effect(result),
        p,
        plain_number(result.detectable, 4),
        f"{signed(min(seeds))} … {signed(max(seeds))}" if seeds else DASH,
        f"{result.agreeing} of {len(seeds)}" if seeds else DASH,
        plain_number(result.seed_sd, 4),
    ]


def comparisons(
    results: Mapping[str, Result],
    title: str,
    *,
    registered: bool = False,
    directions: bool = False,
    words: bool = True,
    note: str = "",
) -> Table:
    """Return a table of results.

    ``registered`` shows the expected sign and whether it was met, ``directions`` higher and lower
    where a higher value is no claim; without ``words`` there is no verdict.
    """
    last = ["registered", "met"] if registered else ["verdict"] if words else []
    rows = []
    for name, result in results.items():
        if registered:
            end = [SIGNS[result.contrast.sign], verdict(result.met)]
        elif words:
            end = [verdict(direction(result) if directions else result.word)]
        else:
            end = []
        rows.append([name, *entries(result), *end])
    return Table(["", *HEAD, *last], rows, title, note)


def level_table(
    evidence: Evidence,
    rows: Mapping[str, tuple[str, str]],
    metrics: Sequence[str],
    title: str = "",
    *,
    set_name: str = "day8",
    note: str = "",
) -> Table | None:
    """Return the means of {name: (system, variant)} over the seeds that all rows have.

    Rows and columns without any value are left out; None if nothing is left.
    """
    seeds, said = row_seeds(evidence, list(rows.values()), metrics, set_name=set_name)
    known = {
        name: levels(evidence, system, metrics, set_name=set_name, variant=variant, seeds=seeds)
        for name, (system, variant) in rows.items()
    }
    shown = [m for m in metrics if any(m in values for values in known.values())]
    if not shown:
        return None
    body = []
    for name, values in known.items():
        if values:
            count = max(value.seeds for value in values.values())
            body.append([name, str(count or DASH), *(level(values.get(m)) for m in shown)])
    head = ["", "seeds", *(f"{m.partition('.')[0]}: {measure(m)}" for m in shown)]
    return Table(head, body, title, " ".join(filter(None, (note, said))))


def base_rows(systems: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return {name: (system, "")}: rows at the base setting."""
    return {row(system): (system, "") for system in systems}


def row_seeds(
    evidence: Evidence,
    rows: Sequence[tuple[str, str]],
    metrics: Sequence[str],
    *,
    set_name: str = "day8",
) -> tuple[list[int] | None, str]:
    """Return the seeds that a table averages in every row, and what its note says of them."""
    seeds, differ = shared_seeds(evidence, rows, metrics, set_name=set_name)
    if not differ:
        return None, ""
    if not seeds:
        return None, "**The rows have no seed in common**: each shows its own."
    listed = ", ".join(str(seed) for seed in seeds)
    return seeds, (
        f"Means over the seeds that every row has ({listed}); a row with fewer seeds shows what it "
        "has and is not to be set beside the others."
    )


def inactive(ratios: Sequence[float], system: str) -> bool:
    """Whether the contrast of these runs does nothing; SFT continued has none to be inactive."""
    return bool(ratios) and max(ratios) < INACTIVE and system != CONTROL


def of_seeds(runs: Mapping[int | None, Cell], name: str, source: str = "mechanism") -> list[float]:
    """Return a figure of each seed's cell, of those that have it."""
    values = [
        (cell.mechanism if source == "mechanism" else cell.train).get(name)
        for cell in runs.values()
    ]
    return [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]


def spread(values: Sequence[float], digits: int = 3, *, sign: bool = False) -> str:
    """Return the mean over seeds, with their least and greatest."""
    if not values:
        return DASH
    form = signed if sign else plain_number
    mean = form(sum(values) / len(values), digits)
    least, greatest = form(min(values), digits), form(max(values), digits)
    return mean if least == greatest else f"{mean} *{least} … {greatest}*"


@dataclass(frozen=True)
class Section:
    """A part of the report: a few sentences and its tables."""

    title: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)

    def add(self, *tables: Table | None) -> None:
        """Add the tables that are there and have rows."""
        self.tables.extend(table for table in tables if table is not None and table.rows)


def about(metric: str) -> str:
    """Return ``SID MRR (click)``."""
    target = metric.partition(".")[0]
    return f"{measure(metric)} ({target})" if target in TARGETS else measure(metric)


def all_words(results: Iterable[Result]) -> str:
    """Return the verdict of "every one of these holds"."""
    return verdict(all_of([result.word for result in results]))
