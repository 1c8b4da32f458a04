"""What the sections of the page share: names, cells, tables of tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sidar.evaluate.document import Cell, Table, Value
from sidar.evaluate.table import interval, number

Results = Mapping[str, Any]

NAMES = {
    "item/ndcg@10": "nDCG@10",
    "item/mrr": "MRR",
    "item/recall@10": "R@10",
    "item/recall@100": "R@100",
    "items/returned": "items",
    "sid/mrr": "SID MRR",
    "sid/recall@1": "SID R@1",
    "sid/recall@8": "SID R@8",
    "sid/recall@64": "SID R@64",
    "quantised/recall@100": "quantised dense R@100",
    "quantised/ndcg@10": "quantised dense nDCG@10",
    "invalid/mass": "invalid mass",
    "invalid/free@10": "free@10",
    "invalid/free@128": "free@128",
    "invalid/not_code@10": "no code@10",
}


def measure_name(measure: str) -> str:
    """A measure as the page calls it; ``item/recall@100[tail]`` is ``R@100 tail``."""
    base, bracket, rest = measure.partition("[")
    name = NAMES.get(base, base)
    return f"{name} {rest.rstrip(']')}" if bracket else name


def whole(results: Results) -> list[str]:
    """The methods that did not fail, in the order in which they were named."""
    return [name for name, facts in results["methods"].items() if "failed" not in facts]


def contenders(results: Results) -> list[str]:
    """Methods that are no control, did not fail and kept the budget."""
    facts = results["methods"]
    return [name for name in whole(results) if not facts[name]["must_lose_to"] and facts[name]["equal"]]


def colours(results: Results) -> dict[str, int]:
    """A colour per method, the same in every picture."""
    return {name: i for i, name in enumerate(results["methods"])}


def cell_of(cell: Mapping[str, Any] | None, best: bool = False, *, count: bool = False) -> Cell:
    """A mean with its interval."""
    if cell is None or cell["mean"] is None:
        return ""
    if count:
        return number(cell["mean"], count=True)
    return Value(number(cell["mean"]), interval(cell), best)


def measures_table(
    systems: Mapping[str, Mapping[str, Any]],
    rows: Sequence[str],
    measures: Sequence[str],
    *,
    lower: bool = False,
    note: str = "",
    names: Callable[[str], str] = measure_name,
    outside: Iterable[str] = (),
) -> Table | None:
    """One row per system with the mean and interval of each measure; None where none of them was measured.

    The best of a column is bold, ``outside`` (baselines, controls) not being asked.
    """
    shown = [m for m in measures if any(m in systems.get(name, {}) for name in rows)]
    if not shown:
        return None
    asked = [name for name in rows if name not in set(outside)]
    best = {}
    for m in shown:
        means = [systems[name][m]["mean"] for name in asked if m in systems.get(name, {})]
        best[m] = (min(means) if lower else max(means)) if means else None
    lines: list[list[Cell]] = []
    for name in rows:
        cells = systems.get(name, {})
        if not any(m in cells for m in shown):
            continue
        line: list[Cell] = [name]
        for m in shown:
            count = m.startswith("items/") or "/items@" in m or m.endswith(("/items", "/sids"))
            is_best = name in asked and m in cells and cells[m]["mean"] == best[m] and not count
            line.append(cell_of(cells.get(m), is_best, count=count))
        lines.append(line)
    return Table(["", *(names(m) for m in shown)], lines, note=note)


def asked_of(results: Results, question: str, *measures: str, sets: Sequence[str] = ()) -> list[Mapping[str, Any]]:
    """The tests of one question on ``measures`` (all of them where none is named)."""
    return [
        test
        for test in results["tests"]
        if test["question"] == question
        and (not measures or test["measure"] in measures)
        and (not sets or test["set"] in sets)
    ]


def table_of(results: Results, tests: Sequence[Mapping[str, Any]], note: str = "") -> Table:
    """Effect, interval, p after Holm, smallest detectable effect and verdict of each test."""
    several = len(results["seeds"]) > 1
    head = ["a − b", "set", "measure", "effect", "95 % interval", "p (Holm)", "detectable"]
    head += [*(["seeds that agree"] if several else []), "a is better"]
    rows: list[list[Cell]] = []
    for t in tests:
        name = measure_name(t["measure"]) + (f" against {measure_name(t['other'])}" if t["other"] else "")
        row: list[Cell] = [
            f"{t['a']} − {t['b']}",
            t["set"],
            name,
            signed(t["effect"]),
            f"{signed(t['low'])} to {signed(t['high'])}",
            f"{t['p_holm']:.3f}",
            f"{t['detectable']:.4f}" if t["detectable"] else "–",
            *([f"{t['agree']} of {len(results['seeds'])}"] if several else []),
            t["verdict"],
        ]
        rows.append(row)
    return Table(head, rows, words=(1, 2, len(head) - 1), note=note)


def signed(value: float) -> str:
    """Four digits with their sign."""
    return f"{value:+.4f}".replace("-", "−")
