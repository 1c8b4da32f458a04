"""Figures in docs/lifecycle.md and docs/methods/table.md are those of the results files that they
name.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def figures(name):
    return json.loads((ROOT / "experiments/results" / f"{name}.json").read_text())["figures"]


def rows(page, heading):
    """Cells of the table whose first column is called ``heading``."""
    table = page.split(f"| {heading} |", 1)[1].split("\n\n", 1)[0].splitlines()
    return [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in [f"{heading} |{table[0]}", *table[2:]]
    ]


def test_the_table_of_published_ids_is_that_of_the_results():
    found = figures("published_sids")
    (_, *columns), *body = rows((ROOT / "docs/methods/table.md").read_text(), "SIDs")
    assert {row[0] for row in body} == {key.split(": ")[0] for key in found}
    for name, *cells in body:
        for column, cell in zip(columns, cells, strict=True):
            value = found.get(f"{name}: {column}")
            if value is None:
                assert cell == "", (name, column)
            elif "@" in column:
                low, high = found[f"{name}: {column} low"], found[f"{name}: {column} high"]
                assert cell == f"{value:.3f} [{low:.3f}, {high:.3f}]", (name, column)
            else:
                assert cell == f"{value:.3g}", (name, column)


def test_the_tables_of_the_life_cycle_are_those_of_the_results():
    found = figures("lifecycle")
    page = (ROOT / "docs/lifecycle.md").read_text()
    (_, *margins), *body = rows(page, "edit")
    assert len(body) == 3
    for edit, *cells in body:
        for margin, cell in zip(margins, cells, strict=True):
            moved, error = (
                found[f"edits: {edit}, margin {margin}: {what}"] for what in ("moved", "error")
            )
            assert cell == f"{moved:.1%} ({error:.3f})", (edit, margin)
    checked = 0
    for heading in ("cold start", "alarm test"):
        for label, key, cell in rows(page, heading)[1:]:
            value = found[re.sub("`", "", key)]
            shown = f"{value:,.0f}" if value >= 10 else f"{value:.3g}"
            assert cell == shown, (label, key)
            checked += 1
    assert checked > 15
