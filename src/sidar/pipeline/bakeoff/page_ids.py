"""Quality of the IDs themselves: collisions, use of the codes, the hourglass, what prefixes and codes keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sidar.evaluate.charts import Series, lines
from sidar.evaluate.document import Block, Cell, Fold, Heading, Picture, Section, Table, Text
from sidar.evaluate.slices import CLASSES
from sidar.evaluate.table import interval, number
from sidar.pipeline.bakeoff.facts import purity_of
from sidar.pipeline.bakeoff.page_parts import Results, colours, whole

#: By how much of log K a waist must be narrower than the levels around it.
WAIST = 0.02


def section(results: Results, prefix: str) -> Section:
    """Tables per method, per level and per class, and the picture of entropy by level."""
    methods = {name: results["methods"][name] for name in whole(results)}
    blocks: list[Block] = [_overview(results, methods), Heading("Entropy by level: the hourglass")]
    colour = colours(results)
    curves = [
        Series(name, range(1, len(levels) + 1), [level["evenness"] for level in levels], colour[name])
        for name, facts in methods.items()
        if (levels := facts["quality"]["levels"])
    ]
    most = max(len(curve.x) for curve in curves)
    svg = lines(curves, x_label="level", y_label="entropy / log K", x_ticks=range(1, most + 1), points=True)
    keys = [(curve.name, curve.colour) for curve in curves]
    blocks.append(
        Picture(svg, "Entropy of the codes by level, as a share of its maximum", f"{prefix}entropy.svg", keys)
    )
    blocks += [Text(_hourglass(methods)), _levels(methods), Heading("By popularity"), _classes(methods)]
    notes = [Text(f"**{n}**: {said}") for n, facts in methods.items() for said in facts["quality"].get("notes", [])]
    if notes:
        blocks.append(Fold("What the tokenizers said of their input", notes))
    return Section("ids", "Quality of the IDs", blocks)


def _overview(results: Results, methods: Mapping[str, Any]) -> Table:
    swept = results["sets"][results["swept"]]["systems"]
    rows: list[list[Cell]] = []
    for name, facts in methods.items():
        quality, own = facts["quality"], swept.get(name, {})
        near = own.get("quantised/recall@100")
        lost = quality.get("reconstruction", {}).get("share_of_variance_lost")
        rows.append(
            [
                name,
                f"{quality['items_per_sid']:.2f}",
                f"{quality['collision_rate']:.1%}",
                f"{quality['largest_sid']:,.0f}",
                number(quality["gini"]),
                "/".join(f"{level['utilisation']:.0%}" for level in quality["levels"]),
                _purity(facts, 1),
                _purity(facts, 2),
                "–" if lost is None else f"{lost:.1%}",
                "–" if near is None else f"{number(near['mean'])} ({interval(near)})",
            ]
        )
    dense = swept.get("dense", {}).get("item/recall@100")
    exact = f" (exact dense, without IDs: {number(dense['mean'])})" if dense else ""
    head = ["", "items per SID", "share theirs", "largest SID", "Gini", "codes used by level", "purity, 1 code"]
    head += ["purity, 2 codes", "variance lost", "quantised dense R@100"]
    note = (
        "*share theirs*: items whose SID is another item's too. *Gini*: inequality of the SIDs' sizes. *purity*: "
        "items whose deepest told category is the commonest under their prefix, in brackets the same with "
        "categories dealt at random. *variance lost*: of the vectors, by the sum of the codes' centroids. "
        f"*quantised dense*: the embedding hit rate, on {results['swept']}{exact}."
    )
    return Table(head, rows, words=(5,), note=note)


def _purity(facts: Mapping[str, Any], depth: int) -> str:
    value = purity_of(facts, depth)
    if value is None:
        return "–"
    found = [each for each in facts["quality"]["purity"] if each["prefix_depth"] == depth]
    chance = max(found, key=lambda each: each["category_depth"])["chance"]
    return f"{number(value)} ({number(chance)})"


def hourglass(levels: Sequence[Mapping[str, Any]]) -> bool:
    """True where a middle level is clearly less even than both its neighbours (Kuai 2024, arXiv 2407.21488).

    Clearly: by :data:`WAIST` of the maximal entropy; random codes differ by chance. [ours]
    """
    even = [level["evenness"] for level in levels]
    return any(even[i] < min(even[i - 1], even[i + 1]) - WAIST for i in range(1, len(even) - 1))


def _hourglass(methods: Mapping[str, Any]) -> str:
    waists = [name for name, facts in methods.items() if hourglass(facts["quality"]["levels"])]
    told = f"Codes crowd at a middle level, less even than its neighbours by {WAIST:.0%} or more: {', '.join(waists)}."
    none = f"No middle level is less even than its neighbours by {WAIST:.0%} or more: there is no hourglass here."
    return (told if waists else none) + " A level is even when its codes are used alike."


def _levels(methods: Mapping[str, Any]) -> Fold:
    rows: list[list[Cell]] = [
        [
            name,
            str(number_of),
            f"{level['used']:,.0f} of {level['codes']:,.0f}",
            number(level["evenness"]),
            f"{level['perplexity']:,.0f}",
            number(level["gini"]),
            f"{level['top_1_percent']:.1%}",
        ]
        for name, facts in methods.items()
        for number_of, level in enumerate(facts["quality"]["levels"], start=1)
    ]
    head = ["", "level", "codes used", "entropy / log K", "perplexity", "Gini", "items on the busiest 1 %"]
    return Fold("Every level of every method", [Table(head, rows)])


def _classes(methods: Mapping[str, Any]) -> Table:
    rows: list[list[Cell]] = []
    for name, facts in methods.items():
        classes = facts["quality"].get("classes", {})
        row: list[Cell] = [name]
        for word in CLASSES:
            own = classes.get(word)
            row += (
                [
                    f"{own['mean_length']:.2f}",
                    f"{own['collision_rate']:.1%}",
                    number(own["purity"]) if "purity" in own else "–",
                ]
                if own
                else ["–", "–", "–"]
            )
        rows.append(row)
    head = ["", *(f"{word}: {what}" for word in CLASSES for what in ("codes", "share theirs", "purity"))]
    note = "*purity* here: of the other items under an item's first two codes, the share that has its leaf category."
    return Table(head, rows, note=note)
