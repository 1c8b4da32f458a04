"""How results are printed: one entry, one row, one table of comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from benchmarks.evidence.report.cells import Cell, Evidence
from benchmarks.evidence.report.compare import CONTROL, Level, Result, levels, shared_seeds
from benchmarks.evidence.report.document import Entry, Table, Value
from benchmarks.evidence.report.names import SIGNS, measure, row

DASH = "–"
HEAD = ("effect (95 %)", "p (Holm)", "could have seen", "seeds: min … max", "agree", "sd")


def plain_number(value: float, digits: int = 3) -> str:
    """``.412``; a dash where there is none."""
    if not math.isfinite(value):
        return DASH
    shown = f"{value:.{digits}f}"
    shown = shown.replace("0.", ".", 1) if shown.startswith(("0.", "-0.")) else shown
    return shown.replace("-", "−")


def signed(value: float, digits: int = 4) -> str:
    """``+.0123``."""
    if not math.isfinite(value):
        return DASH
    shown = f"{value:+.{digits}f}"
    shown = shown[0] + shown[2:] if shown[1:3] == "0." else shown
    return shown.replace("-", "−")


def level(found: Level | None) -> Value:
    """A mean; its interval below (HTML) or half its width behind (Markdown)."""
    if found is None:
        return Value(DASH)
    between = f"{plain_number(found.low)}–{plain_number(found.high)}"
    return Value(
        plain_number(found.mean), between, f"±{plain_number((found.high - found.low) / 2)}"
    )


def verdict(word: str) -> Value:
    return Value(word, mark=True)


def direction(result: Result) -> Value:
    """*higher* or *lower* where the verdict knows, its word elsewhere: for measures that nobody
    claims to raise.
    """
    return verdict({"holds": "higher", "does not hold": "lower"}.get(result.word, result.word))


def effect(result: Result) -> Value:
    """The effect and its interval."""
    if result.test is None:
        return Value(DASH)
    if result.same:
        return Value("0")
    t = result.test
    between = f"{signed(t.low)} … {signed(t.high)}"
    return Value(signed(t.effect), between, f"({between})")


def columns(result: Result) -> list[Entry]:
    """The entries under :data:`HEAD`."""
    if result.test is None:
        return [Value(DASH)] * len(HEAD)
    if result.same:
        return [effect(result), *[Value(DASH)] * (len(HEAD) - 1)]
    seeds = [e for s, e in result.seeds.items() if s is not None]
    spread = f"{signed(min(seeds))} … {signed(max(seeds))}" if seeds else DASH
    agree = f"{result.agreeing} of {len(seeds)}" if seeds else DASH
    p = f"{result.p:.3f}" if result.p >= 0.001 else "< .001"
    return [
        effect(result),
        p.replace("0.", ".", 1),
        plain_number(result.detectable, 4),
        spread,
        agree,
        plain_number(result.seed_sd, 4),
    ]


def comparisons(
    rows: Sequence[tuple[str, Result]],
    *,
    first: str = "comparison",
    registered: bool = False,
    words: bool = True,
    directions: bool = False,
    note: str = "",
) -> Table:
    """A table of results; ``registered``: with the expected sign and whether it was met; ``words``
    False: bare; ``directions``: higher and lower where a higher value is no claim."""
    head = [first, *HEAD, *(["registered", "met"] if registered else ["verdict"] if words else [])]
    out: list[list[Entry]] = []
    for name, result in rows:
        if registered:
            last: list[Entry] = [SIGNS[result.contrast.sign], verdict(result.met)]
        else:
            last = [direction(result) if directions else verdict(result.word)] if words else []
        out.append([name, *columns(result), *last])
    return Table(head, out, range(len(HEAD) + 1, len(head)), note)


def level_table(
    evidence: Evidence,
    systems: Sequence[str],
    metrics: Sequence[str],
    *,
    set_name: str = "day8",
    variants: Mapping[str, str] | None = None,
    note: str = "",
) -> Table | None:
    """Means of systems × metrics over the seeds that all rows have; rows and columns without any
    value are left out, None if nothing is left."""
    places = {s: (variants or {}).get(s, "") for s in systems}
    seeds, told = row_seeds(evidence, list(places.items()), metrics, set_name=set_name)
    found = {
        s: levels(evidence, s, metrics, set_name=set_name, variant=v, seeds=seeds)
        for s, v in places.items()
    }
    shown = [m for m in metrics if any(m in each for each in found.values())]
    if not shown:
        return None
    counts = {s: max(value.seeds for value in each.values()) for s, each in found.items() if each}
    rows: list[list[Entry]] = [
        [row(s), str(counts[s] or DASH), *(level(found[s].get(m)) for m in shown)]
        for s in systems
        if found[s]
    ]
    return Table(
        ["", "seeds", *(measure(m) for m in shown)],
        rows,
        note=" ".join(filter(None, (note.strip(), told))),
    )


def row_seeds(
    evidence: Evidence,
    rows: Sequence[tuple[str, str]],
    metrics: Sequence[str],
    *,
    set_name: str = "day8",
) -> tuple[list[int] | None, str]:
    """The seeds that a table of levels averages in every (system, variant) row, and what its note
    says of them.
    """
    seeds, more = shared_seeds(evidence, rows, metrics, set_name=set_name)
    if not more:
        return None, ""
    if not seeds:
        return None, "**The rows have no seed in common**: each shows its own."
    named = ", ".join(str(s) for s in seeds)
    return seeds, (
        f"Means over the seeds that every row has ({named}; a row with fewer seeds in its column "
        "shows what it has, and is not to be set beside the others). A comparison uses all seeds "
        "that its sides share, so the primary one keeps all of its own."
    )


#: A contrast whose gradient is this share of SFT's, or less, is inactive (docs/evaluation.md).
INACTIVE = 0.01


def inactive(ratios: Sequence[float], system: str) -> bool:
    """Whether the contrast of these runs does nothing; a run without a contrast has none to be
    inactive.
    """
    return bool(ratios) and max(ratios) < INACTIVE and system != CONTROL


def tally(name: str, results: Sequence[Result]) -> str:
    """``SID MRR: 1 higher, 2 lower, 3 cannot tell.`` of the comparisons that were run."""
    words = [direction(r).text for r in results if r.test is not None]
    if not words:
        return f"{name}: not run."
    up, down = words.count("higher"), words.count("lower")
    return f"{name}: {up} higher, {down} lower, {len(words) - up - down} cannot tell."


def of_seeds(runs: Mapping[int | None, Cell], name: str, source: str = "mechanism") -> list[float]:
    """A figure of each seed's cell, those that have it."""
    found = [
        (cell.mechanism if source == "mechanism" else cell.train).get(name)
        for cell in runs.values()
    ]
    return [float(v) for v in found if isinstance(v, int | float) and math.isfinite(v)]


def spread(values: Sequence[float], digits: int = 3, *, sign: bool = False) -> Value:
    """Mean over seeds, with their least and greatest."""
    if not values:
        return Value(DASH)
    form = signed if sign else plain_number
    mean = form(sum(values) / len(values), digits)
    least, greatest = form(min(values), digits), form(max(values), digits)
    if least == greatest:
        return Value(mean)
    between = f"{least} … {greatest}"
    return Value(mean, between, f"({between})")
