"""The page of the evidence: reads the cells, compares them, writes ``docs/evidence.md`` and
``docs/evidence.html``.

Nothing on the page is typed in: every figure and every verdict comes from the cells, and prose
depends on the verdicts. The paper's own figures stand in :mod:`benchmarks.evidence.report.names`,
with their table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence.report.cells import Evidence, read_evidence, registration_hash
from benchmarks.evidence.report.document import Picture, to_html, to_markdown, walk
from benchmarks.evidence.report.sections import page

__all__ = ["Evidence", "read_evidence", "registration_hash", "write_report"]

REGISTRATION = Path(__file__).parent.parent / "registration.yaml"


def write_report(
    results: Path,
    docs: Path,
    *,
    registration: Path = REGISTRATION,
    planned: Sequence[Any] | None = None,
) -> None:
    """Write ``evidence.md``, ``evidence.html`` and ``images/evidence-*.svg`` into ``docs`` from
    ``results``.

    ``planned`` (default: tuning runs and the full plan) names the cells that should exist; those
    without a file are shown as not run. The speed of the packed step is read from
    ``preference_step.json`` in the folder above ``results``. The output depends on the files only:
    no clock, no path, no host.
    """
    if planned is None:
        from benchmarks.evidence.plan import cells

        planned = list({cell.name: cell for cell in [*cells("full"), *cells("tune")]}.values())
    sections = page(read_evidence(Path(results), registration, planned))
    docs = Path(docs)
    images = docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    for old in images.glob("evidence-*.svg"):
        old.unlink()
    for block in walk(sections):
        if isinstance(block, Picture) and block.file:
            (images / block.file).write_text(block.standalone() + "\n", encoding="utf-8")
    (docs / "evidence.md").write_text(to_markdown(sections), encoding="utf-8")
    (docs / "evidence.html").write_text(to_html(sections), encoding="utf-8")
