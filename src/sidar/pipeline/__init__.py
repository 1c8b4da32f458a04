"""The pipeline: ``run`` makes what is missing or stale and skips the rest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sidar.artifacts import write_artifact
from sidar.config import AlignConfig, Config
from sidar.pipeline.plan import Step, plan
from sidar.pipeline.runtime import discard_work, prepare, work_folder
from sidar.types import Json

__all__ = ["plan", "run", "show_plan"]


def show_plan(steps: Sequence[Step], console: Any) -> None:
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
    console: Any = None,
) -> dict[str, Json]:
    """Run every missing or stale stage (of ``only`` and what it needs, if given) and return their
    reports.

    ``force`` runs ``only`` even when it is fresh. Raises ``ValueError`` for what the user can mend.
    """
    prepare(cfg)
    steps = plan(cfg, aligns, only=only)
    reports: dict[str, Json] = {}
    for step in steps:
        stage, own, folder = step.stage, step.config, cfg.run_dir / step.stage.name
        # Re-asked, not planned: an input that was remade may turn out the same.
        reason = stage.why_stale(own, cfg.run_dir) or (
            "asked for" if force and stage.name == only else None
        )
        if reason is None:
            if console:
                console.print(f"[dim]{stage.name:<16} up to date[/dim]")
            continue
        if console:
            console.print(f"[bold]{stage.name:<16}[/bold] [dim]{reason}[/dim]")
        started = time.monotonic()
        inputs = stage.input_hashes(own, cfg.run_dir)
        with write_artifact(
            folder,
            stage.name,
            config=stage.config(own),
            inputs=inputs,
            apart=stage.apart,
            live=stage.live,
        ) as draft:
            report = stage.build(own, stage.folders(cfg.run_dir), draft.path, work_folder(folder))
            draft.shapes.update(report.get("shapes", {}))
        if stage.resumable:
            discard_work(folder)
        reports[stage.name] = report
        if console:
            console.print(
                f"{'':<16} {report.get('summary', 'done')} [dim]({time.monotonic() - started:.1f} "
                "s)[/dim]"
            )
    return reports
