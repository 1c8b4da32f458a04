"""``python -m benchmarks.evidence``: tune, core, full, report, rerun."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.evidence.registration import RESULTS, tuned_file
from benchmarks.evidence.run import Settings, one_thread, rerun, run

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="The evidence for RAD-DPO (docs/evidence.md)."
)
DOCS = Path(__file__).parents[2] / "docs"

Work = Annotated[Path, typer.Option(help="Bed and models; may be deleted when the results stand.")]
Results = Annotated[Path, typer.Option(help="One JSON and one Parquet file per cell.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
Workers = Annotated[int, typer.Option(help="Processes; 0 = one per core on a CPU, one on a GPU.")]
Only = Annotated[
    str, typer.Option(help="Only cells whose name contains one of these, comma-separated.")
]


def _settings(work: Path, results: Path, device: str, workers: int) -> Settings:
    one_thread()
    from sidar.precision import resolve_device

    found = resolve_device(device)
    count = workers or (min(os.cpu_count() or 1, 8) if found == "cpu" else 1)
    return Settings(work.resolve(), results.resolve(), found, count)


def _run(profile: str, settings: Settings, only: str) -> None:
    from benchmarks.evidence.plan import cells

    started = time.monotonic()
    wanted = [
        cell
        for cell in cells(profile)
        if not only or any(part in cell.name for part in only.split(","))
    ]
    failed = run(wanted, settings)
    print(
        f"{len(wanted) - len(failed)} of {len(wanted)} cells in "
        f"{(time.monotonic() - started) / 60:.1f} minutes"
    )
    if failed:
        raise typer.Exit(1)


@app.command()
def tune(
    work: Work = Path("runs/evidence"),
    results: Results = RESULTS,
    device: Device = "auto",
    workers: Workers = 0,
) -> None:
    """Choose learning rates and strengths on day 7 and write tuned.yaml."""
    from benchmarks.evidence.tune import write

    settings = _settings(work, results, device, workers)
    _run("tune", settings, "")
    for system, chosen in write(settings.results).items():
        print(f"{system:16s} {chosen}")


@app.command()
def core(
    work: Work = Path("runs/evidence"),
    results: Results = RESULTS,
    device: Device = "auto",
    workers: Workers = 0,
    only: Only = "",
) -> None:
    """Every cell of the main tables: about an hour on two cores."""
    _profile("core", work, results, device, workers, only)


@app.command()
def full(
    work: Work = Path("runs/evidence"),
    results: Results = RESULTS,
    device: Device = "auto",
    workers: Workers = 0,
    only: Only = "",
) -> None:
    """Core and every sweep; interrupted or called again, it goes on with the cells that are
    missing.
    """
    _profile("full", work, results, device, workers, only)


@app.command()
def report() -> None:
    """Write docs/evidence.md and docs/evidence.html from the results that are there."""
    from benchmarks.evidence.report import write_report

    write_report(RESULTS, DOCS)


@app.command("rerun")
def rerun_cell(
    cell: Annotated[Path, typer.Argument(help="JSON of a cell.")],
    work: Work = Path("runs/evidence"),
    device: Device = "auto",
) -> None:
    """Run a cell again from its JSON and compare every figure."""
    settings = _settings(work, work / "rerun", device, 1)
    (settings.results / cell.name).unlink(missing_ok=True)
    differing = rerun(cell, settings)
    for name, (was, now) in differing.items():
        print(f"{name}: {was} -> {now}")
    print(
        f"{cell.stem}: "
        f"{'every figure is equal' if not differing else f'{len(differing)} figures differ'}"
    )
    if differing:
        raise typer.Exit(1)


def _profile(profile: str, work: Path, results: Path, device: str, workers: int, only: str) -> None:
    """Run a profile; the page is written from the project's own results, and only when nothing was
    left out.
    """
    if not tuned_file().is_file():
        raise ValueError("tuned.yaml is missing; run `python -m benchmarks.evidence tune` first")
    _run(profile, _settings(work, results, device, workers), only)
    if not only and results.resolve() == RESULTS.resolve():
        report()


if __name__ == "__main__":
    try:
        app()
    except ValueError as error:
        print(f"benchmarks.evidence: {error}", file=sys.stderr)
        sys.exit(2)
