"""The result table: as data, on the console, as Markdown; and the check that it says what the
per-query file says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sidar.evaluate.perquery import PerQuery, read_clusters, summarise
from sidar.types import Json, PathLike

if TYPE_CHECKING:
    from rich.console import Console

Scores = Json  # what scores.json holds

#: Blocks of columns: title -> {measure: header}.
BLOCKS: dict[str, dict[str, str]] = {
    "Items": {
        "item/ndcg@10": "nDCG@10",
        "item/rprec": "R-prec",
        "item/recall@10": "R@10",
        "item/recall@100": "R@100",
        "item/recall@500": "R@500",
        "item/mrr": "MRR",
        "items/returned": "items",
    },
    "Semantic IDs": {
        "sid/recall@8": "R@8",
        "sid/recall@64": "R@64",
        "sid/recall@128": "R@128",
        "sid/mrr": "MRR",
    },
    "Invalid output": {
        "invalid/mass": "mass",
        "invalid/free@10": "free@10",
        "invalid/free@128": "free@128",
        "invalid/not_code@10": "no code@10",
    },
    "Items, random order inside an SID": {
        "expected/ndcg@10": "nDCG@10",
        "expected/recall@10": "R@10",
        "expected/recall@100": "R@100",
        "expected/recall@500": "R@500",
        "expected/mrr": "MRR",
    },
}
ORIGIN = {"real": "REAL judgments", "simulated": "SIMULATED traffic", "log": "LOGGED behaviour"}


def blocks(scores: Scores) -> dict[str, dict[str, str]]:
    """Return the blocks of columns, with those of the metrics that plug-ins bring."""
    return BLOCKS | {"Items": BLOCKS["Items"] | dict(scores.get("metrics", {}))}


def read_scores(folder: PathLike) -> Json:
    """``scores.json`` of an evaluate folder.

    Raises ``ValueError`` naming the command that makes it.
    """
    path = Path(folder) / "scores.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; make it with `sidar evaluate`")
    return dict(json.loads(path.read_text()))


def number(value: float, *, count: bool = False) -> str:
    """A figure as tables print it: three digits, no leading zero; counts whole."""
    if not math.isfinite(value):
        return "–"
    if count:
        return f"{value:.0f}"
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def interval(cell: Mapping[str, float]) -> str:
    """``.290–.334``."""
    return f"{number(cell['low'])}–{number(cell['high'])}"


def block_rows(
    facts: Json, columns: Mapping[str, str]
) -> dict[str, dict[str, Mapping[str, float]]]:
    """{system: {measure: cell}} of the systems that have any of ``columns``, in the order they were
    scored.
    """
    rows = {
        system: {m: cells[m] for m in columns if m in cells}
        for system, cells in facts["systems"].items()
        if cells
    }
    return {system: cells for system, cells in rows.items() if any(m in cells for m in columns)}


def about(facts: Json) -> str:
    """One line: what the set is."""
    rule = "grade ≥ 1" if facts["relevant_from"] >= 1 else "any positive grade"
    text = f"{ORIGIN.get(facts['origin'], facts['origin'])}, {facts['queries']:,} queries"
    if facts["clusters"] < facts["queries"]:
        text += f" ({facts['clusters']:,} different)"
    text += f", {facts['relevant_per_query']:.1f} relevant per query ({rule})"
    if facts["without_relevant"]:
        text += f", {facts['without_relevant']} queries without any (they score 0)"
    return text


def sampled(facts: Json) -> str:
    """Which systems' invalid output was measured on fewer queries than asked for; empty where none
    was.
    """
    cut = [
        f"{system}: {n['measured']} of {n['asked']}"
        for system, n in facts.get("invalid_sampled", {}).items()
        if n["measured"] < n["asked"]
    ]
    if not cut:
        return ""
    return (
        "Invalid output was measured until its time was up (evaluate.invalid_seconds): "
        f"{'; '.join(cut)} queries."
    )


def to_markdown(scores: Scores) -> str:
    """All sets and blocks as Markdown; every cell with its 95 % interval."""
    lines = ["# Results", ""]
    for name, facts in scores["sets"].items():
        lines += [f"## {name}", "", f"{about(facts)}.", ""]
        for title, columns in blocks(scores).items():
            rows = block_rows(facts, columns)
            shown = [m for m in columns if any(m in cells for cells in rows.values())]
            if not shown:
                continue
            measured = {int(cells[m]["n"]) for cells in rows.values() for m in shown if m in cells}
            subset = f" ({max(measured)} queries)" if max(measured) < facts["queries"] else ""
            lines += [f"| {title}{subset} | " + " | ".join(columns[m] for m in shown) + " |"]
            lines += ["|---" * (len(shown) + 1) + "|"]
            for system, cells in rows.items():
                texts = [_markdown_cell(m, cells) for m in shown]
                lines.append(f"| {system} | " + " | ".join(texts) + " |")
            lines.append("")
        if note := sampled(facts):
            lines += [note, ""]
        if tests := [test for test in scores["tests"] if test["set"] == name]:
            lines += [
                (
                    "| a against b | measure | effect | 95 % | p (Holm) | detectable | verdict: a "
                    "is better |"
                )
            ]
            lines += ["|---" * 7 + "|"]
            for t in tests:
                lines.append(
                    f"| {t['a']} − {t['b']} | {t['measure']} | {t['effect']:+.4f} | "
                    f"{t['low']:+.4f} to {t['high']:+.4f} | {t['p_holm']:.4f} | "
                    f"{t['detectable']:.4f} | {t['verdict']} |"
                )
            lines.append("")
    return "\n".join(lines)


def _markdown_cell(measure: str, cells: Mapping[str, Mapping[str, float]]) -> str:
    if measure not in cells:
        return ""
    if measure == "items/returned":
        return number(cells[measure]["mean"], count=True)
    return f"{number(cells[measure]['mean'])} ({interval(cells[measure])})"


def print_table(folder: PathLike, console: Console) -> None:
    """Print the tables of an evaluate folder on a rich console, then the verdicts; ± is half the 95
    % interval.
    """
    from rich.table import Table

    scores = read_scores(folder)
    for name, facts in scores["sets"].items():
        for title in ("Items", "Semantic IDs", "Invalid output"):
            columns = blocks(scores)[title]
            rows = block_rows(facts, columns)
            if not rows:
                continue
            table = Table(
                title=f"{name} · {title}",
                caption=about(facts),
                title_style="bold",
                header_style="bold",
            )
            table.add_column("system", no_wrap=True)
            shown = [m for m in columns if any(m in cells for cells in rows.values())]
            for measure in shown:
                table.add_column(columns[measure], justify="right")
            best = {
                m: max((c[m]["mean"] for c in rows.values() if m in c), default=0) for m in shown
            }
            for system, cells in rows.items():
                table.add_row(system, *(_rich_cell(m, cells, best[m]) for m in shown))
            console.print(table)
        if note := sampled(facts):
            console.print(note)
    print_verdicts(scores, console)


def _rich_cell(measure: str, cells: Mapping[str, Mapping[str, float]], best: float) -> str:
    if measure not in cells:
        return ""
    cell = cells[measure]
    if measure == "items/returned":
        return number(cell["mean"], count=True)
    mean = number(cell["mean"])
    if cell["mean"] == best and not measure.startswith("invalid"):
        mean = f"[bold]{mean}[/bold]"
    return f"{mean} [dim]±{number((cell['high'] - cell['low']) / 2)}[/dim]"


def print_verdicts(scores: Scores, console: Console) -> None:
    """Print the paired tests on the primary measures, one line each; the report has the others.

    Of a question with many pairs (the answer against every other row) only a count and the pairs
    that are worse.
    """
    shown = ("item/ndcg@10", "sid/mrr")
    rows = [t for t in scores["tests"] if t["measure"] in shown and t["b"] != "dense"]
    if not rows:
        return
    console.print(
        "[bold]Is a better than b?[/bold] Paired, clustered by query, Holm; ± is the 95 % interval."
    )
    groups: dict[tuple[str, str], list[Json]] = {}
    for t in rows:
        groups.setdefault((t["set"], t["question"]), []).append(t)
    wide = max((len(f"{t['a']} − {t['b']}") for t in rows if t["question"] not in MANY), default=0)
    for (name, question), tests in groups.items():
        if question in MANY:
            tests = [t for t in tests if t["measure"] == "item/ndcg@10"]
            better, worse = (
                sum(t["verdict"] == word for t in tests) for word in ("holds", "does not hold")
            )
            console.print(
                f"{name}: {tests[0]['a']} − each of {len(tests)} other rows, item/ndcg@10: better "
                f"than {better}, worse than {worse}, cannot tell {len(tests) - better - worse}",
                soft_wrap=True,
            )
            tests = [t for t in tests if t["verdict"] == "does not hold"]
        for t in tests:
            pair = f"{t['a']} − {t['b']}"
            console.print(
                f"{name}  {pair:<{wide}}  {t['measure']:<12} {t['effect']:+.4f} "
                f"[dim]({t['low']:+.4f} to {t['high']:+.4f}), p {t['p_holm']:.3f}, could see "
                f"{t['detectable']:.4f}[/dim]  {t['verdict']}",
                soft_wrap=True,
            )


#: Questions with a pair for every row.
MANY = ("Is the answer better than the other rows?",)


def check_table(folder: PathLike, *, tolerance: float = 1e-9) -> int:
    """Make every cell again from ``per_query.parquet`` and compare it with ``scores.json`` and
    ``table.md``.

    Returns the number of cells that agree. Raises ``ValueError`` naming the first set, system and
    measure that differ.
    """
    scores = read_scores(folder)
    again = summarise(
        PerQuery.read(folder),
        read_clusters(folder),
        samples=scores["bootstrap"],
        seed=scores["seed"],
    )
    checked = 0
    for name in {**scores["sets"], **again}:
        said, made = scores["sets"].get(name, {}).get("systems", {}), again.get(name, {})
        for system in {**said, **made}:
            for measure in {**said.get(system, {}), **made.get(system, {})}:
                one, two = said.get(system, {}).get(measure), made.get(system, {}).get(measure)
                if (
                    one is None
                    or two is None
                    or any(abs(one[key] - two[key]) > tolerance for key in two)
                ):
                    raise ValueError(
                        f"{folder}: {name}, {system}, {measure}: the table says {one}, the "
                        f"per-query values say {two}; run `sidar evaluate` again"
                    )
                checked += 1
    if (Path(folder) / "table.md").read_text() != to_markdown(scores):
        raise ValueError(
            f"{folder}/table.md was not made from its scores.json; run `sidar evaluate` again"
        )
    return checked
