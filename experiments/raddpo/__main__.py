"""``python -m experiments.raddpo``: tune, core, full, report, page, rerun."""

from __future__ import annotations

import json
import os
import sys
import time
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.raddpo.registration import RESULTS, tuned_file
from experiments.raddpo.run import Settings, one_thread, run

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="The evidence for RAD-DPO (docs/evidence.md)."
)

Work = Annotated[Path, typer.Option(help="Bed, models, single cells; may be deleted at the end.")]
Results = Annotated[Path, typer.Option(help="Where the finished cells are kept.")]
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
    from experiments.raddpo.plan import cells

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
    from experiments.raddpo.tune import write

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
def report(
    out: Annotated[Path, typer.Option(help="Folder of the tables.")] = Path("runs/evidence/report"),
) -> None:
    """Write every table as HTML and Markdown, from the kept cells."""
    from experiments.raddpo.report import write_tables

    write_tables(RESULTS, out)
    print(out / "tables.html")


@app.command()
def page() -> None:
    """Bring the figures and the picture of docs/evidence.md up to date with the kept cells."""
    from experiments.raddpo.report import update_page

    update_page(RESULTS)


@app.command("rerun")
def rerun_cell(
    cell: Annotated[str, typer.Argument(help="Name of a kept cell, or the JSON file of one.")],
    work: Work = Path("runs/evidence"),
    device: Device = "auto",
    head: Annotated[
        bool, typer.Option(help="Use the code of this checkout, not that of the cell's commit.")
    ] = False,
) -> None:
    """Run a cell again with the code that made it and compare every figure."""
    from experiments.raddpo.rerun import base_commit, has_commit, history, rerun, rerun_at_commit

    facts = _facts(cell)
    for line in history(facts):
        print(line)
    if not head:
        if not has_commit(base_commit(facts)):
            raise typer.Exit(2)
        raise typer.Exit(rerun_at_commit(facts, work, device))
    differing = rerun(facts, _settings(work, work / "rerun", device, 1))
    for name, (was, now) in differing.items():
        print(f"{name}: {was} -> {now}")
    count = f"{len(differing)} figures differ" if differing else "every figure is equal"
    print(f"{facts['cell']}: {count}")
    if differing:
        raise typer.Exit(1)


def _facts(cell: str) -> dict[str, Any]:
    """A kept cell by name, or what the JSON file of a cell holds."""
    from experiments.raddpo.store import read_cells

    if cell.endswith(".json"):
        return json.loads(Path(cell).read_text(encoding="utf-8"))
    kept = read_cells(RESULTS)
    if cell not in kept:
        near = ", ".join(get_close_matches(cell, kept, n=3, cutoff=0))
        raise ValueError(f"no kept cell is named {cell!r}; the nearest are {near}")
    return kept[cell]


def _profile(profile: str, work: Path, results: Path, device: str, workers: int, only: str) -> None:
    if not tuned_file().is_file():
        raise ValueError("tuned.yaml is missing; run `python -m experiments.raddpo tune` first")
    _run(profile, _settings(work, results, device, workers), only)


if __name__ == "__main__":
    try:
        app()
    except ValueError as error:
        print(f"experiments.raddpo: {error}", file=sys.stderr)
        sys.exit(2)
