"""The pipeline: ``run`` makes what is missing or stale and skips the rest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sidar.artifacts import write_artifact
from sidar.config import AlignConfig, Config
from sidar.pipeline.plan import Step, plan
from sidar.pipeline.runtime import discard_work, prepare, work_folder
from sidar.types import Json

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["plan", "run", "show_plan"]


def show_plan(steps: Sequence[Step], console: Console) -> None:
    """Print what would run and why (``--dry-run``)."""
    from rich.table import Table

    table = Table("stage", "", "why", box=None, pad_edge=False)
    for step in steps:
        verdict = "[dim]skip[/dim]" if step.reason is None else "[bold]run[/bold]"
        table.add_row(step.stage.name, verdict, step.reason or "up to date")
    console.print(table)


def run(
    cfg: Config,
    aligns: Sequence[AlignConfig] | None = None,
    *,
    only: str | None = None,
    force: bool = False,
    console: Console | None = None,
) -> dict[str, Json]:
    """Run every missing or stale stage (of ``only`` and what it needs, if given) and return their
    reports.

    ``force`` runs ``only`` even when it is fresh. Raises ``ValueError`` for what the user can mend.
    """
    prepare(cfg)
    steps = plan(cfg, aligns, only=only)
    reports: dict[str, Json] = {}
    for step in steps:
        stage, name = step.stage, step.stage.name
        # Re-asked, not planned: an input that was remade may turn out the same.
        reason = stage.why_stale(step.config, cfg.run_dir)
        if reason is None and force and name == only:
            reason = "asked for"
        if reason is None:
            if console:
                console.print(f"[dim]{name:<16} up to date[/dim]")
            continue
        if console:
            console.print(f"[bold]{name:<16}[/bold] [dim]{reason}[/dim]")
        started = time.monotonic()
        reports[name] = report = _build(step, cfg.run_dir)
        if console:
            seconds = time.monotonic() - started
            summary = report.get("summary", "done")
            console.print(f"{'':<16} {summary} [dim]({seconds:.1f} s)[/dim]")
    return reports


def _build(step: Step, run_dir: Path) -> Json:
    """Write the folder of a stage and return its report.

    Interrupted work stays where the stage can go on with it, and goes once the folder stands.
    """
    stage, folder = step.stage, run_dir / step.stage.name
    try:
        with write_artifact(
            folder,
            stage.name,
            config=stage.config(step.config),
            inputs=stage.input_hashes(step.config, run_dir),
            apart=stage.apart,
            live=stage.live,
            sealed=stage.sealed,
        ) as draft:
            inputs = stage.folders(run_dir)
            report = stage.build(step.config, inputs, draft.path, work_folder(folder))
            draft.shapes.update(report.get("shapes", {}))
    finally:
        if not stage.resumable:
            discard_work(folder)
    discard_work(folder)
    return report
