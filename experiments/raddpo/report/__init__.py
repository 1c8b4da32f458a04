"""The report of the evidence: all tables as HTML, and the figures of docs/evidence.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.raddpo.report.cells import Evidence, read_evidence, registration_hash
from experiments.raddpo.report.picture import draw
from experiments.raddpo.report.prose import PAGE, fill
from experiments.raddpo.report.tables import sections
from sidar.pages import html_page
from sidar.pages.environment import environment

__all__ = [
    "Evidence",
    "planned_cells",
    "read_evidence",
    "registration_hash",
    "update_page",
    "write_tables",
]

HERE = Path(__file__).parent
REGISTRATION = HERE.parent / "registration.yaml"


def planned_cells() -> list[Any]:
    """Return every cell of the full plan and of the tuning, by name."""
    from experiments.raddpo.plan import cells

    return list({cell.name: cell for cell in [*cells("full"), *cells("tune")]}.values())


def read_kept(results: Path) -> Evidence:
    """Return the kept cells of ``results`` under the registration and the plan."""
    return read_evidence(results, REGISTRATION, planned_cells())


def write_tables(
    results: Path,
    out: Path,
    *,
    registration: Path = REGISTRATION,
    planned: Sequence[Any] | None = None,
) -> str:
    """Write ``tables.md`` and ``tables.html`` into ``out`` and return the Markdown.

    ``planned`` names the cells that should exist (default: the plan); those that do not are listed.
    The output depends on the results only: no clock, no path, no host.
    """
    planned = planned_cells() if planned is None else planned
    evidence = read_evidence(Path(results), registration, planned)
    template = environment().from_string((HERE / "tables.md.jinja").read_text(encoding="utf-8"))
    markdown = template.render(sections=sections(evidence), evidence=evidence)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tables.md").write_text(markdown, encoding="utf-8")
    html = html_page(markdown, [], footer="Written by python -m experiments.raddpo report.")
    (out / "tables.html").write_text(html, encoding="utf-8")
    return markdown


def update_page(results: Path, page: Path = PAGE) -> None:
    """Bring the figures of docs/evidence.md and its picture up to date with the results."""
    evidence = read_kept(results)
    page.write_text(fill(page.read_text(encoding="utf-8"), evidence), encoding="utf-8")
    draw(evidence, page.parent / "images")
