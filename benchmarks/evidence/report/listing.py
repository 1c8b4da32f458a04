"""What was tried on day 7, and every cell with what it cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from benchmarks.evidence.report.cells import Cell, Evidence, split_name
from benchmarks.evidence.report.document import Block, Entry, Fold, Heading, Section, Table, Text
from benchmarks.evidence.report.names import row
from benchmarks.evidence.report.show import plain_number
from benchmarks.evidence.report.why import checkpoints


def tuning(evidence: Evidence) -> Section:
    """The runs on day 7 by method, the highest of each in bold."""
    rule = evidence.registration["tuning"]
    metric = f"day7.{rule['metric']}"
    runs: dict[str, list[Cell]] = defaultdict(list)
    for cell in evidence.cells.values():
        if (
            "tune" in cell.groups
            and cell.system in rule["grid"]
            and metric in cell.facts.get("figures", {})
        ):
            runs[cell.system].append(cell)
    if not runs:
        return Section("tuning", "Tuning on day 7", [Text("Not run.")], "simulated")
    rows: list[list[Entry]] = []
    for system in rule["grid"]:
        found = runs.get(system, [])
        best = max((c.facts["figures"][metric] for c in found), default=0.0)
        for cell in sorted(found, key=lambda c: c.name):
            value = cell.facts["figures"][metric]
            settings = ", ".join(
                f"{k} {cell.axes[k]:g}" for k in rule["grid"][system] if k in cell.axes
            )
            shown = plain_number(value, 4)
            rows.append([row(system), settings, f"**{shown}**" if value == best else shown])
    counts = {len(found) for found in runs.values()}
    budget = (
        f"{counts.pop()} runs for each method"
        if len(counts) == 1
        else "**not the same number of runs for each method**"
    )
    blocks: list[Block] = [
        Text(
            f"`{metric}`, seed 0, {budget}; bold: the highest. Other rows take the choice of the "
            "row that they vary."
        ),
        Table(["method", "settings", "day 7"], rows, (1,)),
        *_edges(evidence, runs, metric),
        *checkpoints(evidence),
    ]
    return Section("tuning", "Tuning on day 7", blocks, "simulated")


def _edges(evidence: Evidence, runs: Mapping[str, Sequence[Cell]], metric: str) -> list[Block]:
    """Where each choice lies in its grid, and how far apart the runs of a method are."""
    grids = evidence.registration["tuning"]["grid"]
    rows: list[list[Entry]] = []
    for system in (s for s in grids if s in runs):
        found = runs[system]
        best = max(found, key=lambda c: float(c.facts["figures"][metric]))
        values = [float(c.facts["figures"][metric]) for c in found]
        places = []
        for key, grid in grids[system].items():
            if len(grid) > 1 and key in best.axes:
                value = float(best.axes[key])
                side = (
                    "lowest"
                    if value <= min(grid)
                    else "highest"
                    if value >= max(grid)
                    else "inside"
                )
                places.append(f"{key} {value:g}: {side} of {len(grid)}")
        entries = [plain_number(max(values), 4), plain_number(max(values) - min(values), 4)]
        rows.append([row(system), "; ".join(places) or "one value", *entries])
    requests = evidence.registration["bed"].get("tune_requests")
    note = (
        (
            "With two values of a setting every choice is at an edge of the grid: a better one may "
            "lie outside. One seed"
        )
        + (f" and {requests} requests" if requests else "")
        + ", so a spread of this size may be chance, and the choice with it."
    )
    head = ["method", "chosen", "highest", "spread of the runs"]
    return [Heading("Where the choices lie"), Table(head, rows, (1,), note)]


def listing(evidence: Evidence) -> Section:
    """Cells that count, void ones, and what was planned and not run."""
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in evidence.cells.values():
        groups[cell.system, cell.variant].append(cell)
    rows: list[list[Entry]] = []
    total = 0.0
    for (system, variant), found in sorted(groups.items()):
        seconds = [sum(c.seconds.values()) for c in found]
        total += sum(seconds)
        parts = [
            f"{sum(c.seconds.get(k, 0.0) for c in found) / len(found):,.0f}"
            for k in ("train", "score", "mechanism")
        ]
        seeds = ", ".join(
            str(c.seed) for c in sorted(found, key=lambda c: c.seed or 0) if c.seed is not None
        )
        name = f"`{system}@{variant}`" if variant else f"`{system}`"
        rows.append(
            [
                name,
                ", ".join(sorted({g for c in found for g in c.groups})),
                seeds or "–",
                *parts,
                _devices(found),
            ]
        )
    blocks: list[Block] = [
        Text(f"{len(evidence.cells)} cells count, {total / 3600:.1f} hours of work in them."),
        Fold(
            "Every cell",
            [
                Table(
                    ["cell", "groups", "seeds", "train s", "score s", "mechanism s", "device"],
                    rows,
                    (1, 2, 6),
                    "Seconds: mean over seeds.",
                )
            ],
        ),
    ]
    if evidence.void:
        void: list[list[Entry]] = [
            [f"`{name}`", reason] for name, reason in sorted(evidence.void.items())
        ]
        blocks += [
            Heading("Void"),
            Text("These cells are left out of every figure."),
            Table(["cell", "why"], void, (1,)),
        ]
    else:
        blocks.append(Text("No cell is void."))
    missing: dict[str, list[str]] = defaultdict(list)
    for each in evidence.not_run:
        system, variant = split_name(each.name)
        missing[f"`{system}@{variant}`" if variant else f"`{system}`"].append(
            "–" if each.seed is None else str(each.seed)
        )
    if missing:
        count = sum(len(s) for s in missing.values())
        rows = [[name, ", ".join(seeds)] for name, seeds in missing.items()]
        blocks.append(
            Fold(f"Planned and not run: {count} cells", [Table(["cell", "seeds"], rows, (1,))])
        )
    else:
        blocks.append(Text("Every planned cell was run."))
    return Section("cells", "The cells", blocks)


def _devices(cells: list[Cell]) -> str:
    """The devices that cells ran on, in words."""
    found = set()
    for cell in cells:
        device = cell.facts.get("device", "")
        if isinstance(device, dict):
            used = str(device.get("used", "cpu"))
            device = (
                device.get("cuda", used) if used.startswith("cuda") else device.get("cpu", used)
            )
        found.add(str(device))
    return ", ".join(sorted(found))


def provenance(evidence: Evidence) -> dict[str, str]:
    """What the head of the page says of all cells together."""
    cells = list(evidence.cells.values())
    bed = evidence.registration["bed"]

    def of(key: str) -> str:
        found = sorted({str(c.facts.get(key, ""))[:12] for c in cells} - {""})
        return (
            ", ".join(f"`{v}`" for v in found[:3])
            + (f" and {len(found) - 3} more" if len(found) > 3 else "")
            or "–"
        )

    versions = {
        f"{k} {v}"
        for c in cells
        for k, v in (c.facts.get("versions") or {}).items()
        if k in ("python", "torch")
    }
    everything = {p.name for p in evidence.planned} | set(evidence.cells) | set(evidence.void)
    return {
        "cells": f"{len(cells)} of {len(everything)}",
        "void": str(len(evidence.void)),
        "seeds": f"{bed['seeds']['headline']} headline, {bed['seeds']['other']} other",
        "registered": f"{evidence.registration['registered']}, `{evidence.registration_hash[:12]}`",
        "commit": of("commit"),
        "versions": ", ".join(sorted(versions)) or "–",
        "devices": _devices(cells) or "–",
    }
